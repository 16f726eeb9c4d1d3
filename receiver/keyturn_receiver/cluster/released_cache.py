"""Informer cache of released Secrets. A released Secret was bound and is no longer bound, but still has the label
``keyturn.dev/state``.

The receiver writes into the status of a released Secret that the Secret is no longer bound, and removes this label. So
in steady state the cache is empty. The first list also finds Secrets that lost their binding while no receiver was
running.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from keyturn_receiver.cluster.api import Json
from keyturn_receiver.core.binding import Target, has_bind_label
from keyturn_receiver.core.copies import copy_of
from keyturn_receiver.core.revision import STATE, STATUS
from keyturn_receiver.core.vocabulary import BIND_LABEL

SELECTOR = f"{STATE},{BIND_LABEL} notin (true)"


@dataclass(frozen=True, slots=True)
class ReleasedSecret:
    """A Secret that was bound and is no longer bound."""

    target: Target
    uid: str
    resource_version: str


class ReleasedCache:
    """Informer cache of released Secrets. It keeps each of them until its status says that it is no longer bound."""

    def __init__(self) -> None:
        self._handlers: list[Callable[[], None]] = []
        self._released: dict[Target, ReleasedSecret] = {}

    def add_handler(self, on_change: Callable[[], None]) -> None:
        """Register ``on_change``, which is called whenever a released Secret is added or has changed."""
        self._handlers.append(on_change)

    def all(self) -> list[ReleasedSecret]:
        """Return every released Secret."""
        return list(self._released.values())

    def holds(self, secret: ReleasedSecret) -> bool:
        """Return whether the cache still has this version of a released Secret."""
        return self._released.get(secret.target) == secret

    def transform(self, obj: Json) -> ReleasedSecret | Target:
        """Reduce a released Secret to the fields that its last status needs, and any other Secret to its target."""
        metadata = obj["metadata"]
        target = Target(metadata["namespace"], metadata["name"])
        was_filled = STATUS in (metadata.get("annotations") or {})
        if has_bind_label(metadata) or not was_filled or copy_of(metadata):
            return target
        return ReleasedSecret(target, metadata["uid"], metadata["resourceVersion"])

    def replace(self, items: Sequence[ReleasedSecret | Target], namespace: str | None = None) -> None:
        listed = {item.target for item in items if isinstance(item, ReleasedSecret)}
        for target in self._released.keys() - listed:
            if namespace in (None, target.namespace):
                del self._released[target]
        for item in items:
            self.update(item)

    def update(self, item: ReleasedSecret | Target) -> None:
        if isinstance(item, Target):
            self._released.pop(item, None)
            return
        self._released[item.target] = item
        for on_change in self._handlers:
            on_change()

    def delete(self, obj: Json) -> None:
        self._released.pop(Target(obj["metadata"]["namespace"], obj["metadata"]["name"]), None)
