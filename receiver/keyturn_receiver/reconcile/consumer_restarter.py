"""Restarting consumers: each write is held to what the workload was when the decision was made."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence

from keyturn_receiver.cluster.consumer_cache import ConsumerIndex
from keyturn_receiver.cluster.secret_client import SecretClient
from keyturn_receiver.cluster.workload_client import WorkloadClient
from keyturn_receiver.core.binding import Target
from keyturn_receiver.core.consumer import DISABLED, ROLLOUT, Consumer
from keyturn_receiver.core.revision import Record
from keyturn_receiver.core.rollout import baseline, rollout
from keyturn_receiver.errors import ClusterRefused, Conflict, NotFound, Temporary
from keyturn_receiver.telemetry.metrics import Metrics

TRIES = 8  # a workload in the middle of a rollout changes several times a second

_log = logging.getLogger(__name__)


class ConsumerRestarter:
    """Marks the consumers of one Secret."""

    def __init__(
        self, consumers: ConsumerIndex, workloads: WorkloadClient, secrets: SecretClient, metrics: Metrics
    ) -> None:
        self._consumers = consumers
        self._workloads = workloads
        self._secrets = secrets
        self._metrics = metrics

    def consumers(self, target: Target) -> list[Consumer]:
        """The consumers of a Secret that may be restarted, as the watches last saw them."""
        return [consumer for consumer in self._consumers.of(target) if not consumer.rollout_disabled]

    def disabled(self, annotations: Mapping[str, str], namespace_annotations: Mapping[str, str]) -> bool:
        """Tell whether a Secret's own annotations, or its namespace's, forbid restarts."""
        return DISABLED in (annotations.get(ROLLOUT), namespace_annotations.get(ROLLOUT))

    def none_due(self, target: Target, consumers: Sequence[Consumer], record: Record) -> bool:
        """Tell whether all of ``consumers`` are marked with the revisions of ``record`` already."""
        return not any(rollout(consumer, target.name, record.revisions) for consumer in consumers)

    async def baseline(
        self, target: Target, consumers: Sequence[Consumer], before: Mapping[str, str]
    ) -> list[Consumer]:
        """Mark those never seen before with the revisions ``before`` a write; return all as they are then.

        One that may not be marked does not hold up the Secret: ``restart`` will meet the refusal again, and raise it.
        """
        return await _each(consumers, lambda consumer: self._baseline(target, consumer, before))

    async def restart(
        self, target: Target, consumers: Sequence[Consumer], revisions: Mapping[str, str]
    ) -> list[Consumer]:
        """Restart those whose pods read a key with a new revision; return them.

        One failure holds up no other: it is raised when all the rest are done.
        """
        return await _each(consumers, lambda consumer: self._restart(target, consumer, revisions))

    async def _baseline(self, target: Target, consumer: Consumer, before: Mapping[str, str]) -> Consumer | None:
        current: Consumer | None = consumer
        for _ in range(TRIES):
            mark = baseline(current, target.name, before) if current else None
            if current is None or mark is None:
                return current
            try:
                return await self._workloads.mark(current, mark)
            except Conflict:
                current = await self._workloads.read(current.ref)
            except NotFound:
                return None
            except ClusterRefused:
                return current
        raise Conflict(f"{consumer.ref} keeps changing: trying again")

    async def _restart(self, target: Target, consumer: Consumer, revisions: Mapping[str, str]) -> Consumer | None:
        current: Consumer | None = consumer
        for _ in range(TRIES):
            mark = rollout(current, target.name, revisions) if current and not current.rollout_disabled else None
            if current is None or mark is None:
                return None
            try:
                marked = await self._workloads.mark(current, mark)
            except Conflict:
                # In this order: the Secret as of after the workload was read, see Reconciler.
                current = await self._workloads.read(current.ref)
                revisions = (await self._secrets.read_record(target)).revisions
                continue
            if not mark.restart:
                return None
            self._metrics.rollouts.labels(current.ref.kind).inc()
            _log.info("restarted", extra={"fields": {"consumer": str(current.ref)}})
            return marked
        raise Conflict(f"{consumer.ref} keeps changing: trying again")


async def _each(
    consumers: Sequence[Consumer], work: Callable[[Consumer], Awaitable[Consumer | None]]
) -> list[Consumer]:
    if not consumers:
        return []
    results = await asyncio.gather(*(_unless_gone(work, consumer) for consumer in consumers), return_exceptions=True)
    errors = [result for result in results if isinstance(result, BaseException)]
    # What can be tried again goes first: the try after next will meet the other again.
    for error in sorted(errors, key=lambda error: not isinstance(error, Temporary)):
        raise error
    return [result for result in results if isinstance(result, Consumer)]


async def _unless_gone(work: Callable[[Consumer], Awaitable[Consumer | None]], consumer: Consumer) -> Consumer | None:
    try:
        return await work(consumer)
    except NotFound:
        return None
