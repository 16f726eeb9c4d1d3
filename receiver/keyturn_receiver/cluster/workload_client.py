"""Client for single workloads. It reads them and their pods, writes Keyturn's annotations on them, and evicts pods."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from keyturn_receiver.cluster.api import MERGE_PATCH, Api, Json, path
from keyturn_receiver.cluster.object_pages import MAX_PAGE, PAGE_SIZE, list_in_pages
from keyturn_receiver.cluster.wanted_fields import PAGE, POD, workload_decoder
from keyturn_receiver.core.consumer import Consumer, WorkloadRef, named_secrets, read_consumer
from keyturn_receiver.core.field_owners import FIELD_MANAGER, other_writer
from keyturn_receiver.core.pod import Pod, read_pod
from keyturn_receiver.core.pod_trouble import trouble_of
from keyturn_receiver.core.reloader import ReloaderMode
from keyturn_receiver.core.rollout import RolloutAnnotation
from keyturn_receiver.core.workload_kinds import WORKLOAD_KINDS


@dataclass(frozen=True, slots=True)
class Workload:
    """A workload as ``WorkloadClient.inspect`` reads it. ``consumer`` is None if its pods read no Secret. ``replicas``
    is the number of pods that it should have. ``owner`` is the field manager, other than Keyturn's, that owns the mark,
    or None."""

    ref: WorkloadRef
    uid: str
    consumer: Consumer | None
    replicas: int
    selector: str
    named: Sequence[str]
    owner: str | None


class WorkloadClient:
    """Client for workloads. When it writes a mark on a workload's pod template, Kubernetes restarts the pods.
    ``reloader`` tells whether Reloader's annotations count."""

    def __init__(self, api: Api, reloader: ReloaderMode = ReloaderMode.ABSENT) -> None:
        self._api = api
        self._reloader = reloader

    async def read(self, ref: WorkloadRef) -> Consumer | None:
        """Read a workload. Returns None if it is no consumer (``read_consumer``). Raises NotFound, or another error of
        the API client."""
        return read_consumer(WORKLOAD_KINDS[ref.kind], await self._get(ref), self._reloader)

    async def other_writer(self, ref: WorkloadRef, annotation: str, removed: bool) -> str | None:
        """Return the field manager other than Keyturn's that last wrote an annotation (``core/field_owners.py``)."""
        return other_writer(WORKLOAD_KINDS[ref.kind], await self._get(ref), annotation, removed)

    async def inspect(self, ref: WorkloadRef, annotation: str) -> Workload:
        """Read a workload with what is needed to judge its pods. Raises the same errors as ``read``.

        ``annotation`` is the name of a mark whose other owner is asked for.
        """
        kind, workload = WORKLOAD_KINDS[ref.kind], await self._get(ref)
        return Workload(
            ref,
            uid=str(workload["metadata"]["uid"]),
            consumer=read_consumer(kind, workload, self._reloader),
            replicas=_replicas(workload),
            selector=_selector(workload["spec"].get("selector") or {}),
            named=named_secrets(kind, workload, self._reloader),
            owner=other_writer(kind, workload, annotation, removed=False),
        )

    async def pods(self, workload: Workload) -> AsyncGenerator[Pod, None]:
        """Yield the pods of a workload, without those that are ending. Raises the same errors as ``read``."""
        ref = workload.ref
        query = {"labelSelector": workload.selector}
        async with aclosing(list_in_pages(self._api, path("v1", "pods", ref.namespace), query)) as pods:
            async for each in pods:
                if pod := read_pod(POD.decode(each), ref, workload.uid, workload.named):
                    yield pod

    async def trouble(self, ref: WorkloadRef) -> str:
        """Return why one of the first PAGE_SIZE pods of a workload is not ready (``core/pod_trouble.py``), or an empty
        text. Raises the same errors as ``read``, and ReplyTooLarge."""
        workload = await self._get(ref)
        uid = str(workload["metadata"]["uid"])
        query = {"labelSelector": _selector(workload["spec"].get("selector") or {}), "limit": str(PAGE_SIZE)}
        page = await self._api.request(
            "GET", path("v1", "pods", ref.namespace), query, max_bytes=MAX_PAGE, decoder=PAGE
        )
        pods = (POD.decode(each) for each in page.get("items") or [])
        return trouble_of(pod for pod in pods if read_pod(pod, ref, uid))

    async def evict(self, ref: WorkloadRef, pod: Pod) -> None:
        """Evict one pod of a workload. Raises DisruptionNotAllowed if a PodDisruptionBudget forbids it for now, and
        otherwise the same errors as ``read``: NotFound if the pod is gone, Conflict if another one has its name."""
        body: Json = {
            "apiVersion": "policy/v1",
            "kind": "Eviction",
            "metadata": {"name": pod.name, "namespace": ref.namespace},
            "deleteOptions": {"preconditions": {"uid": pod.uid}},
        }
        await self._api.request("POST", f"{path('v1', 'pods', ref.namespace, pod.name)}/eviction", body=body)

    async def mark(self, consumer: Consumer, mark: RolloutAnnotation) -> Consumer | None:
        """Write a mark, and return the workload as it was written. Raises Conflict if it has changed since it was read.

        A restart marks the pod template alone. The mark on the workload itself is removed by the same write, because it
        would say that the pods were found to run what they are only asked to run.
        """
        kind = WORKLOAD_KINDS[consumer.ref.kind]
        annotations: Json = {mark.name: mark.value}
        body: Json = {"metadata": {"resourceVersion": consumer.resource_version}}
        if mark.restart:
            template: Json = {"metadata": {"annotations": annotations}}
            for field in reversed(kind.template):
                template = {field: template}
            body |= template
            annotations = dict.fromkeys({mark.name, *mark.former} & consumer.baseline.keys())
        if annotations:
            body["metadata"]["annotations"] = annotations
        obj = await self._api.request(
            "PATCH",
            _path(consumer.ref),
            {"fieldManager": FIELD_MANAGER},
            body,
            content_type=MERGE_PATCH,
            decoder=workload_decoder(kind),
        )
        return read_consumer(kind, obj, self._reloader)

    async def _get(self, ref: WorkloadRef) -> Json:
        return await self._api.request("GET", _path(ref), decoder=workload_decoder(WORKLOAD_KINDS[ref.kind]))


def _path(ref: WorkloadRef) -> str:
    kind = WORKLOAD_KINDS[ref.kind]
    return path(kind.group_version, kind.plural, ref.namespace, ref.name)


def _replicas(workload: Json) -> int:
    """Return the number of pods that a workload should have. A DaemonSet tells it in its status."""
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
