"""Vocabulary: the names of Keyturn's annotations and labels, and the objects that they belong on.

An unknown name is a fault. Otherwise a misspelt annotation would have no effect, and its author would not notice. Names
that a newer release of Keyturn has written are not faults, because Kubernetes records Keyturn as their owner.
"""

from collections.abc import Iterable, Iterator, Mapping
from difflib import SequenceMatcher, get_close_matches
from enum import StrEnum
from functools import lru_cache
from itertools import islice

from keyturn_receiver.core.field_owners import MANAGERS, managed_fields, owned
from keyturn_receiver.core.json_access import as_object

DOMAIN = "keyturn.dev"
BIND_LABEL = f"{DOMAIN}/bind"
WATCH_LABEL = f"{DOMAIN}/watch"
MAX_FAULTS = 10  # at most this many faults are reported for one object
# At most this many names of one object are compared with known names; a comparison takes some 0.1 ms.
MAX_CANDIDATES = 100

# Values of the labels ``bind`` and ``watch`` that mean "no".
NOT_BOUND_VALUES = frozenset({"false", "no", "off", "n", "0", "disabled"})


class Place(StrEnum):
    """The kind of object that has an annotation or a label."""

    SECRET = "Secret"  # noqa: S105 - a kind of object
    WORKLOAD = "workload"
    POD_TEMPLATE = "pod template"
    NAMESPACE = "namespace"


_S, _W, _T, _N = Place.SECRET, Place.WORKLOAD, Place.POD_TEMPLATE, Place.NAMESPACE
# The annotations that authors write.
DECLARED: Mapping[str, tuple[Place, ...]] = {
    "secret-id": (_S,),
    "secrets": (_S,),
    "data": (_S,),
    "version-stage": (_S,),
    "service-account": (_S,),
    "on-delete": (_S,),
    "reconcile": (_S,),
    "rollout": (_W, _T, _S, _N),
    "restart": (_W, _T),
    "rollout-order": (_W, _T),
    "rollout-window": (_N, _W, _T),
    "rollout-pace": (_S, _N),
    "rollout-resume": (_S,),
    "reads": (_W, _T),
    "allow-secrets": (_N,),
}
# The annotations that Keyturn writes.
WRITTEN: Mapping[str, tuple[Place, ...]] = dict.fromkeys(
    (
        "version-ids",
        "revisions",
        "data-hash",
        "binding-hash",
        "record-hash",
        "status",
        "applied-at",
        "changed-at",
        "label-moved-at",
        "unsettled",
        "reconciled",
        "watched",
        "history",
    ),
    (_S,),
)
LABELS: Mapping[str, tuple[Place, ...]] = {"bind": (_S,), "watch": (_S,), "state": (_S,)}
_ANNOTATIONS = {**DECLARED, **WRITTEN}
# Synonyms: other words that an author may use for an annotation. The value is the right word.
SYNONYMS: Mapping[str, str] = {
    **dict.fromkeys(
        ("key", "keys", "template", "values", "map", "mapping", "properties", "items", "fields", "expressions"), "data"
    ),
    **dict.fromkeys(("id", "arn", "name", "secret", "secret-name", "secret-arn", "source", "from"), "secret-id"),
    **dict.fromkeys(("sources", "aliases", "secret-ids", "arns"), "secrets"),
    **dict.fromkeys(("stage", "version", "version-label", "staging-label", "label"), "version-stage"),
    **dict.fromkeys(("sa", "role", "role-arn", "iam-role", "account"), "service-account"),
    **dict.fromkeys(("delete", "deletion", "deletion-policy", "reclaim-policy", "prune"), "on-delete"),
    **dict.fromkeys(("refresh", "sync", "force-sync", "resync", "requested-at", "now"), "reconcile"),
    **dict.fromkeys(("uses", "used", "consumes", "depends-on", "secret-names", "watches"), "reads"),
    **dict.fromkeys(("restarts", "reload", "auto"), "rollout"),
    **dict.fromkeys(("order", "wave", "sync-wave", "canary", "priority", "stage-order"), "rollout-order"),
    **dict.fromkeys(("window", "windows", "schedule", "maintenance-window", "cron"), "rollout-window"),
    **dict.fromkeys(("pace", "max-unfinished", "max-unavailable", "parallelism", "rate"), "rollout-pace"),
    **dict.fromkeys(("resume", "continue", "unhalt"), "rollout-resume"),
    **dict.fromkeys(("allow", "allowed", "policy"), "allow-secrets"),
    **dict.fromkeys(("enabled", "enable", "managed"), "bind"),
}


def plain_spelling(word: str) -> str:
    """Return a form of a name that is the same for all its spellings, such as `secretId`, `secret_id` and
    `Secret-ID`."""
    return word.lower().replace("-", "").replace("_", "").replace(".", "")


_WORDS = frozenset(plain_spelling(word) for word in (*DECLARED, *LABELS, *SYNONYMS))
_MAX_DOMAIN = 16  # characters; a longer domain cannot be a misspelling of Keyturn's
# A domain counts as a misspelling of Keyturn's if its similarity (0 to 1) is above one of these numbers. In front of
# one of Keyturn's own words, a fairly similar domain counts. In front of a word that others also use, such as `name`,
# only a very similar domain counts: saturn.dev and return.dev are fairly similar, and may belong to others.
_FAIRLY_NEAR, _VERY_NEAR = 0.72, 0.88

# Each key has a kind of object and a name that has no meaning on this kind. The value is the annotation that the author
# may mean.
HOMONYMS: Mapping[tuple[Place, str], str] = {
    (Place.NAMESPACE, "secrets"): "allow-secrets",
    (Place.NAMESPACE, "restart"): "rollout",
    (Place.SECRET, "restart"): "rollout",
}


