"""Reloader's annotations, which select the Secrets whose changes restart a workload. Keyturn reads them in clusters
that use or have used Reloader.

Reloader (https://github.com/stakater/Reloader) restarts workloads that ask for it. This module follows the code of
release 1.4.14; docs/rollouts.md has a table of the annotations. Reloader compiles the names in its list as regular
expressions. Tenants write these names, so Keyturn does not compile them. It understands only names and the wildcard
``.*``.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from keyturn_receiver.core.object_name import is_object_name
from keyturn_receiver.core.rollout_switch import Switch

DOMAIN = "reloader.stakater.com"
AUTO = f"{DOMAIN}/auto"
SEARCH = f"{DOMAIN}/search"
MATCH = f"{DOMAIN}/match"
IGNORE = f"{DOMAIN}/ignore"
SECRET_AUTO = f"secret.{DOMAIN}/auto"
SECRET_LIST = f"secret.{DOMAIN}/reload"
EXCLUDED = f"secrets.exclude.{DOMAIN}/reload"

SELECTING = (AUTO, SEARCH, SECRET_AUTO, SECRET_LIST)
MAX_NAMES = 500  # names in one annotation
MAX_PATTERNS = 20  # names with a wildcard in one annotation
WILDCARD = ".*"

# The texts that Go's strconv.ParseBool accepts.
_TRUE = frozenset({"1", "t", "T", "TRUE", "true", "True"})
_FALSE = frozenset({"0", "f", "F", "FALSE", "false", "False"})


class ReloaderMode(StrEnum):
    """Whether Reloader is in the cluster."""

    ABSENT = "absent"  # Reloader's annotations have no meaning
    REPLACED = "replaced"  # Keyturn restarts the workloads that Reloader's annotations select
    RUNNING = "running"  # Reloader restarts these workloads, and Keyturn does not


@dataclass(frozen=True, slots=True)
class ReloaderRules:
    """What the annotations of a workload select.

    ``names`` and ``patterns`` are the entries of the list of Secrets. If ``auto`` is true, every Secret that the pods
    read is selected. If ``search`` is true, a Secret that the pods read is selected if its annotation MATCH is "true".
    Secrets named in ``excluded`` are never selected. ``selecting`` is false if the workload has none of the annotations
    in SELECTING.
    """

    names: frozenset[str] = frozenset()
    patterns: tuple[str, ...] = ()
    auto: bool = False
    search: bool = False
    excluded: frozenset[str] = frozenset()
    selecting: bool = False

    @property
    def size(self) -> int:
        """The number of names that this object holds, as a measure of its memory."""
        return len(self.names) + len(self.patterns) + len(self.excluded)

    def selects(self, secret_name: str, match: str | None, in_template: bool = True) -> bool:
        """Return whether a Secret that the pods read is selected. ``match`` is the annotation MATCH of the Secret. If
        ``in_template`` is false, the pod template does not refer to the Secret, so only its name selects it."""
        if secret_name in self.excluded:
            return False
        if not in_template:
            return secret_name in self.names
        return (
            self.auto
            or (self.search and match == "true")
            or secret_name in self.names
            or any(_matches(pattern, secret_name) for pattern in self.patterns)
        )


def read_rules(on_workload: Mapping[str, object], on_template: Mapping[str, object]) -> ReloaderRules | None:
    """Read the rules from the annotations of a workload and of its pod template. Returns None if there are none."""
    selecting = _selecting(on_workload, on_template)
    if not selecting and EXCLUDED not in on_workload:
        return None
    entries = _entries(selecting, SECRET_LIST)[:MAX_NAMES]
    return ReloaderRules(
        names=frozenset(filter(is_object_name, entries)),
        patterns=tuple(entry for entry in entries if _is_pattern(entry))[:MAX_PATTERNS],
        auto=any(str(selecting.get(name)) in _TRUE for name in (AUTO, SECRET_AUTO)),
        search=selecting.get(SEARCH) == "true",
        excluded=frozenset(filter(is_object_name, _entries(on_workload, EXCLUDED)[:MAX_NAMES])),
        selecting=bool(selecting),
    )


def has_rules(on_workload: Mapping[str, object], on_template: Mapping[str, object]) -> bool:
    """Return whether a workload or its pod template has an annotation that can make Reloader restart it."""
    return bool(_selecting(on_workload, on_template))


def rule_faults(on_workload: Mapping[str, object], on_template: Mapping[str, object]) -> Iterator[str]:
    """Yield what is wrong with the annotations that ``read_rules`` reads."""
    selecting = _selecting(on_workload, on_template)
    for name, words in ((AUTO, _TRUE | _FALSE), (SECRET_AUTO, _TRUE | _FALSE), (SEARCH, {"true", "false"})):
        if name in selecting and str(selecting[name]) not in words:
            yield f'annotation {name} is "{selecting[name]!s:.40}": write true or false'
    for annotations, name in ((selecting, SECRET_LIST), (on_workload, EXCLUDED)):
        entries = _entries(annotations, name)
        if name in annotations and not entries:
            # The client for Kubernetes drops long strings, so an annotation that is too long looks empty here.
            yield f"annotation {name} names no Secret, or is too long: write names of Secrets, separated by commas"
        if len(entries) > MAX_NAMES:
            yield f"annotation {name} has more than {MAX_NAMES} names: name fewer"
        is_list = name == SECRET_LIST
        for entry in entries[:MAX_NAMES]:
            if not is_object_name(entry) and not (is_list and _is_pattern(entry)):
                yield f'annotation {name}: "{entry:.80}" is not understood: write names of Secrets, separated by commas'
                break
        if is_list and sum(map(_is_pattern, entries[:MAX_NAMES])) > MAX_PATTERNS:
            yield f"annotation {name} has more than {MAX_PATTERNS} names with {WILDCARD}: write the names out"


def secret_rule_faults(ignore: str | None, match: str | None) -> Iterator[str]:
    """Yield what is wrong with the annotations IGNORE and MATCH of a Secret."""
    for name, text in ((IGNORE, ignore), (MATCH, match)):
        if text not in (None, "true", "false"):
            yield f'annotation {name} is "{text:.40}": write true or false'


def switch_of(rules: ReloaderRules | None, secret_name: str, ignore: str | None, match: str | None) -> Switch:
    """Return what the annotations of a workload and of a Secret that its pods read say about a restart of the workload.

    ``ignore`` and ``match`` are annotations of the Secret.
    """
    if ignore not in (None, "true", "false"):
        return Switch.UNKNOWN
    if ignore == "true" or (rules and secret_name in rules.excluded):
        return Switch.DISABLED
    if rules is None or not rules.selecting:
        return Switch.UNSET
    return Switch.ENABLED if rules.selects(secret_name, match) else Switch.DISABLED


def _selecting(on_workload: Mapping[str, object], on_template: Mapping[str, object]) -> Mapping[str, object]:
    """Return the annotations that select Secrets (SELECTING). The annotations of the pod template count only if the
    workload has no such annotation."""
    for annotations in (on_workload, on_template):
        if found := {name: annotations[name] for name in SELECTING if name in annotations}:
            return found
    return {}


def _entries(annotations: Mapping[str, object], name: str) -> list[str]:
    return [entry for each in str(annotations.get(name, "")).split(",") if (entry := each.strip())]


def _is_pattern(entry: str) -> bool:
    return WILDCARD in entry and is_object_name(f"x{entry.replace(WILDCARD, 'x')}x")


def _matches(pattern: str, name: str) -> bool:
    """Return whether a name matches a pattern whose only wildcard is ``.*``."""
    first, *middle, last = pattern.split(WILDCARD)
    if not name.startswith(first) or not name.endswith(last) or len(name) < len(first) + len(last):
        return False
    position, end = len(first), len(name) - len(last)
    for part in middle:
        found = name.find(part, position, end)
        if found < 0:
            return False
        position = found + len(part)
    return True
