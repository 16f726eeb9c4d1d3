"""A witness: sees every state that the Secrets and workloads of a namespace have been in, straight from the API server.

A watch gives one event for each write, so that nothing that happened in between goes unseen.
"""

import json
import ssl
import threading
from base64 import b64decode
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import urllib3

from keyturn_local.kubernetes.control_plane import ControlPlane
from keyturn_receiver.core.revision import REVISIONS, read_record

KINDS = {"secrets": "api/v1", "deployments": "apis/apps/v1"}
MARK = "revision.keyturn.dev/"


class Witness:
    """Watches one namespace; histories are by the object's name."""

    def __init__(self, control_plane: ControlPlane, namespace: str) -> None:
        self._url = control_plane.url
        self._namespace = namespace
        self._headers = {"Authorization": f"Bearer {control_plane.admin_token}"}
        context = ssl.create_default_context(cafile=control_plane.ca_file)
        self._pool = urllib3.PoolManager(maxsize=len(KINDS) + 1, ssl_context=context)
        self._lock = threading.Lock()
        self._states: dict[tuple[str, str], list[Any]] = defaultdict(list)
        self._watches: list[Any] = []
        for resource in KINDS:
            self._follow(resource)

    def close(self) -> None:
        """Look away."""
        for watch in self._watches:
            watch.shutdown()
        self._pool.clear()

    def now(self, name: str) -> tuple[Mapping[str, bytes], Mapping[str, str]]:
        """The data and the annotations of a Secret as it stands; both empty where there is none."""
        url = f"{self._url}/api/v1/namespaces/{self._namespace}/secrets/{name}"
        state = self._pool.request("GET", url, headers=self._headers).json()
        return _data(state), _annotations(state)

    def secret(self, name: str) -> Sequence[Mapping[str, bytes]]:
        """The data that a Secret has held, one after the other."""
        return _changes(_data(state) for state in self.states("secrets", name))

    def revisions(self, name: str) -> Sequence[Mapping[str, str]]:
        """The revisions that a Secret has told of itself, one after the other; none, where a hand has garbled them."""
        told = (_annotations(state) for state in self.states("secrets", name))
        return _changes(read_record(each).revisions for each in told if each.get(REVISIONS))

    def marks(self, workload: str, secret: str) -> Sequence[str | None]:
        """The marks that a workload's pod template has borne for a Secret: each change has restarted its pods."""
        return _changes(
            _annotations(state["spec"]["template"]).get(MARK + secret) for state in self.states("deployments", workload)
        )

    def baseline(self, workload: str, secret: str) -> str | None:
        """The mark that a workload bears on itself."""
        states = self.states("deployments", workload)
        return _annotations(states[-1]).get(MARK + secret) if states else None

    def states(self, resource: str, name: str) -> list[Any]:
        """The states of all objects that have borne this name, without their status and who owns which field."""
        with self._lock:
            return list(self._states[resource, name])

    def _follow(self, resource: str) -> None:
        base = f"{self._url}/{KINDS[resource]}/namespaces/{self._namespace}/{resource}"
        listed = self._pool.request("GET", base, headers=self._headers).json()
        query = {"watch": "true", "resourceVersion": listed["metadata"]["resourceVersion"]}
        watch = self._pool.request(
            "GET", base, fields=query, headers=self._headers, preload_content=False, timeout=None
        )
        self._watches.append(watch)
        threading.Thread(target=self._take, args=(resource, watch), daemon=True).start()

    def _take(self, resource: str, watch: Any) -> None:
        rest = b""
        try:
            while piece := watch.read1(65536):
                *lines, rest = (rest + piece).split(b"\n")
                for line in lines:
                    event = json.loads(line)
                    if event["type"] in ("ADDED", "MODIFIED"):
                        self._keep(resource, event["object"])
        except (OSError, ValueError, urllib3.exceptions.HTTPError):
            pass  # the end

    def _keep(self, resource: str, state: Any) -> None:
        state.pop("status", None)
        state["metadata"].pop("managedFields", None)
        with self._lock:
            states = self._states[resource, state["metadata"]["name"]]
            if not states or _without_version(states[-1]) != _without_version(state):
                states.append(state)


def _data(state: Any) -> dict[str, bytes]:
    return {key: b64decode(value) for key, value in (state.get("data") or {}).items()}


def _without_version(state: Any) -> Any:
    return {**state, "metadata": {**state["metadata"], "resourceVersion": ""}}


def _annotations(state: Any) -> dict[str, str]:
    return state.get("metadata", {}).get("annotations") or {}


def _changes(states: Any) -> list[Any]:
    """What differs from the one before."""
    found: list[Any] = []
    for state in states:
        if not found or found[-1] != state:
            found.append(state)
    return found
