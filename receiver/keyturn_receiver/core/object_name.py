"""Names of Kubernetes objects, such as Secrets."""

import re

# https://kubernetes.io/docs/concepts/overview/working-with-objects/names/#dns-subdomain-names
_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")


def is_object_name(text: str) -> bool:
    """Return whether a text has the form of a Kubernetes object's name."""
    return _NAME.fullmatch(text) is not None
