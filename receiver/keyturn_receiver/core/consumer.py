"""A consumer: a workload whose pods read a Secret, and which of its keys they read."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

ROLLOUT = "keyturn.dev/rollout"
DISABLED = "disabled"
MARK_PREFIX = "revision.keyturn.dev/"


@dataclass(frozen=True, slots=True)
class Reads:
    """The keys of one Secret that a pod reads: ``whole`` means every key, those to come included."""

    whole: bool = False
    keys: frozenset[str] = frozenset()

    def __or__(self, other: "Reads") -> "Reads":
        return Reads(self.whole or other.whole, self.keys | other.keys)


@dataclass(frozen=True, slots=True, order=True)
class WorkloadRef:
    """A Deployment, StatefulSet or DaemonSet."""

    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind}/{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class Consumer:
    """What is kept of a workload: no more than decides a rollout.

    ``reads`` is by Secret name; ``baseline`` and ``marks`` are Keyturn's annotations on the workload itself and on
    its pod template, by annotation name; ``manual`` means that a new template restarts nothing (OnDelete).
    """

    ref: WorkloadRef
    resource_version: str
    reads: Mapping[str, Reads]
    baseline: Mapping[str, str]
    marks: Mapping[str, str]
    rollout_disabled: bool
    manual: bool


def mark_name(secret_name: str) -> str:
    """Name the annotation that marks a template with a Secret's revision: at most 63 characters after the slash."""
    if len(secret_name) <= 63:
        return MARK_PREFIX + secret_name
    return f"{MARK_PREFIX}{secret_name[:46]}-{hashlib.sha256(secret_name.encode()).hexdigest()[:16]}"


def read_consumer(kind: str, workload: Mapping[str, object]) -> Consumer | None:
    """Read a workload as the API server gives it; None if its pods read no Secret."""
    metadata = _map(workload.get("metadata"))
    spec = _map(workload.get("spec"))
    template = _map(spec.get("template"))
    reads: dict[str, Reads] = {}
    for name, read in _template_reads(_map(template.get("spec"))):
        reads[name] = reads.get(name, Reads()) | read
    if not reads:
        return None
    annotations = _map(metadata.get("annotations"))
    strategy = _map(spec.get("updateStrategy"))
    return Consumer(
        ref=WorkloadRef(kind, str(metadata["namespace"]), str(metadata["name"])),
        resource_version=str(metadata["resourceVersion"]),
        reads=reads,
        baseline=_marks(annotations),
        marks=_marks(_map(_map(template.get("metadata")).get("annotations"))),
        rollout_disabled=annotations.get(ROLLOUT) == DISABLED,
        manual=strategy.get("type") == "OnDelete",
    )


def _template_reads(pod: Mapping[str, object]) -> Iterator[tuple[str, Reads]]:
    # https://kubernetes.io/docs/reference/kubernetes-api/workload-resources/pod-v1/#PodSpec
    for container in (*_maps(pod.get("initContainers")), *_maps(pod.get("containers"))):
        for bulk in _maps(container.get("envFrom")):
            yield from _named(_map(bulk.get("secretRef")), "name", Reads(whole=True))
        for variable in _maps(container.get("env")):
            ref = _map(_map(variable.get("valueFrom")).get("secretKeyRef"))
            yield from _named(ref, "name", Reads(keys=frozenset({str(ref.get("key"))})))
    for volume in _maps(pod.get("volumes")):
        secret = _map(volume.get("secret"))
        yield from _named(secret, "secretName", _items(secret))
        for source in _maps(_map(volume.get("projected")).get("sources")):
            projected = _map(source.get("secret"))
            yield from _named(projected, "name", _items(projected))
    for pull in _maps(pod.get("imagePullSecrets")):
        yield from _named(pull, "name", Reads(whole=True))


def _named(ref: Mapping[str, object], field: str, read: Reads) -> Iterator[tuple[str, Reads]]:
    if name := ref.get(field):
        yield str(name), read


def _items(volume: Mapping[str, object]) -> Reads:
    items = _maps(volume.get("items"))
    return Reads(keys=frozenset(str(item.get("key")) for item in items)) if items else Reads(whole=True)


def _marks(annotations: Mapping[str, object]) -> dict[str, str]:
    return {name: str(value) for name, value in annotations.items() if name.startswith(MARK_PREFIX)}


def _map(value: object) -> Mapping[str, object]:
    return value if isinstance(value, Mapping) else {}


def _maps(value: object) -> list[Mapping[str, object]]:
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []
