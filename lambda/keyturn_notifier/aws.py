"""Clients for AWS.

boto3 is imported by ``client`` and not by this module, because that import takes longer than all others together.
"""

from typing import Any

CONNECT_SECONDS = 1
READ_SECONDS = 3
ATTEMPTS = 2  # including the first attempt


def client(name: str) -> Any:
    """Return a client whose calls time out well before the invocation does. The caller annotates the client's type."""
    import boto3
    from botocore.config import Config

    retries: Any = {"mode": "standard", "total_max_attempts": ATTEMPTS}
    config = Config(connect_timeout=CONNECT_SECONDS, read_timeout=READ_SECONDS, retries=retries)
    return boto3.client(name, config=config)
