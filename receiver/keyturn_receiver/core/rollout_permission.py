"""Rollout permission: whether a consumer of a Secret may be restarted.

The innermost level with a setting decides (``core/rollout_switch.py``), unless Reloader restarts the consumer.
"""

from collections.abc import Mapping

from keyturn_receiver.core.binding import BindingSpec, Target
from keyturn_receiver.core.consumer import Consumer
from keyturn_receiver.core.reloader import ReloaderMode, switch_of
from keyturn_receiver.core.rollout_pace import pace_faults
from keyturn_receiver.core.rollout_switch import Switch, innermost, read_switch


def permits(
    consumer: Consumer,
    target: Target,
    spec: BindingSpec,
    in_namespace: Mapping[str, str],
    default: Switch,
    reloader: ReloaderMode,
) -> bool:
    """Return whether a consumer may be restarted for the Secret at ``target``.

    ``in_namespace`` has the annotations of the namespace. ``default`` is the chart's setting, which is the outermost
    level. ``reloader`` tells whether Reloader is in the cluster.
    """
    if is_left_to_reloader(consumer, target, spec, reloader):
        return False
    of_namespace = Switch.UNKNOWN if pace_faults(in_namespace) else read_switch(in_namespace)
    by_reloader = Switch.UNSET
    if reloader is ReloaderMode.REPLACED:
        by_reloader = switch_of(consumer.reloader, target.name, spec.reloader_ignore, spec.reloader_match)
    return innermost(default, of_namespace, spec.switch, by_reloader, consumer.switch) is Switch.ENABLED


def is_left_to_reloader(consumer: Consumer, target: Target, spec: BindingSpec, reloader: ReloaderMode) -> bool:
    """Return whether Reloader restarts the consumer when the Secret changes. A second restart would be useless."""
    rules = consumer.reloader
    if reloader is not ReloaderMode.RUNNING or rules is None or spec.reloader_ignore == "true":
        return False
    return rules.selects(target.name, spec.reloader_match)
