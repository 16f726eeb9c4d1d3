"""Reader of the facts about a cluster, with the rights of the caller. It reads no value of a Secret."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

from keyturn_cli.advice import chosen
from keyturn_cli.cluster import CONNECTIONS, METADATA, METADATA_LIST, Cluster, path
from keyturn_cli.doctor.cluster_facts import (
    Bindings,
    BoundSecret,
    ClusterFacts,
    Configuration,
    Installation,
    LeaseState,
    ReceiverPod,
)
from keyturn_cli.doctor.finding import Unknown
from keyturn_cli.doctor.rights import Right, required_rights
from keyturn_cli.errors import Forbidden, NotFound, Refused, Unreachable
from keyturn_cli.options import Release
from keyturn_cli.release import find_deployment, prefix_of
from keyturn_receiver.core.conditions import condition, is_true
from keyturn_receiver.core.field_owners import MANAGERS, managed_fields, owned
from keyturn_receiver.core.json_access import as_object, as_objects
from keyturn_receiver.core.policy import ALLOW_SECRETS
from keyturn_receiver.core.printable import printable
from keyturn_receiver.core.revision import STATUS, read_record
from keyturn_receiver.core.vocabulary import BIND_LABEL

T = TypeVar("T")
MAX_REPLY = 300  # characters of a probe's reply
OPERATIONS_PORT = "operations"  # the name of the container's port in the chart


class ClusterReader:
    """Reader of the facts about one Helm release in one cluster."""

    def __init__(self, cluster: Cluster, release: Release, own_settings: Mapping[str, str] | None = None) -> None:
        self._cluster = cluster
        self._release = release
        self._own_settings = own_settings  # the receiver's settings, if this process runs in a receiver's pod
        self._prefix = prefix_of(release)  # the first part of the names of the release's objects

    def read(self) -> ClusterFacts:
        """Read all facts. Raises Unreachable if the API server does not answer."""
        reply = self._cluster.exchange("GET", "/version")
        installation, configuration = self.release()
        return ClusterFacts(
            now=parsedate_to_datetime(reply.headers["date"]),
            kubernetes=self._readable(self._version),
            installation=installation,
            configuration=configuration,
            poller=self.lease("poller"),
            event_path=self.lease("event-path"),
            bindings=self._readable(lambda: self._bindings(configuration)),
            missing_rights=self._missing_rights(configuration),
        )

    def release(self) -> tuple[Installation | Unknown, Configuration | Unknown]:
        """Read the pods and the settings of the release."""
        try:
            deployment = self._readable(lambda: find_deployment(self._cluster, self._release))
        except NotFound as error:
            deployment = Unknown(str(error.args[0]), error.advice, is_fault=True)
        if isinstance(deployment, Unknown):
            own = self._own_settings
            return deployment, Unknown(deployment.why, deployment.remedy) if own is None else Configuration(own)
        self._prefix = prefix_of(self._release, deployment)
        return self._readable(lambda: self._installation(deployment)), configuration_of(deployment)

    def lease(self, suffix: str) -> LeaseState | Unknown:
        """Read the release's Lease with a name that ends in ``suffix``."""
        name = f"{self._prefix}-{suffix}"
        where = path("coordination.k8s.io/v1", "leases", self._release.namespace, name)
        try:
            lease = self._readable(lambda: self._cluster.get(where))
        except NotFound:
            return LeaseState(name)
        if isinstance(lease, Unknown):
            return lease
        spec = as_object(lease.get("spec"))
        return LeaseState(
            name, str(spec.get("holderIdentity") or ""), _time(spec.get("renewTime")), _time(spec.get("acquireTime"))
        )

    def _readable(self, read: Callable[[], T]) -> T | Unknown:
        """Return the result of ``read``. If the caller does not have the right for the read, return an ``Unknown``."""
        try:
            return read()
        except Forbidden as error:
            return Unknown(
                f"you may not read it ({error.args[0]})", "ask for this right, or run it in a receiver's pod"
            )

    def _version(self) -> tuple[int, int]:
        version = self._cluster.get("/version")
        # Some clouds give "29+" as the minor version.
        return int(version["major"]), int("".join(filter(str.isdigit, version["minor"])))

    def _installation(self, deployment: Mapping[str, Any]) -> Installation:
        pods = receiver_pods(self._cluster, self._release.namespace, deployment)
        return Installation(int(str(as_object(deployment.get("spec")).get("replicas", 1))), tuple(map(self._pod, pods)))

    def _pod(self, pod: Mapping[str, Any]) -> ReceiverPod:
        metadata, status = as_object(pod.get("metadata")), as_object(pod.get("status"))
        ready = is_ready(pod)
        version = str(as_object(metadata.get("labels")).get("app.kubernetes.io/version") or "")
        waits_for = "" if ready else self._waits_for(pod, status)
        return ReceiverPod(str(metadata.get("name")), ready, version, waits_for)

    def _waits_for(self, pod: Mapping[str, Any], status: Mapping[str, Any]) -> str:
        """Return the reason why a pod is not ready: the reason why a container waits, the phase of the pod, or the
        reply of /readyz, which is read through the API server's proxy. If none of these is known, return "not
        ready"."""
        for container in as_objects(status.get("containerStatuses")):
            waiting = as_object(as_object(container.get("state")).get("waiting"))
            if waiting.get("reason"):
                return str(waiting["reason"])
        if status.get("phase") != "Running" or not status.get("podIP"):
            return str(status.get("phase") or "Pending")
        try:
            reply = self._cluster.exchange("GET", f"{proxied(pod, OPERATIONS_PORT)}/readyz")
        except Unreachable:
            return "not ready"
        text = reply.body.decode(errors="replace").strip()
        is_its_own = reply.headers.get("content-type", "").startswith("text/plain")
        return printable(text[:MAX_REPLY]) if reply.status == 503 and is_its_own else "not ready"

    def _bindings(self, configuration: Configuration | Unknown) -> Bindings:
        namespaces = configuration.namespaces if isinstance(configuration, Configuration) else ()
        secrets = tuple(self._secrets(namespaces))
        held = sorted({each.namespace for each in secrets})
        return Bindings(secrets, self._readable(lambda: self._allowed(held)))

    def _secrets(self, namespaces: Sequence[str]) -> Iterator[BoundSecret]:
        """Read the bound Secrets in the namespaces that the release serves. Other releases may serve other
        namespaces."""
        for namespace in namespaces or (None,):
            where, query = path("v1", "secrets", namespace), {"labelSelector": BIND_LABEL}
            yield from map(_secret, self._cluster.list(where, query, accept=METADATA_LIST))

    def _allowed(self, namespaces: Sequence[str]) -> Mapping[str, str | None]:
        with ThreadPoolExecutor(CONNECTIONS) as threads:
            return dict(zip(namespaces, threads.map(self._allow_secrets, namespaces), strict=True))

    def _allow_secrets(self, namespace: str) -> str | None:
        found = self._cluster.get(path("v1", "namespaces", None, namespace), accept=METADATA)
        globs = as_object(as_object(found.get("metadata")).get("annotations")).get(ALLOW_SECRETS)
        return None if globs is None else str(globs)

    def _missing_rights(self, configuration: Configuration | Unknown) -> tuple[str, ...] | Unknown:
        """Return the rights that the chart grants but the receivers do not have. The API server is asked about each
        right.

        Every caller may ask about its own rights. A caller outside the receivers' pods asks about the receivers'
        rights. So it needs the right to create SubjectAccessReviews. SelfSubjectRulesReview is not used, because its
        answer is incomplete if an authorizer, such as a webhook, cannot list its rules.

        https://kubernetes.io/docs/reference/kubernetes-api/authorization-resources/self-subject-rules-review-v1/
        """
        if isinstance(configuration, Unknown):
            return configuration
        rights = required_rights(configuration, self._release.namespace, self._prefix)
        account = None if self._cluster.in_pod else configuration.service_account
        try:
            with ThreadPoolExecutor(CONNECTIONS) as threads:
                allowed = list(threads.map(lambda right: self._may(right, account), rights))
        except Forbidden:
            return Unknown(
                "you may not create subjectaccessreviews.authorization.k8s.io",
                "run it in a pod: "
                + chosen().kubectl(
                    f"exec -n {self._release.namespace} deploy/{self._prefix} --"
                    " /opt/keyturn/bin/python -m keyturn_cli doctor"
                ),
            )
        except Refused as error:
            return Unknown(str(error))
        return tuple(str(right) for right, may in zip(rights, allowed, strict=True) if not may)

    def _may(self, right: Right, service_account: str | None) -> bool:
        attributes = {
            "verb": right.verb,
            "group": right.group,
            "resource": right.resource,
            "subresource": right.subresource,
            "namespace": right.namespace,
            "name": right.name,
        }
        spec: dict[str, Any] = {"resourceAttributes": {name: text for name, text in attributes.items() if text}}
        kind = "selfsubjectaccessreviews"
        if service_account:
            kind = "subjectaccessreviews"
            namespace = self._release.namespace
            spec["user"] = f"system:serviceaccount:{namespace}:{service_account}"
            spec["groups"] = ["system:serviceaccounts", f"system:serviceaccounts:{namespace}", "system:authenticated"]
        review = self._cluster.send("POST", path("authorization.k8s.io/v1", kind), {"spec": spec})
        return as_object(review.get("status")).get("allowed") is True


