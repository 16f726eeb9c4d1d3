"""Tenancy: which AWS secrets a namespace may name, and which Secrets may be filled at all."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatchcase
from functools import lru_cache

from keyturn_receiver.core.arn import candidate_names
from keyturn_receiver.errors import NotAllowed

ALLOW_SECRETS = "keyturn.dev/allow-secrets"

# Types whose content a controller of Kubernetes itself turns into credentials: filling one from outside would let
# whoever may write an AWS secret mint them (the hole of ESO CVE-2026-42875).
REFUSED_TYPES = frozenset({"kubernetes.io/service-account-token", "bootstrap.kubernetes.io/token"})


class Default(StrEnum):
    """What holds for a namespace without the annotation."""

    DENY = "deny"
    ALLOW = "allow"


@dataclass(frozen=True, slots=True)
class Tenancy:
    """What a cluster admin has said of one namespace: in its ``annotations``, or by ``default`` without them."""

    namespace: str
    annotations: Mapping[str, str]
    default: Default


def check_name(tenancy: Tenancy, secret_name: str) -> None:
    """Raise NotAllowed unless the namespace may read the AWS secret of exactly this name."""
    if not _allows(tenancy, secret_name):
        raise _refusal(tenancy.namespace, secret_name)


def check_id(tenancy: Tenancy, secret_id: str) -> None:
    """Raise NotAllowed if no name that this name or ARN can stand for is allowed.

    It is asked before AWS is: an ARN may or may not end in the six random characters, so both readings count here,
    and ``check_name`` decides once AWS has told the name.
    """
    if not could_apply(tenancy, candidate_names(secret_id)):
        raise _refusal(tenancy.namespace, secret_id)


def allows_every_reading(tenancy: Tenancy, secret_id: str) -> bool:
    """Tell whether whatever this name or ARN can stand for is allowed: else AWS has to tell which it is."""
    return all(_allows(tenancy, name) for name in candidate_names(secret_id))


def could_apply(tenancy: Tenancy, names: Iterable[str]) -> bool:
    """Tell whether the namespace may read an AWS secret of any of these names."""
    return any(_allows(tenancy, name) for name in names)


def check_type(secret_type: str) -> None:
    """Raise NotAllowed for a Secret type that mints credentials."""
    if secret_type in REFUSED_TYPES:
        raise NotAllowed(f"a Secret of type {secret_type} is never filled: use type Opaque, or one made for your data")


def _allows(tenancy: Tenancy, secret_name: str) -> bool:
    if ALLOW_SECRETS not in tenancy.annotations:
        return tenancy.default is Default.ALLOW
    return _matches(tenancy.annotations[ALLOW_SECRETS], secret_name)


@lru_cache(maxsize=4096)  # each reconcile asks the same several times, on every path
def _matches(globs: str, secret_name: str) -> bool:
    stripped = (glob.strip() for glob in globs.split(","))
    return any(glob and fnmatchcase(secret_name, glob) for glob in stripped)  # fnmatch matches the whole name: anchored


def _refusal(namespace: str, secret_id: str) -> NotAllowed:
    return NotAllowed(
        f"namespace {namespace} is not allowed to read {secret_id}: a cluster admin can allow it with the namespace"
        f" annotation {ALLOW_SECRETS} (comma-separated globs over secret names)"
    )
