"""Client for single workloads. It reads workloads and their pods, writes Keyturn's annotations on workloads, and evicts
pods."""

import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace

from keyturn_receiver.cluster.api import MERGE_PATCH, Api, Json, path
from keyturn_receiver.cluster.object_pages import MAX_PAGE, PAGE_SIZE, list_in_pages
from keyturn_receiver.cluster.template_borrowers import Borrower, Borrowers
from keyturn_receiver.cluster.wanted_fields import PAGE, POD, workload_decoder
from keyturn_receiver.core.argo_rollouts import MAX_LEAD, restart_time
from keyturn_receiver.core.consumer import Consumer, WorkloadRef, named_secrets, read_consumer
from keyturn_receiver.core.crash_loop import crash_reason, is_of_rollout
from keyturn_receiver.core.field_owners import FIELD_MANAGER, SETTLED_MANAGER, other_writer
from keyturn_receiver.core.pod import Pod, read_pod
from keyturn_receiver.core.pod_trouble import trouble_of
from keyturn_receiver.core.reloader import ReloaderMode
from keyturn_receiver.core.restart_way import RESTART, TEMPLATE
from keyturn_receiver.core.rollout import RolloutAnnotation
from keyturn_receiver.core.rollout_hold import NO_REPLICAS, RolloutHold
from keyturn_receiver.core.workload_kinds import WORKLOAD_KINDS
from keyturn_receiver.core.write_times import parse_time
from keyturn_receiver.errors import ClusterRefused, UnknownField

# With this parameter, the API server refuses a field that is not in the definition of a custom resource. Without it,
# the API server drops such a field silently.
STRICT = {"fieldValidation": "Strict"}
MAX_CRASH_PODS = 500  # at most this many pods of a workload are read to find one that crashes


@dataclass(frozen=True, slots=True)
class Workload:
    """A workload as ``WorkloadClient.inspect`` reads it. ``consumer`` is None if the workload is not a consumer
    (``read_consumer``). ``replicas`` is the number of pods that the workload and the Argo Rollouts with its pod
    template should have together. ``owner`` is the foreign field manager that owns the mark (Keyturn's annotation), or
    None if no foreign field manager owns it."""

    ref: WorkloadRef
    uid: str
    consumer: Consumer | None
    replicas: int
    selector: str
    named: Sequence[str]
    owner: str | None


