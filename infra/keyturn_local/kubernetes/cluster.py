"""Access to a Kubernetes cluster through kubectl. The cluster is the local control plane or a cluster of the user."""

import json
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any


class KubectlFailed(RuntimeError):
    """kubectl failed. The text is kubectl's error message."""


class Cluster:
    """The cluster of a kubeconfig's current context."""

    def __init__(self, kubectl: Path | str, kubeconfig: Path) -> None:
        self.kubeconfig = kubeconfig
        self.command = [str(kubectl), f"--kubeconfig={kubeconfig}"]

    @classmethod
    def of_user(cls, kubectl: str, context: str | None, directory: Path) -> "Cluster":
        """Return the cluster of a context in the user's own kubeconfig. The default is the current context.

        The context is copied to a file in ``directory``, because KUBECONFIG may name several files, and their current
        context may be another context. Raises KubectlFailed if the context does not exist.
        """
        flags = ["--minify", "--flatten", "--raw", *([f"--context={context}"] if context else [])]
        file = directory / "kubeconfig"
        file.touch(mode=0o600)
        file.write_text(_run([kubectl, "config", "view", *flags]))
        return cls(kubectl, file)

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        """Run the real kubectl and return its output. Raises KubectlFailed."""
        return _run([*self.command, *arguments], stdin)

    def get(self, kind: str, name: str, namespace: str) -> Any:
        """Read one object. Raises KubectlFailed if it does not exist."""
        return json.loads(self.kubectl("get", kind, name, "-n", namespace, "-o", "json"))

    def list(self, kind: str, namespace: str, selector: str = "") -> list[Any]:
        """Read the objects of one kind in a namespace."""
        reply = json.loads(self.kubectl("get", kind, "-n", namespace, "-l", selector, "-o", "json"))
        return list(reply["items"])

    def create(self, objects: Iterable[Any]) -> None:
        """Create objects. `kubectl apply` is not used, because it would copy a Secret's values into an annotation."""
        self.kubectl("create", "-f", "-", stdin=_list(objects))

    def delete(self, objects: Iterable[Any], wait: bool = True) -> None:
        """Delete objects. An object that does not exist is not an error."""
        self.kubectl("delete", "--ignore-not-found", f"--wait={str(wait).lower()}", "-f", "-", stdin=_list(objects))

    def delete_all(self, kind: str, namespace: str) -> None:
        """Delete all objects of one kind in a namespace. Do not wait until they are gone."""
        self.kubectl("delete", kind, "--all", "-n", namespace, "--wait=false")

    def create_token(self, service_account: str, namespace: str) -> str:
        """Return a token of a ServiceAccount. The token is valid for a day."""
        return self.kubectl("create", "token", service_account, "-n", namespace, "--duration=24h").strip()

    def kubeconfig_for(self, namespace: str, service_account: str, directory: Path) -> Path:
        """Write a kubeconfig for a ServiceAccount. With it, a client has the rights that RBAC gives to the
        ServiceAccount. Return the path of the file."""
        content = json.loads(self.kubectl("config", "view", "--minify", "--flatten", "--raw", "-o", "json"))
        content["users"] = [{"name": service_account, "user": {"token": self.create_token(service_account, namespace)}}]
        content["contexts"][0]["context"]["user"] = service_account
        file = directory / f"kubeconfig-{namespace}-{service_account}"
        write_kubeconfig(file, content)
        return file


def write_kubeconfig(file: Path, content: Any) -> None:
    """Write a kubeconfig atomically. Only its owner can read it."""
    with tempfile.NamedTemporaryFile("w", dir=file.parent, delete=False) as temporary:  # the file has the mode 0600
        json.dump(content, temporary)
    Path(temporary.name).replace(file)


def _run(command: Sequence[str], stdin: str | None = None) -> str:
    result = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=180)
    if result.returncode:
        raise KubectlFailed(f"kubectl {' '.join(command[1:])}: {result.stderr.strip()}")
    return result.stdout


def _list(objects: Iterable[Any]) -> str:
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)})
