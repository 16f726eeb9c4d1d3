"""Names and ARNs of AWS secrets. An ARN is either whole, or partial: without its last six random characters.

The end of a partial ARN can look like these characters, so an ARN can have two readings. Both count here, because a
notification is only a hint: a match too many costs one needless reconcile, but a missing match loses a rotation. A bare
name is never shortened, because `prod/db-abcdef` is a valid name.
https://docs.aws.amazon.com/secretsmanager/latest/userguide/whats-in-a-secret.html
"""

import re

_SUFFIX = re.compile(r"-[A-Za-z0-9]{6}\Z")
_RESOURCE = ":secret:"


def candidate_names(secret_id: str) -> tuple[str, ...]:
    """Return every name that ``secret_id`` can refer to: one for a name, one or two for an ARN."""
    if not secret_id.startswith("arn:"):
        return (secret_id,)
    resource = secret_id.partition(_RESOURCE)[2]
    return (resource, resource[:-7]) if _SUFFIX.search(resource) else (resource,)


def account_scope(secret_id: str) -> str:
    """Return the part of an ARN that names partition, region and account; empty for a bare name."""
    return secret_id.partition(_RESOURCE)[0] if secret_id.startswith("arn:") else ""


def region(secret_id: str) -> str:
    """Return the region in an ARN; empty for a bare name."""
    parts = secret_id.split(":")
    return parts[3] if parts[0] == "arn" and len(parts) > 3 else ""
