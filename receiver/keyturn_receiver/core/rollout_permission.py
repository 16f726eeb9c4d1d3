"""Rollout permission: whether a consumer of a Secret may be restarted.

The innermost level with a setting decides (``core/rollout_switch.py``), unless Reloader restarts the consumer.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from keyturn_receiver.core.binding import BindingSpec, Target
from keyturn_receiver.core.consumer import Consumer
from keyturn_receiver.core.reloader import ReloaderMode, switch_of
from keyturn_receiver.core.rollout_pace import pace_faults
from keyturn_receiver.core.rollout_switch import ROLLOUT, Switch, innermost, read_switch, switch_faults

# The levels that decide about restarts, from the outermost to the innermost.
_PLACES = (
    "chart value rollouts.default",
    f"{ROLLOUT} on the namespace",
    f"{ROLLOUT} on the Secret",
    "Reloader's annotations",
    f"{ROLLOUT} on the workload",
)


@dataclass(frozen=True, slots=True)
class OuterLevels:
    """The levels outside the Secret and the workload. ``in_namespace`` has the annotations of the namespace.
    ``default`` is the chart's setting, which is the outermost level. ``reloader`` tells whether Reloader is in the
    cluster."""

    in_namespace: Mapping[str, str]
    default: Switch
    reloader: ReloaderMode


def permits(consumer: Consumer, target: Target, spec: BindingSpec, outer: OuterLevels) -> bool:
    """Return whether a consumer may be restarted for the Secret at ``target``."""
    if is_left_to_reloader(consumer, target, spec, outer.reloader):
        return False
    return innermost(*_levels(consumer, target, spec, outer)) is Switch.ENABLED


def refusal(consumer: Consumer, target: Target, spec: BindingSpec, outer: OuterLevels) -> str:
    """Return the reason why a consumer may not be restarted for the Secret at ``target``, or an empty text if it may be
    restarted."""
    if permits(consumer, target, spec, outer):
        return ""
    annotations = outer.in_namespace
    if faults := (*consumer.faults, *switch_faults(annotations, "on the namespace"), *pace_faults(annotations)):
        return f"never restarted until this is corrected: {faults[0]}"
    if is_left_to_reloader(consumer, target, spec, outer.reloader):
        return "Reloader restarts it"
    levels = dict(zip(_PLACES, _levels(consumer, target, spec, outer), strict=True))
    if wrong := [place for place, switch in levels.items() if switch is Switch.UNKNOWN]:
        return f"never restarted until this is corrected: {wrong[0]}"
    decided = [place for place, switch in levels.items() if switch is not Switch.UNSET]
    return f"restarts are off ({decided[-1] if decided else _PLACES[0]})"


def is_left_to_reloader(consumer: Consumer, target: Target, spec: BindingSpec, reloader: ReloaderMode) -> bool:
    """Return whether Reloader restarts the consumer when the Secret changes. A second restart would be useless."""
    rules = consumer.reloader
    if reloader is not ReloaderMode.RUNNING or rules is None or spec.reloader_ignore == "true":
        return False
    reads = consumer.reads.get(target.name)
    return rules.selects(target.name, spec.reloader_match, reads is None or reads.in_template)


def _levels(consumer: Consumer, target: Target, spec: BindingSpec, outer: OuterLevels) -> tuple[Switch, ...]:
    """Return what each level of _PLACES says about restarts."""
    of_namespace = Switch.UNKNOWN if pace_faults(outer.in_namespace) else read_switch(outer.in_namespace)
    by_reloader = Switch.UNSET
    if outer.reloader is ReloaderMode.REPLACED:
        by_reloader = switch_of(consumer.reloader, target.name, spec.reloader_ignore, spec.reloader_match)
    return outer.default, of_namespace, spec.switch, by_reloader, consumer.switch
