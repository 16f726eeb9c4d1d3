"""Names and ARNs of AWS secrets. A partial ARN lacks the six random characters at the end of a complete ARN.

A partial ARN may happen to end in six characters that look like the random ones. Such an ARN can be read in two ways.
Both readings count, because an extra match costs one needless reconcile, but a missed match loses a rotation. A bare
name is never shortened, because `prod/db-abcdef` is a valid name.
https://docs.aws.amazon.com/secretsmanager/latest/userguide/whats-in-a-secret.html
"""

import re

_SUFFIX = re.compile(r"-[A-Za-z0-9]{6}\Z")
_RESOURCE = ":secret:"


def candidate_names(secret_id: str) -> tuple[str, ...]:
    """Return every name that ``secret_id`` can refer to: one for a bare name, and one or two for an ARN."""
    if not secret_id.startswith("arn:"):
        return (secret_id,)
    resource = secret_id.partition(_RESOURCE)[2]
    return (resource, resource[:-7]) if _SUFFIX.search(resource) else (resource,)


def full_name(arn: str) -> str:
    """Return the name in a complete ARN, as AWS returns it."""
    return _SUFFIX.sub("", arn.partition(_RESOURCE)[2])


def account_scope(secret_id: str) -> str:
    """Return the part of an ARN that names the partition, the region and the account. It is empty for a bare name."""
    return secret_id.partition(_RESOURCE)[0] if secret_id.startswith("arn:") else ""


def may_share_account(secret_id: str, other: str) -> bool:
    """Return whether two ids may be in the same partition, region and account. A bare name may be in any of them."""
    ours, theirs = account_scope(secret_id), account_scope(other)
    return not ours or not theirs or ours == theirs


def refers_to(secret_id: str, arn: str, name: str) -> bool:
    """Return whether ``secret_id`` refers to the AWS secret with this ``arn`` and ``name``.

    If ``secret_id`` is an ARN, the partition, region and account have to match, too. A bare name matches in every
    partition, region and account.
    """
    if not (_SUFFIX.search(arn) and arn.partition(_RESOURCE)[2][:-7] == name):
        return False
    return secret_id in (arn, arn[:-7]) if secret_id.startswith("arn:") else secret_id == name


def partition(secret_id: str) -> str:
    """Return the partition in an ARN, such as "aws". It is empty for a bare name."""
    return secret_id.split(":")[1] if secret_id.startswith("arn:") else ""


def account_id(arn: str) -> str:
    """Return the AWS account in an ARN. It is empty for a bare name."""
    parts = arn.split(":")
    return parts[4] if parts[0] == "arn" and len(parts) > 4 else ""


def region(secret_id: str) -> str:
    """Return the region in an ARN. It is empty for a bare name."""
    parts = secret_id.split(":")
    return parts[3] if parts[0] == "arn" and len(parts) > 3 else ""
