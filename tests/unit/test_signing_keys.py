"""Signing keys: the keys of all sources are accepted, and a source that fails does not lose its keys."""

import logging
from collections.abc import Sequence
from pathlib import Path

import pytest

from keyturn_contract.signature import new_key, parse_key
from keyturn_receiver.core.binding import Source
from keyturn_receiver.core.render import SecretVersion
from keyturn_receiver.errors import KeyturnError, NoSigningKey, SourceRefused, SourceUnavailable
from keyturn_receiver.sources.key_file import KeyFile, read_keys
from keyturn_receiver.sources.key_secret import KeySecret
from keyturn_receiver.sources.secrets_manager import SecretMetadata
from keyturn_receiver.sources.signing_keys import SigningKeys
from keyturn_receiver.sources.stores import Identity, Store, StoreKey, Stores
from support.aws_client import no_tenant

pytestmark = pytest.mark.anyio
ONE, TWO, THREE = (bytes([number]) * 32 for number in (1, 2, 3))


class FakeSource:
    """A key source whose keys and errors the test determines."""

    def __init__(self, name: str, *keys: bytes, fault: KeyturnError | None = None) -> None:
        self.name = name
        self.keys = keys
        self.fault = fault

    async def load(self) -> Sequence[bytes]:
        if self.fault:
            raise self.fault
        return self.keys


async def test_keys_of_all_sources_are_current_each_once() -> None:
    keys = SigningKeys([FakeSource("secret", ONE, TWO), FakeSource("file", TWO, THREE)])
    assert keys.current() == ()
    await keys.load()
    assert keys.current() == (ONE, TWO, THREE)


async def test_failed_load_keeps_the_previous_keys() -> None:
    secret, file = FakeSource("secret", ONE), FakeSource("file", TWO)
    keys = SigningKeys([secret, file])
    await keys.load()
    secret.fault = SourceUnavailable("gone")
    file.keys = (THREE,)
    await keys.load()
    assert keys.current() == (ONE, THREE)


async def test_source_that_never_had_a_key_removes_no_other_key(caplog: pytest.LogCaptureFixture) -> None:
    keys = SigningKeys([FakeSource("secret", fault=SourceUnavailable("AWS is away")), FakeSource("file", TWO)])
    await keys.load()
    assert keys.current() == (TWO,)
    assert [record.getMessage() for record in caplog.records] == ["AWS is away"]


async def test_readiness_waits_for_each_first_load_and_for_one_key() -> None:
    secret, file = (
        FakeSource("secret", fault=SourceUnavailable("gone")),
        FakeSource("file", fault=NoSigningKey("empty")),
    )
    keys = SigningKeys([secret, file])
    assert keys.not_loaded() == ["secret", "file"]
    await keys.load()
    assert keys.not_loaded() == ["secret", "file"]
    file.fault, file.keys = None, (ONE,)
    await keys._load(file)
    assert keys.not_loaded() == []
    file.fault = NoSigningKey("gone again")
    await keys.load()
    assert keys.not_loaded() == []

    never_loaded = SigningKeys([secret, file])
    file.fault = None
    await never_loaded._load(file)
    assert never_loaded.not_loaded() == ["secret"]


async def test_readiness_waits_for_nothing_without_a_source() -> None:
    keys = SigningKeys([])
    await keys.load()
    assert (keys.current(), keys.not_loaded()) == ((), [])


class Labels:
    """A fake Secrets Manager with one version for each staging label.

    Some versions have no value yet, and some have a value that is not a key.
    """

    def __init__(self, **versions: bytes | str | None) -> None:
        self.versions = versions
        self.reads = 0

    async def describe(self, secret_id: str) -> SecretMetadata:
        return SecretMetadata("arn", secret_id, {stage.lower(): frozenset({stage}) for stage in self.versions})

    async def value(self, source: Source) -> SecretVersion:
        self.reads += 1
        key = self.versions.get(source.stage)
        if key is None:
            raise SourceRefused("no value")
        text = key if isinstance(key, str) else new_key(key)
        return SecretVersion("arn", source.secret_id, source.stage.lower(), text)


def key_secret(aws: Labels) -> KeySecret:
    async def create(key: StoreKey, identity: Identity) -> Store:
        return Store.of(key, aws)

    return KeySecret(Stores(create, "eu-west-1", no_tenant), "keyturn/signing-key")


