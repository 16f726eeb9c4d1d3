"""The poller: finds what the event path has missed, without reading a single value (DESIGN section 6)."""

import asyncio
import logging
import random
from collections import defaultdict
from collections.abc import Iterable

from keyturn_receiver.cluster.bound_secrets import BoundSecret, BoundSecrets
from keyturn_receiver.core.binding import CURRENT, SECRET_ID, VERSION_STAGE, Target
from keyturn_receiver.core.identity import aliases
from keyturn_receiver.errors import KeyturnError, SourceRefused
from keyturn_receiver.reconcile.queue import Queue
from keyturn_receiver.reconcile.request import Cause, because
from keyturn_receiver.sources.secrets_manager import Listed, SecretsManager
from keyturn_receiver.telemetry import Metrics

JITTER = 0.1

_log = logging.getLogger(__name__)


class Poller:
    """Sweeps over all bindings while this replica holds the Lease."""

    def __init__(
        self,
        secrets_manager: SecretsManager,
        bound: BoundSecrets,
        queue: Queue,
        leading: asyncio.Event,
        interval: float,
        metrics: Metrics,
    ) -> None:
        self._secrets_manager = secrets_manager
        self._bound = bound
        self._queue = queue
        self._leading = leading
        self._interval = interval
        self._metrics = metrics

    async def run(self) -> None:
        """Sweep for ever, every ``interval`` seconds give or take a tenth."""
        while True:
            await asyncio.sleep(self._interval * random.uniform(1 - JITTER, 1 + JITTER))  # noqa: S311 - jitter
            if not self._leading.is_set():
                continue
            try:
                recovered = await self.sweep()
            except KeyturnError as error:
                self._metrics.sweeps.labels("failed").inc()
                _log.warning("sweep failed: %s", error)
            else:
                self._metrics.sweeps.labels("ok").inc()
                _log.info("swept", extra={"fields": {"recovered": [str(target) for target in recovered]}})

    async def sweep(self) -> list[Target]:
        """Reconcile each binding whose version in AWS is not the one its Secret was made from; return those changed.

        ListSecrets may lag by five minutes: what it says is only a reason to look.
        https://docs.aws.amazon.com/secretsmanager/latest/apireference/API_ListSecrets.html
        """
        behind = await self._behind()
        changed = await asyncio.gather(*(self._recover(target) for target in behind))
        return [target for target, was_changed in zip(behind, changed, strict=True) if was_changed]

    async def _behind(self) -> list[Target]:
        by_alias: dict[str, list[BoundSecret]] = defaultdict(list)
        for bound in self._bound.all():
            by_alias[bound.annotations.get(SECRET_ID, "").strip()].append(bound)
        try:
            listed = [secret async for secret in self._secrets_manager.all()]
        except SourceRefused:
            listed = await self._described(by_alias)
        behind = {bound.target for secret in listed for bound in _naming(secret, by_alias) if _is_behind(bound, secret)}
        return sorted(behind)

    async def _described(self, secret_ids: Iterable[str]) -> list[Listed]:
        """Ask secret by secret: for a role that may not list."""
        listed: list[Listed] = []
        for secret_id in secret_ids:
            try:
                listed.append(Listed(secret_id, secret_id, await self._secrets_manager.stages(secret_id)))
            except KeyturnError as error:
                _log.info("left out of this sweep: %s", error)  # the others are looked at all the same
        return listed

    async def _recover(self, target: Target) -> bool:
        try:
            changed = (await self._queue.submit(target, because(Cause.POLL))).changed
        except KeyturnError:
            return False  # logged by the queue, and told by an Event
        self._metrics.recovered_by_poll.inc(int(changed))
        return changed


def _naming(secret: Listed, by_alias: dict[str, list[BoundSecret]]) -> list[BoundSecret]:
    return [bound for alias in aliases(secret.arn, secret.name) for bound in by_alias.get(alias, ())]


def _is_behind(bound: BoundSecret, secret: Listed) -> bool:
    stage = bound.annotations.get(VERSION_STAGE, CURRENT).strip()
    current = [version_id for version_id, stages in secret.stages.items() if stage in stages]
    return not set(current) <= set(bound.record.version_ids.values()) or not bound.record.filled
