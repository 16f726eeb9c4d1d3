"""Access policy: the AWS secrets that a namespace may read, and the types of Secrets that may be filled."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatchcase
from functools import lru_cache

from keyturn_receiver.core.arn import candidate_names
from keyturn_receiver.errors import NotAllowed

ALLOW_SECRETS = "keyturn.dev/allow-secrets"
MAX_NAME = 519  # characters: 512 for a name, and seven that an ARN adds to the name

MAX_SHOWN_GLOBS = 10  # in one message

# Kubernetes' own controllers turn Secrets of these types into credentials. If Keyturn filled such Secrets, everyone who
# may write an AWS secret could create credentials (as in ESO's CVE-2026-42875).
REFUSED_TYPES = frozenset({"kubernetes.io/service-account-token", "bootstrap.kubernetes.io/token"})


class Default(StrEnum):
    """The policy for a namespace that does not have the annotation ``keyturn.dev/allow-secrets``."""

    DENY = "deny"
    ALLOW = "allow"


@dataclass(frozen=True, slots=True)
class Tenancy:
    """The policy of one namespace. A cluster admin sets it with one of the namespace's ``annotations``. ``default``
    applies if the namespace lacks that annotation."""

    namespace: str
    annotations: Mapping[str, str]
    default: Default


def check_name(tenancy: Tenancy, secret_name: str) -> None:
    """Raise NotAllowed unless the namespace may read the AWS secret that has exactly this name."""
    if not _allows(tenancy, secret_name):
        raise _refusal(tenancy, secret_name)


def check_id(tenancy: Tenancy, secret_id: str) -> None:
    """Raise NotAllowed unless the namespace may read at least one of the names that ``secret_id`` can refer to.

    This check is made before any call to AWS. An ARN may or may not end in its six random characters, so one allowed
    reading is enough. ``check_name`` makes the decision after AWS has returned the name.
    """
    if not could_apply(tenancy, candidate_names(secret_id)):
        raise _refusal(tenancy, secret_id)


def allows_every_reading(tenancy: Tenancy, secret_id: str) -> bool:
    """Return whether the namespace may read every name that ``secret_id`` can refer to. If the result is false, the
    caller has to ask AWS for the name before it reads the secret."""
    return all(_allows(tenancy, name) for name in candidate_names(secret_id))


def could_apply(tenancy: Tenancy, names: Iterable[str]) -> bool:
    """Return whether the namespace may read an AWS secret with one of these names."""
    return any(_allows(tenancy, name) for name in names)


def check_type(secret_type: str) -> None:
    """Raise NotAllowed if Kubernetes turns Secrets of this type into credentials."""
    if secret_type in REFUSED_TYPES:
        raise NotAllowed(f"a Secret of type {secret_type} is never filled: use type Opaque, or one made for your data")


def _allows(tenancy: Tenancy, secret_name: str) -> bool:
    if ALLOW_SECRETS not in tenancy.annotations:
        return tenancy.default is Default.ALLOW
    return _matches(tenancy.annotations[ALLOW_SECRETS], secret_name)


def _matches(globs: str, secret_name: str) -> bool:
    # A tenant can write a longer text into an annotation, but no AWS secret has such a name.
    return len(secret_name) <= MAX_NAME and _matches_name(globs, secret_name)


@lru_cache(maxsize=4096)  # each reconcile checks the same names several times
def _matches_name(globs: str, secret_name: str) -> bool:
    # No name contains a space, so a list over several lines, or without commas, has only one meaning.
    # fnmatchcase matches the whole name.
    return any(fnmatchcase(secret_name, glob) for glob in _split(globs))


def _split(globs: str) -> list[str]:
    return globs.replace(",", " ").split()


def _refusal(tenancy: Tenancy, secret_id: str) -> NotAllowed:
    globs = _split(tenancy.annotations.get(ALLOW_SECRETS, ""))
    shown = [f"{glob:.100}" for glob in globs[:MAX_SHOWN_GLOBS]]
    more = len(globs) - len(shown)
    allowed = ", ".join(shown) + (f" and {more} more" if more else "")
    return NotAllowed(
        f"namespace {tenancy.namespace} is not allowed to read {secret_id}; it may read {allowed or 'nothing'}: a"
        f" cluster admin can allow it with the namespace annotation {ALLOW_SECRETS} (globs over secret names, separated"
        " by commas or line breaks)"
    )
