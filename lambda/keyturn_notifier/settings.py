"""The settings of the notifier and of the rotation: environment variables that template.yaml sets."""

import base64
import binascii
import os
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})


class InvalidSettings(ValueError):
    """A setting is missing or wrong. The text names it and says what to write."""


@dataclass(frozen=True, slots=True)
class NotifierSettings:
    """The settings of both functions. Each field is set by the environment variable KEYTURN_<NAME>."""

    receiver_urls: tuple[str, ...]
    """URLs of the receivers, separated by commas: `https://<receiver>/v1/notifications`."""

    signing_key_secret_id: str
    """ARN of the AWS secret that holds the signing key."""

    queue_url: str
    """URL of the SQS queue that holds the events."""

    dlq_url: str
    """URL of the SQS dead-letter queue, which gets poison messages."""

    kms_key_id: str | None = None
    """Id of a KMS key with the spec ECC_NIST_EDWARDS25519, which adds a `v1a` signature to the `v1` ones."""

    name_prefixes: tuple[str, ...] = ()
    """Prefixes of secret names, separated by commas; events of other secrets are ignored. Empty for all secrets."""

    ca_bundle: str | None = None
    """CA certificates to trust for receivers besides the public CAs: a PEM file in base64."""


def read_settings(environment: Mapping[str, str] = os.environ) -> NotifierSettings:
    """Read and check the settings. Raises InvalidSettings."""
    urls = _required(environment, "KEYTURN_RECEIVER_URLS", "https://<receiver>/v1/notifications")
    return NotifierSettings(
        receiver_urls=tuple(dict.fromkeys(_url(url.strip()) for url in urls.split(","))),
        signing_key_secret_id=_required(
            environment, "KEYTURN_SIGNING_KEY_SECRET_ID", "the name or ARN of an AWS secret"
        ),
        queue_url=_required(environment, "KEYTURN_QUEUE_URL", "the URL of an SQS queue"),
        dlq_url=_required(environment, "KEYTURN_DLQ_URL", "the URL of an SQS queue"),
        kms_key_id=environment.get("KEYTURN_KMS_KEY_ID", "").strip() or None,
        name_prefixes=tuple(filter(None, environment.get("KEYTURN_NAME_PREFIXES", "").strip().split(","))),
        ca_bundle=_pem(environment.get("KEYTURN_CA_BUNDLE", "").strip()),
    )


def _required(environment: Mapping[str, str], name: str, form: str) -> str:
    value = environment.get(name, "").strip()
    if not value:
        raise InvalidSettings(f"{name} is not set: set it to {form}")
    return value


def _url(url: str) -> str:
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError:
        host = None
    if not host or parts.query or parts.fragment or parts.username:
        raise InvalidSettings("KEYTURN_RECEIVER_URLS: each URL must be https://<receiver>/v1/notifications")
    if parts.scheme != "https" and not (parts.scheme == "http" and host in _LOOPBACK):
        raise InvalidSettings(f"KEYTURN_RECEIVER_URLS: the URL of {host} must start with https://")
    return url


def _pem(text: str) -> str | None:
    if not text:
        return None
    try:
        pem = base64.b64decode(text, validate=True).decode("ascii")
    except (binascii.Error, ValueError):
        pem = ""
    if "-----BEGIN CERTIFICATE-----" not in pem:
        raise InvalidSettings("KEYTURN_CA_BUNDLE must be a PEM file in base64: base64 -w0 ca.pem")
    return pem
