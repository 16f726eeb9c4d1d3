"""Client that lists the pods and CronJobs that read Secrets but that Keyturn does not restart. It does not watch
them."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

from keyturn_receiver.cluster.api import Api, path
from keyturn_receiver.cluster.object_pages import list_in_pages
from keyturn_receiver.cluster.wanted_fields import POD, workload_decoder
from keyturn_receiver.core.unrestarted import Reader, read_cron_job, read_running_pod
from keyturn_receiver.core.workload_kinds import CRON_JOB

# Pods that have ended no longer read anything.
_RUNNING = {"fieldSelector": "status.phase!=Succeeded,status.phase!=Failed"}


class ReaderClient:
    """Client that lists the CronJobs and the pods of a namespace, page by page."""

    def __init__(self, api: Api) -> None:
        self._api = api

    async def cron_jobs(self, namespace: str) -> AsyncGenerator[Reader, None]:
        """Yield the CronJobs of a namespace. Raises the errors of the API client."""
        decoder = workload_decoder(CRON_JOB)
        listed = list_in_pages(self._api, path(CRON_JOB.group_version, CRON_JOB.plural, namespace), {})
        async with aclosing(listed) as cron_jobs:
            async for each in cron_jobs:
                yield read_cron_job(decoder.decode(each))

    async def pods(self, namespace: str) -> AsyncGenerator[Reader | None, None]:
        """Yield one item for each pod of a namespace that has not ended: a reader, or None if the pod is ending or
        belongs to a workload that Keyturn restarts. Raises the errors of the API client."""
        async with aclosing(list_in_pages(self._api, path("v1", "pods", namespace), _RUNNING)) as pods:
            async for each in pods:
                yield read_running_pod(POD.decode(each))
