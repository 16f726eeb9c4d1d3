"""The settings of the notifier and of the rotation: environment variables that template.yaml sets."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from keyturn_notifier.certificates import NONE, Certificates, parse_parameter
from keyturn_notifier.proxy import InvalidProxy, Proxy, parse_proxy

_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})


class InvalidSettings(ValueError):
    """A setting is missing or invalid. The text names the setting, and says what to write."""


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

    ca_bundle: Certificates = NONE
    """CAs to trust for receivers besides the public ones, separated by commas. Each is a certificate in DER, or a PEM
    file, in base64."""

    ca_bundle_secret_id: str | None = None
    """ARN of an AWS secret with further CAs, as a PEM file. It is read again when a receiver's certificate is not
    trusted."""

    receipts_bus: str | None = None
    """Name of the event bus that gets receipts. Empty for none."""

    receipt_details: bool = True
    """Whether receipts have the names of Kubernetes objects: `true` or `false`."""

    https_proxy: Proxy | None = None
    """Proxy for the calls to receivers and to AWS: `http://HOST:PORT`. Empty for none."""

    no_proxy: tuple[str, ...] = ()
    """Hosts to call without the proxy, separated by commas: names, which stand for their subdomains, too, and addresses
    or networks (`10.0.0.0/8`) for hosts that are named by their address."""


def read_settings(environment: Mapping[str, str] = os.environ) -> NotifierSettings:
    """Read and check the settings. Raises InvalidSettings."""
    urls = _required(environment, "KEYTURN_RECEIVER_URLS", "https://<receiver>/v1/notifications")
    no_proxy = _list(environment, "KEYTURN_NO_PROXY")
    return NotifierSettings(
        receiver_urls=tuple(dict.fromkeys(_url(url.strip()) for url in urls.split(","))),
        signing_key_secret_id=_required(
            environment, "KEYTURN_SIGNING_KEY_SECRET_ID", "the name or ARN of an AWS secret"
        ),
        queue_url=_required(environment, "KEYTURN_QUEUE_URL", "the URL of an SQS queue"),
        dlq_url=_required(environment, "KEYTURN_DLQ_URL", "the URL of an SQS queue"),
        kms_key_id=environment.get("KEYTURN_KMS_KEY_ID", "").strip() or None,
        name_prefixes=_list(environment, "KEYTURN_NAME_PREFIXES"),
        ca_bundle=_certificates(environment.get("KEYTURN_CA_BUNDLE", "").strip()),
        ca_bundle_secret_id=environment.get("KEYTURN_CA_BUNDLE_SECRET_ID", "").strip() or None,
        receipts_bus=environment.get("KEYTURN_RECEIPTS_BUS", "").strip() or None,
        receipt_details=_switch(environment, "KEYTURN_RECEIPT_DETAILS", default="true"),
        https_proxy=_proxy(environment.get("KEYTURN_HTTPS_PROXY", "").strip(), no_proxy),
        no_proxy=no_proxy,
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


def _switch(environment: Mapping[str, str], name: str, default: str) -> bool:
    value = environment.get(name, "").strip() or default
    if value not in ("true", "false"):
        raise InvalidSettings(f"{name} must be true or false")
    return value == "true"


def _list(environment: Mapping[str, str], name: str) -> tuple[str, ...]:
    return tuple(filter(None, map(str.strip, environment.get(name, "").split(","))))


def _certificates(text: str) -> Certificates:
    """Parse the private CAs. Raises InvalidSettings if no CA is usable, because nothing could be delivered then. If
    only some CAs have faults, ``Authorities`` reports them later."""
    certificates = parse_parameter(text)
    if text and not certificates.der:
        raise InvalidSettings(f"KEYTURN_CA_BUNDLE: {'; '.join(certificates.faults)}")
    return certificates


def _proxy(url: str, no_proxy: Sequence[str]) -> Proxy | None:
    if not url and no_proxy:
        raise InvalidSettings("KEYTURN_NO_PROXY is set, but KEYTURN_HTTPS_PROXY is not: set both or neither")
    try:
        return parse_proxy(url, no_proxy) if url else None
    except InvalidProxy as error:
        raise InvalidSettings(f"KEYTURN_HTTPS_PROXY, KEYTURN_NO_PROXY: {error}") from None
