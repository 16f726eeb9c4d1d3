"""Regions: the AWS regions and the AWS partition that bindings may name. Any other region or partition is refused
before AWS is called."""

from dataclasses import dataclass
from difflib import get_close_matches

from keyturn_receiver.core.arn import partition, region
from keyturn_receiver.core.binding import SECRET_ID
from keyturn_receiver.errors import InvalidBinding


@dataclass(frozen=True, slots=True)
class Regions:
    """The receiver's own ``partition``, and the ``names`` of the regions that bindings may name.

    A request to another partition would send the receiver's session token to the operator of that partition.
    """

    partition: str
    names: frozenset[str]

    def allows(self, secret_id: str) -> bool:
        """Return whether ``secret_id`` is a name, or an ARN of this partition and of a region in ``names``."""
        named = region(secret_id)
        return not named or (named in self.names and partition(secret_id) == self.partition)

    def check(self, secret_id: str) -> None:
        """Raise InvalidBinding if ``secret_id`` is an ARN of another partition, or of a region that is not in
        ``names``. Making the message takes a millisecond, so callers that do not need the message use ``allows``."""
        if self.allows(secret_id):
            return
        named = region(secret_id)
        if partition(secret_id) != self.partition:
            raise InvalidBinding(
                f"annotation {SECRET_ID} names the AWS partition {partition(secret_id)}, and this receiver's is"
                f" {self.partition}: name an AWS secret of that partition"
            )
        nearest = self._nearest(named)
        advice = f"did you mean {nearest}? If not," if nearest else "correct the ARN, or"
        raise InvalidBinding(
            f"annotation {SECRET_ID} names the AWS region {named}, which this receiver does not know: {advice} let the"
            " receiver's operator add the region (chart value aws.regions)"
        )

    def _nearest(self, named: str) -> str | None:
        close = get_close_matches(named, sorted(self.names), n=len(self.names) or 1)
        swapped = (each for each in close if sorted(each) == sorted(named))  # the most common typo: two letters swapped
        return next(swapped, close[0] if close else None)
