"""Names and ARNs of AWS secrets: a name, a whole ARN, or a partial ARN without its six random characters.

A notification is only a hint, so matching too much costs one needless reconcile; matching too little loses a rotation.
A bare name is never shortened: `prod/db-abcdef` is a name like any other.
https://docs.aws.amazon.com/secretsmanager/latest/userguide/whats-in-a-secret.html
"""

import re

_SUFFIX = re.compile(r"-[A-Za-z0-9]{6}\Z")
_RESOURCE = ":secret:"


def candidate_names(secret_id: str) -> tuple[str, ...]:
    """Every name of an AWS secret that a name or an ARN, whole or partial, can mean."""
    if not secret_id.startswith("arn:"):
        return (secret_id,)
    resource = secret_id.partition(_RESOURCE)[2]
    return (resource, resource[:-7]) if _SUFFIX.search(resource) else (resource,)


def account_scope(secret_id: str) -> str:
    """The part of an ARN that names partition, region and account; empty for a bare name."""
    return secret_id.partition(_RESOURCE)[0] if secret_id.startswith("arn:") else ""


def region(secret_id: str) -> str:
    """The region in an ARN; empty for a bare name."""
    parts = secret_id.split(":")
    return parts[3] if parts[0] == "arn" and len(parts) > 3 else ""
