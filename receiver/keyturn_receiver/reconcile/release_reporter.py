"""Reports Secrets that are no longer bound, so that none keeps a status that is no longer true.

Only the status is written. The values and the record stay, so a Secret that is bound again goes on where it was, and
restarts nobody.
"""

import asyncio
import logging
from collections.abc import Callable

from keyturn_receiver.cluster.event_recorder import EventRecorder
from keyturn_receiver.cluster.lease import follower_delay
from keyturn_receiver.cluster.released_cache import ReleasedCache, ReleasedSecret
from keyturn_receiver.cluster.secret_client import SecretClient
from keyturn_receiver.core.revision import status_of
from keyturn_receiver.core.vocabulary import BIND_LABEL
from keyturn_receiver.errors import KeyturnError, NotFound

REASON = "NotBound"
ADVICE = (
    f'the label {BIND_LABEL} is not "true" any more: the Secret keeps its values and no longer follows AWS; set the'
    " label to bind it again"
)
RETRY_SECONDS = 5.0

_log = logging.getLogger(__name__)


class ReleaseReporter:
    """Reports one Secret after another. The leader does so at once, the other replicas if it has not."""

    def __init__(
        self, cache: ReleasedCache, secrets: SecretClient, events: EventRecorder, is_leader: Callable[[], bool]
    ) -> None:
        self._cache = cache
        self._secrets = secrets
        self._events = events
        self._is_leader = is_leader
        self._changed = asyncio.Event()
        cache.add_handler(self._changed.set)

    async def run(self) -> None:
        """Report until cancelled."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            released = self._cache.all()
            if released and not self._is_leader():
                await asyncio.sleep(follower_delay())
            failed = False
            for secret in released:
                if self._cache.holds(secret):
                    failed |= not await self._report(secret)
            if failed:
                await asyncio.sleep(RETRY_SECONDS)
                self._changed.set()

    async def _report(self, secret: ReleasedSecret) -> bool:
        """Write the status of one Secret. Return whether it needs no other attempt."""
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
