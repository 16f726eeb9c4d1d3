"""Rollout order: the annotation ``keyturn.dev/rollout-order``. With it, a canary is restarted before the other
consumers.

The value is an integer. Consumers with a lower number come first, and consumers without a number come last. The
annotation belongs on the workload. It can also be on the pod template, because some charts let authors annotate only
pods.
"""

import re
from collections.abc import Mapping

ORDER = "keyturn.dev/rollout-order"
_INTEGER = re.compile(r"[+-]?[0-9]{1,6}")


def read_order(on_workload: Mapping[str, object], on_template: Mapping[str, object]) -> int | None:
    """Return the order of a workload. Returns None if the workload has no order, or if its order is not understood
    (``order_faults``)."""
    text = str(on_workload.get(ORDER, on_template.get(ORDER, ""))).strip()
    return int(text) if _INTEGER.fullmatch(text) else None


def order_faults(on_workload: Mapping[str, object], on_template: Mapping[str, object]) -> tuple[str, ...]:
    """Return what is wrong with the order in the annotations of a workload and of its pod template."""
    for annotations, where in ((on_workload, ORDER), (on_template, f"{ORDER} on the pod template")):
        if ORDER in annotations and not _INTEGER.fullmatch(str(annotations[ORDER]).strip()):
            text = str(annotations[ORDER])
            return (f'annotation {where} is "{text:.40}": write an integer of at most 6 digits, such as 1',)
    first, second = (read_order(each, {}) for each in (on_workload, on_template))
    if first is not None and second is not None and first != second:
        return (f"annotation {ORDER} is {first}, and {second} on the pod template: write it once",)
    return ()
