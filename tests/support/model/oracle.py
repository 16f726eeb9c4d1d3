"""The oracle that checks every history: it compares the recorded states of Secrets and consumers with the values in
AWS."""

import json
from base64 import b64decode
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from keyturn_receiver.core.binding import DATA, SECRET_ID, is_bound
from keyturn_receiver.core.consumer import MARK_PREFIX
from keyturn_receiver.core.revision import APPLIED_AT, REVISIONS, STATUS, VERSION_IDS, digest

SUFFIX = "~"  # begins the suffix that a mark has if an older value has returned
HAND = "hand"  # the annotation that marks an edit by hand: each such edit changes it

Value = Mapping[str, Any] | str
Reads = frozenset[str] | None  # the keys that a consumer reads, or None if it reads all of them


class ExpectedError(Exception):
    """Raised if a Secret cannot be filled, such as if its binding is invalid or its value lacks a property that the
    binding names. The text is the status reason."""


def everything(value: Value) -> dict[str, str]:
    if isinstance(value, str):
        return {"value": value}
    return {key: part if isinstance(part, str) else json.dumps(part) for key, part in value.items()}


def property_of(value: Value, name: str) -> str:
    if isinstance(value, str) or name not in value:
        raise ExpectedError("InvalidValue")
    return str(value[name])


def no_binding(value: Value) -> dict[str, str]:
    raise ExpectedError("InvalidBinding")


# The bindings that histories use. Each is mapped to a function that returns the expected data for a value. The key is
# the value of the annotation keyturn.dev/data, or "" for a Secret without that annotation.
BINDINGS: Mapping[str, Callable[[Value], dict[str, str]]] = {
    "": everything,
    "PASSWORD: password": lambda value: {"PASSWORD": property_of(value, "password")},
    "PASSWORD: user": lambda value: {"PASSWORD": property_of(value, "user")},
    "PASSWORD: password\nUSER: user": lambda value: {
        "PASSWORD": property_of(value, "password"),
        "USER": property_of(value, "user"),
    },
    "PASSWORD: password\nURL: join('', ['db://', user, ':', password])": lambda value: {
        "PASSWORD": property_of(value, "password"),
        "URL": f"db://{property_of(value, 'user')}:{property_of(value, 'password')}",
    },
    "ALL: '@'": lambda value: {"ALL": value if isinstance(value, str) else json.dumps(value)},  # as aws_model writes it
    "PASSWORD: '['": no_binding,
}


def rendered(binding: str, value: Value) -> dict[str, bytes]:
    """Return the data that a Secret with this binding should hold. Raises ExpectedError."""
    return {key: text.encode() for key, text in BINDINGS[binding](value).items()}


@dataclass(frozen=True)
class Version:
    """One version of an AWS secret."""

    secret_id: str
    arn: str
    version_id: str
    value: Value


@dataclass
class AppliedState:
    """A state that Keyturn has written to a Secret: the data that it meant to write, and the revisions that it
    recorded."""

    at: int
    data: Mapping[str, bytes]
    revisions: Mapping[str, str]


@dataclass
class SecretOracle:
    """Checks the states of one Secret, one after the other. ``order`` maps the id of each AWS secret to the ids of the
    versions that have held AWSCURRENT, in the order in which they held it."""

    versions: Mapping[str, Version]
    order: Mapping[str, Sequence[str]]
    ordered: bool = True
    applied: list[AppliedState] = field(default_factory=list)
    foreign: set[str] = field(default_factory=set)  # keys that the object had at first, or that were edited by hand
    _seen: int = 0
    _state: Any = None
    _applied_to: str = ""  # the uid of the object that Keyturn wrote last
    # The keys that the object had at first, or that were edited by hand, and that Keyturn has not written since.
    _touched: set[str] = field(default_factory=set)
    _meaning: dict[tuple[str, str], bytes] = field(default_factory=dict)
    _place: dict[str, int] = field(default_factory=dict)

    def check(self, states: Sequence[Any]) -> None:
        """Check the states that have been added since the previous check."""
        for state in states[self._seen :]:
            self._seen += 1
            before, self._state = self._state, state
            if before is None or uid(before) != uid(state):
                assert APPLIED_AT not in annotations(state), "a new Secret has a record already"
                self._touched, self.foreign = set(data(state)), set(data(state))
            elif annotations(state).get(APPLIED_AT) != annotations(before).get(APPLIED_AT):
                self._check_applied(before, state)
            else:
                changed = differing(data(before), data(state))
                assert not changed or annotations(before).get(HAND) != annotations(state).get(HAND), (
                    f"{sorted(changed)} changed, and neither by hand nor with a record of it"
                )
                self._touched |= changed
                self.foreign |= changed

    def _check_applied(self, before: Any, state: Any) -> None:
        told = annotations(state)
        assert is_bound(state["metadata"]), "written, though it is not bound"
        ((key, version_id),) = json.loads(told[VERSION_IDS]).items()
        assert version_id in self.versions, "made from a version that never was"
        version = self.versions[version_id]
        assert told[SECRET_ID] in (version.secret_id, version.arn), "made from another secret than the binding names"
        assert key == f"{version.arn}#AWSCURRENT"
        meant = rendered(told.get(DATA, ""), version.value)
        assert {key: data(state).get(key) for key in meant} == meant, "not what one version gives"
        assert told[STATUS] == "ok"
        self._check_others_keys(data(before), data(state), meant)
        self._check_revisions(meant, json.loads(told[REVISIONS]), uid(before))
        self._check_order(version)
        self._touched -= meant.keys()

    def _check_others_keys(
        self, before: Mapping[str, bytes], after: Mapping[str, bytes], meant: Mapping[str, bytes]
    ) -> None:
        others = differing(before, after) - meant.keys()
        assert all(key not in after for key in others), "another's key was written"
        ours = self.applied[-1].data.keys() if self.applied else set()
        assert others <= ours, "another's key was taken away"
        assert after.keys() - meant.keys() <= self.foreign, "a key was left behind"

    def _check_revisions(self, meant: Mapping[str, bytes], told: Mapping[str, str], of: str) -> None:
        assert told.keys() == meant.keys()
        last = self.applied[-1] if self._applied_to == of else None
        for key, value in meant.items():
            assert self._meaning.setdefault((key, told[key]), value) == value, (
                f"revision {told[key]} of {key} stands for two values: who was restarted for one misses the other"
            )
            if last and key in last.data and key not in self._touched:
                changed = last.data[key] != value
                assert (last.revisions[key] != told[key]) == changed, f"{key}: revision and value differ in change"
        self.applied.append(AppliedState(version_of(self._state), meant, told))
        self._applied_to = of

    def _check_order(self, version: Version) -> None:
        if not self.ordered:
            return
        order, place = self.order[version.secret_id], self._place.get(version.secret_id, 0)
        assert version.version_id in order[place:], "an older version was written over a newer one"
        self._place[version.secret_id] = order.index(version.version_id, place)

    @property
    def filled(self) -> bool:
        """Return whether Keyturn has written the present object of this name."""
        return self._state is not None and self._applied_to == uid(self._state)

    def revisions(self) -> list[tuple[int, Mapping[str, str]]]:
        """Return all recorded revisions in order, each with the resource version that the Secret got by their write."""
        return [(each.at, each.revisions) for each in self.applied]

    def as_of(self, at: int) -> Mapping[str, bytes]:
        """Return the data that Keyturn had last written when the cluster was at resource version ``at``."""
        return next((each.data for each in reversed(self.applied) if each.at <= at), {})


def check_consumer(states: Sequence[Any], secrets: Mapping[str, SecretOracle], settled: Sequence[str] = ()) -> int:
    """Check the states of a workload against those of the Secrets that it reads. Return its number of restarts.

    The states include those of earlier objects of the same name. ``settled`` names Secrets. If the workload reads one
    of them in the end, it must have the mark of the Secret's last revision, and its pods must not hold older values.
    """
    restarts = 0
    for _, lifetime in groupby(states, uid):
        life = list(lifetime)
        restarts += sum(_check_marks(life, name, oracle) for name, oracle in secrets.items())
    for name in settled if states else ():
        _check_end(life, name, secrets[name])
    return restarts


