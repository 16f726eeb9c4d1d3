"""Consumers are workloads whose pods read a Secret. This module finds the keys that the pods of a workload read."""

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, islice

from keyturn_receiver.core.json_access import as_object, as_objects
from keyturn_receiver.core.rollout_switch import Switch, innermost, read_switch, switch_faults
from keyturn_receiver.core.vocabulary import Place, object_faults
from keyturn_receiver.core.workload_kinds import WorkloadKind
from keyturn_receiver.core.write_times import parse_time

READS = "keyturn.dev/reads"
MARK_PREFIX = "revision.keyturn.dev/"
# Kubernetes takes a hundred thousand references to Secrets in one pod template. Reading all of them would block the
# event loop for seconds, and keeping them would take 100 MiB. So only the first ones count.
MAX_REFERENCES = 5000
MAX_NAME_FAULTS = 3  # wrong names in one annotation that are told

# https://kubernetes.io/docs/concepts/overview/working-with-objects/names/#dns-subdomain-names
_SECRET_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")


@dataclass(frozen=True, slots=True)
class Reads:
    """The keys of one Secret that a pod reads. ``whole`` means that it reads all keys, including those that are added
    later. ``optional`` means that one of the keys may be missing when its container starts."""

    whole: bool = False
    keys: frozenset[str] = frozenset()
    optional: bool = False

    @property
    def needs_keys(self) -> bool:
        """Return whether no container starts until the Secret has the keys that the container reads."""
        return not self.whole and not self.optional