@pytest.mark.parametrize(
    ("versions", "expected"),
    [
        ({"AWSCURRENT": "nonsense", "AWSPREVIOUS": ONE}, [ONE]),
        ({"AWSCURRENT": "nonsense", "AWSPREVIOUS": ONE, "AWSPENDING": TWO}, [ONE, TWO]),
        ({"AWSCURRENT": "nonsense", "AWSPENDING": TWO}, [TWO]),
        ({"AWSCURRENT": None, "AWSPENDING": TWO}, [TWO]),
        ({"AWSCURRENT": ONE, "AWSPREVIOUS": "nonsense", "AWSPENDING": "nonsense"}, [ONE]),
    ],
)
async def test_unusable_version_hides_no_usable_one(
    versions: dict[str, bytes | str | None], expected: list[bytes]
) -> None:
    assert await key_secret(Labels(**versions)).load() == expected


@pytest.mark.parametrize("versions", [{"AWSCURRENT": "nonsense"}, {"AWSCURRENT": "hush", "AWSPREVIOUS": "hush"}])
async def test_secret_without_a_usable_version_raises_an_error_with_advice(versions: dict[str, str]) -> None:
    with pytest.raises(NoSigningKey, match=r"AWSCURRENT.*put-secret-value") as caught:
        await key_secret(Labels(**versions)).load()
    assert "hush" not in str(caught.value)


async def test_unusable_current_key_is_reported_by_each_load_until_it_is_replaced(
    caplog: pytest.LogCaptureFixture,
) -> None:
    aws = Labels(AWSCURRENT="nonsense", AWSPREVIOUS=ONE)
    secret = key_secret(aws)
    for loads in (1, 2):
        assert await secret.load() == [ONE]
        assert [record.levelno for record in caplog.records] == [logging.WARNING] * loads
    aws.versions |= {"AWSCURRENT": TWO, "AWSPREVIOUS": "nonsense"}  # the state after put-secret-value
    aws.versions["AWSPENDING"] = None
    assert await secret.load() == [TWO]


async def test_pending_version_is_read_once_it_has_a_value() -> None:
    aws = Labels(AWSCURRENT=ONE, AWSPENDING=None)
    secret = key_secret(aws)
    assert await secret.load() == [ONE]
    # The createSecret step gives a value to the version that already has the label.
    aws.versions["AWSPENDING"] = TWO
    assert await secret.load() == [ONE, TWO]
    reads = aws.reads
    assert await secret.load() == [ONE, TWO]
    assert aws.reads == reads  # no label has moved, and every version could be read, so no value is read again


async def test_file_with_a_key_per_line_is_read_at_each_load(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text(f"\n  {new_key(ONE)}\t\r\n\n{new_key(TWO)}")
    file = KeyFile(path)
    assert await file.load() == [ONE, TWO]
    path.write_text(new_key(THREE))
    assert await file.load() == [THREE]


async def test_malformed_line_is_logged_by_its_number_without_its_content(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "keys"
    wrong = "whsec_" + "c2hvcnQ="  # this key is too short
    path.write_bytes(f"{new_key(ONE)}\n{wrong}\n".encode() + b"\xff\xfe\n" + new_key(TWO).encode())
    assert read_keys(path) == [ONE, TWO]
    warnings = [(record.levelno, record.getMessage().partition(" is not")[0]) for record in caplog.records]
    assert warnings == [(logging.WARNING, f"line {number} of signing key file {path}") for number in (2, 3)]
    assert "c2hvcnQ" not in caplog.text


@pytest.mark.parametrize("content", [None, "", " \n\n", "nonsense", "directory"])
def test_file_without_a_key_raises_an_error_with_advice(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "keys"
    if content == "directory":
        path.mkdir()
    elif content is not None:
        path.write_text(content)
    advice = {None: "create the Kubernetes Secret", "directory": "must be a file"}.get(content, "write one (whsec_...)")
    with pytest.raises(NoSigningKey) as caught:
        read_keys(path)
    assert str(path) in str(caught.value)
    assert advice in str(caught.value)
    assert "nonsense" not in str(caught.value)


def test_key_made_by_the_notifier_is_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text(text := new_key(ONE))
    assert read_keys(path) == [parse_key(text)]