def _check_marks(life: Sequence[Any], name: str, oracle: SecretOracle) -> int:
    """Check that each mark belongs to a state of the Secret, and that the marks follow the order of these states."""
    restarts, place = 0, -1
    last: str | None = None
    last_on_template: str | None = None
    last_reads: Reads = frozenset()
    for state in life:
        on_template = template_mark(state, name)
        mark = annotations(state).get(MARK_PREFIX + name) or on_template
        reads = reads_of(state).get(name, frozenset())
        restarted = on_template != last_on_template
        if mark != last or restarted:
            assert not restarted or on_template == mark, "restarted while it is said that its pods need none"
            revisions_mark = mark and mark.partition(SUFFIX)[0]
            begin = place + (reads == last_reads)
            told = oracle.revisions()
            found = next(
                (at for at in range(max(0, begin), len(told)) if wanted(told[at][1], reads) == revisions_mark),
                None,
            )
            assert found is not None or not restarted, (
                f"restarted for a revision of {name} that never was, or a second time, or backwards"
            )
            restarts += restarted
            place = place if found is None else found
            last_reads = reads
        last, last_on_template = mark, on_template
    return restarts


def _check_end(life: Sequence[Any], name: str, oracle: SecretOracle) -> None:
    state, reads = life[-1], reads_of(life[-1]).get(name)
    if name not in reads_of(state) or not oracle.filled:
        return
    final = oracle.applied[-1]
    expected = wanted(final.revisions, reads)
    has = annotations(state).get(MARK_PREFIX + name) or template_mark(state, name)
    assert expected is None or (has and has.partition(SUFFIX)[0] == expected), (
        f"not restarted for the last revision of {name}"
    )
    if template_mark(state, name):
        begun = [version_of(next(same)) for _, same in groupby(life, lambda each: each["spec"]["template"])]
        read = oracle.as_of(begun[-1])
        keys = final.data.keys() if reads is None else final.data.keys() & reads
        # A pod does not start until all keys that it reads exist, so a missing key is not an error.
        assert all(read.get(key, final.data[key]) == final.data[key] for key in keys), f"pods hold old values of {name}"


def wanted(revisions: Mapping[str, str], reads: Reads) -> str | None:
    """Return the mark that a consumer of these keys should have, or None if the Secret has none of them."""
    keys = revisions.keys() if reads is None else revisions.keys() & reads
    return digest(revisions, keys) if keys else None


def reads_of(workload: Any) -> dict[str, Reads]:
    """Return the keys that the pods of a workload read from each Secret. Only the ways of reading that these tests use
    are recognized."""
    (container,) = workload["spec"]["template"]["spec"]["containers"]
    found: dict[str, Reads] = {each["secretRef"]["name"]: None for each in container.get("envFrom", [])}
    for variable in container.get("env", []):
        ref = variable["valueFrom"]["secretKeyRef"]
        known = found.get(ref["name"], frozenset())
        found[ref["name"]] = None if known is None else known | {ref["key"]}
    return found


def template_mark(workload: Any, secret: str) -> str | None:
    return (workload["spec"]["template"]["metadata"].get("annotations") or {}).get(MARK_PREFIX + secret)


def data(state: Any) -> dict[str, bytes]:
    return {key: b64decode(value) for key, value in (state.get("data") or {}).items()}


def annotations(state: Any) -> dict[str, str]:
    return state["metadata"].get("annotations") or {}


def uid(state: Any) -> str:
    return str(state["metadata"]["uid"])


def version_of(state: Any) -> int:
    """Return the resource version. A later write to the API server has a higher one.

    https://kubernetes.io/docs/reference/using-api/api-concepts/#resource-versions
    """
    return int(state["metadata"]["resourceVersion"])


def differing(one: Mapping[str, bytes], other: Mapping[str, bytes]) -> set[str]:
    return {key for key in one.keys() | other.keys() if one.get(key) != other.get(key)}


def lines_of(states: Sequence[Any]) -> Iterator[str]:
    """Yield a short, readable line for each state of a Secret or a workload."""
    for state in states:
        told = {
            name.partition("/")[2] or name: text[:60]
            for name, text in annotations(state).items()
            if name in (APPLIED_AT, REVISIONS, VERSION_IDS, STATUS, DATA, SECRET_ID, HAND)
            or name.startswith(MARK_PREFIX)
        }
        held = {key: value[:40] for key, value in data(state).items()} if state["kind"] == "Secret" else reads_of(state)
        labels = state["metadata"].get("labels") or ""
        yield f"{version_of(state)} {uid(state)[:4]} {labels} {told} {held}"
