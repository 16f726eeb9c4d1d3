"""Rollout pace: the annotation ``keyturn.dev/rollout-pace``. It limits how many rollouts may be unfinished at a time.

On a Secret, the limit applies to the rollouts for that Secret. On a namespace, it applies to all rollouts in that
namespace together. The annotation can only lower the limit that the chart sets.
"""

import re
from collections.abc import Mapping

PACE = "keyturn.dev/rollout-pace"
_POSITIVE = re.compile(r"0*[1-9][0-9]{0,5}")


def read_pace(annotations: Mapping[str, object]) -> int | None:
    """Return the pace, which is the most rollouts that may be unfinished at a time. Return None if there is no
    annotation, or if it is not understood (``pace_faults``)."""
    text = str(annotations.get(PACE, "")).strip()
    return int(text) if len(text) <= 10 and _POSITIVE.fullmatch(text) else None


def pace_faults(annotations: Mapping[str, object]) -> tuple[str, ...]:
    """Return what is wrong with the pace in the annotations of a Secret or a namespace."""
    if PACE not in annotations or read_pace(annotations) is not None:
        return ()
    return (
        f'annotation {PACE} is "{annotations[PACE]!s:.40}": write how many workloads may restart at a time, 1 or more;'
        " to restart none, write keyturn.dev/rollout: disabled",
    )
