"""The picture of the cluster: bound Secrets, their consumers, and what namespaces allow. Fed by watches alone."""

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from keyturn_receiver.cluster.api import Json
from keyturn_receiver.core.binding import DATA, SECRET_ID, VERSION_STAGE, Target, is_bound
from keyturn_receiver.core.consumer import ROLLOUT, Consumer, WorkloadRef, read_consumer
from keyturn_receiver.core.identity import aliases
from keyturn_receiver.core.policy import ALLOW_SECRETS
from keyturn_receiver.core.revision import Record, read_record

_BINDING = (SECRET_ID, DATA, VERSION_STAGE, ROLLOUT)
_NAMESPACE = (ALLOW_SECRETS, ROLLOUT)


class Change(StrEnum):
    """What a watch has seen that may ask for a reconcile."""

    SECRET = "secret"  # noqa: S105 - the word for a kind of change
    CONSUMER = "consumer"
    NAMESPACE = "namespace"


@dataclass(frozen=True, slots=True)
class BoundSecret:
    """What is kept of a bound Secret: metadata, no data."""

    target: Target
    uid: str
    resource_version: str
    annotations: Mapping[str, str]
    record: Record


def read_bound(obj: Json) -> BoundSecret:
    """Read a bound Secret's metadata as the API server gives it."""
    metadata = obj["metadata"]
    annotations = metadata.get("annotations") or {}
    return BoundSecret(
        target=Target(metadata["namespace"], metadata["name"]),
        uid=metadata["uid"],
        resource_version=metadata["resourceVersion"],
        annotations={name: annotations[name] for name in _BINDING if name in annotations},
        record=read_record(annotations),
    )


class BoundSecrets:
    """The bound Secrets, by target and by every way to call the AWS secrets they name."""

    def __init__(self, changed: Callable[[Target, Change], None]) -> None:
        self._changed = changed
        self._by_target: dict[Target, BoundSecret] = {}
        self._by_alias: dict[str, set[Target]] = defaultdict(set)

    def __len__(self) -> int:
        return len(self._by_target)

    def get(self, target: Target) -> BoundSecret | None:
        """The bound Secret at ``target``, if there is one."""
        return self._by_target.get(target)

    def all(self) -> list[BoundSecret]:
        """Every bound Secret."""
        return list(self._by_target.values())

    def within(self, namespace: str) -> list[Target]:
        """The targets in one namespace."""
        return [target for target in self._by_target if target.namespace == namespace]

    def naming(self, secret_id: str, name: str | None = None) -> list[Target]:
        """The targets whose binding may name this AWS secret, sorted."""
        found: set[Target] = set()
        for alias in aliases(secret_id, name):
            found |= self._by_alias.get(alias, set())
        return sorted(found)

    def shrink(self, obj: Json) -> Json:
        return {"metadata": {**obj["metadata"], "managedFields": None}}

    def replace(self, objects: list[Json]) -> None:
        fresh = {read_bound(obj).target for obj in objects}
        for target in self._by_target.keys() - fresh:
            self._drop(target)
        for obj in objects:
            self.put(obj)

    def put(self, obj: Json) -> None:
        bound = read_bound(obj)
        if not is_bound(obj["metadata"]):
            self._drop(bound.target)
            return
        known = self._by_target.get(bound.target)
        self._drop(bound.target)
        self._by_target[bound.target] = bound
        for alias in _names(bound):
            self._by_alias[alias].add(bound.target)
        if known is None or known.resource_version != bound.resource_version:
            self._changed(bound.target, Change.SECRET)

    def remove(self, obj: Json) -> None:
        self._drop(Target(obj["metadata"]["namespace"], obj["metadata"]["name"]))

    def _drop(self, target: Target) -> None:
        known = self._by_target.pop(target, None)
        for alias in _names(known) if known else ():
            self._by_alias[alias].discard(target)
            if not self._by_alias[alias]:
                del self._by_alias[alias]


def _names(bound: BoundSecret) -> frozenset[str]:
    # The ARNs it was made from count, too: AWS may say "ARN" where the binding says "name".
    arns = {key.partition("#")[0] for key in bound.record.version_ids}
    return aliases(bound.annotations.get(SECRET_ID, "").strip()).union(*(aliases(arn) for arn in arns))


