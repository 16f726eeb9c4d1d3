"""Rollout policy: which consumers of a Secret may be restarted."""

from keyturn_receiver.cluster.namespace_cache import NamespaceCache
from keyturn_receiver.core.binding import BindingSpec, Target
from keyturn_receiver.core.consumer import Consumer
from keyturn_receiver.core.reloader import ReloaderMode, secret_rule_faults, switch_of
from keyturn_receiver.core.rollout_pace import pace_faults
from keyturn_receiver.core.rollout_switch import Switch, innermost, read_switch


class RolloutPolicy:
    """Rollout policy. The innermost level that says something decides (``core/rollout_switch.py``). ``default`` is what
    the chart says, which is the outermost level. ``reloader`` tells whether Reloader is in the cluster."""

    def __init__(
        self, namespaces: NamespaceCache, default: Switch, reloader: ReloaderMode = ReloaderMode.ABSENT
    ) -> None:
        self._namespaces = namespaces
        self._default = default
        self._reloader = reloader

    def permits(self, consumer: Consumer, target: Target, spec: BindingSpec) -> bool:
        """Return whether a consumer may be restarted for the Secret at ``target``."""
        if self._is_left_to_reloader(consumer, target, spec):
            return False
        annotations = self._namespaces.annotations(target.namespace)
        in_namespace = Switch.UNKNOWN if pace_faults(annotations) else read_switch(annotations)
        by_reloader = Switch.UNSET
        if self._reloader is ReloaderMode.REPLACED:
            by_reloader = switch_of(consumer.reloader, target.name, spec.reloader_ignore, spec.reloader_match)
        return innermost(self._default, in_namespace, spec.switch, by_reloader, consumer.switch) is Switch.ENABLED

    def faults(self, spec: BindingSpec) -> tuple[str, ...]:
        """Return what is wrong with Reloader's annotations on a Secret, if Keyturn follows them."""
        if self._reloader is not ReloaderMode.REPLACED:
            return ()
        return tuple(secret_rule_faults(spec.reloader_ignore, spec.reloader_match))

    def _is_left_to_reloader(self, consumer: Consumer, target: Target, spec: BindingSpec) -> bool:
        """Return whether Reloader restarts the consumer when the Secret changes. A second restart would do no good."""
        rules = consumer.reloader
        if self._reloader is not ReloaderMode.RUNNING or rules is None or spec.reloader_ignore == "true":
            return False
        return rules.selects(target.name, spec.reloader_match)
