"""Kubernetes Events on bound Secrets: what `kubectl describe secret` tells a person."""

import hashlib
import logging
from collections.abc import Callable
from datetime import datetime, timedelta

from keyturn_receiver.cluster.api import MERGE_PATCH, Api, Json, path
from keyturn_receiver.core.binding import Target
from keyturn_receiver.errors import Conflict, KeyturnError

MAX_MESSAGE = 1024  # characters, https://kubernetes.io/docs/reference/kubernetes-api/cluster-resources/event-v1/
QUIET = timedelta(minutes=5)  # the same words about the same Secret are not said twice within

_log = logging.getLogger(__name__)


class Events:
    """Says what happened to a Secret; ``now`` gives the time in UTC."""

    def __init__(self, api: Api, now: Callable[[], datetime]) -> None:
        self._api = api
        self._now = now
        self._said: dict[str, datetime] = {}

    async def tell(self, target: Target, uid: str, warning: bool, reason: str, message: str) -> None:
        """Record one Event. A failure to do so is logged, and hinders nothing."""
        now = self._now()
        name = f"{target.name[:200]}.{hashlib.sha256(f'{uid}/{reason}/{message}'.encode()).hexdigest()[:16]}"
        if name in self._said and now - self._said[name] < QUIET:
            return
        self._said = {known: at for known, at in self._said.items() if now - at < QUIET} | {name: now}
        try:
            await self._record(
                target, uid, name, "Warning" if warning else "Normal", reason, message[:MAX_MESSAGE], now
            )
        except KeyturnError as error:
            _log.warning("Event on %s could not be recorded: %s", target, error)

    async def _record(
        self, target: Target, uid: str, name: str, kind: str, reason: str, message: str, now: datetime
    ) -> None:
        at = now.strftime("%Y-%m-%dT%H:%M:%SZ")
        body: Json = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": name, "namespace": target.namespace},
            "involvedObject": {
                "apiVersion": "v1",
                "kind": "Secret",
                "namespace": target.namespace,
                "name": target.name,
                "uid": uid,
            },
            "type": kind,
            "reason": reason,
            "message": message,
            "source": {"component": "keyturn"},
            "firstTimestamp": at,
            "lastTimestamp": at,
            "count": 1,
        }
        try:
            await self._api.request("POST", path("v1", "events", target.namespace), body=body)
        except Conflict:
            # The name is made of the words: another replica, or this one a while ago, has said the same.
            await self._api.request(
                "PATCH",
                path("v1", "events", target.namespace, name),
                body={"lastTimestamp": at},
                content_type=MERGE_PATCH,
            )
