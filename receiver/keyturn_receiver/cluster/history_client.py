"""Client that reads the history of a Secret, for people who look at the details of the Secret."""

from collections.abc import Sequence

from keyturn_receiver.cluster.api import METADATA_ONLY, Api, path
from keyturn_receiver.cluster.secret_client import own_annotations
from keyturn_receiver.core.binding import Target
from keyturn_receiver.core.history import HISTORY, Change, read_history


class HistoryClient:
    """Client that reads the annotation ``keyturn.dev/history``. The caches do not keep this annotation, because no
    decision depends on it."""

    def __init__(self, api: Api) -> None:
        self._api = api

    async def read(self, target: Target) -> Sequence[Change]:
        """Return the last changes of a Secret, newest first. Raises NotFound, or another error of the API client."""
        resource = path("v1", "secrets", target.namespace, target.name)
        obj = await self._api.request("GET", resource, accept=METADATA_ONLY)
        return read_history(own_annotations(obj["metadata"]).get(HISTORY))
