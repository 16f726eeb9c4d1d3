"""Types of Secrets. Kubernetes defines the keys that a Secret of each type needs, and a binding has to fill them.

A placeholder under such a key would pass as a value: the API server demands that the key is there when the Secret is
created. So only a key that the binding fills counts.
https://kubernetes.io/docs/concepts/configuration/secret/#secret-types
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass

from keyturn_receiver.core.binding import DATA, Binding, Source
from keyturn_receiver.core.render import WHOLE_VALUE_KEY, SecretVersion, names_of
from keyturn_receiver.errors import InvalidValue

DOCKER_CONFIG = "kubernetes.io/dockerconfigjson"
DOCKER_CFG = "kubernetes.io/dockercfg"


@dataclass(frozen=True, slots=True)
class _Type:
    """The ``keys`` that a Secret of a type needs: all of them, or one of them if ``any`` is true."""

    keys: tuple[str, ...]
    any: bool = False


TYPES: Mapping[str, _Type] = {
    DOCKER_CONFIG: _Type((".dockerconfigjson",)),
    DOCKER_CFG: _Type((".dockercfg",)),
    "kubernetes.io/ssh-auth": _Type(("ssh-privatekey",)),
    "kubernetes.io/tls": _Type(("tls.crt", "tls.key")),
    "kubernetes.io/basic-auth": _Type(("username", "password"), any=True),
}


def complete(
    secret_type: str, binding: Binding, versions: Mapping[Source, SecretVersion], data: Mapping[str, bytes]
) -> dict[str, bytes]:
    """Return the data of a Secret of this type, with the whole value under the type's key where that is meant.

    Without the annotation `data`, a value that is no JSON object goes under the only key that the type needs, and so
    does Docker's own JSON. Raises InvalidValue if the binding does not fill the keys that the type needs.
    """
    rule = TYPES.get(secret_type)
    if rule is None:
        return dict(data)
    if binding.everything_of and len(rule.keys) == 1 and rule.keys[0] not in data:
        raw = versions[binding.everything_of].value
        whole = raw.encode(errors="surrogatepass") if isinstance(raw, str) else raw
        is_whole = data.keys() == {WHOLE_VALUE_KEY} and data[WHOLE_VALUE_KEY] == whole
        if is_whole or _is_docker_json(secret_type, whole):
            data = {rule.keys[0]: whole}
    missing = [key for key in rule.keys if key not in data]
    if missing and not (rule.any and len(missing) < len(rule.keys)):
        raise InvalidValue(f"AWS secret {names_of(versions)}: {_advice(secret_type, rule, missing)}")
    check_values(secret_type, data, versions)
    return dict(data)


def check_values(secret_type: str, data: Mapping[str, bytes], versions: Mapping[Source, SecretVersion]) -> None:
    """Raise InvalidValue if a value cannot stand under its key in a Secret of this type."""
    rule = TYPES.get(secret_type)
    for key in (".dockerconfigjson", ".dockercfg"):
        if rule and key in rule.keys and key in data and not isinstance(_json(data[key]), dict):
            raise InvalidValue(
                f"AWS secret {names_of(versions)}: key {key}: the value is not Docker's JSON: store the content of a"
                ' Docker config.json in AWS, as in {"auths": {"registry.example.com": {"auth": "..."}}}, or use type'
                " Opaque"
            )


def _advice(secret_type: str, rule: _Type, missing: list[str]) -> str:
    needed = (" or " if rule.any else " and ").join(rule.keys)
    lines = ", ".join(f"`{key}: <property>`" for key in missing)
    noun = "the key" if len(rule.keys) == 1 else "one of the keys" if rule.any else "the keys"
    return (
        f"a Secret of type {secret_type} needs {noun} {needed}, and the binding does not fill"
        f" {'it' if len(rule.keys) == 1 else 'any' if rule.any else ' and '.join(missing)}: name the property for"
        f" each with {DATA}, one line each: {lines}; or use type Opaque"
    )


def _is_docker_json(secret_type: str, value: bytes) -> bool:
    content = _json(value) if secret_type in (DOCKER_CONFIG, DOCKER_CFG) else None
    if not isinstance(content, dict) or not content:
        return False
    if secret_type == DOCKER_CONFIG:
        return isinstance(content.get("auths"), dict)
    return all(isinstance(each, dict) and {"auth", "username"} & each.keys() for each in content.values())


def _json(value: bytes) -> object:
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return None
