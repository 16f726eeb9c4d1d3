"""Rollout policy: which consumers of a Secret may be restarted."""

from keyturn_receiver.cluster.namespace_cache import NamespaceCache
from keyturn_receiver.core.binding import BindingSpec, Target
from keyturn_receiver.core.consumer import Consumer
from keyturn_receiver.core.rollout_switch import Switch, innermost, read_switch


class RolloutPolicy:
    """Rollout policy. The innermost level that says something decides (``core/rollout_switch.py``). ``default`` is what
    the chart says, which is the outermost."""

    def __init__(self, namespaces: NamespaceCache, default: Switch) -> None:
        self._namespaces = namespaces
        self._default = default

    def permits(self, consumer: Consumer, target: Target, spec: BindingSpec) -> bool:
        """Return whether a consumer may be restarted for the Secret at ``target``."""
        in_namespace = read_switch(self._namespaces.annotations(target.namespace))
        return innermost(self._default, in_namespace, spec.switch, consumer.switch) is Switch.ENABLED
