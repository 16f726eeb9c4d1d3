"""Workloads: read one, and mark it, which restarts its pods when the mark is on the template."""

from keyturn_receiver.cluster.api import FIELD_MANAGER, MERGE_PATCH, Api, Json, path
from keyturn_receiver.core.consumer import Consumer, WorkloadRef, read_consumer
from keyturn_receiver.core.rollout import RolloutAnnotation

RESOURCES = {"Deployment": "deployments", "StatefulSet": "statefulsets", "DaemonSet": "daemonsets"}


class WorkloadClient:
    """Reads and marks of single workloads."""

    def __init__(self, api: Api) -> None:
        self._api = api

    async def read(self, ref: WorkloadRef) -> Consumer | None:
        """Read a workload; None when its pods read no Secret (any more). Raises NotFound and the like."""
        obj = await self._api.request("GET", self._path(ref))
        return read_consumer(ref.kind, obj)

    async def mark(self, consumer: Consumer, mark: RolloutAnnotation) -> Consumer | None:
        """Write a mark, if the workload still is as read; return it as it is then. Raises Conflict if it has changed.

        A restart marks the workload itself, too: should somebody's `replace` drop the mark from the template, which
        restarts the pods by itself, they are not restarted a second time.
        """
        annotations = {"annotations": {mark.name: mark.value}}
        body: Json = {"metadata": {"resourceVersion": consumer.resource_version, **annotations}}
        if mark.restart:
            body["spec"] = {"template": {"metadata": annotations}}
        obj = await self._api.request(
            "PATCH", self._path(consumer.ref), {"fieldManager": FIELD_MANAGER}, body, content_type=MERGE_PATCH
        )
        return read_consumer(consumer.ref.kind, obj)

    def _path(self, ref: WorkloadRef) -> str:
        return path("apps/v1", RESOURCES[ref.kind], ref.namespace, ref.name)
