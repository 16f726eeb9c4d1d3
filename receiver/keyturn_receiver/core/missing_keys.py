"""Missing keys: keys that a workload reads from a Secret although the Secret does not have them.

The containers that read such a key do not start, and Kubernetes says so only on the pods.
"""

from collections.abc import Mapping, Sequence, Set
from difflib import get_close_matches

from keyturn_receiver.core.binding import DATA
from keyturn_receiver.core.consumer import Reads
from keyturn_receiver.core.vocabulary import plain_spelling

MAX_NAMES = 10  # a message names at most this many missing keys, and at most this many other keys
MAX_NAME = 80  # characters of a key that a message repeats
# Keys with more characters than this are not compared with others. So a comparison takes at most 0.1 ms.
MAX_COMPARED = 32


def missing_keys(reads: Reads, keys: Set[str]) -> tuple[str, ...]:
    """Return the keys that the containers of a workload wait for, because the Secret has only ``keys``."""
    return tuple(sorted(reads.required - keys))


def named_keys(keys: Set[str], data: str | None) -> tuple[str, ...]:
    """Return those ``keys`` that stand at the start of a line in the annotation `keyturn.dev/data`.

    These names may be shown, because the author of the annotation wrote them. All other names may be secret, because
    they come from the JSON in AWS.
    """
    heads = {line.partition(":")[0].strip(" \t'\"") for line in (data or "").splitlines()}
    return tuple(sorted(heads & keys))


def by_spelling(named: Sequence[str]) -> Mapping[str, str]:
    """Return a map from plain spelling to key. `DB_PASSWORD` and `db-password` have the same plain spelling."""
    return {plain_spelling(key): key for key in reversed(named)}


def missing_keys_message(missing: Sequence[str], named: Sequence[str], spellings: Mapping[str, str], count: int) -> str:
    """Return a message for the people who run a workload. The Secret has ``count`` keys, and the message may name the
    keys in ``named``. ``spellings`` is what ``by_spelling`` returns for ``named``."""
    noun = "the key" if len(missing) == 1 else "the keys"
    others = count - min(len(named), MAX_NAMES)
    counted = f"{others} {'more ' if named else ''}{'key' if others == 1 else 'keys'}"
    has = " and ".join(([", ".join(named[:MAX_NAMES])] if named else []) + ([counted] if others else []))
    near = list(dict.fromkeys(each for key in missing[:MAX_NAMES] if (each := _nearest(key, named, spellings))))
    advice = f"did you mean {', '.join(near)}? " if near and count > 1 else ""
    return (
        f"it reads {noun} {_names(missing)}, which the Secret does not have; it has {has}: {advice}correct the name in"
        f" the pod template, or fill the key with {DATA}; its pods are not restarted for this Secret until then"
    )


def _names(missing: Sequence[str]) -> str:
    more = len(missing) - MAX_NAMES
    return ", ".join(key[:MAX_NAME] for key in missing[:MAX_NAMES]) + (f" and {more} more" if more > 0 else "")


def _nearest(key: str, named: Sequence[str], spellings: Mapping[str, str]) -> str | None:
    if alike := spellings.get(plain_spelling(key)):
        return alike
    short = [each for each in named[:MAX_NAMES] if len(each) <= MAX_COMPARED]
    return next(iter(get_close_matches(key, short, n=1)), None) if len(key) <= MAX_COMPARED else None
