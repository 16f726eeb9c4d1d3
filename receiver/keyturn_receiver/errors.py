"""Errors. The class of an error says whether a retry can help. The class is chosen only where the failure happens.

    KeyturnError
    ├── Permanent            a retry cannot help until somebody changes something
    │   ├── InvalidBinding       the annotations on the Secret are wrong
    │   ├── NotAllowed           the access policy does not allow it; a cluster admin can allow it
    │   ├── SourceRefused        AWS: access denied, decryption failed, or no version with this staging label
    │   │   ├── ActionDenied             AWS: the role may not call an action such as ListSecrets
    │   │   ├── SourceNotFound           AWS: the secret does not exist (any more)
    │   │   └── SourcePendingDeletion    AWS: the secret is scheduled for deletion and can be restored
    │   ├── InvalidValue         the Secret cannot be filled from the value in AWS as the binding asks
    │   ├── ClusterRefused       Kubernetes: forbidden, invalid, immutable, or denied by admission
    │   │   ├── NotFound                 the object does not exist (any more)
    │   │   └── UnknownField             the kind has no such field
    │   └── NoSigningKey         a source of signing keys has no valid key, or its file is missing or unreadable
    └── Temporary            retry after ``retry_after`` seconds
        ├── SourceUnavailable    AWS: throttled, 5xx, or no response
        │   └── NoCredentials            AWS rejects the credentials, or there are none
        ├── StaleRead            AWS returned an older version than the notification names
        ├── Conflict             another writer has changed the object; read it again
        │   └── Contended                the object keeps changing; its owner can stop that
        ├── NamespaceBusy        more work of one namespace waits than can be done in time
        │   └── Unfinished               part of the work is done; the next attempt does the rest
        ├── Unrecorded           a permanent error that no status shows
        ├── DisruptionNotAllowed Kubernetes: 429, a PodDisruptionBudget forbids an eviction for now
        ├── Expired              Kubernetes: 410, the watch is too far behind; list again
        └── ClusterUnavailable   Kubernetes: 5xx, no response, or unreachable
            └── TooManyRequests          Kubernetes: 429, the call was not started

People read the messages in Events, replies and logs. A message says what is wrong and what to do next. It quotes
no secret value. It does not quote the text of an error from AWS or Kubernetes either, because that text might contain a
secret value.
"""

from typing import TypeVar

E = TypeVar("E", bound=BaseException)


class KeyturnError(Exception):
    """Base class of all errors. ``reason`` is the CamelCase word that Kubernetes Events and metrics show for the
    error."""

    reason = "Failed"


def detached(error: E) -> E:
    """Return ``error`` without its traceback, and without the errors that have caused it.

    An error may be kept, or several tasks may wait for it. With its traceback, the error would keep every frame that it
    passed through in memory, with the replies and values in the frame's variables. Each task that raises the error
    would add more frames.
    """
    error.__traceback__ = error.__context__ = error.__cause__ = None
    return error


class Permanent(KeyturnError):
    """Base class of errors after which a retry cannot help until somebody changes something."""

    reason = "Refused"


class InvalidBinding(Permanent):
    reason = "InvalidBinding"


class NotAllowed(Permanent):
    """The access policy does not allow what the binding asks for."""

    reason = "NotAllowed"


class SourceRefused(Permanent):
    """AWS refuses to return the secret."""

    reason = "SourceRefused"


class ActionDenied(SourceRefused):
    """The role is not allowed to call ListSecrets, or another action that is not about one particular secret."""


class SourceNotFound(SourceRefused):
    reason = "SourceNotFound"


class SourcePendingDeletion(SourceRefused):
    reason = "SourcePendingDeletion"


class InvalidValue(Permanent):
    """The Secret cannot be filled from the value in AWS as the binding asks. For example, the value lacks a property,
    the record of the Secret would be too long, or another writer holds a key."""

    reason = "InvalidValue"


class ClusterRefused(Permanent):
    """The Kubernetes API refuses the call."""

    reason = "ClusterRefused"


class NotFound(ClusterRefused):
    reason = "NotFound"


class UnknownField(ClusterRefused):
    """This cluster's version of the kind has no such field."""


class NoSigningKey(Permanent):
    """A source of signing keys has no valid key, for example because its keys are malformed, or its file is missing or
    cannot be read. This error appears only in logs and in the self test."""


class Temporary(KeyturnError):
    """Base class of errors after which a retry may help. ``retry_after`` is the delay before the retry, in seconds.

    ``caused_by_tenant`` is true if the cause is one namespace, and not a fault of AWS or Kubernetes.
    """

    reason = "TryingAgain"
    caused_by_tenant = False

    def __init__(self, message: str, retry_after: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Unrecorded(Temporary):
    """A permanent error that no status shows: Kubernetes refuses to write the status, or the Secret is a watched one.
    So nothing but the next attempts of this replica finds out that the cause is gone. ``reason`` is that of the
    error."""

    caused_by_tenant = True

    def __init__(self, error: "Permanent") -> None:
        super().__init__(f"{error}; no status says so: trying again")
        self.reason = error.reason


class SourceUnavailable(Temporary):
    reason = "SourceUnavailable"


class NoCredentials(SourceUnavailable):
    """The credentials do not work. ``fault`` is the message without its subject. So it contains no text of a
    binding."""

    reason = "NoCredentials"

    def __init__(self, subject: str, fault: str, retry_after: float = 1.0) -> None:
        super().__init__(f"{subject}: {fault}", retry_after)
        self.fault = fault


class StaleRead(Temporary):
    """AWS returned an older version than the version that the notification names."""

    reason = "StaleRead"


class Conflict(Temporary):
    """Another writer has changed the object since it was read. The object has to be read again."""

    reason = "Conflict"


class DisruptionNotAllowed(Temporary):
    """A PodDisruptionBudget forbids an eviction for now. The API server itself works."""

    reason = "DisruptionNotAllowed"
    caused_by_tenant = True


class Contended(Conflict):
    """The object has changed before each attempt to write it, because its owner keeps editing it."""

    caused_by_tenant = True


class NamespaceBusy(Temporary):
    """More work of one namespace waits than can be done in time, such as calls to the Kubernetes API."""

    reason = "NamespaceBusy"
    caused_by_tenant = True


class Unfinished(NamespaceBusy):
    """Part of the work is done. The next attempt does the rest."""


class Expired(Temporary):
    """A watch is too far behind to resume, so the objects have to be listed again."""

    reason = "Expired"


class ClusterUnavailable(Temporary):
    reason = "ClusterUnavailable"


class TooManyRequests(ClusterUnavailable):
    """The Kubernetes API answered 429, so it has not started the call."""

    reason = "TooManyRequests"


def with_message(error: KeyturnError, message: str) -> KeyturnError:
    """Return a copy of an error with another message."""
    changed = error.__class__.__new__(error.__class__)
    changed.__dict__.update(error.__dict__)
    changed.args = (message,)
    return changed


def first_retryable(*errors: KeyturnError | None) -> KeyturnError | None:
    """Return the error that decides the next step: the first ``Temporary`` error, or else the first error. Return None
    if there is no error.

    The other errors are not lost, because a retry meets them again. ``errors`` are in the order of the work. So an
    error of the Secret comes before advice about its consumers.
    """
    present = [error for error in errors if error]
    return next((error for error in present if isinstance(error, Temporary)), present[0] if present else None)
