"""Environment variables and context for calls of the notifier's function without Lambda."""

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field

from keyturn_local.aws.server import EventPath, LocalAws

TIMEOUT_SECONDS = 30.0


@dataclass(frozen=True)
class Context:
    """Context of an invocation, with only the fields that the notifier and Powertools read."""

    aws_request_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    function_name: str = "keyturn-notifier"
    function_version: str = "$LATEST"
    memory_limit_in_mb: int = 256
    invoked_function_arn: str = "arn:aws:lambda:us-east-1:123456789012:function:keyturn-notifier"
    end: float = field(default_factory=lambda: time.monotonic() + TIMEOUT_SECONDS)

    def get_remaining_time_in_millis(self) -> int:
        """Return the milliseconds until Lambda would end the invocation."""
        return max(0, int((self.end - time.monotonic()) * 1000))


def function_environment(aws: LocalAws, path: EventPath, receiver_urls: Sequence[str]) -> dict[str, str]:
    """Return the environment variables of the functions: those that template.yaml sets, and those that Lambda itself
    sets."""
    return {
        **aws.environment(),
        "KEYTURN_RECEIVER_URLS": ",".join(receiver_urls),
        "KEYTURN_SIGNING_KEY_SECRET_ID": path.signing_key_secret_id,
        "KEYTURN_QUEUE_URL": path.queue_url,
        "KEYTURN_DLQ_URL": path.dlq_url,
        "KEYTURN_KMS_KEY_ID": "",
        "KEYTURN_NAME_PREFIXES": "",
        "KEYTURN_CA_BUNDLE": "",
        "KEYTURN_CA_BUNDLE_SECRET_ID": "",
        "KEYTURN_RECEIPTS_BUS": "",
        "KEYTURN_RECEIPT_DETAILS": "true",
        "KEYTURN_HTTPS_PROXY": "",
        "KEYTURN_NO_PROXY": "",
        "POWERTOOLS_SERVICE_NAME": "keyturn",
    }
