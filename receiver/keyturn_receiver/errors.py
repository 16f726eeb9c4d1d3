"""Every error of the receiver: whether trying again can help is decided here, once, where the failure happens.

    KeyturnError
    ├── Permanent            trying again changes nothing until somebody changes something
    │   ├── InvalidBinding       the annotations on the Secret
    │   ├── NotAllowed           tenancy: a cluster admin has not allowed it
    │   ├── SourceRefused        AWS: access denied, undecipherable, no such label
    │   │   ├── SourceNotFound        AWS: there is no such secret (any more)
    │   │   └── SourcePendingDeletion       AWS: the secret is scheduled for deletion, and can be restored
    │   ├── InvalidValue         the value in AWS does not give what the binding asks for
    │   ├── ClusterRefused       Kubernetes: forbidden, invalid, immutable, denied by admission
    │   │   └── NotFound             the object is not there (any more)
    │   └── NoSigningKey         what should hold a signing key holds none
    └── Temporary            try again after ``retry_after`` seconds
        ├── SourceUnavailable    AWS: throttled, 5xx, hung
        │   └── NoCredentials        AWS does not take the credentials that are there, or there are none
        ├── StaleRead            AWS answered with an older version than the notification names
        ├── Conflict             somebody else wrote first: read again
        ├── Expired              Kubernetes: 410, a watch is too far behind: list again
        └── ClusterUnavailable   Kubernetes: 5xx, hung, gone
            └── TooManyRequests           Kubernetes: 429, nothing was begun

A message is shown to people (Events, replies, logs): it says what is wrong and what to do next, and never quotes a
secret value nor the text of an error that somebody else wrote, which might.
"""


class KeyturnError(Exception):
    """The root; ``reason`` is the CamelCase word that Kubernetes Events and metrics show."""

    reason = "Failed"


class Permanent(KeyturnError):
    reason = "Refused"


class InvalidBinding(Permanent):
    reason = "InvalidBinding"


class NotAllowed(Permanent):
    reason = "NotAllowed"


class SourceRefused(Permanent):
    reason = "SourceRefused"


class SourceNotFound(SourceRefused):
    reason = "SourceNotFound"


class SourcePendingDeletion(SourceRefused):
    reason = "SourcePendingDeletion"


class InvalidValue(Permanent):
    reason = "InvalidValue"


class ClusterRefused(Permanent):
    reason = "ClusterRefused"


class NotFound(ClusterRefused):
    reason = "NotFound"


class NoSigningKey(Permanent):
    pass  # told in logs alone


class Temporary(KeyturnError):
    """``retry_after``: seconds to wait before the next try."""

    reason = "TryingAgain"

    def __init__(self, message: str, retry_after: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class SourceUnavailable(Temporary):
    reason = "SourceUnavailable"


class NoCredentials(SourceUnavailable):
    reason = "NoCredentials"


class StaleRead(Temporary):
    reason = "StaleRead"


class Conflict(Temporary):
    reason = "Conflict"


class Expired(Temporary):
    reason = "Expired"


class ClusterUnavailable(Temporary):
    reason = "ClusterUnavailable"


class TooManyRequests(ClusterUnavailable):
    reason = "TooManyRequests"
