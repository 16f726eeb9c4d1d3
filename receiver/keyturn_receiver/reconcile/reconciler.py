"""One reconcile: from what stands in AWS and in the cluster to a binding that is true."""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from keyturn_receiver.cluster.bound_secrets import BoundSecrets
from keyturn_receiver.cluster.events import Events
from keyturn_receiver.cluster.namespaces import Namespaces
from keyturn_receiver.cluster.secrets import Secrets
from keyturn_receiver.core import policy
from keyturn_receiver.core.binding import Binding, Source, Target, is_bound, read_binding
from keyturn_receiver.core.consumer import DISABLED, ROLLOUT, Consumer
from keyturn_receiver.core.plan import LiveSecret, plan
from keyturn_receiver.core.render import SecretVersion, render
from keyturn_receiver.core.revision import Record
from keyturn_receiver.errors import Conflict, KeyturnError, NotFound, Permanent
from keyturn_receiver.reconcile.fetch import fetch
from keyturn_receiver.reconcile.request import Cause, Reconciled, Request
from keyturn_receiver.reconcile.restarts import Restarts
from keyturn_receiver.sources.secrets_manager import SecretsManager

NOT_BOUND = Reconciled(bound=False)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Filled:
    """The Secret as it is after its part of a reconcile, and its consumers as they were just before."""

    resource_version: str
    record: Record
    changed_keys: tuple[str, ...]
    consumers: Sequence[Consumer]


class Reconciler:
    """Reconciles bound Secrets; ``now`` gives the time in UTC, for people only: nothing is decided by it."""

    def __init__(
        self,
        secrets_manager: SecretsManager,
        secrets: Secrets,
        bound: BoundSecrets,
        namespaces: Namespaces,
        restarts: Restarts,
        events: Events,
        policy_default: policy.Default,
        now: Callable[[], datetime],
    ) -> None:
        self._secrets_manager = secrets_manager
        self._secrets = secrets
        self._bound = bound
        self._namespaces = namespaces
        self._restarts = restarts
        self._events = events
        self._policy_default = policy_default
        self._now = now
        self._settled: dict[Target, str] = {}  # the resource version at which this replica left each Secret

    async def reconcile(self, target: Target, request: Request) -> Reconciled:
        """Make the binding at ``target`` true. Raises any KeyturnError, once an Event has told of it."""
        known = self._bound.get(target)
        if known is None:
            self._settled.pop(target, None)
            return NOT_BOUND
        # The workloads before the Secret: a mark is then refused when another replica, which saw a later Secret, has
        # marked the workload in the meantime. The other order could take a workload back to an older revision.
        consumers = self._restarts.consumers(target)
        if self._settled.get(target) == known.resource_version and (
            request.causes == {Cause.SECRET}
            or (request.causes == {Cause.CONSUMER} and self._restarts.none_due(target, consumers, known.record))
        ):
            return Reconciled(True)  # the watch only brings back what this replica has written itself
        try:
            live, metadata = await self._secrets.read(target)
        except NotFound:
            return NOT_BOUND
        if not is_bound(metadata):
            return NOT_BOUND
        try:
            return await self._reconcile(live, _annotations(metadata), consumers, request)
        except Conflict:
            raise  # somebody else is at work on it; the next try tells if anything is wrong
        except KeyturnError as error:
            if isinstance(error, Permanent):
                self._settled[target] = live.resource_version
            await self._events.tell(target, live.uid, True, error.reason, str(error))
            raise

    async def _reconcile(
        self, live: LiveSecret, annotations: Mapping[str, str], consumers: Sequence[Consumer], request: Request
    ) -> Reconciled:
        target = live.target
        if DISABLED in (annotations.get(ROLLOUT), self._namespaces.annotations(target.namespace).get(ROLLOUT)):
            consumers = ()
        if request.causes == {Cause.CONSUMER}:
            filled = _Filled(live.resource_version, live.record, (), consumers)  # AWS has nothing to do with it
        else:
            filled = await self._fill(live, annotations, consumers, request)
        restarted = await self._restarts.restart(target, filled.consumers, filled.record.revisions)
        # Not before all is done: else a rollout that failed for now would be taken for one that was never due.
        self._settled[target] = filled.resource_version
        if filled.changed_keys or restarted:
            await self._events.tell(target, live.uid, False, "Applied", _story(filled, restarted))
        return Reconciled(
            bound=True,
            changed=bool(filled.changed_keys),
            version_ids=frozenset(filled.record.version_ids.values()),
            restarted=tuple(consumer.ref for consumer in restarted),
        )

    async def _fill(
        self, live: LiveSecret, annotations: Mapping[str, str], consumers: Sequence[Consumer], request: Request
    ) -> _Filled:
        target = live.target
        policy.check_type(live.type)
        binding = read_binding(target, annotations)
        versions = await self._fetch(binding, request)
        planned = plan(binding, live, render(binding, versions), versions)
        if not planned.write:
            return _Filled(live.resource_version, live.record, (), consumers)
        consumers = await self._restarts.baseline(target, consumers, planned.before)
        applied_at = self._now().strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        resource_version = await self._secrets.apply(live, planned.record, planned.data, applied_at)
        _log.info(
            "applied",
            extra={
                "fields": {
                    "secret": str(target),
                    "keys": planned.changed_keys,
                    "version_ids": planned.record.version_ids,
                    "causes": sorted(request.causes),
                }
            },
        )
        return _Filled(resource_version, planned.record, planned.changed_keys, consumers)

    async def _fetch(self, binding: Binding, request: Request) -> dict[Source, SecretVersion]:
        namespace = binding.target.namespace
        allowed = self._namespaces.annotations(namespace)
        sources = sorted(binding.sources)
        for source in sources:
            policy.check_id(namespace, allowed, self._policy_default, source.secret_id)
        # A notification names one version of one secret: of several sources it cannot be told which it is about.
        expected = request.expected if len(sources) == 1 else frozenset()
        found = await asyncio.gather(*(fetch(self._secrets_manager, source, expected) for source in sources))
        for version in found:
            policy.check_name(namespace, allowed, self._policy_default, version.name)
        return dict(zip(sources, found, strict=True))


def _annotations(metadata: Mapping[str, object]) -> Mapping[str, str]:
    annotations = metadata.get("annotations")
    return annotations if isinstance(annotations, Mapping) else {}


def _story(filled: _Filled, restarted: Sequence[Consumer]) -> str:
    told = []
    if filled.changed_keys:
        versions = ", ".join(sorted(filled.record.version_ids.values()))
        told.append(f"wrote {_few(filled.changed_keys)} from version {versions}")
    if pods := [f"{consumer.ref.kind} {consumer.ref.name}" for consumer in restarted if not consumer.manual]:
        told.append(f"restarting {_few(pods)}")
    if pods := [f"{consumer.ref.kind} {consumer.ref.name}" for consumer in restarted if consumer.manual]:
        told.append(f"{_few(pods)} updates only OnDelete: delete its pods to restart them")
    return "; ".join(told)


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
