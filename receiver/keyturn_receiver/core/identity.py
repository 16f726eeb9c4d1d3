"""What an AWS secret may be called: by its name, its ARN, or its ARN without the six random characters.

A notification is only a hint, so matching too much costs one needless look; matching too little loses a rotation.
A bare name is never shortened: `prod/db-abcdef` is a name like any other.
https://docs.aws.amazon.com/secretsmanager/latest/userguide/whats-in-a-secret.html
"""

import re

_SUFFIX = re.compile(r"-[A-Za-z0-9]{6}\Z")
_RESOURCE = ":secret:"


def _without_suffix(text: str) -> tuple[str, ...]:
    return (text[:-7],) if _SUFFIX.search(text) else ()


def possible_names(secret_id: str) -> tuple[str, ...]:
    """The names of AWS secrets that a name or an ARN, whole or partial, can stand for."""
    if not secret_id.startswith("arn:"):
        return (secret_id,)
    resource = secret_id.partition(_RESOURCE)[2]
    return (resource, *_without_suffix(resource))


def aliases(secret_id: str, name: str | None = None) -> frozenset[str]:
    """Every way in which a binding may have written the AWS secret that a notification calls ``secret_id``."""
    found = {secret_id, *possible_names(secret_id)}
    if secret_id.startswith("arn:"):
        found.update(_without_suffix(secret_id))
    if name:
        found.add(name)
    return frozenset(found)