class Consumers:
    """The workloads of one kind that read Secrets; ``by_secret`` is shared by the kinds."""

    def __init__(self, kind: str, by_secret: "ConsumersBySecret", changed: Callable[[Target, Change], None]) -> None:
        self._kind = kind
        self._by_secret = by_secret
        self._changed = changed
        self._known: dict[WorkloadRef, Consumer] = {}

    def shrink(self, obj: Json) -> Json:
        metadata, spec = obj["metadata"], obj.get("spec") or {}
        return {
            "metadata": {key: metadata.get(key) for key in ("namespace", "name", "resourceVersion", "annotations")},
            "spec": {key: spec.get(key) for key in ("template", "updateStrategy")},
        }

    def replace(self, objects: list[Json]) -> None:
        fresh = {self._ref(obj) for obj in objects}
        for ref in self._known.keys() - fresh:
            self._drop(ref)
        for obj in objects:
            self.put(obj)

    def put(self, obj: Json) -> None:
        ref = self._ref(obj)
        known = self._known.get(ref)
        self._drop(ref)
        consumer = read_consumer(self._kind, obj)
        if consumer is None:
            return
        self._known[ref] = consumer
        self._by_secret.add(consumer)
        # A workload's status changes all the time: only what bears on a rollout is worth a look.
        if known is None or _bearing(known) != _bearing(consumer):
            for name in consumer.reads:
                self._changed(Target(ref.namespace, name), Change.CONSUMER)

    def remove(self, obj: Json) -> None:
        self._drop(self._ref(obj))

    def _ref(self, obj: Json) -> WorkloadRef:
        return WorkloadRef(self._kind, obj["metadata"]["namespace"], obj["metadata"]["name"])

    def _drop(self, ref: WorkloadRef) -> None:
        if known := self._known.pop(ref, None):
            self._by_secret.discard(known)


def _bearing(consumer: Consumer) -> tuple[object, ...]:
    return (consumer.reads, consumer.baseline, consumer.marks, consumer.rollout_disabled)


class ConsumersBySecret:
    """The consumers of each Secret, whatever their kind."""

    def __init__(self) -> None:
        self._by_secret: dict[Target, dict[WorkloadRef, Consumer]] = defaultdict(dict)

    def of(self, target: Target) -> list[Consumer]:
        """The consumers of one Secret, in a stable order."""
        return [consumer for _, consumer in sorted(self._by_secret.get(target, {}).items())]

    def add(self, consumer: Consumer) -> None:
        for name in consumer.reads:
            self._by_secret[Target(consumer.ref.namespace, name)][consumer.ref] = consumer

    def discard(self, consumer: Consumer) -> None:
        for name in consumer.reads:
            target = Target(consumer.ref.namespace, name)
            self._by_secret[target].pop(consumer.ref, None)
            if not self._by_secret[target]:
                del self._by_secret[target]


class Namespaces:
    """What namespaces say to Keyturn, by annotation; a namespace that says nothing is not kept."""

    def __init__(self, changed: Callable[[str], None]) -> None:
        self._changed = changed
        self._annotations: dict[str, Mapping[str, str]] = {}

    def annotations(self, namespace: str) -> Mapping[str, str]:
        """The annotations of one namespace that concern Keyturn."""
        return self._annotations.get(namespace, {})

    def shrink(self, obj: Json) -> Json:
        return {"metadata": {"name": obj["metadata"]["name"], "annotations": obj["metadata"].get("annotations")}}

    def replace(self, objects: list[Json]) -> None:
        for name in self._annotations.keys() - {obj["metadata"]["name"] for obj in objects}:
            self._set(name, {})
        for obj in objects:
            self.put(obj)

    def put(self, obj: Json) -> None:
        annotations = obj["metadata"].get("annotations") or {}
        self._set(obj["metadata"]["name"], {name: annotations[name] for name in _NAMESPACE if name in annotations})

    def remove(self, obj: Json) -> None:
        self._set(obj["metadata"]["name"], {})

    def _set(self, name: str, annotations: Mapping[str, str]) -> None:
        if annotations == self._annotations.get(name, {}):
            return
        self._annotations.pop(name, None)
        if annotations:
            self._annotations[name] = annotations
        self._changed(name)
