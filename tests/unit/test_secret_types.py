"""Types of Secrets: a binding fills the keys that the type needs, or says how to."""

import json

import pytest

from keyturn_receiver.core.binding import Binding, Entry, Source, Target, read_binding, read_spec
from keyturn_receiver.core.render import SecretVersion, render
from keyturn_receiver.core.secret_types import TYPES, complete
from keyturn_receiver.errors import InvalidValue

DB = Source("prod/db")
DOCKER = json.dumps({"auths": {"registry.example.com": {"auth": "dTpw"}}})
DOCKER_CFG = json.dumps({"registry.example.com": {"auth": "dTpw"}})


def filled(secret_type: str, value: str | bytes, **entries: str) -> dict[str, bytes]:
    selected = tuple(Entry(key.replace("__", "-").replace("_", "."), DB, text) for key, text in entries.items())
    binding = Binding(Target("team", "db"), None if entries else DB, selected, "Secret")
    versions = {DB: SecretVersion("arn", "prod/db", "v1", value)}
    return complete(secret_type, binding, versions, render(binding, versions))


@pytest.mark.parametrize(
    ("secret_type", "value", "key"),
    [
        ("kubernetes.io/dockerconfigjson", DOCKER, ".dockerconfigjson"),
        ("kubernetes.io/dockerconfigjson", f"  {DOCKER}\n", ".dockerconfigjson"),
        ("kubernetes.io/dockerconfigjson", '{"auths": {}, "credHelpers": {}}', ".dockerconfigjson"),
        ("kubernetes.io/dockercfg", DOCKER_CFG, ".dockercfg"),
        ("kubernetes.io/ssh-auth", "-----BEGIN OPENSSH PRIVATE KEY-----\nabc\n", "ssh-privatekey"),
        ("kubernetes.io/ssh-auth", b"\x00key", "ssh-privatekey"),
    ],
)
def test_whole_value_goes_under_the_only_key_of_the_type(secret_type: str, value: str | bytes, key: str) -> None:
    assert filled(secret_type, value) == {key: value if isinstance(value, bytes) else value.encode()}


@pytest.mark.parametrize(
    ("secret_type", "value", "keys"),
    [
        ("kubernetes.io/dockerconfigjson", json.dumps({".dockerconfigjson": DOCKER}), {".dockerconfigjson"}),
        ("kubernetes.io/tls", '{"tls.crt": "c", "tls.key": "k", "ca.crt": "a"}', {"tls.crt", "tls.key", "ca.crt"}),
        ("kubernetes.io/basic-auth", '{"username": "u", "password": "p"}', {"username", "password"}),
        ("kubernetes.io/basic-auth", '{"password": "p"}', {"password"}),
        ("kubernetes.io/ssh-auth", '{"ssh-privatekey": "k"}', {"ssh-privatekey"}),
        ("Opaque", "plain", {"value"}),
        ("example.com/own", "plain", {"value"}),
    ],
)
def test_properties_that_the_type_needs_are_taken_as_they_are(secret_type: str, value: str, keys: set[str]) -> None:
    assert filled(secret_type, value).keys() == keys


def test_expressions_fill_the_keys_of_a_type() -> None:
    value = '{"certificate": "c", "key": "k"}'
    assert filled("kubernetes.io/tls", value, tls_crt="certificate", tls_key="key") == {
        "tls.crt": b"c",
        "tls.key": b"k",
    }


@pytest.mark.parametrize(
    ("secret_type", "value", "told"),
    [
        (
            "kubernetes.io/tls",
            "plain",
            "needs the keys tls.crt and tls.key, and the binding does not fill tls.crt and tls.key: the value in AWS is"
            " not JSON: store JSON with the properties tls.crt and tls.key, as in {",
        ),
        (
            "kubernetes.io/tls",
            "[1]",
            "the value in AWS is not JSON: store JSON with the properties tls.crt and tls.key",
        ),
        ("kubernetes.io/tls", '{"value": "c"}', "one line each: `tls.crt: <property>`, `tls.key: <property>`; or"),
        ("kubernetes.io/basic-auth", "plain", 'take it whole with keyturn.dev/data: `password: "@"`; or use type'),
        (
            "kubernetes.io/basic-auth",
            '{"username": "", "password": " "}',
            "does not fill any (the value of username and password is blank): correct it in AWS, or name another",
        ),
        ("kubernetes.io/tls", '{"tls.crt": "c"}', "the binding does not fill tls.key: name the property for each with"),
        ("kubernetes.io/basic-auth", "plain", "needs one of the keys username or password, and the binding does not"),
        (
            "kubernetes.io/ssh-auth",
            '{"private": "k"}',
            "line each: `ssh-privatekey: <property>`; or use type Opaque",
        ),
        ("kubernetes.io/ssh-auth", '{"value": "k"}', "needs the key ssh-privatekey, and the binding does not fill it"),
        ("kubernetes.io/dockerconfigjson", '{"password": "p"}', "needs the key .dockerconfigjson"),
    ],
)
def test_type_whose_keys_are_not_filled_is_an_error_that_says_how_to_map_them(
    secret_type: str, value: str, told: str
) -> None:
    with pytest.raises(InvalidValue) as error:
        filled(secret_type, value)
    assert told in str(error.value)
    assert str(error.value).startswith("AWS secret prod/db: a Secret of type ")


@pytest.mark.parametrize("secret_type", ["kubernetes.io/dockerconfigjson", "kubernetes.io/dockercfg"])
@pytest.mark.parametrize("value", ["hunter2", "12345", '"text"', "[1]"])
def test_value_that_is_not_dockers_json_is_an_error_without_the_value(secret_type: str, value: str) -> None:
    with pytest.raises(InvalidValue, match=r"key \.dockerc\w+: the value is not Docker's JSON \(.+\): store ") as error:
        filled(secret_type, value)
    assert value not in str(error.value)


