"""The fields of workloads and pods that the receiver reads. All other fields are skipped while the JSON is parsed.

A tenant may write a workload with a megabyte of small parts that the receiver does not need. The parsed form of all
these parts would take thirty times their size in memory, and the parser would block the event loop for a tenth of a
second. So before code can read another field of a workload or pod, the field must be added here. Values have the type
Any, because the API server has already checked them.
"""

from collections.abc import Mapping
from functools import cache
from typing import Any, TypedDict

from msgspec import Raw, Struct
from msgspec.json import Decoder

from keyturn_receiver.core.workload_kinds import WorkloadKind

_METADATA = (
    *("name", "namespace", "uid", "resourceVersion", "generation", "creationTimestamp", "deletionTimestamp"),
    *("annotations", "labels", "ownerReferences"),
)
_MANAGED_FIELDS = ("manager", "operation", "subresource", "time")
_STATUS = (
    *("observedGeneration", "replicas", "updatedReplicas", "readyReplicas", "availableReplicas"),
    *("desiredNumberScheduled", "updatedNumberScheduled", "numberAvailable"),
    *("currentRevision", "updateRevision"),  # of StatefulSets
    *("phase", "currentPodHash", "stableRS", "restartedAt"),  # of Argo Rollouts
)
_SPEC = ("replicas", "paused", "selector", "strategy", "updateStrategy", "minReadySeconds", "progressDeadlineSeconds")


class _KeyRef(TypedDict, total=False):
    name: Any
    key: Any
    optional: Any


class _ValueFrom(TypedDict, total=False):
    secretKeyRef: _KeyRef | None


class _Variable(TypedDict, total=False):
    valueFrom: _ValueFrom | None


class _Bulk(TypedDict, total=False):
    secretRef: _KeyRef | None


class _Container(TypedDict, total=False):
    name: Any
    restartPolicy: Any
    env: list[_Variable] | None
    envFrom: list[_Bulk] | None


class _Item(TypedDict, total=False):
    key: Any


class _SecretVolume(TypedDict, total=False):
    secretName: Any
    name: Any
    optional: Any
    items: list[_Item] | None


class _Source(TypedDict, total=False):
    secret: _SecretVolume | None


class _Projected(TypedDict, total=False):
    sources: list[_Source] | None


class _Volume(TypedDict, total=False):
    name: Any
    secret: _SecretVolume | None
    projected: _Projected | None


class _PodSpec(TypedDict, total=False):
    serviceAccountName: Any
    initContainers: list[_Container] | None
    containers: list[_Container] | None
    volumes: list[_Volume] | None


class _Condition(TypedDict, total=False):
    type: Any
    status: Any
    reason: Any
    lastUpdateTime: Any


class _TemplateRef(TypedDict, total=False):
    kind: Any
    name: Any


class _Canary(TypedDict, total=False):
    steps: Raw  # parsed only if it is short


class _BlueGreen(TypedDict, total=False):
    autoPromotionEnabled: Any


class _ArgoStrategy(TypedDict, total=False):
    canary: _Canary | None
    blueGreen: _BlueGreen | None


class _Page(TypedDict, total=False):
    metadata: dict[str, Any]
    items: list[Raw] | None


class WatchEvent(Struct):
    """An event of a watch. The object is parsed later, because the type of the object depends on the type of the
    event."""

    type: str
    object: Raw


def _object(fields: Mapping[str, Any]) -> Any:
    """Return a type for JSON objects. It keeps only these fields. The value of each field may be null."""
    make: Any = TypedDict
    return make("_Object", {name: each | None for name, each in fields.items()}, total=False)


def _nested(path: tuple[str, ...], innermost: Any) -> Any:
    return _object({path[0]: _nested(path[1:], innermost)}) if path else innermost


def _metadata(template: tuple[str, ...] = ()) -> Any:
    """Return a type for the metadata of an object. ``managedFields`` records the owner of each field. Only the owners
    of the object's own metadata and of its pod template's metadata are kept. ``template`` is the path of the pod
    template."""
    owned = {"f:metadata": Any}
    if template:
        first, *others = (f"f:{field}" for field in template)
        owned[first] = _nested(tuple(others), _object({"f:metadata": Any}))
    entry: Any = _object({**dict.fromkeys(_MANAGED_FIELDS, Any), "fieldsV1": _object(owned)})
    return _object({**dict.fromkeys(_METADATA, Any), "managedFields": list[entry]})


@cache
def workload_decoder(kind: WorkloadKind) -> Decoder[Any]:
    """Return the decoder for workloads of one kind."""
    first, *others = kind.template
    template = _object({"metadata": _metadata(), "spec": _PodSpec})
    of_spec: dict[str, Any] = dict.fromkeys(_SPEC, Any)
    # Argo Rollouts are custom resources. Their authors may write long lists, which Kubernetes refuses in its own kinds.
    if kind.has_restart_at:
        of_spec |= {"strategy": _ArgoStrategy, "workloadRef": _TemplateRef, "restartAt": Any}
    status = _object({**dict.fromkeys(_STATUS, Any), "conditions": list[_Condition]})
    fields = {"metadata": _metadata(kind.template), "status": status, "spec": _object(of_spec)}
    if others:
        below = {others[0]: _nested(tuple(others[1:]), template)}
        fields[first] = _object({**of_spec, **below})
    else:
        fields[first] = template
    return Decoder(_object(fields))


OBJECT = Decoder(dict[str, Any])  # keeps everything
POD = Decoder(_object({"metadata": _metadata(), "spec": _PodSpec, "status": Any}))
PAGE = Decoder(_Page)  # a page of a list, whose objects are parsed one by one
EVENT = Decoder(WatchEvent)  # an event of a watch
