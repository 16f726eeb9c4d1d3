"""Client for single workloads. It reads them and their pods, and writes Keyturn's annotations on them."""

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing

from keyturn_receiver.cluster.api import MERGE_PATCH, Api, Json, path
from keyturn_receiver.cluster.object_pages import list_in_pages
from keyturn_receiver.cluster.wanted_fields import POD, workload_decoder
from keyturn_receiver.core.consumer import Consumer, Pod, WorkloadRef, named_secrets, read_consumer, read_pod
from keyturn_receiver.core.field_owners import FIELD_MANAGER, other_writer
from keyturn_receiver.core.reloader import ReloaderMode
from keyturn_receiver.core.rollout import RolloutAnnotation
from keyturn_receiver.core.workload_kinds import WORKLOAD_KINDS


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

    async def pods(self, ref: WorkloadRef) -> AsyncGenerator[Pod, None]:
        """Yield the pods of a workload, without those that are ending. Raises the same errors as ``read``."""
        workload = await self._get(ref)
        uid = str(workload["metadata"]["uid"])
        named = named_secrets(WORKLOAD_KINDS[ref.kind], workload, self._reloader)
        query = {"labelSelector": _selector(workload["spec"].get("selector") or {})}
        async with aclosing(list_in_pages(self._api, path("v1", "pods", ref.namespace), query)) as pods:
            async for each in pods:
                if pod := read_pod(POD.decode(each), ref, uid, named):
                    yield pod

    async def mark(self, consumer: Consumer, mark: RolloutAnnotation) -> Consumer | None:
        """Write a mark, and return the workload as it was written. Raises Conflict if it has changed since it was read.

        A restart marks both the pod template and the workload itself. If somebody's `replace` removes the mark from the
        template, this alone restarts the pods, and the mark on the workload then prevents a second restart.
        """
        kind = WORKLOAD_KINDS[consumer.ref.kind]
        annotations = {"annotations": {mark.name: mark.value}}
        body: Json = {"metadata": {"resourceVersion": consumer.resource_version, **annotations}}
        if mark.restart:
            template: Json = {"metadata": annotations}
            for field in reversed(kind.template):
                template = {field: template}
            body |= template
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
