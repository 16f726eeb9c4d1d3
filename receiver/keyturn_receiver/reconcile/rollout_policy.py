"""Rollout policy: decides which consumers of a Secret may be restarted."""

from keyturn_receiver.cluster.namespace_cache import NamespaceCache
from keyturn_receiver.core.binding import BindingSpec, Target
from keyturn_receiver.core.consumer import Consumer
from keyturn_receiver.core.reloader import ReloaderMode, secret_rule_faults
from keyturn_receiver.core.rollout_permission import OuterLevels, permits
from keyturn_receiver.core.rollout_switch import Switch


class RolloutPolicy:
    """Rollout policy (``core/rollout_permission.py``). ``default`` is the chart's setting, which decides if no
    annotation does. ``reloader`` tells whether Reloader is in the cluster."""

    def __init__(
        self, namespaces: NamespaceCache, default: Switch, reloader: ReloaderMode = ReloaderMode.ABSENT
    ) -> None:
        self._namespaces = namespaces
        self._default = default
        self._reloader = reloader

    def permits(self, consumer: Consumer, target: Target, spec: BindingSpec) -> bool:
        """Return whether a consumer may be restarted for the Secret at ``target``."""
        annotations = self._namespaces.annotations(target.namespace)
        return permits(consumer, target, spec, OuterLevels(annotations, self._default, self._reloader))

    def faults(self, spec: BindingSpec) -> tuple[str, ...]:
        """Return the faults of Reloader's annotations on a Secret, if Keyturn follows these annotations."""
        if self._reloader is not ReloaderMode.REPLACED:
            return ()
        return tuple(secret_rule_faults(spec.reloader_ignore, spec.reloader_match))