class WorkloadClient:
    """Client for workloads. It writes marks, which are Keyturn's annotations on workloads. A mark on the pod template
    makes Kubernetes restart the pods. ``reloader`` tells whether Reloader's annotations count. ``borrowers`` finds the
    Argo Rollouts that take their pod template from a workload. ``wall`` returns the seconds since 1970."""

    def __init__(
        self,
        api: Api,
        reloader: ReloaderMode = ReloaderMode.ABSENT,
        borrowers: Borrowers | None = None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._api = api
        self._reloader = reloader
        self._borrowers = Borrowers() if borrowers is None else borrowers
        self._wall = wall

    async def read(self, ref: WorkloadRef) -> Consumer | None:
        """Read a workload. Return None if the workload is not a consumer (``read_consumer``). Raises NotFound, or
        another error of the API client."""
        return read_consumer(WORKLOAD_KINDS[ref.kind], await self._get(ref), self._reloader)

    async def other_writer(self, ref: WorkloadRef, annotation: str, removed: bool) -> str | None:
        """Return the foreign field manager that last wrote an annotation, or None if it is not known
        (``core/field_owners.py``)."""
        return other_writer(WORKLOAD_KINDS[ref.kind], await self._get(ref), annotation, removed)

    async def inspect(self, ref: WorkloadRef, annotation: str) -> Workload:
        """Read a workload, with the data that is needed to judge its pods. Raises the same errors as ``read``.

        ``annotation`` is the name of the mark whose owner is returned in ``Workload.owner``.
        """
        kind, workload = WORKLOAD_KINDS[ref.kind], await self._get(ref)
        return Workload(
            ref,
            uid=str(workload["metadata"]["uid"]),
            consumer=read_consumer(kind, workload, self._reloader),
            replicas=_replicas(workload) + sum(each.replicas for each in self._borrowers.of(ref)),
            selector=_selector(workload["spec"].get("selector") or {}),
            named=named_secrets(kind, workload, self._reloader),
            owner=other_writer(kind, workload, annotation, removed=False),
        )

    async def pods(self, workload: Workload) -> AsyncGenerator[Pod, None]:
        """Yield the pods of a workload, without the pods that are ending or have ended. If an Argo Rollout takes its
        pod template from the workload, the Rollout's pods are included. Raises the same errors as ``read``."""
        owners = [workload.ref, *(each.rollout for each in self._borrowers.of(workload.ref))]
        async with aclosing(self._selected(workload)) as pods:
            async for obj in pods:
                found = (read_pod(obj, owner, workload.uid, workload.named) for owner in owners)
                if pod := next(filter(None, found), None):
                    yield pod

    async def trouble(self, ref: WorkloadRef) -> str:
        """Return the reason why one of the first PAGE_SIZE pods of a workload is not ready (``core/pod_trouble.py``),
        or an empty text. Raises the same errors as ``read``, and ReplyTooLarge."""
        workload = await self._get(ref)
        uid = str(workload["metadata"]["uid"])
        query = {"labelSelector": _selector(workload["spec"].get("selector") or {}), "limit": str(PAGE_SIZE)}
        page = await self._api.request(
            "GET", path("v1", "pods", ref.namespace), query, max_bytes=MAX_PAGE, decoder=PAGE
        )
        pods = (POD.decode(each) for each in page.get("items") or [])
        return trouble_of(pod for pod in pods if read_pod(pod, ref, uid))

    async def crash_reason(self, consumer: Consumer, now: float, is_known: bool) -> str | None:
        """Return why a new pod of a consumer's rollout fails to start (``core/crash_loop.py``), or an empty text if
        none of the first MAX_CRASH_PODS pods does. Return None if the marks of the workload have changed, or if it is
        no longer a consumer. ``now`` is in seconds since 1970. Raises the same errors as ``read``."""
        workload = await self.inspect(consumer.ref, "")
        current = workload.consumer
        if current is None or (current.marks, current.baseline) != (consumer.marks, consumer.baseline):
            return None
        count = 0
        async with aclosing(self._selected(workload)) as pods:
            async for obj in pods:
                pod = read_pod(obj, workload.ref, workload.uid, workload.named)
                if pod and is_of_rollout(pod, current) and (reason := crash_reason(obj, now, is_known)):
                    return reason
                count += 1
                if count == MAX_CRASH_PODS:
                    break
        return ""

    async def evict(self, ref: WorkloadRef, pod: Pod) -> None:
        """Evict one pod of a workload. Raises DisruptionNotAllowed if a PodDisruptionBudget forbids it for now. Raises
        NotFound if the pod is gone, and Conflict if a new pod has the same name. Raises the other errors of ``read``,
        too."""
        body: Json = {
            "apiVersion": "policy/v1",
            "kind": "Eviction",
            "metadata": {"name": pod.name, "namespace": ref.namespace},
            "deleteOptions": {"preconditions": {"uid": pod.uid}},
        }
        await self._api.request("POST", f"{path('v1', 'pods', ref.namespace, pod.name)}/eviction", body=body)

    def restarts_by_time(self, consumer: Consumer) -> bool:
        """Return whether a change of ``spec.restartAt``, and not of the pod template, restarts the pods of a consumer.
        The field is on the consumer itself, or on the Argo Rollouts that take their pod template from the consumer. In
        the second case, all these Rollouts must restart by this field."""
        if consumer.by_time:
            return True
        borrowers = self._borrowers.of(consumer.ref)
        return consumer.hold is NO_REPLICAS and bool(borrowers) and all(each.by_time for each in borrowers)

    def lends_template(self, consumer: Consumer) -> bool:
        """Return whether Argo Rollouts take their pod template from a consumer."""
        return bool(self._borrowers.of(consumer.ref))

    def as_lender(self, consumer: Consumer) -> Consumer:
        """Return a copy of a consumer in its role as a lender. A lender is a workload from which Argo Rollouts take
        their pod template. The ``hold`` of the copy is the reason why the pods of the lender or of these Rollouts
        cannot restart. If no Rollout takes the template, return the consumer unchanged."""
        borrowers = self._borrowers.of(consumer.ref)
        return replace(consumer, hold=_hold_of(borrowers, consumer.hold)) if borrowers else consumer

    async def mark(
        self,
        consumer: Consumer,
        mark: RolloutAnnotation,
        written_at: int | None = None,
        beside: Sequence[RolloutAnnotation] = (),
    ) -> Consumer | None:
        """Write a mark, and return the workload as it was written. Raises Conflict if the workload has changed since it
        was read.

        A mark on the pod template asks for a restart. A mark on the workload itself says that the pods already run the
        new values. So a restart writes only the mark on the pod template, and the same write removes the mark on the
        workload itself. ``beside`` are marks of other Secrets that the new pods will also read. The same write puts
        these marks on the pod template.

        The pod template must not change if the consumer ``restarts_by_time``. In this case the mark on the workload
        itself asks for the restart, and ``written_at`` has to be given: the time at which the Secret was written, in
        seconds since 1970 by the API server's clock.
        """
        kind = WORKLOAD_KINDS[consumer.ref.kind]
        annotations: Json = {mark.name: mark.value}
        body: Json = {"metadata": {"resourceVersion": consumer.resource_version}}
        query = {"fieldManager": FIELD_MANAGER if mark.restart else SETTLED_MANAGER}
        if mark.restart and written_at is not None:
            if consumer.by_time:
                rollout = await self._get(consumer.ref)
                body["spec"] = {"restartAt": restart_time(rollout, written_at, self._wall())}
                query |= STRICT
            for borrower in self._borrowers.of(consumer.ref):
                await self._restart_borrower(borrower, mark, written_at)
        elif mark.restart:
            marks = (mark, *beside)
            template: Json = {"metadata": {"annotations": {each.name: each.value for each in marks}}}
            for field in reversed(kind.template):
                template = {field: template}
            body |= template
            annotations = dict.fromkeys({each.name for each in marks} & consumer.baseline.keys())
        if annotations:
            body["metadata"]["annotations"] = annotations
        marked = read_consumer(kind, await self._patch(consumer.ref, query, body), self._reloader)
        return self.as_lender(marked) if marked and mark.restart else marked

    async def _restart_borrower(self, borrower: Borrower, mark: RolloutAnnotation, written_at: int) -> None:
        """Restart the pods of an Argo Rollout that takes its pod template from the marked workload.

        The Rollout gets the mark, too. The mark shows that the Rollout was restarted. So if the later write of the mark
        on the workload fails, the next attempt does not restart the Rollout's pods again.
        """
        rollout = await self._get(borrower.rollout)
        metadata = rollout["metadata"]
        restarts_at = parse_time(rollout["spec"].get("restartAt"))
        is_marked = (metadata.get("annotations") or {}).get(mark.name) == mark.value
        # A retry may give a time that is some seconds later, if the time of the write is not known.
        if is_marked and restarts_at is not None and restarts_at > written_at - MAX_LEAD:
            return
        body: Json = {
            "metadata": {"resourceVersion": metadata["resourceVersion"], "annotations": {mark.name: mark.value}},
            "spec": {"restartAt": restart_time(rollout, written_at, self._wall())},
        }
        await self._patch(borrower.rollout, {"fieldManager": FIELD_MANAGER, **STRICT}, body)

    async def _patch(self, ref: WorkloadRef, query: Mapping[str, str], body: Json) -> Json:
        decoder = workload_decoder(WORKLOAD_KINDS[ref.kind])
        try:
            return await self._api.request("PATCH", _path(ref), query, body, content_type=MERGE_PATCH, decoder=decoder)
        except UnknownField:
            raise ClusterRefused(
                f"{ref.kind} {ref.namespace}/{ref.name}: its definition (CRD) has no spec.restartAt: update Argo"
                f" Rollouts, or write {RESTART}: {TEMPLATE}"
            ) from None

    async def _selected(self, workload: Workload) -> AsyncGenerator[Json, None]:
        """Yield the pods that the selector of a workload finds, as the API server returns them."""
        query = {"labelSelector": workload.selector}
        async with aclosing(list_in_pages(self._api, path("v1", "pods", workload.ref.namespace), query)) as pods:
            async for each in pods:
                yield POD.decode(each)

    async def _get(self, ref: WorkloadRef) -> Json:
        return await self._api.request("GET", _path(ref), decoder=workload_decoder(WORKLOAD_KINDS[ref.kind]))


def _hold_of(borrowers: Sequence[Borrower], hold: RolloutHold | None) -> RolloutHold | None:
    """Return the reason why the pods of a lender or of its ``borrowers`` cannot restart, or None if they can. The
    borrowers are the Argo Rollouts that take the lender's pod template. ``hold`` is the reason why the lender's own
    pods cannot restart. The borrowers count only if the lender has no replicas."""
    if hold is not NO_REPLICAS:
        return hold
    held = next((each for each in borrowers if each.hold), None)
    if held is None or held.hold is None:
        return None
    text = f"gives its pod template to {held.rollout.kind} {held.rollout.name}, which {held.hold.text}"
    every_pod = held.hold.every_pod and len(borrowers) == 1
    return RolloutHold(text, every_pod, held.hold.keeps_old_pods)


def _path(ref: WorkloadRef) -> str:
    kind = WORKLOAD_KINDS[ref.kind]
    return path(kind.group_version, kind.plural, ref.namespace, ref.name)


def _replicas(workload: Json) -> int:
    """Return the number of pods that a workload should have. A DaemonSet has this number in its status."""
    status, spec = workload.get("status") or {}, workload["spec"]
    desired = status.get("desiredNumberScheduled", spec.get("replicas", 1))
    return desired if isinstance(desired, int) else 1


def _selector(selector: Json) -> str:
    """Return a label selector in the form of a query.

    https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#label-selectors
    """
    labels: Mapping[str, str] = selector.get("matchLabels") or {}
    terms = [f"{label}={value}" for label, value in labels.items()]
    for each in selector.get("matchExpressions") or []:
        label, operator, values = each["key"], each["operator"], ",".join(each.get("values") or [])
        match operator:
            case "Exists":
                terms.append(label)
            case "DoesNotExist":
                terms.append(f"!{label}")
            case _:
                terms.append(f"{label} {operator.lower()} ({values})")
    return ",".join(terms)
