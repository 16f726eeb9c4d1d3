"""AWS's SDK: imported when the first invocation asks for a client, for it takes longer than all the rest."""

from typing import Any

CONNECT_SECONDS = 1
READ_SECONDS = 3
ATTEMPTS = 2


def client(name: str) -> Any:
    """Build a client, whose calls end well before the invocation does. Callers give it its type by annotation."""
    import boto3
    from botocore.config import Config

    retries: Any = {"mode": "standard", "total_max_attempts": ATTEMPTS}
    config = Config(connect_timeout=CONNECT_SECONDS, read_timeout=READ_SECONDS, retries=retries)
    return boto3.client(name, config=config)
