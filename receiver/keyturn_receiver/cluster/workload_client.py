"""Client for single workloads. It reads them, and writes Keyturn's annotations on them."""

from keyturn_receiver.cluster.api import FIELD_MANAGER, MERGE_PATCH, Api, Json, path
from keyturn_receiver.core.consumer import Consumer, WorkloadRef, read_consumer
from keyturn_receiver.core.rollout import RolloutAnnotation
from keyturn_receiver.core.workload_kinds import WORKLOAD_KINDS


class WorkloadClient:
    """Client for workloads. When it writes a mark on a workload's pod template, Kubernetes restarts the pods."""

    def __init__(self, api: Api) -> None:
        self._api = api

    async def read(self, ref: WorkloadRef) -> Consumer | None:
        """Read a workload. Returns None if its pods read no Secret. Raises NotFound, or another error of the API
        client."""
        obj = await self._api.request("GET", _path(ref))
        return read_consumer(WORKLOAD_KINDS[ref.kind], obj)

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
            "PATCH", _path(consumer.ref), {"fieldManager": FIELD_MANAGER}, body, content_type=MERGE_PATCH
        )
        return read_consumer(kind, obj)


def _path(ref: WorkloadRef) -> str:
    kind = WORKLOAD_KINDS[ref.kind]
    return path(kind.group_version, kind.plural, ref.namespace, ref.name)
