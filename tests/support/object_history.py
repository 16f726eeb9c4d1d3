"""The history of a namespace: every state of its Secrets and Deployments that the API server has reported.

A watch delivers one event for each write, so no intermediate state is missed.
"""

import json
import ssl
import threading
from base64 import b64decode
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import urllib3

from keyturn_local.kubernetes.control_plane import ControlPlane
from keyturn_receiver.core.revision import REVISIONS, read_record
from keyturn_receiver.core.unsettled import without_suffix

KINDS = {"secrets": "api/v1", "deployments": "apis/apps/v1"}
MARK = "revision.keyturn.dev/"


class HistoryWatcher:
    """Watches one namespace and keeps the history of each object by its name."""

    def __init__(self, control_plane: ControlPlane, namespace: str) -> None:
        self._url = control_plane.url
        self._namespace = namespace
        self._headers = {"Authorization": f"Bearer {control_plane.admin_token}"}
        context = ssl.create_default_context(cafile=control_plane.ca_file)
        self._pool = urllib3.PoolManager(maxsize=len(KINDS) + 1, ssl_context=context)
        self._lock = threading.Lock()
        self._states: dict[tuple[str, str], list[Any]] = defaultdict(list)
        self._open_watches: list[Any] = []
        for resource in KINDS:
            self._watch(resource)

    def close(self) -> None:
        """End the watches."""
        for watch in self._open_watches:
            # The API server may have ended the watch already. Its connection is then back in the pool.
            with suppress(RuntimeError, ValueError):
                watch.shutdown()
        self._pool.clear()

    def current(self, name: str) -> tuple[Mapping[str, bytes], Mapping[str, str]]:
        """Return the current data and annotations of a Secret. Both are empty if the Secret does not exist."""
        url = f"{self._url}/api/v1/namespaces/{self._namespace}/secrets/{name}"
        state = self._pool.request("GET", url, headers=self._headers).json()
        return _data(state), _annotations(state)

    def data_history(self, name: str) -> Sequence[Mapping[str, bytes]]:
        """Return the states of a Secret's data, in order. Equal states in a row count as one."""
        return _changes(_data(state) for state in self.states("secrets", name))

    def revisions(self, name: str) -> Sequence[Mapping[str, str]]:
        """Return the sets of revisions in a Secret's record, in order. Equal sets in a row count as one. A record that
        an edit by hand has corrupted is left out."""
        annotations = (_annotations(state) for state in self.states("secrets", name))
        return _changes(read_record(each).revisions for each in annotations if each.get(REVISIONS))

    def marks(self, workload: str, secret: str) -> Sequence[str | None]:
        """Return the marks of a Secret on a workload's pod template, in order and without their suffixes. Equal marks
        in a row count as one if their suffixes are equal, too, and None stands for no mark. Each change of the mark has
        restarted the pods."""
        templates = (state["spec"]["template"] for state in self.states("deployments", workload))
        marks = _changes(_annotations(template).get(MARK + secret) for template in templates)
        return [mark and without_suffix(mark) for mark in marks]

    def baseline(self, workload: str, secret: str) -> str | None:
        """Return the mark of a Secret in the annotations of the workload itself, without its suffix."""
        states = self.states("deployments", workload)
        return without_suffix(_annotations(states[-1]).get(MARK + secret, "")) or None if states else None

    def mark(self, workload: str, secret: str) -> str | None:
        """Return the mark of a Secret that counts: the one on the workload itself, or else on its pod template."""
        return self.baseline(workload, secret) or next(reversed(self.marks(workload, secret)), None)

    def states(self, resource: str, name: str) -> list[Any]:
        """Return the states of all objects that have had this name, in order. Status and managed fields are left
        out."""
        with self._lock:
            return list(self._states[resource, name])

    def _watch(self, resource: str) -> None:
        base = f"{self._url}/{KINDS[resource]}/namespaces/{self._namespace}/{resource}"
        listed = self._pool.request("GET", base, headers=self._headers).json()
        query = {"watch": "true", "resourceVersion": listed["metadata"]["resourceVersion"]}
        watch = self._pool.request(
            "GET", base, fields=query, headers=self._headers, preload_content=False, timeout=None
        )
        self._open_watches.append(watch)
        threading.Thread(target=self._read_watch, args=(resource, watch), daemon=True).start()

    def _read_watch(self, resource: str, watch: Any) -> None:
        rest = b""
        try:
            while piece := watch.read1(65536):
                *lines, rest = (rest + piece).split(b"\n")
                for line in lines:
                    event = json.loads(line)
                    if event["type"] in ("ADDED", "MODIFIED"):
                        self._record(resource, event["object"])
        except (OSError, ValueError, urllib3.exceptions.HTTPError):
            pass  # the watch has ended

    def _record(self, resource: str, state: Any) -> None:
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
    """Return the states in order, without those that equal the state before them."""
    found: list[Any] = []
    for state in states:
        if not found or found[-1] != state:
            found.append(state)
    return found
