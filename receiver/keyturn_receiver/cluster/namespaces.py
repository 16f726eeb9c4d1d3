"""The picture of the namespaces: what a cluster admin allows in each. Fed by a watch."""

from collections.abc import Callable, Mapping

from keyturn_receiver.cluster.api import Json
from keyturn_receiver.core.consumer import ROLLOUT
from keyturn_receiver.core.policy import ALLOW_SECRETS

_NAMESPACE = (ALLOW_SECRETS, ROLLOUT)


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