@pytest.mark.parametrize("value", [f"\ufeff{DOCKER}", f"\ufeff{DOCKER}".encode()])
def test_byte_order_mark_before_dockers_json_is_left_out(value: str | bytes) -> None:
    assert filled("kubernetes.io/dockerconfigjson", value) == {".dockerconfigjson": DOCKER.encode()}


@pytest.mark.parametrize(
    ("value", "expression", "fault"),
    [
        (f"\ufeff{DOCKER}", "@", "it begins with a byte order mark"),
        (DOCKER.encode("utf-16"), "@", "it is not UTF-8"),
        (DOCKER.encode("utf-16-le"), "@", "it is not JSON"),
        ('{"auths": {"hunter2": NaN}}', "@", "it is not JSON"),
        ('{"auths": {"hunter2": {}}', "@", "it is not JSON"),
        ('{"a":' * 5000 + "1" + "}" * 5000, "@", "it is not JSON"),
        ('{"r": {"auth": "hunter2"}}', "@", "it has no object `auths`"),
        ('{"username": "u", "password": "hunter2"}', "@", "it has no object `auths`"),
        ('{"auths": {"r": {"auth": "hunter2"}}}', "auths", "it has no object `auths`"),
        ('{"auths": ["hunter2"]}', "@", "it has no object `auths`"),
        ('{"auths": {"hunter2": null}}', "@", "in `auths`, not all are objects"),
        ('{"c": {}}', "c", "it has no object `auths`"),
        ('{"c": "{}"}', "c", "it has no object `auths`"),
    ],
)
def test_value_that_the_kubelet_cannot_use_is_an_error_that_says_what_to_write(
    value: str | bytes, expression: str, fault: str
) -> None:
    with pytest.raises(InvalidValue) as error:
        filled("kubernetes.io/dockerconfigjson", value, _dockerconfigjson=expression)
    told = str(error.value)
    assert f"key .dockerconfigjson: the value is not Docker's JSON ({fault}): store the content of a Docker" in told
    assert "hunter2" not in told


@pytest.mark.parametrize("value", ["{}", DOCKER, '{"r": {}}', '{"r": "auth"}', '{"r": null}'])
def test_older_json_of_docker_names_registries_with_their_credentials(value: str) -> None:
    with pytest.raises(
        InvalidValue, match=r"\(it is not an object of registries, .+\): store the content of a .dockerc"
    ):
        filled("kubernetes.io/dockercfg", value, _dockercfg="@")


@pytest.mark.parametrize("secret_type", ["kubernetes.io/dockerconfigjson", "kubernetes.io/dockercfg"])
def test_line_in_the_advice_makes_dockers_json_of_a_user_and_a_password(secret_type: str) -> None:
    value = '{"username": "u", "password": "p"}'
    with pytest.raises(InvalidValue) as error:
        filled(secret_type, value)
    line = str(error.value).rpartition(", as in ")[2].removesuffix("; or use type Opaque")
    binding = read_binding(
        Target("team", "db"), read_spec({"keyturn.dev/secret-id": "prod/db", "keyturn.dev/data": line})
    )
    versions = {DB: SecretVersion("arn", "prod/db", "v1", value)}
    ((_, written),) = complete(secret_type, binding, versions, render(binding, versions)).items()
    content = json.loads(written)
    assert content.get("auths", content) == {"registry.example.com": {"auth": "dTpw"}}


@pytest.mark.parametrize(
    ("secret_type", "value", "key"),
    [
        ("kubernetes.io/tls", '{"tls.crt": "", "tls.key": ""}', "tls.crt"),
        ("kubernetes.io/tls", '{"tls.crt": "c", "tls.key": " \\n"}', "tls.key"),
        ("kubernetes.io/tls", '{"tls.crt": "c", "tls.key": []}', "tls.key"),
        ("kubernetes.io/ssh-auth", '{"ssh-privatekey": ""}', "ssh-privatekey"),
        ("kubernetes.io/ssh-auth", " \n", "ssh-privatekey"),
        ("kubernetes.io/ssh-auth", "\ufeff", "ssh-privatekey"),
        ("kubernetes.io/ssh-auth", "null", "ssh-privatekey"),
    ],
)
def test_key_that_the_type_needs_is_an_error_while_its_value_is_blank(secret_type: str, value: str, key: str) -> None:
    with pytest.raises(InvalidValue) as error:
        filled(secret_type, value)
    assert str(error.value) == (
        f"AWS secret prod/db: key {key}: its value is blank, and a Secret of type {secret_type} needs one: correct it"
        " in AWS, or name another property with keyturn.dev/data; or use type Opaque"
    )


def test_user_without_a_password_is_filled() -> None:
    value = '{"username": "u", "password": ""}'
    assert filled("kubernetes.io/basic-auth", value) == {"username": b"u", "password": b""}


def test_one_text_under_both_keys_of_a_certificate_is_an_error() -> None:
    with pytest.raises(
        InvalidValue, match=r"keys tls\.crt and tls\.key have the same value, .*: store JSON with"
    ) as error:
        filled("kubernetes.io/tls", "hunter2", tls_crt="@", tls_key="@")
    assert "hunter2" not in str(error.value)


def test_file_that_holds_certificate_and_key_may_stand_under_both_keys() -> None:
    value = "-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n-----BEGIN PRIVATE KEY-----\n"
    assert len(filled("kubernetes.io/tls", value, tls_crt="@", tls_key="@")) == 2


def test_every_type_refuses_a_value_that_has_none_of_its_keys() -> None:
    for secret_type in TYPES:
        with pytest.raises(InvalidValue):
            filled(secret_type, '{"other": "x"}')
