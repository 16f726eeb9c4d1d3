"""Reporter of Secrets that are no longer bound. Without a report, such a Secret would keep an outdated status.

Only the status is written. The values and the record stay. So if the Secret is bound again, no consumer is restarted
for values that it has read.
"""

import asyncio
import logging
import time
from collections.abc import Callable

from keyturn_receiver.cluster.event_recorder import EventRecorder
from keyturn_receiver.cluster.lease import follower_delay
from keyturn_receiver.cluster.released_cache import ReleasedCache, ReleasedSecret
from keyturn_receiver.cluster.secret_client import SecretClient
from keyturn_receiver.core.revision import status_of
from keyturn_receiver.core.vocabulary import BIND_LABEL
from keyturn_receiver.errors import KeyturnError, NotFound
from keyturn_receiver.resilience.token_bucket import TokenBuckets

REASON = "NotBound"
ADVICE = (
    f'the label {BIND_LABEL} is not "true" any more: the Secret keeps its values and no longer follows AWS; set the'
    " label to bind it again"
)
RETRY_SECONDS = 5.0
# A tenant can set the label ``keyturn.dev/state`` on a Secret again and again. Each time causes a report.
RELEASE_RATE = 5.0  # reports of one namespace per second
RELEASE_BURST = 50  # reports of one namespace that may be made without a pause
MAX_REPORTS = 8  # reports in progress at once in all namespaces; a namespace has at most one

_log = logging.getLogger(__name__)


class ReleaseReporter:
    """Reports the Secrets of a namespace one at a time. Namespaces take turns, and each has its own rate limit. The
    leader reports at once. Other replicas wait, and report only Secrets that the leader has not reported by then."""

    def __init__(
        self, cache: ReleasedCache, secrets: SecretClient, events: EventRecorder, is_leader: Callable[[], bool]
    ) -> None:
        self._cache = cache
        self._secrets = secrets
        self._events = events
        self._is_leader = is_leader
        self._changed = asyncio.Event()
        self._reported: set[ReleasedSecret] = set()  # reported Secrets that the watch still shows
        self._busy: set[str] = set()  # namespaces with a task
        self._buckets = TokenBuckets(RELEASE_RATE, RELEASE_BURST, time.monotonic)
        self._turns = asyncio.Semaphore(MAX_REPORTS)  # first come, first served
        cache.add_handler(self._changed.set)

    async def run(self) -> None:
        """Report until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                await self._changed.wait()
                self._changed.clear()
                released = self._cache.all()
                self._reported.intersection_update(released)
                for namespace in dict.fromkeys(secret.target.namespace for secret in released):
                    if namespace not in self._busy:
                        self._busy.add(namespace)
                        tasks.create_task(self._report_namespace(namespace))

    async def _report_namespace(self, namespace: str) -> None:
        try:
            while self._waiting(namespace):
                if not self._is_leader():
                    await asyncio.sleep(follower_delay())
                failed = False
                for secret in self._waiting(namespace):
                    failed |= not await self._take_turn(secret)
                if failed:
                    await asyncio.sleep(RETRY_SECONDS)
        finally:
            self._busy.discard(namespace)

    def _waiting(self, namespace: str) -> list[ReleasedSecret]:
        released = (secret for secret in self._cache.all() if secret.target.namespace == namespace)
        return [secret for secret in released if secret not in self._reported]

    async def _take_turn(self, secret: ReleasedSecret) -> bool:
        """Report a Secret if it still needs a report. Return False if another attempt is needed."""
        if not self._cache.holds(secret):
            return True
        await self._buckets.wait(secret.target.namespace)
        async with self._turns:
            if not self._cache.holds(secret):
                return True
            if not await self._report(secret):
                return False
        if self._cache.holds(secret):
            self._reported.add(secret)
        return True

    async def _report(self, secret: ReleasedSecret) -> bool:
        """Write the status of one Secret. Return False if another attempt is needed."""
        try:
            await self._secrets.release(secret.target, secret.uid, secret.resource_version, status_of(REASON, ADVICE))
        except NotFound:
            return True
        except KeyturnError as error:
            _log.warning("%s", error, extra={"fields": {"secret": str(secret.target), "reason": error.reason}})
            return False
        except Exception:
            # A bug must not stop the reports about other Secrets.
            _log.exception("the report failed unexpectedly", extra={"fields": {"secret": str(secret.target)}})
            return False
        self._events.event(secret.target, secret.uid, False, REASON, ADVICE)
        _log.info("no longer bound", extra={"fields": {"secret": str(secret.target)}})
        return True
