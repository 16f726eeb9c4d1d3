"""Signing keys: of all places, and none is lost to another's fault."""

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
from keyturn_receiver.sources.stores import Store, StoreKey, Stores

pytestmark = pytest.mark.anyio
ONE, TWO, THREE = (bytes([number]) * 32 for number in (1, 2, 3))


class Place:
    """A place of keys that gives what the test says."""

    def __init__(self, name: str, *keys: bytes, fault: KeyturnError | None = None) -> None:
        self.name = name
        self.keys = keys
        self.fault = fault

    async def load(self) -> Sequence[bytes]:
        if self.fault:
            raise self.fault
        return self.keys


async def test_the_keys_of_all_places_count_each_once() -> None:
    keys = SigningKeys([Place("secret", ONE, TWO), Place("file", TWO, THREE)])
    assert keys.current() == ()
    await keys.load()
    assert keys.current() == (ONE, TWO, THREE)


async def test_a_look_that_fails_keeps_the_keys_there_were() -> None:
    secret, file = Place("secret", ONE), Place("file", TWO)
    keys = SigningKeys([secret, file])
    await keys.load()
    secret.fault = SourceUnavailable("gone")
    file.keys = (THREE,)
    await keys.load()
    assert keys.current() == (ONE, THREE)


async def test_a_place_that_never_had_a_key_takes_away_no_other(caplog: pytest.LogCaptureFixture) -> None:
    keys = SigningKeys([Place("secret", fault=SourceUnavailable("AWS is away")), Place("file", TWO)])
    await keys.load()
    assert keys.current() == (TWO,)
    assert [record.getMessage() for record in caplog.records] == ["AWS is away"]


async def test_each_place_is_waited_for_until_its_first_look_and_all_until_there_is_a_key() -> None:
    secret, file = Place("secret", fault=SourceUnavailable("gone")), Place("file", fault=NoSigningKey("empty"))
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

    unseen = SigningKeys([secret, file])
    file.fault = None
    await unseen._load(file)
    assert unseen.not_loaded() == ["secret"]


async def test_without_a_place_nothing_is_waited_for() -> None:
    keys = SigningKeys([])
    await keys.load()
    assert (keys.current(), keys.not_loaded()) == ((), [])


class Labels:
    """Secrets Manager at its port: versions that hold labels, of which some have no value yet."""

    def __init__(self, **versions: bytes | None) -> None:
        self.versions = versions
        self.reads = 0

    async def describe(self, secret_id: str) -> SecretMetadata:
        return SecretMetadata("arn", secret_id, {stage.lower(): frozenset({stage}) for stage in self.versions})

    async def value(self, source: Source) -> SecretVersion:
        self.reads += 1
        key = self.versions.get(source.stage)
        if key is None:
            raise SourceRefused("no value")
        return SecretVersion("arn", source.secret_id, source.stage.lower(), new_key(key))


async def test_a_pending_version_that_gets_its_value_later_is_read_then() -> None:
    aws = Labels(AWSCURRENT=ONE, AWSPENDING=None)

    async def make(key: StoreKey) -> Store:
        return Store.of(key, aws)

    secret = KeySecret(Stores(make, "eu-west-1"), "keyturn/signing-key")
    assert await secret.load() == [ONE]
    aws.versions["AWSPENDING"] = TWO  # rotation's createSecret, under the id that was labelled before
    assert await secret.load() == [ONE, TWO]
    reads = aws.reads
    assert await secret.load() == [ONE, TWO]
    assert aws.reads == reads  # values are read only when something has changed


async def test_a_file_has_a_key_a_line_and_is_read_anew(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text(f"\n  {new_key(ONE)}\t\r\n\n{new_key(TWO)}")
    file = KeyFile(path)
    assert await file.load() == [ONE, TWO]
    path.write_text(new_key(THREE))
    assert await file.load() == [THREE]


async def test_a_line_that_is_no_key_is_named_and_never_shown(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "keys"
    wrong = "whsec_" + "c2hvcnQ="  # too short
    path.write_bytes(f"{new_key(ONE)}\n{wrong}\n".encode() + b"\xff\xfe\n" + new_key(TWO).encode())
    assert read_keys(path) == [ONE, TWO]
    told = [(record.levelno, record.getMessage().partition(" is not")[0]) for record in caplog.records]
    assert told == [(logging.WARNING, f"line {number} of signing key file {path}") for number in (2, 3)]
    assert "c2hvcnQ" not in caplog.text


@pytest.mark.parametrize("content", [None, "", " \n\n", "nonsense", "directory"])
def test_a_file_without_a_key_is_an_error_that_says_what_to_do(tmp_path: Path, content: str | None) -> None:
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


def test_a_key_is_what_the_notifier_signs_with(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text(text := new_key(ONE))
    assert read_keys(path) == [parse_key(text)]
