"""Back-off of a failed reconcile: how long the work queue waits before it tries again."""

from keyturn_receiver.errors import Temporary, Unfinished, Unrecorded
from keyturn_receiver.resilience.backoff import Backoff

RETRY_BACKOFF = Backoff(base=1.0, cap=60.0)  # seconds before the retry of a temporary failure
# The same after an error that a person must end and that no status shows. Each attempt reads the value in AWS.
UNRECORDED_BACKOFF = Backoff(base=60.0, cap=900.0)
UNFINISHED_RETRY = 0.05  # seconds before the next part of work that has used up its share of time
UNEXPECTED_RETRY = 30.0  # seconds before a retry, after an error that only a bug can cause


def failed_attempts(before: int, error: Temporary) -> int:
    """Return the number of failed attempts in a row, including this attempt. ``before`` is the number without this
    attempt.

    A reconcile that has used up its share of time (Unfinished) has not failed, so the count begins again at 1.
    """
    return 1 if isinstance(error, Unfinished) else before + 1


def retry_delay(attempts: int, error: Temporary) -> float:
    """Return the seconds to wait after ``attempts`` failed attempts in a row. The last of them failed with
    ``error``.

    After Unfinished, the delay is short and does not grow: the work queue puts the next attempt behind the work of
    others.
    """
    if isinstance(error, Unfinished):
        return UNFINISHED_RETRY
    if isinstance(error, Unrecorded):
        return UNRECORDED_BACKOFF.delay(attempts)
    return RETRY_BACKOFF.delay(attempts, at_least=error.retry_after)
