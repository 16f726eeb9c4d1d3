"""Loader of the caller's kubeconfig. Exec plugins, client certificates and tokens work as in kubectl. If there is no
kubeconfig, and the process runs in a pod, the client has the rights of the pod's ServiceAccount."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import urllib3
from kubernetes import config
from kubernetes.client import ApiClient, Configuration

from keyturn_cli.credentials import credentials_errors
from keyturn_cli.errors import Unreachable, UsageError
from keyturn_receiver.core.json_access import as_object

IN_POD = "the pod's ServiceAccount"
NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


@dataclass(frozen=True, slots=True)
class Loaded:
    """The loaded configuration: a client, the name of the context, and the namespace of the context."""

    client: ApiClient
    context: str
    namespace: str


def load(context: str | None, connections: int) -> Loaded:
    """Read the kubeconfig, or the pod's own configuration. ``connections`` is the maximum number of open connections.

    Raises Unreachable if there is no configuration, or if its credentials cannot be obtained. Raises UsageError if the
    kubeconfig cannot be read, or does not have the context.
    """
    settings = Configuration()
    settings.connection_pool_maxsize = connections
    settings.retries = urllib3.Retry(total=2, redirect=0, status=0)
    files = os.environ.get("KUBECONFIG") or str(Path.home() / ".kube" / "config")
    exist = any(os.path.exists(each) for each in files.split(os.pathsep) if each)
    if not exist and context is None and "KUBERNETES_SERVICE_HOST" in os.environ:
        try:
            config.load_incluster_config(client_configuration=settings)
        except config.ConfigException as error:
            raise Unreachable(f"the pod's credentials cannot be read: {error}", "mount its token") from None
        namespace = NAMESPACE_FILE.read_text().strip() if NAMESPACE_FILE.exists() else "default"
        return Loaded(ApiClient(settings), IN_POD, namespace)
    if not exist:
        raise Unreachable(f"there is no kubeconfig at {files}", "set KUBECONFIG, or make one for your cluster")
    chosen = _context(files, context)
    name = str(chosen["name"])
    with credentials_errors(name):
        config.load_kube_config(files, name, client_configuration=settings, persist_config=False)
        client = ApiClient(settings)
    return Loaded(client, name, str(as_object(chosen.get("context")).get("namespace") or "default"))


def _context(files: str, name: str | None) -> Mapping[str, Any]:
    try:
        contexts, current = config.list_kube_config_contexts(files)
    except config.ConfigException as error:
        if name is None:
            raise UsageError(f"kubeconfig {files}: {error}", "choose a context with --context") from None
        # If the kubeconfig has no current context, the loader does not read the contexts.
        raise UsageError(f"kubeconfig {files}: {error}", f"set one: kubectl config use-context {name}") from None
    except Exception as error:  # the loader raises errors of any kind if the file is not a kubeconfig
        raise UsageError(f"kubeconfig {files} cannot be read ({type(error).__name__})", "correct it") from None
    if name is None:
        return as_object(current)
    for each in contexts:
        if each["name"] == name:
            return as_object(each)
    known = ", ".join(str(each["name"]) for each in contexts)
    raise UsageError(f"the kubeconfig has no context {name}", f"it has {known}")
