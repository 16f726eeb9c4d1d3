"""Watches the rollouts of the Deployments of a namespace, and counts how many are unfinished at a time."""

import json
import ssl
import threading
from contextlib import suppress
from typing import Any

import urllib3

from keyturn_local.kubernetes.control_plane import ControlPlane


class RolloutWatcher:
    """Watches Deployments. ``most`` is the highest number of restarted Deployments that were unfinished at one time.

    A Deployment is restarted if its pod template has an annotation whose name begins with ``prefix``. Whether it is
    unfinished is decided as in `kubectl rollout status`. A watch delivers each state, so no moment is missed.
    """

    def __init__(self, control_plane: ControlPlane, namespace: str, prefix: str) -> None:
        self.most = 0
        self.unfinished: set[str] = set()
        self.restarted: set[str] = set()
        self._prefix = prefix
        self._url = f"{control_plane.url}/apis/apps/v1/namespaces/{namespace}/deployments"
        self._headers = {"Authorization": f"Bearer {control_plane.admin_token}"}
        self._pool = urllib3.PoolManager(ssl_context=ssl.create_default_context(cafile=control_plane.ca_file))
        listed = self._pool.request("GET", self._url, headers=self._headers).json()
        for each in listed["items"]:
            self._take(each)
        query = {"watch": "true", "resourceVersion": listed["metadata"]["resourceVersion"]}
        self._watch = self._pool.request(
            "GET", self._url, fields=query, headers=self._headers, preload_content=False, timeout=None
        )
        threading.Thread(target=self._read, daemon=True).start()

    def close(self) -> None:
        """End the watch."""
        with suppress(RuntimeError, ValueError):
            self._watch.shutdown()
        self._pool.clear()

    def _read(self) -> None:
        rest = b""
        with suppress(OSError, ValueError, urllib3.exceptions.HTTPError):
            while piece := self._watch.read1(65536):
                *lines, rest = (rest + piece).split(b"\n")
                for event in map(json.loads, lines):
                    if event["type"] in ("ADDED", "MODIFIED"):
                        self._take(event["object"])

    def _take(self, deployment: Any) -> None:
        name = deployment["metadata"]["name"]
        annotations = deployment["spec"]["template"]["metadata"].get("annotations") or {}
        if not any(name.startswith(self._prefix) for name in annotations):
            return
        self.restarted.add(name)
        (self.unfinished.discard if _is_complete(deployment) else self.unfinished.add)(name)
        self.most = max(self.most, len(self.unfinished))


def _is_complete(deployment: Any) -> bool:
    # https://github.com/kubernetes/kubectl/blob/master/pkg/polymorphichelpers/rollout_status.go
    status, wanted = deployment.get("status", {}), deployment["spec"]["replicas"]
    updated = status.get("updatedReplicas", 0)
    if status.get("observedGeneration", 0) < deployment["metadata"]["generation"] or updated < wanted:
        return False
    return status.get("replicas", 0) <= updated <= status.get("availableReplicas", 0)
