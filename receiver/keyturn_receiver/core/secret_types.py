"""Types of Secrets. Kubernetes defines the keys that a Secret of each type needs, and a binding has to fill them.

The API server requires these keys when the Secret is created, so authors may give them placeholders. A placeholder must
not count as a value. So only a key that the binding fills counts.
https://kubernetes.io/docs/concepts/configuration/secret/#secret-types
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NoReturn

from keyturn_receiver.core.binding import DATA, Binding, Source
from keyturn_receiver.core.blank import is_blank, is_void
from keyturn_receiver.core.json_text import BOM
from keyturn_receiver.core.render import WHOLE_VALUE_KEY, SecretVersion, names_of
from keyturn_receiver.errors import InvalidValue

DOCKER_CONFIG = "kubernetes.io/dockerconfigjson"
DOCKER_CFG = "kubernetes.io/dockercfg"
TLS = "kubernetes.io/tls"

_BOM = BOM.encode()
_CREDENTIALS = "auth: base64_encode(join('':'', [username, password]))"
_LINES = {
    DOCKER_CONFIG: f""".dockerconfigjson: '{{auths: {{"registry.example.com": {{{_CREDENTIALS}}}}}}}'""",
    DOCKER_CFG: f""".dockercfg: '{{"registry.example.com": {{{_CREDENTIALS}}}}}'""",
}
_STORE_TLS = 'store JSON with the properties tls.crt and tls.key, as in {"tls.crt": "...", "tls.key": "..."}'
_EXAMPLES = {
    DOCKER_CONFIG: 'the content of a Docker config.json in AWS, as in {"auths": {"registry.example.com": {"auth":'
    ' "..."}}}',
    DOCKER_CFG: 'the content of a .dockercfg in AWS, as in {"registry.example.com": {"auth": "..."}}',
}


@dataclass(frozen=True, slots=True)
class _Type:
    """The ``keys`` that a Secret of a type needs: all of them, or one of them if ``any`` is true."""

    keys: tuple[str, ...]
    any: bool = False


TYPES: Mapping[str, _Type] = {
    DOCKER_CONFIG: _Type((".dockerconfigjson",)),
    DOCKER_CFG: _Type((".dockercfg",)),
    "kubernetes.io/ssh-auth": _Type(("ssh-privatekey",)),
    TLS: _Type(("tls.crt", "tls.key")),
    "kubernetes.io/basic-auth": _Type(("username", "password"), any=True),
}


def complete(
    secret_type: str, binding: Binding, versions: Mapping[Source, SecretVersion], data: Mapping[str, bytes]
) -> dict[str, bytes]:
    """Return the data of a Secret of this type. The whole value in AWS can become the value of the type's key.

    That happens only without the annotation `data`, and only if the type needs a single key. Then the value must be
    Docker's own JSON, or a text that is not a JSON object. A byte order mark before Docker's JSON is removed. Raises
    InvalidValue if the binding does not fill the keys that the type needs, or if the type does not allow a value.
    """
    rule = TYPES.get(secret_type)
    if rule is None:
        return dict(data)
    is_whole = False
    if binding.everything_of and not data.keys() & set(rule.keys):
        raw = versions[binding.everything_of].value
        whole = raw.encode(errors="surrogatepass") if isinstance(raw, str) else raw
        is_whole = data.keys() == {WHOLE_VALUE_KEY} and data[WHOLE_VALUE_KEY] == whole
        bare = whole.removeprefix(_BOM) if secret_type in _LINES else whole
        goes_there = is_whole or (secret_type in _LINES and not _docker_fault(secret_type, bare))
        if goes_there and len(rule.keys) == 1:
            data = {rule.keys[0]: bare}
    missing = [key for key in rule.keys if key not in data or (rule.any and is_blank(data[key]))]
    if missing and not (rule.any and len(missing) < len(rule.keys)):
        advice = _advice(secret_type, rule, missing, [key for key in missing if key in data], is_whole)
        raise InvalidValue(f"AWS secret {names_of(versions)}: {advice}")
    check_values(secret_type, data, versions)
    return dict(data)


def check_values(secret_type: str, data: Mapping[str, bytes], versions: Mapping[Source, SecretVersion]) -> None:
    """Raise InvalidValue if a Secret of this type does not allow the value of one of its keys."""
    rule = TYPES.get(secret_type)
    for key in rule.keys if rule else ():
        if key in data and (fault := _value_fault(secret_type, key, data[key])):
            raise InvalidValue(f"AWS secret {names_of(versions)}: key {key}: {fault}; or use type Opaque")
    if secret_type == TLS and _is_same_text(data):
        raise InvalidValue(
            f"AWS secret {names_of(versions)}: keys tls.crt and tls.key have the same value, which does not hold both a"
            f" certificate and its key: {_STORE_TLS}; or use type Opaque"
        )


def _value_fault(secret_type: str, key: str, value: bytes) -> str:
    if secret_type in _LINES and (fault := _docker_fault(secret_type, value)):
        return f"the value is not Docker's JSON ({fault}): {_docker_advice(secret_type)}"
    if is_void(value) and not TYPES[secret_type].any:
        return (
            f"its value is blank, and a Secret of type {secret_type} needs one: correct it in AWS, or name another"
            f" property with {DATA}"
        )
    return ""


def _is_same_text(data: Mapping[str, bytes]) -> bool:
    """Return whether tls.crt and tls.key have the same text, and this text does not hold both a certificate and a
    key."""
    certificate, key = data.get("tls.crt"), data.get("tls.key")
    if certificate is None or certificate != key:
        return False
    return not (b"CERTIFICATE-----" in certificate and b"PRIVATE KEY-----" in certificate)


def _advice(secret_type: str, rule: _Type, missing: list[str], blank: list[str], is_text: bool) -> str:
    """Return what to do about the ``missing`` keys. ``blank`` has the missing keys whose value is blank. ``is_text`` is
    true if the whole value in AWS is a text, which has no properties."""
    needed = (" or " if rule.any else " and ").join(rule.keys)
    noun = "the key" if len(rule.keys) == 1 else "one of the keys" if rule.any else "the keys"
    if secret_type in _LINES:
        how = _docker_advice(secret_type)
    elif is_text and secret_type == TLS:
        how = f"the value in AWS is not JSON: {_STORE_TLS}"
    elif is_text:
        how = f'the value in AWS is not JSON: take it whole with {DATA}: `{missing[-1]}: "@"`'
    elif blank:
        how = "correct it in AWS, or name another property with " + DATA
    else:
        lines = ", ".join(f"`{key}: <property>`" for key in missing)
        how = f"name the property for each with {DATA}, one line each: {lines}"
    unfilled = "it" if len(rule.keys) == 1 else "any" if rule.any else " and ".join(missing)
    because = f" (the value of {' and '.join(blank)} is blank)" if blank else ""
    return (
        f"a Secret of type {secret_type} needs {noun} {needed}, and the binding does not fill {unfilled}{because}:"
        f" {how}; or use type Opaque"
    )


def _docker_advice(secret_type: str) -> str:
    return f"store {_EXAMPLES[secret_type]}, or make it of other properties with {DATA}, as in {_LINES[secret_type]}"


def _refuse_constant(_name: str) -> NoReturn:
    raise ValueError  # NaN and Infinity, which Python accepts and JSON does not have


def _docker_fault(secret_type: str, value: bytes) -> str:
    """Return why the API server or the kubelet would not understand Docker's JSON, or an empty text.

    Both parse it with Go, which accepts only UTF-8 without a byte order mark.
    https://kubernetes.io/docs/tasks/configure-pod-container/pull-image-private-registry/
    """
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return "it is not UTF-8"
    if text.startswith(BOM):
        return "it begins with a byte order mark"
    try:
        # This runs on the event loop, so it uses Python's fast parser, and does not report the place of a fault.
        content = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        return "it is not JSON"
    if not isinstance(content, dict):
        return "it is not a JSON object"
    if secret_type == DOCKER_CONFIG:
        content = content.get("auths")
        if not isinstance(content, dict):
            return "it has no object `auths`"
        return "" if all(isinstance(each, dict) for each in content.values()) else "in `auths`, not all are objects"
    if content and all(isinstance(each, dict) and {"auth", "username"} & each.keys() for each in content.values()):
        return ""
    return "it is not an object of registries, each with `auth` or `username`"
