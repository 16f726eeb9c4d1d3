"""One of the AWS secrets that a bound Secret is made from. The poller compares each of them separately."""

from dataclasses import dataclass

from keyturn_receiver.cluster.secret_cache import BoundSecret
from keyturn_receiver.core.binding import Source, Target
from keyturn_receiver.core.revision import Record


@dataclass(frozen=True, slots=True)
class BoundSource:
    """One of the AWS secrets that a bound Secret is made from. Most Secrets are made from a single AWS secret."""

    secret: BoundSecret
    source: Source

    @property
    def target(self) -> Target:
        """The Secret to fill."""
        return self.secret.target

    @property
    def record(self) -> Record:
        """The record that Keyturn keeps on the Secret."""
        return self.secret.record

    def is_reported(self, reason: str) -> bool:
        """Return whether the Secret's status reports this reason for this AWS secret."""
        of_this = len(self.secret.spec.sources) == 1 or f"AWS secret {self.source.secret_id} " in self.record.status
        return of_this and self.record.has_reason(reason)