@dataclass(frozen=True, slots=True, order=True)
class WorkloadRef:
    """Reference to a workload. ``kind`` is a key of ``WORKLOAD_KINDS``."""

    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind}/{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class Consumer:
    """A workload, reduced to the fields that matter for its rollout.

    ``reads`` maps the name of each Secret to the keys that the pods read. ``baseline`` and ``marks`` map the names of
    Keyturn's annotations to their values: ``baseline`` has those on the workload itself, ``marks`` those on its pod
    template. ``switch`` is what the workload and its pod template say about restarts. ``manual`` means that a changed
    template restarts no pod (update strategy OnDelete). ``faults`` say what is wrong with the annotations and labels of
    the workload and of its pod template. They forbid restarts, because an unwanted restart cannot be undone.
    ``created`` is the time of its creation, in seconds since 1970 by the API server's clock, or None if that is not
    known. ``seen_late`` means that this replica first saw it long after that.
    """

    ref: WorkloadRef
    resource_version: str
    reads: Mapping[str, Reads]
    baseline: Mapping[str, str]
    marks: Mapping[str, str]
    switch: Switch
    manual: bool
    uid: str = ""
    faults: tuple[str, ...] = ()
    created: int | None = None
    seen_late: bool = False

    @property
    def size(self) -> int:
        """The number of Secrets and keys that the pods read, to which the memory that this object takes is
        proportional."""
        return sum(1 + len(read.keys) for read in self.reads.values()) or 1


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod, reduced to what it reads and when it was created. A pod whose time is not known counts as very old."""

    reads: Mapping[str, Reads]
    created: int


def names_read(annotations: Mapping[str, object]) -> list[str]:
    """Return the names of the Secrets that a workload reads in a way that its pod template does not show, such as by
    the Kubernetes API. The annotation separates them by commas, blanks or line breaks."""
    return str(annotations.get(READS, "")).replace(",", " ").split()


def name_list_faults(annotations: Mapping[str, object]) -> tuple[str, ...]:
    """Return what is wrong with the names that ``names_read`` returns."""
    wrong = (name for name in names_read(annotations)[:MAX_REFERENCES] if not _SECRET_NAME.fullmatch(name))
    advice = "is not the name of a Secret: write names of Secrets in this namespace, separated by commas"
    return tuple(f'annotation {READS}: "{name:.80}" {advice}' for name in islice(wrong, MAX_NAME_FAULTS))


def mark_name(secret_name: str) -> str:
    """Return the name of the annotation that marks a workload for a Secret. The part after the slash has at most 63
    characters.

    Two Secrets never share a mark. A shortened name has an underscore, which no name of a Secret has, and 160 bits of a
    digest, so nobody can find two names with the same one.
    """
    if len(secret_name) <= 63:
        return MARK_PREFIX + secret_name
    return f"{MARK_PREFIX}{secret_name[:22]}_{hashlib.sha256(secret_name.encode()).hexdigest()[:40]}"


def former_mark_name(secret_name: str) -> str | None:
    """Return the name that release 0.2 gave to the mark of a Secret, if it was another one. Another Secret could share
    it. It is still read, so that the upgrade restarts nobody, and can be removed after the next release."""
    if len(secret_name) <= 63:
        return None
    return f"{MARK_PREFIX}{secret_name[:46]}-{hashlib.sha256(secret_name.encode()).hexdigest()[:16]}"


def read_consumer(kind: WorkloadKind, workload: Mapping[str, object]) -> Consumer | None:
    """Parse a workload as the API server returns it. Returns None if its pods read no Secret, and nothing is wrong
    with its annotations and labels."""
    metadata = as_object(workload.get("metadata"))
    template = workload
    for field in kind.template:
        template = as_object(template.get(field))
    annotations = as_object(metadata.get("annotations"))
    reads = _reads(template, names_read(annotations))
    template_metadata = as_object(template.get("metadata"))
    on_template = as_object(template_metadata.get("annotations"))
    faults = (
        *switch_faults(annotations),
        *switch_faults(on_template, "on the pod template"),
        *name_list_faults(annotations),
        *name_list_faults(on_template),
        *object_faults(metadata, Place.WORKLOAD),
        *object_faults(template_metadata, Place.POD_TEMPLATE),
    )
    if not reads and not faults:
        return None
    strategy = as_object(as_object(workload.get("spec")).get("updateStrategy"))
    return Consumer(
        ref=WorkloadRef(kind.kind, str(metadata["namespace"]), str(metadata["name"])),
        resource_version=str(metadata["resourceVersion"]),
        reads=reads,
        baseline=_marks(annotations),
        marks=_marks(on_template),
        switch=Switch.UNKNOWN if faults else innermost(read_switch(annotations), read_switch(on_template)),
        manual=kind.has_on_delete and strategy.get("type") == "OnDelete",
        uid=str(metadata.get("uid", "")),
        faults=faults,
        created=parse_time(metadata.get("creationTimestamp")),
    )


def _join(each_read: Iterable[tuple[str, Reads]]) -> dict[str, Reads]:
    """Join the reads of each Secret, in a time that is linear in their number."""
    whole: set[str] = set()
    optional: set[str] = set()
    keys: dict[str, set[str]] = {}
    for name, read in each_read:
        keys.setdefault(name, set()).update(read.keys)
        if read.whole:
            whole.add(name)
        if read.optional:
            optional.add(name)
    return {name: Reads(name in whole, frozenset(named), name in optional) for name, named in keys.items()}


def read_pod(
    pod: Mapping[str, object], workload: WorkloadRef, workload_uid: str, named: Iterable[str] = ()
) -> Pod | None:
    """Parse a pod as the API server returns it. Returns None if it belongs to another workload, or is ending.

    ``named`` are the Secrets that the annotation of the workload itself names (``names_read``). The pods of a
    Deployment belong to its ReplicaSets, whose names begin with the Deployment's.
    """
    metadata = as_object(pod.get("metadata"))
    if metadata.get("deletionTimestamp") or as_object(pod.get("status")).get("phase") in ("Succeeded", "Failed"):
        return None
    for owner in as_objects(metadata.get("ownerReferences")):
        between = owner.get("kind") == "ReplicaSet" and str(owner.get("name")).startswith(f"{workload.name}-")
        if owner.get("controller") and (between or owner.get("uid") == workload_uid):
            return Pod(_reads(pod, named), parse_time(metadata.get("creationTimestamp")) or 0)
    return None


def _reads(template: Mapping[str, object], named: Iterable[str]) -> dict[str, Reads]:
    """Return what a pod, or the pods of a template, read of each Secret.

    ``named`` are the Secrets that the workload's own annotation names. The annotations of the template, which its pods
    have as well, can name others.
    """
    annotations = as_object(as_object(template.get("metadata")).get("annotations"))
    by_name = ((name, Reads(whole=True)) for name in chain(named, names_read(annotations)))
    return _join(islice(chain(by_name, _template_reads(as_object(template.get("spec")))), MAX_REFERENCES))


def _template_reads(pod: Mapping[str, object]) -> Iterator[tuple[str, Reads]]:
    # https://kubernetes.io/docs/reference/kubernetes-api/workload-resources/pod-v1/#PodSpec
    # No process of a pod reads its imagePullSecrets: the kubelet does, at the next pull. Ephemeral containers belong to
    # a single pod and not to the template; a restart removes them.
    for container in (*as_objects(pod.get("initContainers")), *as_objects(pod.get("containers"))):
        for bulk in as_objects(container.get("envFrom")):
            yield from _named(as_object(bulk.get("secretRef")), "name", Reads(whole=True))
        for variable in as_objects(container.get("env")):
            ref = as_object(as_object(variable.get("valueFrom")).get("secretKeyRef"))
            keys = frozenset({str(ref.get("key"))})
            yield from _named(ref, "name", Reads(keys=keys, optional=ref.get("optional") is True))
    for volume in as_objects(pod.get("volumes")):
        secret = as_object(volume.get("secret"))
        yield from _named(secret, "secretName", _items(secret))
        for source in as_objects(as_object(volume.get("projected")).get("sources")):
            projected = as_object(source.get("secret"))
            yield from _named(projected, "name", _items(projected))


def _named(ref: Mapping[str, object], field: str, read: Reads) -> Iterator[tuple[str, Reads]]:
    if name := ref.get(field):
        yield str(name), read


def _items(volume: Mapping[str, object]) -> Reads:
    items = as_objects(volume.get("items"))
    if not 0 < len(items) <= MAX_REFERENCES:
        return Reads(whole=True)
    return Reads(keys=frozenset(str(item.get("key")) for item in items), optional=volume.get("optional") is True)


def _marks(annotations: Mapping[str, object]) -> dict[str, str]:
    return {name: str(value) for name, value in annotations.items() if name.startswith(MARK_PREFIX)}
