"""A Kubernetes cluster as kubectl reaches it: the local control plane, or one of the user's own."""

import json
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any


class KubectlFailed(RuntimeError):
    """kubectl said no; the text is what it said."""


class Cluster:
    """A cluster by its kubeconfig's current context."""

    def __init__(self, kubectl: Path | str, kubeconfig: Path) -> None:
        self.kubeconfig = kubeconfig
        self.command = [str(kubectl), f"--kubeconfig={kubeconfig}"]

    @classmethod
    def of_user(cls, kubectl: str, context: str | None, directory: Path) -> "Cluster":
        """The cluster that the user's own kubectl talks to, or that of one of its contexts.

        What concerns it is copied into ``directory``: KUBECONFIG may name several files, and another context. Raises
        KubectlFailed when there is no such context.
        """
        flags = ["--minify", "--flatten", "--raw", *([f"--context={context}"] if context else [])]
        file = directory / "kubeconfig"
        file.touch(mode=0o600)
        file.write_text(_run([kubectl, "config", "view", *flags]))
        return cls(kubectl, file)

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        """Run the real kubectl; return what it prints. Raises KubectlFailed with what it complains of."""
        return _run([*self.command, *arguments], stdin)

    def get(self, kind: str, name: str, namespace: str) -> Any:
        """Read one object. Raises KubectlFailed when it is not there."""
        return json.loads(self.kubectl("get", kind, name, "-n", namespace, "-o", "json"))

    def list(self, kind: str, namespace: str, selector: str = "") -> list[Any]:
        """Read the objects of one kind in a namespace."""
        found = json.loads(self.kubectl("get", kind, "-n", namespace, "-l", selector, "-o", "json"))
        return list(found["items"])

    def create(self, objects: Iterable[Any]) -> None:
        """Create objects, as `kubectl create` does. Never by client-side apply, which copies a Secret's values."""
        self.kubectl("create", "-f", "-", stdin=_list(objects))

    def delete(self, objects: Iterable[Any], wait: bool = True) -> None:
        """Delete objects, those that are not there included."""
        self.kubectl("delete", "--ignore-not-found", f"--wait={str(wait).lower()}", "-f", "-", stdin=_list(objects))

    def kubeconfig_for(self, namespace: str, service_account: str, directory: Path) -> Path:
        """Write a kubeconfig that acts as a ServiceAccount, with no more rights than RBAC gives it."""
        content = json.loads(self.kubectl("config", "view", "--minify", "--flatten", "--raw", "-o", "json"))
        token = self.kubectl("create", "token", service_account, "-n", namespace, "--duration=24h").strip()
        content["users"] = [{"name": service_account, "user": {"token": token}}]
        content["contexts"][0]["context"]["user"] = service_account
        file = directory / f"kubeconfig-{namespace}-{service_account}"
        with tempfile.NamedTemporaryFile("w", dir=directory, delete=False) as fresh:  # mode 0600
            json.dump(content, fresh)
        Path(fresh.name).replace(file)
        return file


def _run(command: Sequence[str], stdin: str | None = None) -> str:
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=180)
    if done.returncode:
        raise KubectlFailed(f"kubectl {' '.join(command[1:])}: {done.stderr.strip()}")
    return done.stdout


def _list(objects: Iterable[Any]) -> str:
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)})