def configuration_of(deployment: Mapping[str, Any]) -> Configuration:
    """Return the settings in a Deployment of receivers."""
    template = as_object(as_object(as_object(deployment.get("spec")).get("template")).get("spec"))
    settings = {
        str(each.get("name")): str(each["value"])
        for container in as_objects(template.get("containers"))
        for each in as_objects(container.get("env"))
        if "value" in each
    }
    return Configuration(settings, str(template.get("serviceAccountName") or "default"))


def receiver_pods(cluster: Cluster, namespace: str, deployment: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the pods of a Deployment. Pods that are being deleted are left out."""
    labels = as_object(as_object(as_object(deployment.get("spec")).get("selector")).get("matchLabels"))
    selector = ",".join(f"{name}={value}" for name, value in labels.items())
    pods = cluster.list(path("v1", "pods", namespace), {"labelSelector": selector})
    return [pod for pod in pods if "deletionTimestamp" not in pod["metadata"]]


def is_ready(pod: Mapping[str, Any]) -> bool:
    """Return whether a pod is Ready."""
    return is_true(condition(as_object(pod.get("status")), "Ready"))


def proxied(pod: Mapping[str, Any], port_name: str, tls: bool = False) -> str:
    """Return the URL path of a port of a pod. The path goes through the API server's proxy.

    https://kubernetes.io/docs/reference/kubernetes-api/workload-resources/pod-v1/#get-connect-proxy-path-get-connect-requests-to-proxy-of-pod
    """
    metadata = as_object(pod.get("metadata"))
    port = container_port(pod, port_name)
    name = f"{'https:' if tls else ''}{metadata.get('name')}:{port}"
    return f"/api/v1/namespaces/{metadata.get('namespace')}/pods/{name}/proxy"


def container_port(pod: Mapping[str, Any], name: str) -> int:
    """Return the number of the pod's port with this name, or 0 if the pod has no such port."""
    containers = as_objects(as_object(pod.get("spec")).get("containers"))
    ports = [port for container in containers for port in as_objects(container.get("ports"))]
    return next((int(str(port.get("containerPort"))) for port in ports if port.get("name") == name), 0)


def _secret(secret: Mapping[str, Any]) -> BoundSecret:
    metadata = as_object(secret.get("metadata"))
    annotations = {name: str(text) for name, text in as_object(metadata.get("annotations")).items()}
    label = str(as_object(metadata.get("labels")).get(BIND_LABEL) or "")
    keys = read_record(annotations).revisions
    owners: dict[str, set[str]] = {}
    for entry in managed_fields(metadata):
        manager, fields = str(entry.get("manager")), as_object(entry.get("fieldsV1"))
        if manager in MANAGERS:
            continue
        for key in (owned(fields, "data") | owned(fields, "stringData")) & keys.keys():
            owners.setdefault(key, set()).add(manager)
    return BoundSecret(
        str(metadata.get("namespace")),
        str(metadata.get("name")),
        label,
        annotations.get(STATUS, ""),
        {key: frozenset(managers) for key, managers in owners.items()},
    )


def _time(text: object) -> datetime | None:
    try:
        return datetime.fromisoformat(str(text)) if text else None
    except ValueError:
        return None
