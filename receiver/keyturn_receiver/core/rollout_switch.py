"""Rollout switch: the annotation ``keyturn.dev/rollout``. It turns restarts on and off.

There are several levels. From the outermost to the innermost, they are the chart, the namespace, the Secret, the
workload and its pod template. The innermost level with a setting decides. But a text that is not understood, on any
level, forbids restarts, because an unwanted restart cannot be undone.
"""

from collections.abc import Mapping
from difflib import get_close_matches
from enum import StrEnum

ROLLOUT = "keyturn.dev/rollout"
ENABLED = "enabled"
DISABLED = "disabled"

MAX_TEXT = 40  # a message repeats at most this many characters of a wrong text

# Words that an author may use instead of "enabled" or "disabled".
_MEANT: Mapping[str, str] = {
    **dict.fromkeys(("true", "yes", "on", "1", "y", "auto", "always", "allow", "restart"), ENABLED),
    **dict.fromkeys(("false", "no", "off", "0", "n", "never", "none", "skip", "ignore", "manual", "deny"), DISABLED),
}


class Switch(StrEnum):
    """What one level says about restarts."""

    UNSET = "unset"
    ENABLED = "enabled"
    DISABLED = "disabled"
    UNKNOWN = "unknown"  # its text is not understood


def read_switch(annotations: Mapping[str, object]) -> Switch:
    """Read the switch from the annotations of a namespace, a Secret, a workload or a pod template."""
    if ROLLOUT not in annotations:
        return Switch.UNSET
    text = _text(annotations)
    return Switch(text) if text in (ENABLED, DISABLED) else Switch.UNKNOWN


def switch_faults(annotations: Mapping[str, object], place: str = "") -> tuple[str, ...]:
    """Return what is wrong with the switch. ``place`` tells where it is, such as "on the pod template"."""
    if read_switch(annotations) is not Switch.UNKNOWN:
        return ()
    text = _text(annotations)
    meant = _nearest(text)
    advice = f"did you mean {meant}? write" if meant else "write"
    where = f"{ROLLOUT} {place}".strip()
    return (f'annotation {where} is "{text:.{MAX_TEXT}}": {advice} {ENABLED} or {DISABLED}',)


def innermost(*levels: Switch) -> Switch:
    """Return the setting that follows from several ``levels``. The outermost level is the first argument, and the
    innermost level is the last. If one level is UNKNOWN, the result is UNKNOWN."""
    if Switch.UNKNOWN in levels:
        return Switch.UNKNOWN
    return next((level for level in reversed(levels) if level is not Switch.UNSET), Switch.UNSET)


def _text(annotations: Mapping[str, object]) -> str:
    return str(annotations[ROLLOUT]).strip()


def _nearest(text: str) -> str | None:
    word = text.lower()
    if len(word) > MAX_TEXT:
        return None
    close = get_close_matches(word, (ENABLED, DISABLED), n=1, cutoff=0.6)
    return _MEANT.get(word) or (close[0] if close else None)
