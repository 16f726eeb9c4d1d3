"""Watches the demo's namespace with a client of its own, so that nothing rests on the receiver's word."""

import threading
import time
from base64 import b64decode
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from kubernetes import client, config, watch

from keyturn_local.demo import scene


class Observer:
    """Knows when each Secret came to hold what, which pods run, and what they use. Its clock is this machine's.

    ``hears``: there are processes in the pods, and each tells in its log what it uses.
    """

    def __init__(self, kubeconfig: Path, namespace: str, hears: bool = False) -> None:
        settings = client.Configuration()
        config.load_kube_config(str(kubeconfig), client_configuration=settings, persist_config=False)
        self._core = core = client.CoreV1Api(client.ApiClient(settings))
        self.hears = hears
        self._namespace = namespace
        self._changed = threading.Condition()
        self._secrets: dict[str, tuple[float, dict[str, str]]] = {}
        self._pods: dict[str, Any] = {}
        self._pods_at: dict[str, float] = {}
        self._used: dict[str, str] = {}
        self._used_at: dict[str, float] = {}
        for listing, take in ((core.list_namespaced_secret, self._secret), (core.list_namespaced_pod, self._pod)):
            threading.Thread(target=self._watch, args=(listing, take), daemon=True).start()

    def secret_holds(self, name: str, expected: Mapping[str, str]) -> float | None:
        """When the Secret came to hold all of ``expected`` (and maybe more); None while it does not."""
        at, data = self._secrets.get(name, (0.0, {}))
        return at if expected.items() <= data.items() else None

    def secret_keys(self, name: str) -> frozenset[str]:
        """The keys that the Secret has now."""
        return frozenset(self._secrets.get(name, (0.0, {}))[1])

    def pods(self, app: str) -> frozenset[str]:
        """The uids of the pods of one workload."""
        return frozenset(uid for uid, pod in self._pods.items() if pod.metadata.labels.get("app") == app)

    def replaced(self, app: str, old: frozenset[str]) -> float | None:
        """When the last change came after which none of ``old`` runs, and all that run are Ready."""
        pods = [pod for pod in self._pods.values() if pod.metadata.labels.get("app") == app]
        if len(pods) < len(old) or old & {pod.metadata.uid for pod in pods} or not all(map(_is_ready, pods)):
            return None
        return self._pods_at[app]

    def uses(self, app: str, digest: str) -> float | None:
        """When the last change came after which all processes of one workload use what has this digest."""
        used = {self._used.get(uid) for uid in self.pods(app)}
        return self._used_at[app] if used == {digest} else None

    def wait(self, condition: Callable[[], Any], seconds: float) -> Any:
        """Wait until ``condition`` gives something, and return it; what it gives at the end, when time is over."""
        with self._changed:
            end = time.monotonic() + seconds
            while not (result := condition()) and time.monotonic() < end:
                self._changed.wait(0.05)
            return result

    def follow(
        self, steps: Mapping[str, Callable[[], float | None]], seconds: float
    ) -> Iterator[tuple[str, float | None]]:
        """Give the name of each step and when it came true, as they do; then those that did not, with None."""
        pending = dict(steps)
        end = time.monotonic() + seconds
        while pending:
            came = self.wait(
                lambda: sorted((at, name) for name, condition in pending.items() if (at := condition())),
                end - time.monotonic(),
            )
            for at, name in came:
                del pending[name]
                yield name, at
            if not came:
                yield from ((name, None) for name in pending)
                return

    def _watch(self, listing: Callable[..., Any], take: Callable[[str, Any], None]) -> None:
        while True:
            try:
                for event in watch.Watch().stream(listing, self._namespace):
                    with self._changed:
                        take(event["type"], event["object"])
                        self._changed.notify_all()
            except Exception:  # the cluster goes first at the end; before, the next watch starts anew
                time.sleep(0.2)

    def _secret(self, kind: str, secret: Any) -> None:
        data = {key: b64decode(value).decode() for key, value in (secret.data or {}).items()}
        known = self._secrets.get(secret.metadata.name)
        if known is None or known[1] != data:
            self._secrets[secret.metadata.name] = (time.time(), data)

    def _pod(self, kind: str, pod: Any) -> None:
        app = pod.metadata.labels.get("app", "")
        self._pods_at[app] = time.time()
        if kind == "DELETED":
            self._pods.pop(pod.metadata.uid, None)
            self._used_at[app] = time.time()
            return
        self._pods[pod.metadata.uid] = pod
        if self.hears and app in scene.READS and _is_running(pod) and pod.metadata.uid not in self._used:
            self._used[pod.metadata.uid] = ""  # not told yet
            threading.Thread(target=self._listen, args=(pod.metadata, app), daemon=True).start()

    def _listen(self, pod: Any, app: str) -> None:
        """Wait for what the process in a pod says that it uses."""
        while pod.uid in self._pods and not self._used[pod.uid]:
            try:
                log = self._core.read_namespaced_pod_log(
                    pod.name, self._namespace, follow=True, limit_bytes=1000, _preload_content=False
                )
                line = log.readline().decode()
                log.close()
            except Exception:  # of a log that is not there yet, or no more
                line = ""
            if line.startswith(scene.USES):
                with self._changed:
                    self._used[pod.uid] = line.removeprefix(scene.USES).split()[0]
                    self._used_at[app] = time.time()
                    self._changed.notify_all()
            else:
                time.sleep(0.05)


def _is_running(pod: Any) -> bool:
    return any(each.state.running for each in pod.status.container_statuses or [])


def _is_ready(pod: Any) -> bool:
    conditions = pod.status.conditions or []
    return pod.metadata.deletion_timestamp is None and any(
        condition.type == "Ready" and condition.status == "True" for condition in conditions
    )
