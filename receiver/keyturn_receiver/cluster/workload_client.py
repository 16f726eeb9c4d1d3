"""Client for single workloads. It reads them and their pods, and writes Keyturn's annotations on them."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import replace

from keyturn_receiver.cluster.api import MERGE_PATCH, Api, Json, ReplyTooLarge, path
from keyturn_receiver.cluster.template_borrowers import Borrower, Borrowers
from keyturn_receiver.cluster.wanted_fields import PAGE, POD, workload_decoder
from keyturn_receiver.core.argo_rollouts import STRATEGY, TEMPLATE, restart_time
from keyturn_receiver.core.consumer import Consumer, Pod, WorkloadRef, named_secrets, read_consumer, read_pod
from keyturn_receiver.core.field_owners import FIELD_MANAGER, other_writer
from keyturn_receiver.core.reloader import ReloaderMode
from keyturn_receiver.core.rollout import RolloutAnnotation
from keyturn_receiver.core.rollout_hold import NO_REPLICAS, RolloutHold
from keyturn_receiver.core.workload_kinds import WORKLOAD_KINDS
from keyturn_receiver.errors import ClusterRefused, UnknownField

POD_PAGE = 50  # pods that are requested at once
# The API server refuses a field that the definition of a custom resource lacks, instead of dropping it in silence.
STRICT = {"fieldValidation": "Strict"}
MAX_POD_PAGE = 4 * 1024 * 1024  # bytes; a parsed page takes several times as much memory


class WorkloadClient:
    """Client for workloads. When it writes a mark on a workload's pod template, Kubernetes restarts the pods.
    ``reloader`` tells whether Reloader's annotations count. ``borrowers`` finds the Argo Rollouts that take the pod
    template of a workload."""

    def __init__(
        self, api: Api, reloader: ReloaderMode = ReloaderMode.ABSENT, borrowers: Borrowers | None = None
    ) -> None:
        self._api = api
        self._reloader = reloader
        self._borrowers = Borrowers() if borrowers is None else borrowers

    async def read(self, ref: WorkloadRef) -> Consumer | None:
        """Read a workload. Returns None if it is no consumer (``read_consumer``). Raises NotFound, or another error of
        the API client."""
        return read_consumer(WORKLOAD_KINDS[ref.kind], await self._get(ref), self._reloader)

    async def other_writer(self, ref: WorkloadRef, annotation: str, removed: bool) -> str | None:
        """Return the field manager other than Keyturn's that last wrote an annotation (``core/field_owners.py``)."""
        return other_writer(WORKLOAD_KINDS[ref.kind], await self._get(ref), annotation, removed)

    async def pods(self, ref: WorkloadRef) -> AsyncGenerator[Pod, None]:
        """Yield the pods of a workload, without those that are ending. The pods of an Argo Rollout that takes its pod
        template count as its own. Raises the same errors as ``read``."""
        owners = [ref, *(each.rollout for each in self._borrowers.of(ref))]
        workload = await self._get(ref)
        uid = str(workload["metadata"]["uid"])
        named = named_secrets(WORKLOAD_KINDS[ref.kind], workload, self._reloader)
        query, limit = {"labelSelector": _selector(workload["spec"].get("selector") or {})}, POD_PAGE
        while True:
            query["limit"] = str(limit)
            max_bytes = MAX_POD_PAGE if limit > 1 else float("inf")
            try:
                page = await self._api.request(
                    "GET", path("v1", "pods", ref.namespace), query, max_bytes=max_bytes, decoder=PAGE
                )
            except ReplyTooLarge:  # the pods are large, so ask for fewer of them at once
                limit = max(1, limit // 4)
                continue
            for each in page.get("items") or []:
                obj = POD.decode(each)
                if pod := next(filter(None, (read_pod(obj, owner, uid, named) for owner in owners)), None):
                    yield pod
            if not (next_page := page["metadata"].get("continue")):
                return
            query["continue"] = next_page

    def restarts_by_time(self, consumer: Consumer) -> bool:
        """Return whether the pods of a consumer are restarted by ``spec.restartAt`` alone, of itself or of all the
        Argo Rollouts that take its pod template."""
        if consumer.by_time:
            return True
        borrowers = self._borrowers.of(consumer.ref)
        return consumer.hold is NO_REPLICAS and bool(borrowers) and all(each.by_time for each in borrowers)

    async def mark(self, consumer: Consumer, mark: RolloutAnnotation, written_at: int | None = None) -> Consumer | None:
        """Write a mark, and return the workload as it was written. Raises Conflict if it has changed since it was read.

        ``written_at`` is needed for a restart of a consumer that ``restarts_by_time``: when the Secret was written, in
        seconds since 1970 by the API server's clock. Then the pod template gets no mark.

        A restart marks both the pod template and the workload itself. If somebody's `replace` removes the mark from the
        template, this alone restarts the pods, and the mark on the workload then prevents a second restart.
        """
        kind = WORKLOAD_KINDS[consumer.ref.kind]
        annotations = {"annotations": {mark.name: mark.value}}
        body: Json = {"metadata": {"resourceVersion": consumer.resource_version, **annotations}}
        query = {"fieldManager": FIELD_MANAGER}
        if mark.restart and written_at is not None:
            if consumer.by_time:
                body["spec"] = {"restartAt": restart_time(written_at)}
                query |= STRICT
            for borrower in self._borrowers.of(consumer.ref):
                await self._restart_borrower(borrower, mark, written_at)
        elif mark.restart:
            template: Json = {"metadata": annotations}
            for field in reversed(kind.template):
                template = {field: template}
            body |= template
        marked = read_consumer(kind, await self._patch(consumer.ref, query, body), self._reloader)
        if marked and mark.restart and (borrowers := self._borrowers.of(consumer.ref)):
            return replace(marked, hold=_hold_of(borrowers, marked.hold))
        return marked

    async def _restart_borrower(self, borrower: Borrower, mark: RolloutAnnotation, written_at: int) -> None:
        """Restart the pods of an Argo Rollout that takes the pod template of the marked workload.

        The mark on the Rollout tells that this was done. So if the mark of the workload then fails, the next attempt
        does not restart the pods again.
        """
        metadata = (await self._get(borrower.rollout))["metadata"]
        if (metadata.get("annotations") or {}).get(mark.name) == mark.value:
            return
        body: Json = {
            "metadata": {"resourceVersion": metadata["resourceVersion"], "annotations": {mark.name: mark.value}},
            "spec": {"restartAt": restart_time(written_at)},
        }
        await self._patch(borrower.rollout, {"fieldManager": FIELD_MANAGER, **STRICT}, body)

    async def _patch(self, ref: WorkloadRef, query: Mapping[str, str], body: Json) -> Json:
        decoder = workload_decoder(WORKLOAD_KINDS[ref.kind])
        try:
            return await self._api.request("PATCH", _path(ref), query, body, content_type=MERGE_PATCH, decoder=decoder)
        except UnknownField:
            raise ClusterRefused(
                f"{ref.kind} {ref.namespace}/{ref.name}: its definition (CRD) has no spec.restartAt: update Argo"
                f" Rollouts, or write {STRATEGY}: {TEMPLATE}"
            ) from None

    async def _get(self, ref: WorkloadRef) -> Json:
        return await self._api.request("GET", _path(ref), decoder=workload_decoder(WORKLOAD_KINDS[ref.kind]))


def _hold_of(borrowers: Sequence[Borrower], hold: RolloutHold | None) -> RolloutHold | None:
    """Return what holds back the restart of a workload whose pod template Rollouts take. ``hold`` is its own."""
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
