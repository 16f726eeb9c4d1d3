"""Consumers are workloads whose pods read a Secret. This module finds the keys that the pods of a workload read."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from typing import NamedTuple

from keyturn_receiver.core.argo_progress import read_argo_progress
from keyturn_receiver.core.argo_rollouts import borrower_faults, read_argo_hold, restarts_by_time
from keyturn_receiver.core.json_access import as_object, as_objects
from keyturn_receiver.core.object_name import is_object_name
from keyturn_receiver.core.reloader import ReloaderMode, ReloaderRules, has_rules, read_rules, rule_faults
from keyturn_receiver.core.restart_way import evicts_pods, restart_faults
from keyturn_receiver.core.rollout_hold import NO_REPLICAS, RolloutHold, read_hold
from keyturn_receiver.core.rollout_order import order_faults, read_order
from keyturn_receiver.core.rollout_progress import RolloutProgress, read_progress
from keyturn_receiver.core.rollout_switch import Switch, innermost, read_switch, switch_faults
from keyturn_receiver.core.rollout_window import own_window, own_window_faults
from keyturn_receiver.core.vocabulary import Place, object_faults
from keyturn_receiver.core.workload_kinds import StatusForm, WorkloadKind
from keyturn_receiver.core.write_times import parse_time

READS = "keyturn.dev/reads"
MARK_PREFIX = "revision.keyturn.dev/"
# Kubernetes takes a hundred thousand references to Secrets in one pod template. Reading all of them would block the
# event loop for seconds, and keeping them would take 100 MiB. So only the first MAX_REFERENCES references count.
MAX_REFERENCES = 5000
MAX_NAME_FAULTS = 3  # at most this many wrong names are reported for one annotation
MAX_NAME = 253  # characters; the longest name that Kubernetes allows for a Secret or a key
# At most this many characters of a mark's value are kept. The marks that Keyturn makes are shorter, so a value
# that was cut cannot equal such a mark.
MAX_MARK = 64
_NO_KEYS: frozenset[str] = frozenset()  # one object for all consumers, because Python makes a new one for each call
FAULT_UNIT = 100  # in ``Consumer.size``, this number of characters of faults counts as one name


@dataclass(frozen=True, slots=True)
class Reads:
    """The keys of one Secret that a pod reads. ``whole`` means that the pod reads all keys, including those that are
    added later. ``keys`` are the keys that are named. ``optional`` means that for at least one of the keys, a container
    starts even if the Secret lacks the key. ``optional_keys`` are the keys without which all containers start. The
    other keys are required: a new pod does not start without them. ``in_template`` is false if only an annotation names
    the Secret, because the pods read it through the API."""

    whole: bool = False
    keys: frozenset[str] = _NO_KEYS
    optional: bool = False
    in_template: bool = field(default=True, compare=False)
    optional_keys: frozenset[str] = _NO_KEYS

    @property
    def needs_keys(self) -> bool:
        """Whether each container can start only if the Secret has the keys that this container reads."""
        return not self.whole and not self.optional

    @property
    def required(self) -> frozenset[str]:
        """The keys without which a container does not start. Most workloads have no optional keys, and then the set of
        all keys is returned without a copy."""
        return self.keys - self.optional_keys if self.optional_keys else self.keys


class WorkloadRef(NamedTuple):
    """Reference to a workload. ``kind`` is a key of ``WORKLOAD_KINDS``."""

    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind}/{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class Consumer:
    """A workload, reduced to the fields that matter for its rollout.

    ``reads`` maps the name of each Secret to the keys that the pods read. A mark is an annotation in which Keyturn
    notes the revisions of one Secret. ``marks`` has the marks on the pod template, where a new mark restarts the pods.
    ``baseline`` has the marks on the workload itself, where a new mark restarts nothing. Both map the name of an
    annotation to its value. ``switch`` is what the workload and its pod template say about restarts. ``hold`` tells why
    a changed template does not restart all pods. It is None if a changed template restarts all pods. ``faults`` say
    what is wrong with the annotations and labels of the workload and of its pod template. Faults forbid restarts,
    because an unwanted restart cannot be undone. ``created`` is the time at which the workload was created, in seconds
    since 1970 by the API server's clock. It is None if the time is not known. ``seen_late`` means that pods may be
    older than the workload, because it may have adopted the pods of a former workload with its name: this replica has
    seen such a workload, or first saw the present one in a list or some seconds after its creation. ``reloader`` are
    the rules of Reloader's annotations, if these annotations count. ``may_restart_twice`` means that the workload has
    annotations of Reloader, but they do not count. ``progress`` tells how far the rollout of the present pod template
    has come, or is None if the progress is not known. ``evicts`` means that Keyturn evicts the pods and does not change
    the template. Then no setting of the workload can keep the pods from restarting. ``by_time`` means that
    ``spec.restartAt`` restarts the pods, and not a changed pod template (``core/argo_rollouts.py``). ``order`` and
    ``window`` are what the annotations say about the order and the time of the workload's restarts, or None.
    ``declared`` is a hash of the UID, the generation, the annotations and the labels of the workload, or None if the
    workload has no generation. While it stays the same, and there are no ``faults``, only ``resource_version``,
    ``hold`` and ``progress`` can change. ``specified`` is a hash of only the UID and the generation, or None if the
    workload has no generation. While it stays the same, the pod template is the same.
    """

    ref: WorkloadRef
    resource_version: str
    reads: Mapping[str, Reads]
    baseline: Mapping[str, str]
    marks: Mapping[str, str]
    switch: Switch
    hold: RolloutHold | None = None
    uid: str = ""
    faults: tuple[str, ...] = ()
    created: int | None = None
    seen_late: bool = False
    reloader: ReloaderRules | None = None
    may_restart_twice: bool = False
    progress: RolloutProgress | None = None
    evicts: bool = False
    order: int | None = None
    window: str | None = None
    by_time: bool = False
    declared: int | None = field(default=None, repr=False, compare=False)
    specified: int | None = field(default=None, repr=False, compare=False)

    @property
    def size(self) -> int:
        """The number of names of Secrets and keys that this object holds, as a measure of its memory. Each FAULT_UNIT
        characters of faults count as one name. Marks do not count, because each Secret has only a few."""
        of_rules = self.reloader.size if self.reloader else 0
        of_faults = sum(map(len, self.faults)) // FAULT_UNIT
        return max(1, of_rules + of_faults + sum(1 + len(read.keys) for read in self.reads.values()))


def names_read(annotations: Mapping[str, object]) -> list[str]:
    """Return the names in the annotation ``keyturn.dev/reads``. The pods read these Secrets without a reference in the
    pod template, for example through the Kubernetes API. Commas, blanks or line breaks separate the names."""
    return str(annotations.get(READS, "")).replace(",", " ").split()


def name_list_faults(annotations: Mapping[str, object]) -> tuple[str, ...]:
    """Return what is wrong with the names that ``names_read`` returns.

    The client for Kubernetes drops long strings, so an annotation that is too long looks empty here.
    """
    names = names_read(annotations)[:MAX_REFERENCES]
    advice = "write names of Secrets in this namespace, separated by commas"
    if READS in annotations and not names:
        return (f"annotation {READS} names no Secret, or is too long: {advice}",)
    wrong = (name for name in names if not is_object_name(name))
    told = (f'annotation {READS}: "{name:.80}" is not the name of a Secret: {advice}' for name in wrong)
    return tuple(islice(told, MAX_NAME_FAULTS))


def mark_name(secret_name: str) -> str:
    """Return the name of the mark for a Secret. The mark is an annotation on a workload or its pod template. The part
    of the name after the slash has at most 63 characters.

    Two Secrets never share a mark. A shortened name has an underscore, which no name of a Secret has. It also has 160
    bits of a digest, so nobody can find two Secrets whose names are shortened to the same text.
    """
    if len(secret_name) <= 63:
        return MARK_PREFIX + secret_name
    return f"{MARK_PREFIX}{secret_name[:22]}_{hashlib.sha256(secret_name.encode()).hexdigest()[:40]}"


def former_mark_name(secret_name: str) -> str | None:
    """Return the name that release 0.2 gave to the mark of a Secret, or None if the name has not changed since.

    Two Secrets could share such a name. Marks with the former name are still read, so that an upgrade restarts no pods.
    This function can be removed after the next release.
    """
    if len(secret_name) <= 63:
        return None
    return f"{MARK_PREFIX}{secret_name[:46]}-{hashlib.sha256(secret_name.encode()).hexdigest()[:16]}"


def mark_names(secret_names: Iterable[str]) -> list[str]:
    """Return the names of all marks for these Secrets, including the former names."""
    both = ((mark_name(name), former_mark_name(name)) for name in secret_names)
    return [name for names in both for name in names if name]


def read_consumer(
    kind: WorkloadKind,
    workload: Mapping[str, object],
    reloader: ReloaderMode = ReloaderMode.ABSENT,
    before: Consumer | None = None,
) -> Consumer | None:
    """Parse a workload as the API server returns it. Returns None if the pods read no Secret and the annotations and
    labels have no faults. ``reloader`` tells whether Reloader's annotations count.

    ``before`` is an earlier state of the workload. If it has no faults, and only the status has changed since then, the
    template is not parsed again, because a rollout changes the status of a workload several times.
    """
    metadata = as_object(workload.get("metadata"))
    annotations = as_object(metadata.get("annotations"))
    declared = _declared(metadata, annotations)
    # Faults in names also depend on the managed fields, which may change while ``declared`` stays the same.
    if before and not before.faults and declared is not None and declared == before.declared:
        return replace(
            before,
            resource_version=str(metadata["resourceVersion"]),
            hold=_hold(kind, workload, before.by_time, before.evicts),
            progress=_progress(kind, workload, before.by_time),
        )
    template = pod_template(kind, workload)
    template_metadata = as_object(template.get("metadata"))
    on_template = as_object(template_metadata.get("annotations"))
    named = named_secrets(kind, workload, reloader)
    reads = reads_of(template, named)
    counts = reloader is not ReloaderMode.ABSENT
    rules = read_rules(annotations, on_template) if counts else None
    evicts = evicts_pods(annotations, on_template)
    by_time = kind.has_restart_at and restarts_by_time(annotations, on_template, reloader is ReloaderMode.REPLACED)
    faults = (
        *(rule_faults(annotations, on_template) if counts else ()),
        *switch_faults(annotations),
        *switch_faults(on_template, "on the pod template"),
        *restart_faults(annotations, has_restart_at=kind.has_restart_at),
        *restart_faults(on_template, "on the pod template", kind.has_restart_at),
        *(borrower_faults(workload, bool(named), evicts or by_time) if kind.has_restart_at else ()),
        *name_list_faults(annotations),
        *name_list_faults(on_template),
        *order_faults(annotations, on_template),
        *own_window_faults(annotations, on_template),
        *object_faults(metadata, Place.WORKLOAD),
        *object_faults(template_metadata, Place.POD_TEMPLATE),
    )
    if not reads and not faults:
        return None
    baseline, marks = marks_of(reads, annotations, on_template)
    return Consumer(
        ref=WorkloadRef(kind.kind, str(metadata["namespace"]), str(metadata["name"])),
        resource_version=str(metadata["resourceVersion"]),
        reads=reads,
        baseline=baseline,
        marks=marks,
        switch=Switch.UNKNOWN if faults else innermost(read_switch(annotations), read_switch(on_template)),
        hold=_hold(kind, workload, by_time, evicts),
        uid=str(metadata.get("uid", "")),
        faults=faults,
        created=parse_time(metadata.get("creationTimestamp")),
        reloader=rules,
        may_restart_twice=not counts and has_rules(annotations, on_template),
        progress=_progress(kind, workload, by_time),
        evicts=evicts,
        order=read_order(annotations, on_template),
        window=own_window(annotations, on_template),
        by_time=by_time,
        declared=declared,
        specified=_specified(metadata),
    )


def _declared(metadata: Mapping[str, object], annotations: Mapping[str, object]) -> int | None:
    """Return a hash of the UID, the generation, the annotations and the labels of a workload. A change of only the
    status does not change the hash, because the generation changes only with the spec. Return None if the workload has
    no generation."""
    if "generation" not in metadata:
        return None
    labels = as_object(metadata.get("labels"))
    named = (frozenset(each.items()) for each in (annotations, labels))
    return hash((metadata.get("uid"), metadata.get("generation"), *named))


def _specified(metadata: Mapping[str, object]) -> int | None:
    """Return a hash of the UID and the generation of a workload. Return None if the workload has no generation."""
    return hash((metadata.get("uid"), metadata["generation"])) if "generation" in metadata else None


def _hold(kind: WorkloadKind, workload: Mapping[str, object], by_time: bool, evicts: bool) -> RolloutHold | None:
    hold = read_argo_hold(workload, by_time) if kind.has_restart_at else read_hold(kind, workload)
    return None if evicts and hold is not NO_REPLICAS else hold


def _progress(kind: WorkloadKind, workload: Mapping[str, object], by_time: bool) -> RolloutProgress | None:
    return read_argo_progress(workload, by_time) if kind.status is StatusForm.PHASE else read_progress(kind, workload)


def named_secrets(kind: WorkloadKind, workload: Mapping[str, object], reloader: ReloaderMode) -> list[str]:
    """Return the names of the Secrets that a workload reads according to its annotations and those of its pod
    template."""
    annotations = as_object(as_object(workload.get("metadata")).get("annotations"))
    on_template = as_object(as_object(pod_template(kind, workload).get("metadata")).get("annotations"))
    names = list(filter(is_object_name, (*names_read(annotations), *names_read(on_template))))
    if reloader is ReloaderMode.REPLACED and (rules := read_rules(annotations, on_template)):
        names += rules.names
    return names


def pod_template(kind: WorkloadKind, workload: Mapping[str, object]) -> Mapping[str, object]:
    """Return the pod template of a workload, or an empty object if the workload has none."""
    template = workload
    for name in kind.template:
        template = as_object(template.get(name))
    return template


def _join(each_read: Iterable[tuple[str, Reads]]) -> dict[str, Reads]:
    """Merge all reads of a Secret into one. The time is linear in the number of reads."""
    whole: set[str] = set()
    optional: set[str] = set()
    in_template: set[str] = set()
    keys: dict[str, set[str]] = {}
    required: dict[str, set[str]] = {}
    for name, read in each_read:
        keys.setdefault(name, set()).update(read.keys)
        required.setdefault(name, set()).update(read.required)
        if read.whole:
            whole.add(name)
        if read.optional:
            optional.add(name)
        if read.in_template:
            in_template.add(name)
    joined: dict[str, Reads] = {}
    for name, named in keys.items():
        all_keys = frozenset(named) if named else _NO_KEYS
        # Most workloads have no optional keys, or only optional keys. Their sets are shared, which saves memory.
        waived = _NO_KEYS if required[name] == named else frozenset(named - required[name])
        optional_keys = all_keys if waived == all_keys else waived
        joined[name] = Reads(name in whole, all_keys, name in optional, name in in_template, optional_keys)
    return joined


def reads_of(template: Mapping[str, object], named: Iterable[str]) -> dict[str, Reads]:
    """Return the reads of each Secret, by the name of the Secret. ``template`` is a pod template or a pod. All keys of
    the Secrets in ``named`` count as read."""
    by_name = ((name, Reads(whole=True, in_template=False)) for name in named)
    return _join(islice(chain(by_name, _template_reads(as_object(template.get("spec")))), MAX_REFERENCES))


def _template_reads(pod: Mapping[str, object]) -> Iterator[tuple[str, Reads]]:
    # https://kubernetes.io/docs/reference/kubernetes-api/workload-resources/pod-v1/#PodSpec
    # imagePullSecrets do not count, because only the kubelet reads them, at the next pull. Ephemeral containers do not
    # count, because they belong to a single pod and not to the template, and a restart removes them.
    for container in (*as_objects(pod.get("initContainers")), *as_objects(pod.get("containers"))):
        for bulk in as_objects(container.get("envFrom")):
            yield from _named(as_object(bulk.get("secretRef")), "name", Reads(whole=True))
        for variable in as_objects(container.get("env")):
            ref = as_object(as_object(variable.get("valueFrom")).get("secretKeyRef"))
            yield from _named(ref, "name", _of_keys([ref], ref))
    for volume in as_objects(pod.get("volumes")):
        secret = as_object(volume.get("secret"))
        yield from _named(secret, "secretName", _items(secret))
        for source in as_objects(as_object(volume.get("projected")).get("sources")):
            projected = as_object(source.get("secret"))
            yield from _named(projected, "name", _items(projected))


def _named(ref: Mapping[str, object], field: str, read: Reads) -> Iterator[tuple[str, Reads]]:
    if (name := ref.get(field)) and len(str(name)) <= MAX_NAME:
        yield str(name), read


def _items(volume: Mapping[str, object]) -> Reads:
    items = as_objects(volume.get("items"))
    if not 0 < len(items) <= MAX_REFERENCES:
        return Reads(whole=True)
    return _of_keys(items, volume)


def _of_keys(refs: Iterable[Mapping[str, object]], owner: Mapping[str, object]) -> Reads:
    """Return the reads of the keys that ``refs`` name. ``owner`` is the object that tells whether they are optional."""
    keys, optional = _keys(refs), owner.get("optional") is True
    return Reads(keys=keys, optional=optional, optional_keys=keys if optional else _NO_KEYS)


def _keys(refs: Iterable[Mapping[str, object]]) -> frozenset[str]:
    return frozenset(key for ref in refs if len(key := str(ref.get("key"))) <= MAX_NAME)


def marks_of(reads: Iterable[str], *annotations: Mapping[str, object]) -> list[dict[str, str]]:
    """Return the marks in each object's annotations, in the order of the arguments.

    An object can have ten thousand annotations whose names look like names of marks. So only the marks of Secrets that
    the pods read are kept, and only the first MAX_MARK characters of each value.
    """
    if not any(name.startswith(MARK_PREFIX) for each in annotations for name in each):
        return [{} for _ in annotations]
    names = mark_names(reads)
    return [{name: str(each[name])[:MAX_MARK] for name in names if name in each} for each in annotations]