def secret_faults(metadata: Mapping[str, object]) -> tuple[str, ...]:
    """Return the faults in the names of a bound Secret's annotations and labels, and in the value of its bind label."""
    labels, annotations = as_object(metadata.get("labels")), as_object(metadata.get("annotations"))
    value = labels.get(BIND_LABEL)
    faults = [] if value == "true" else [f'label {BIND_LABEL} is "{value}": set it to "true"']
    if value == "true":  # an annotation with the name of the label does no harm
        annotations = {name: text for name, text in annotations.items() if name != BIND_LABEL}
    return _first([*faults, *name_faults(metadata, annotations, labels, Place.SECRET)])


def object_faults(metadata: Mapping[str, object], place: Place) -> tuple[str, ...]:
    """Return the faults in the names of an object's annotations and labels."""
    labels, annotations = as_object(metadata.get("labels")), as_object(metadata.get("annotations"))
    return _first(name_faults(metadata, annotations, labels, place))


def name_faults(
    metadata: Mapping[str, object], annotations: Iterable[str], labels: Iterable[str], place: Place
) -> Iterator[str]:
    """Yield a fault for each name that is unknown, that is on the wrong kind of object, or that is a label but should
    be an annotation (or the reverse).

    ``metadata`` has the managed fields of the object.
    """
    for what, names in (("annotation", annotations), ("label", labels)):
        unknown = sorted(islice((name for name in names if _is_stray(what, name, place)), MAX_CANDIDATES))
        if unknown:
            written = _owned(metadata, f"{what}s")
            yield from (fault for name in unknown if name not in written and (fault := _fault(what, name, place)))


def is_bind_value(value: object) -> bool:
    """Return whether the author of this label value means "yes", even if the value is misspelt."""
    return isinstance(value, str) and value.lower() not in NOT_BOUND_VALUES


@lru_cache(maxsize=4096)  # each change of an object shows the same names again
def _is_stray(what: str, name: str, place: Place) -> bool:
    """Return whether a name may be meant for Keyturn, but has no meaning on this kind of object."""
    return _may_be_ours(name) and place not in _places(name, LABELS if what == "label" else _ANNOTATIONS)


def _may_be_ours(name: str) -> bool:
    """Return whether a name may be meant for Keyturn. The domain of such a name is Keyturn's own, or is short enough to
    be a misspelling of it. In the second case, the rest of the name has to be one of Keyturn's words or a synonym."""
    domain, slash, word = name.partition("/")
    return bool(slash) and (domain == DOMAIN or (len(domain) <= _MAX_DOMAIN and plain_spelling(word) in _WORDS))


def _places(name: str, known: Mapping[str, tuple[Place, ...]]) -> tuple[Place, ...]:
    domain, _, word = name.partition("/")
    return known.get(word, ()) if domain == DOMAIN else ()


def _fault(what: str, name: str, place: Place) -> str | None:
    domain, _, word = name.partition("/")
    is_exact = word in DECLARED or word in LABELS
    if domain != DOMAIN and not _is_near_domain(domain, _FAIRLY_NEAR if is_exact else _VERY_NEAR):
        return None  # the domain belongs to another project
    places = _places(name, LABELS if what == "label" else _ANNOTATIONS)
    if domain == DOMAIN and (place, word) in HOMONYMS:
        kind = "annotation " if what == "label" else ""
        return f"{what} {name} is not known: did you mean {kind}{DOMAIN}/{HOMONYMS[place, word]}?"
    if domain == DOMAIN and places:
        return f"{what} {name} does not belong on a {place}: move it to the {places[0]}"
    if place in _places(name, DECLARED if what == "label" else LABELS):
        return f"{what} {name} has no effect: make it {'an annotation' if what == 'label' else 'a label'}"
    nearest = _nearest(word, place)
    if nearest is None:
        if domain != DOMAIN and not is_exact:
            return None  # Keyturn does not use the word on this object, so the name belongs to another project
        known = ", ".join(f"{DOMAIN}/{each}" for each, owners in DECLARED.items() if place in owners)
        return f"{what} {name} is not known: " + (f"remove it, or use one of {known}" if known else "remove it")
    kind = "label " if nearest in LABELS else "annotation " if what == "label" else ""
    return f"{what} {name} is not known: did you mean {kind}{DOMAIN}/{nearest}?"


def _nearest(word: str, place: Place) -> str | None:
    word = word.lower().replace("_", "-").replace(".", "-")
    known = [each for each, places in {**DECLARED, **LABELS}.items() if place in places]
    near = HOMONYMS.get((place, word)) or SYNONYMS.get(word)
    if near in known:
        return near
    close = get_close_matches(word, known, n=1, cutoff=0.6)
    return close[0] if close else None


@lru_cache(maxsize=1024)
def _is_near_domain(domain: str, ratio: float) -> bool:
    """Return whether a domain may be a misspelling of Keyturn's. That is so if its similarity to Keyturn's domain is
    above ``ratio`` (0 to 1), or if it differs only in the top-level domain."""
    if len(domain) > _MAX_DOMAIN:
        return False
    name, _, rest = domain.lower().partition(".")
    if name == DOMAIN.partition(".")[0] and "." not in rest:
        return True
    return SequenceMatcher(None, domain.lower(), DOMAIN).ratio() > ratio


def _owned(metadata: Mapping[str, object], what: str) -> frozenset[str]:
    """Return the names of the annotations or labels that any release of Keyturn has written."""
    ours = (as_object(each.get("fieldsV1")) for each in managed_fields(metadata) if each.get("manager") in MANAGERS)
    return frozenset(name for fields in ours for name in owned(fields, "metadata", what))


def _first(faults: Iterable[str]) -> tuple[str, ...]:
    return tuple(islice(faults, MAX_FAULTS))
