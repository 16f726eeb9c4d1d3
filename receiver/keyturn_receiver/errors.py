"""Errors: the class says whether a retry can help. It is chosen once, where the failure happens.

    KeyturnError
    ├── Permanent            a retry cannot help until somebody changes something
    │   ├── InvalidBinding       the annotations on the Secret are wrong
    │   ├── NotAllowed           access policy: a cluster admin has not allowed this
    │   ├── SourceRefused        AWS: access denied, cannot be decrypted, no version with this label
    │   │   ├── SourceNotFound           AWS: the secret does not exist, or no longer
    │   │   └── SourcePendingDeletion    AWS: the secret is scheduled for deletion and can be restored
    │   ├── InvalidValue         the value in AWS does not contain what the binding asks for
    │   ├── ClusterRefused       Kubernetes: forbidden, invalid, immutable, or denied by admission
    │   │   └── NotFound                 the object does not exist, or no longer
    │   └── NoSigningKey         a source of signing keys contains no key
    └── Temporary            retry after ``retry_after`` seconds
        ├── SourceUnavailable    AWS: throttled, 5xx, or no response
        │   └── NoCredentials            AWS rejects the credentials, or there are none
        ├── StaleRead            AWS returned an older version than the notification names
        ├── Conflict             another writer was first: read again
        ├── Expired              Kubernetes: 410, the watch is too far behind: list again
        └── ClusterUnavailable   Kubernetes: 5xx, no response, or unreachable
            └── TooManyRequests          Kubernetes: 429, the call was not started

People read the messages in Events, replies and logs. A message says what is wrong and what to do next. It never quotes
a secret value, nor the text of an error from elsewhere, which might contain one.
"""


class KeyturnError(Exception):
    """Root of all errors. ``reason`` is the CamelCase word that Kubernetes Events and metrics show."""

    reason = "Failed"


class Permanent(KeyturnError):
    """A retry cannot help until somebody changes something."""

    reason = "Refused"


class InvalidBinding(Permanent):
    reason = "InvalidBinding"


class NotAllowed(Permanent):
    """The access policy does not allow it."""

    reason = "NotAllowed"


class SourceRefused(Permanent):
    """AWS refuses to return the secret."""

    reason = "SourceRefused"


class SourceNotFound(SourceRefused):
    reason = "SourceNotFound"


class SourcePendingDeletion(SourceRefused):
    reason = "SourcePendingDeletion"


class InvalidValue(Permanent):
    """The value in AWS does not contain what the binding asks for."""

    reason = "InvalidValue"


class ClusterRefused(Permanent):
    """The Kubernetes API refuses the call."""

    reason = "ClusterRefused"


class NotFound(ClusterRefused):
    reason = "NotFound"


class NoSigningKey(Permanent):
    """A source of signing keys contains no key. It appears only in logs."""


class Temporary(KeyturnError):
    """A retry may help. ``retry_after``: seconds to wait before it."""

    reason = "TryingAgain"

    def __init__(self, message: str, retry_after: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class SourceUnavailable(Temporary):
    reason = "SourceUnavailable"


class NoCredentials(SourceUnavailable):
    reason = "NoCredentials"


class StaleRead(Temporary):
    """AWS returned an older version than the notification names."""

    reason = "StaleRead"


class Conflict(Temporary):
    """Another writer was first: read again."""

    reason = "Conflict"


class Expired(Temporary):
    """A watch is too far behind: list again."""

    reason = "Expired"


class ClusterUnavailable(Temporary):
    reason = "ClusterUnavailable"


class TooManyRequests(ClusterUnavailable):
    """The Kubernetes API answered 429: the call was not started."""

    reason = "TooManyRequests"


def first_retryable(*errors: KeyturnError | None) -> KeyturnError | None:
    """The error that decides what happens next: the first one that trying again can help, or else the first one.

    A retry meets the others again, so none is lost. The order of ``errors`` is the order of the work: without a filled
    Secret, advice about its consumers is premature.
    """
    present = [error for error in errors if error]
    return next((error for error in present if isinstance(error, Temporary)), present[0] if present else None)
