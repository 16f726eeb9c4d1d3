"""The matrix of rollouts: each way to refer to a Secret, each state of the key, each level of the switch, and an oracle
that tells which cells are restarted. The oracle shares no code with the receiver.

Two Secrets are filled from JSON, and rotated. In both, the rotation changes the key ``a``, and does not change ``b``.
In the second Secret, it also removes ``gone`` and adds ``new``. A third Secret does not change. No Secret ever has a
key ``nowhere``.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

BEFORE = {"a": "1", "b": "1", "gone": "1"}
AFTER = {"a": "2", "b": "1", "gone": "1"}
AFTER_MOVED = {"a": "2", "b": "1", "new": "1"}
MOVED = ("gone", "new")  # the keys that the rotation of the second Secret removes or adds
KEYS = ("a", "b", "gone", "new", "nowhere")
READS = "keyturn.dev/reads"
SWITCH = "keyturn.dev/rollout"

Pod = dict[str, Any]


def _variable(secret: str, key: str, optional: bool) -> Pod:
    ref = {"name": secret, "key": key, **({"optional": True} if optional else {})}
    return {"env": [{"name": "X", "valueFrom": {"secretKeyRef": ref}}]}


def _variables(secret: str, *keys: tuple[str, bool]) -> Pod:
    """Return a container with a variable for each key. Each key comes with whether its reference is optional."""
    made = (_variable(secret, key, optional)["env"] for key, optional in keys)
    return {"env": [{**env, "name": f"X{number}"} for number, (env,) in enumerate(made)]}


def _bulk(secret: str, optional: bool) -> Pod:
    return {"envFrom": [{"secretRef": {"name": secret, **({"optional": True} if optional else {})}}]}


def _init(container: Pod, **more: str) -> Pod:
    return {"initContainers": [{"name": "first", "image": "none", **container, **more}]}


def _volume(secret: str, key: str | None, optional: bool) -> Pod:
    items = {"items": [{"key": key, "path": "p"}]} if key else {}
    return {"secretName": secret, **items, **({"optional": True} if optional else {})}


def _projected(secret: str, key: str | None, optional: bool) -> Pod:
    volume = _volume(secret, key, optional)
    source = {"name": volume.pop("secretName"), **volume}
    return {"volumes": [{"name": "v", "projected": {"sources": [{"secret": source}]}}]}


# References to one key: a function of the Secret, the key, and whether the reference is optional.
OF_ONE_KEY: Mapping[str, Callable[[str, str, bool], Pod]] = {
    "env": lambda secret, key, optional: {"container": _variable(secret, key, optional)},
    "init-env": lambda secret, key, optional: _init(_variable(secret, key, optional)),
    "sidecar-env": lambda secret, key, optional: _init(_variable(secret, key, optional), restartPolicy="Always"),
    "items": lambda secret, key, optional: {"volumes": [{"name": "v", "secret": _volume(secret, key, optional)}]},
    "projected-items": _projected,
}
# References to all keys.
OF_ALL_KEYS: Mapping[str, Callable[[str, bool], Pod]] = {
    "env-from": lambda secret, optional: {"container": _bulk(secret, optional)},
    "init-env-from": lambda secret, optional: _init(_bulk(secret, optional)),
    "sidecar-env-from": lambda secret, optional: _init(_bulk(secret, optional), restartPolicy="Always"),
    "volume": lambda secret, optional: {"volumes": [{"name": "v", "secret": _volume(secret, None, optional)}]},
    "projected": lambda secret, optional: _projected(secret, None, optional),
}
# Fields that name a Secret, but do not count as a reading of it.
NO_READING: Mapping[str, Callable[[str], Pod]] = {
    "pull": lambda secret: {"imagePullSecrets": [{"name": secret}]},
    "azure-file": lambda secret: {"volumes": [{"name": "v", "azureFile": {"secretName": secret, "shareName": "s"}}]},
}


@dataclass(frozen=True)
class Reference:
    """A reference of a pod to the Secret ``secret``. ``own`` are the annotations of the workload, and ``on_template``
    are the annotations of its pod template.

    ``restarts`` is the verdict of the oracle. ``by_pods`` means that only the age of the pods shows whether a restart
    is needed: a container did not wait for the new key, so the pods that started before it existed run without it.
    """

    name: str
    pod: Pod
    restarts: bool
    secret: str
    by_pods: bool = False
    own: Mapping[str, str] | None = None
    on_template: Mapping[str, str] | None = None


def references(secret: str = "db", moved: str = "moved", other: str = "other") -> Iterator[Reference]:  # noqa: S107
    """Yield every reference to the Secrets of these names, with every state of the key."""
    for (kind, of_key), key, optional in product(OF_ONE_KEY.items(), KEYS, (False, True)):
        # If the new key or the gone key is required, a container does not start without this key. If the key is
        # optional, a container has started without the new key, or has read the value of the key that is gone.
        restarts = {"a": True, "b": False, "gone": optional, "new": optional, "nowhere": False}[key]
        name = f"{kind}-{key}{'-optional' if optional else ''}"
        named = moved if key in MOVED else secret
        by_pods = key == "new" and optional
        yield Reference(name, of_key(named, key, optional), restarts, named, by_pods)
    for (kind, of_all), named, optional in product(OF_ALL_KEYS.items(), (secret, moved, other, "ghost"), (False, True)):
        made = of_all(named, optional)
        restarts = named in (secret, moved)
        yield Reference(f"{kind}-{named}{'-optional' if optional else ''}", made, restarts, named)
    for kind, of_none in NO_READING.items():
        yield Reference(kind, of_none(secret), False, secret)
        yield Reference(f"{kind}-named", of_none(secret), True, secret, own={READS: secret})
    for named in (secret, other):
        yield Reference(f"reads-{named}", {}, named == secret, named, own={READS: named})
        yield Reference(f"reads-on-template-{named}", {}, named == secret, named, on_template={READS: named})
    both = {**_init(_variable(secret, "nowhere", True)), "container": _variable(secret, "a", False)}
    yield Reference("two-keys", both, True, secret)
    yield from _several_keys(moved)


def _several_keys(moved: str) -> Iterator[Reference]:
    """Yield references to several keys of the second Secret. If a required key is not there, no new pod starts, so the
    pods are kept, whatever happens to the other keys."""
    # The other key: "a" changes, "b" stays the same, and "nowhere" shows that an optional key holds back nothing.
    for key, gone_is_optional in product(("a", "b", "nowhere"), (False, True)):
        pod = {"container": _variables(moved, (key, key == "nowhere"), ("gone", gone_is_optional))}
        yield Reference(f"{key}-and-gone{'-optional' if gone_is_optional else ''}", pod, gone_is_optional, moved)
    yield Reference("a-and-nowhere", {"container": _variables(moved, ("a", False), ("nowhere", False))}, False, moved)
    yield Reference("gone-twice", {"container": _variables(moved, ("gone", True), ("gone", False))}, False, moved)
    a, gone = _variable(moved, "a", False), _variable(moved, "gone", False)
    yield Reference("a-and-init-gone", {**_init(gone), "container": a}, False, moved)
    yield Reference("a-and-sidecar-gone", {**_init(gone, restartPolicy="Always"), "container": a}, False, moved)
    for optional in (False, True):
        for kind, of_gone in (("items", OF_ONE_KEY["items"]), ("projected-items", _projected)):
            pod = {**of_gone(moved, "gone", optional), "container": a}
            yield Reference(f"a-and-{kind}-gone{'-optional' if optional else ''}", pod, optional, moved)
    items = {"secretName": moved, "items": [{"key": key, "path": key} for key in ("a", "gone")]}
    yield Reference("items-a-and-gone", {"volumes": [{"name": "v", "secret": items}]}, False, moved)
    yield Reference("all-and-gone", {"container": {**gone, **_bulk(moved, False)}}, False, moved)
    yield Reference("reads-and-gone", {"container": gone}, False, moved, own={READS: moved})
    # The container with the required key waits for the new key, but the pods have read the key that changes.
    new = {**_init(_variable(moved, "new", False), restartPolicy="Always"), "container": a}
    yield Reference("a-and-new", new, True, moved, by_pods=True)


@dataclass(frozen=True)
class Levels:
    """The text at each level of the switch, from the outermost level to the innermost. A level without a text is
    None."""

    chart: str
    namespace: str | None
    secret: str | None
    workload: str | None
    template: str | None

    @property
    def restarts(self) -> bool:
        """The verdict of the oracle: the innermost level that has a text decides. If any text is neither "enabled" nor
        "disabled", nothing restarts."""
        told = [text for text in (self.namespace, self.secret, self.workload, self.template) if text is not None]
        if any(text not in ("enabled", "disabled") for text in told):
            return False
        return [self.chart, *told][-1] == "enabled"


TEXTS = (None, "enabled", "disabled", "sometimes")


def levels(chart: str) -> Iterator[Levels]:
    """Yield every combination of the four inner levels."""
    for inner in product(TEXTS, repeat=4):
        yield Levels(chart, *inner)


def switch(text: str | None) -> dict[str, str]:
    """Return the annotations of an object whose level of the switch says ``text``."""
    return {} if text is None else {SWITCH: text}
