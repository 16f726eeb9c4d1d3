"""Filler of one Secret: reads from AWS, renders, plans and applies. If AWS has deleted the source and the binding asks
for deletion (``keyturn.dev/on-delete``), the Secret is deleted instead."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from keyturn_receiver.cluster.secret_cache import SecretCache
from keyturn_receiver.cluster.secret_client import SecretClient
from keyturn_receiver.core import secret_types
from keyturn_receiver.core.binding import Binding, BindingSpec, OnDelete, Source
from keyturn_receiver.core.consumer import Consumer
from keyturn_receiver.core.history import Change, add, stamp
from keyturn_receiver.core.integrity import Integrity
from keyturn_receiver.core.partial import check_size, has_news, sources_to_read, with_keys
from keyturn_receiver.core.plan import LiveSecret, Plan, plan
from keyturn_receiver.core.policy import check_type
from keyturn_receiver.core.revision import OK, Record, compound_version, status_of, version_key
from keyturn_receiver.core.rollout import is_due
from keyturn_receiver.core.write_times import rfc3339
from keyturn_receiver.errors import (
    ClusterRefused,
    Conflict,
    KeyturnError,
    NotAllowed,
    SourceNotFound,
    Temporary,
    detached,
)
from keyturn_receiver.reconcile import event_messages
from keyturn_receiver.reconcile.consumer_restarter import ConsumerRestarter
from keyturn_receiver.reconcile.deletion import SecretDeleter
from keyturn_receiver.reconcile.renderer import Renderer
from keyturn_receiver.reconcile.request import Request
from keyturn_receiver.reconcile.source_reader import SourceReader
from keyturn_receiver.reconcile.unsettled_marks import unsettled_marks
from keyturn_receiver.resilience.time_slice import filter_in_slices
from keyturn_receiver.telemetry.legs import Leg, LegTimer


@dataclass(frozen=True, slots=True)
class FillResult:
    """The state of a Secret after a reconcile has tried to fill it.

    ``consumers`` have their baselines (marks with the revisions from before the write). ``written`` is true if this
    reconcile has written ``record``. The record is then current, and ``before`` is the record that it replaces.
    ``status_outdated`` is true if the only thing left to write is the status, to clear an earlier refusal. The status
    is cleared after the restarts. Otherwise each retry would write the Secret twice, and each write triggers this
    receiver's watch. ``resource_version`` is the Secret's resource version after the write. If ``written`` is true and
    there is an ``error``, the error has prevented only some keys from being filled. ``met`` and ``unavailable`` are as
    in ``ReconcileResult``.
    """

    record: Record
    consumers: Sequence[Consumer]
    changed_keys: str = ""  # a text for people
    written: bool = False
    status_outdated: bool = False
    deleted: bool = False
    error: KeyturnError | None = None
    resource_version: str = ""
    before: Record | None = None
    met: frozenset[Source] = frozenset()
    unavailable: frozenset[Source] = frozenset()


class SecretFiller:
    """Secret filler. Makes the content of a Secret match AWS and the binding."""

    def __init__(
        self,
        sources: SourceReader,
        renderer: Renderer,
        secrets: SecretClient,
        cache: SecretCache,
        restarter: ConsumerRestarter,
        deleter: SecretDeleter,
        legs: LegTimer,
    ) -> None:
        self._sources = sources
        self._renderer = renderer
        self._secrets = secrets
        self._cache = cache
        self._restarter = restarter
        self._deleter = deleter
        self._legs = legs

    async def fill(
        self, live: LiveSecret, spec: BindingSpec, consumers: Sequence[Consumer], request: Request
    ) -> FillResult:
        """Fill the Secret, or delete it. If this fails, the result has the error, and the Secret keeps its last good
        content.

        Raises Conflict if the Secret or a workload has changed since it was read.
        """
        try:
            binding = await self._renderer.read_binding(live.target, spec)
            try:
                return await self._fill(binding, live, spec, consumers, request)
            except SourceNotFound as error:
                if binding.on_delete is OnDelete.RETAIN or not live.record.was_written:
                    raise
                keys = {self._sources.store_key(binding, source.secret_id) for source in binding.sources}
                await self._deleter.delete(binding, keys, live, request.since, error)
                return FillResult(live.record, (), deleted=True)
        except Conflict:
            raise
        except NotAllowed as error:
            if live.record.was_written:
                error = NotAllowed(f"{error}; the Secret keeps its value: delete it to take the value away")
            return FillResult(live.record, consumers, error=detached(error))
        except KeyturnError as error:
            return FillResult(live.record, consumers, error=detached(error))

    async def _fill(
        self,
        binding: Binding,
        live: LiveSecret,
        spec: BindingSpec,
        consumers: Sequence[Consumer],
        request: Request,
    ) -> FillResult:
        check_type(live.type)
        # If only some values are replaced, the other values are written again unchanged. So no other writer may have
        # changed them.
        divisible = len(binding.groups) > 1 and live.record.was_written and live.integrity is Integrity.INTACT
        sources = binding.sources
        if divisible:
            confined_to = request.confined_to if spec.reconcile in ("", live.record.reconciled) else frozenset()
            sources = sources_to_read(binding, live.record, spec.hash, confined_to)
        news = partial(has_news, binding, live.record) if divisible else None
        reading = await self._sources.read(binding, request, sources, live.record.version_ids, news)
        rendering = await self._renderer.render_available(binding, reading.versions, reading.errors, live.type)
        data, error = rendering.data, rendering.error
        unavailable = frozenset(each for each, fault in reading.errors.items() if isinstance(fault, Temporary))
        gone = all(isinstance(reading.errors.get(source), SourceNotFound) for source in binding.sources)
        if error and (gone or not (divisible and data)):
            if isinstance(error, NotAllowed) or gone:
                raise error
            # As long as one of its AWS secrets exists, a Secret is not deleted.
            return FillResult(live.record, consumers, error=error, unavailable=unavailable)
        recorded = live.record.revisions.keys()
        # While there is an error, every recorded key stays, even if the binding no longer names it.
        if kept := recorded - data.keys() if error else recorded & set(rendering.skipped):
            data = {**await self._secrets.read_values(live, kept), **data}
            check_size(data)
        if error:
            error = with_keys(error, rendering, recorded)
        data = secret_types.complete(live.type, binding, reading.versions, data)
        status = status_of(error.reason, str(error)) if error else OK
        keyed, versions = self._secrets.keyed, reading.versions
        fingerprints = {key: self._secrets.fingerprint(value) for key, value in data.items()}
        version_keys = {version_key(version.arn, source.stage) for source, version in versions.items()}
        former = (
            {} if live.record.was_written else self._cache.former.revisions(live, spec.hash, version_keys, fingerprints)
        )
        planned = plan(binding, spec.hash, live, data, versions, fingerprints, keyed, spec.reconcile, status, former)
        if not planned.write:
            return FillResult(live.record, consumers, error=error, met=rendering.met, unavailable=unavailable)
        same_content = not planned.changed_keys and planned.record == replace(live.record, status=OK)
        if same_content and live.integrity is Integrity.INTACT and live.record.has_reason(ClusterRefused.reason):
            return FillResult(live.record, consumers, status_outdated=True)
        before = replace(live.record, revisions=planned.before)
        consumers = await self._restarter.baseline(live.target, consumers, before, planned.record)
        record = replace(planned.record, moved_at=_moved_at(live.record, planned, request))
        history = await self._secrets.read_history(live)
        if planned.changed_keys:
            name, now = live.target.name, self._secrets.now().timestamp()
            # Consumers that may not be restarted now count, too, because they may be restarted later.
            everyone = self._restarter.consumers(live.target)
            record = replace(record, unsettled=await unsettled_marks(everyone, name, live.record, record, int(now)))
            due = await filter_in_slices(consumers, lambda each: is_due(each, name, record, planned.before))
            history = add(history, self._change(live, planned, record.moved_at, len(due), request))
        with self._legs.time(Leg.APPLY):
            resource_version = await self._secrets.apply(live, record, data, history)
        if live.record.revisions.keys() <= data.keys():
            self._cache.keep_values(live, resource_version, {**live.fingerprints, **fingerprints})
        else:
            # A key that Keyturn gives up stays on the Secret if another writer owns it too. So read the Secret again
            # next time.
            self._cache.drop_values(live.target)
        changed_keys = event_messages.keys(binding, planned.changed_keys)
        return FillResult(
            record,
            consumers,
            changed_keys,
            written=True,
            resource_version=resource_version,
            before=before,
            error=error,
            met=rendering.met,
            unavailable=unavailable,
        )

    def _change(self, live: LiveSecret, planned: Plan, moved_at: int | None, due: int, request: Request) -> Change:
        before = live.record.version_ids
        return Change(
            at=stamp(self._secrets.now()),
            version=compound_version(planned.record.version_ids),
            was=compound_version(before) if before else "",
            moved_at="" if moved_at is None else rfc3339(moved_at),
            cause=request.priority.value,
            event=request.event_ids[-1] if request.event_ids else "",
            keys=len(planned.changed_keys),
            due=due,
        )


def _moved_at(before: Record, planned: Plan, request: Request) -> int | None:
    """Return the time at which the staging label moved to the latest of the written versions.

    If no value changes, return the recorded time. Return None if ``request`` does not have the time.
    """
    if not planned.changed_keys:
        return before.moved_at
    new = frozenset(planned.record.version_ids.values()) - frozenset(before.version_ids.values())
    return max((at for version_id, at in request.moved_at.items() if version_id in new), default=None)
