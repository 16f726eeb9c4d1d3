"""Events in the form in which EventBridge puts them into the queue (docs/events.md)."""

from datetime import datetime
from typing import Any
from uuid import uuid4

from keyturn_receiver.core.arn import account_id, region


def label_move(arn: str, name: str, label: str, version_id: str, now: datetime) -> dict[str, Any]:
    """Return the event that AWS emits when a secret's staging label moves to a version."""
    return {
        "version": "0",
        "id": str(uuid4()),
        "detail-type": "Secret Label Updated",
        "source": "aws.secretsmanager",
        "account": account_id(arn),
        "time": now.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "region": region(arn),
        "resources": [arn],
        "detail": {"name": name, "labelUpdated": label, "versionId": version_id},
    }
