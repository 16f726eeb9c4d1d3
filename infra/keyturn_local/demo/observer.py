"""Observer of the demo's namespace. It has a Kubernetes client of its own, so it does not rely on the receiver's
reports."""

import threading
import time
from base64 import b64decode
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from kubernetes import client, config, watch

from keyturn_local.demo import manifests


class Observer:
    """Observer. It watches Secrets and pods, and records the time of each change by this machine's clock.

    If ``reads_logs`` is true, the pods have containers, and each process logs a digest of the value that it uses.
    """

    def __init__(self, kubeconfig: Path, namespace: str, reads_logs: bool = False) -> None:
        settings = client.Configuration()
        config.load_kube_config(str(kubeconfig), client_configuration=settings, persist_config=False)
        self._core = core = client.CoreV1Api(client.ApiClient(settings))
        self.reads_logs = reads_logs
        self._namespace = namespace
        self._changed = threading.Condition()
        self._secrets: dict[str, tuple[float, dict[str, str]]] = {}  # by name: time of the last change, data
        self._pods: dict[str, Any] = {}  # by uid
        self._pods_changed: dict[str, float] = {}  # by workload
        self._digests: dict[str, str] = {}  # digest of the value in use, by the pod's uid; empty until logged
        self._digests_changed: dict[str, float] = {}  # by workload
        for listing, handle in (
            (core.list_namespaced_secret, self._on_secret),
            (core.list_namespaced_pod, self._on_pod),
        ):
            threading.Thread(target=self._watch, args=(listing, handle), daemon=True).start()

    def secret_holds(self, name: str, expected: Mapping[str, str]) -> float | None:
        """Return the time at which a Secret's data last changed. Return None if the data does not contain
        ``expected``."""
        at, data = self._secrets.get(name, (0.0, {}))
        return at if expected.items() <= data.items() else None

    def secret_keys(self, name: str) -> frozenset[str]:
        """Return the keys that the Secret has now."""
        return frozenset(self._secrets.get(name, (0.0, {}))[1])

    def pods(self, app: str) -> frozenset[str]:
        """Return the uids of a workload's pods."""
        return frozenset(uid for uid, pod in self._pods.items() if pod.metadata.labels.get("app") == app)

    def replaced(self, app: str, old: frozenset[str]) -> float | None:
        """If Ready pods have replaced all ``old`` pods of a workload, return the time of the last change of the
        workload's pods. Otherwise return None."""
        pods = [pod for pod in self._pods.values() if pod.metadata.labels.get("app") == app]
        if len(pods) < len(old) or old & {pod.metadata.uid for pod in pods} or not all(map(_is_ready, pods)):
            return None
        return self._pods_changed[app]

    def in_use(self, app: str, digest: str) -> float | None:
        """Return the time from which all processes of a workload have logged this digest. Return None before that."""
        digests = {self._digests.get(uid) for uid in self.pods(app)}
        return self._digests_changed[app] if digests == {digest} else None

    def wait(self, condition: Callable[[], Any], seconds: float) -> Any:
        """Wait until ``condition`` returns a true value, but at most for ``seconds``. Return its last result."""
        with self._changed:
            end = time.monotonic() + seconds
            while not (result := condition()) and time.monotonic() < end:
                self._changed.wait(0.05)
            return result

    def follow(
        self, steps: Mapping[str, Callable[[], float | None]], seconds: float, hold: Collection[str] = ()
    ) -> Iterator[tuple[str, float | None]]:
        """Yield the name and the time of each step as soon as the step has happened. After ``seconds``, yield each
        remaining step with None.

        Nothing is yielded until all steps in ``hold`` have happened, or until ``seconds`` have passed. Then the steps
        that have happened by then are yielded in the order of their times.
        """
        pending = dict(steps)
        end = time.monotonic() + seconds
        held = poll(lambda: all(steps[name]() for name in hold), seconds)
        while pending:
            reached = self.wait(
                lambda: sorted((at, name) for name, condition in pending.items() if (at := condition())),
                max(0.0, end - time.monotonic()) if held else 0,
            )
            for at, name in reached:
                del pending[name]
                yield name, at
            if not reached:
                yield from ((name, None) for name in pending)
                return

    def _watch(self, listing: Callable[..., Any], handle: Callable[[str, Any, float], None]) -> None:
        while True:
            try:
                for event in watch.Watch().stream(listing, self._namespace):
                    at = time.time()  # taken before the lock, because the wait for the lock may take some time
                    with self._changed:
                        handle(event["type"], event["object"], at)
                        self._changed.notify_all()
            except Exception:
                # The loop then starts a new watch. At the demo's end, each watch fails, because the cluster stops
                # before this thread.
                time.sleep(0.2)

    def _on_secret(self, kind: str, secret: Any, at: float) -> None:
        data = {key: b64decode(value).decode() for key, value in (secret.data or {}).items()}
        last = self._secrets.get(secret.metadata.name)
        if last is None or last[1] != data:
            self._secrets[secret.metadata.name] = (at, data)

    def _on_pod(self, kind: str, pod: Any, at: float) -> None:
        app = pod.metadata.labels.get("app", "")
        self._pods_changed[app] = at
        if kind == "DELETED":
            self._pods.pop(pod.metadata.uid, None)
            self._digests_changed[app] = at
            return
        self._pods[pod.metadata.uid] = pod
        if self.reads_logs and app in manifests.READS and _is_running(pod) and pod.metadata.uid not in self._digests:
            self._digests[pod.metadata.uid] = ""
            threading.Thread(target=self._read_log, args=(pod.metadata, app), daemon=True).start()

    def _read_log(self, pod: Any, app: str) -> None:
        """Wait until the process in a pod has logged the digest of its value, and record the digest. End if the pod is
        gone before that."""
        while pod.uid in self._pods and not self._digests[pod.uid]:
            try:
                log = self._core.read_namespaced_pod_log(
                    pod.name, self._namespace, follow=True, limit_bytes=1000, _preload_content=False
                )
                line = log.readline().decode()
                log.close()
            except Exception:  # the log does not exist yet, or no longer exists
                line = ""
            if line.startswith(manifests.USES):
                with self._changed:
                    self._digests[pod.uid] = line.removeprefix(manifests.USES).split()[0]
                    self._digests_changed[app] = time.time()
                    self._changed.notify_all()
            else:
                time.sleep(0.05)


def poll(condition: Callable[[], bool], seconds: float) -> bool:
    """Wait until ``condition`` is true, but at most for ``seconds``. Return its last value. Unlike ``Observer.wait``,
    this function holds no lock, so ``condition`` may be slow."""
    end = time.monotonic() + seconds
    while not (holds := condition()) and time.monotonic() < end:
        time.sleep(0.02)
    return holds


def _is_running(pod: Any) -> bool:
    return any(each.state.running for each in pod.status.container_statuses or [])


def _is_ready(pod: Any) -> bool:
    conditions = pod.status.conditions or []
    return pod.metadata.deletion_timestamp is None and any(
        condition.type == "Ready" and condition.status == "True" for condition in conditions
    )
