"""The notifier's settings: environment variables of the function, set by template.yaml."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})


class InvalidSettings(ValueError):
    """A setting is missing or wrong; the text says which and what to write."""


@dataclass(frozen=True, slots=True)
class Settings:
    """``receiver_url``: where to deliver. ``signing_key_secret_id``: the AWS secret that holds the key. ``dlq_url``:
    where poison goes. ``timeout_seconds``: for the receiver's answer; longer than its own deadline of 8 s."""

    receiver_url: str
    signing_key_secret_id: str
    dlq_url: str
    timeout_seconds: float = 12.0


def read_settings(environment: Mapping[str, str] = os.environ) -> Settings:
    """Read the settings. Raises InvalidSettings."""
    url = _required(environment, "KEYTURN_RECEIVER_URL", "https://<receiver>/v1/notifications")
    parts = urlsplit(url)
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in _LOOPBACK):
        raise InvalidSettings("KEYTURN_RECEIVER_URL must start with https://")
    return Settings(
        receiver_url=url,
        signing_key_secret_id=_required(environment, "KEYTURN_SIGNING_KEY_SECRET_ID", "an AWS secret's name or ARN"),
        dlq_url=_required(environment, "KEYTURN_DLQ_URL", "the URL of an SQS queue"),
    )


def _required(environment: Mapping[str, str], name: str, form: str) -> str:
    value = environment.get(name, "").strip()
    if not value:
        raise InvalidSettings(f"{name} is not set: set it to {form}")
    return value
