"""Tenancy where it is asked: by reconciles, by drift and by the poller, all of them here."""

from keyturn_receiver.cluster.bound_secrets import BoundSecret
from keyturn_receiver.cluster.namespaces import Namespaces
from keyturn_receiver.core import policy
from keyturn_receiver.core.binding import SERVICE_ACCOUNT
from keyturn_receiver.errors import NotAllowed


class Tenancies:
    """What each namespace may name. ``tenant_roles``: bindings may read with the role of a ServiceAccount of theirs."""

    def __init__(self, namespaces: Namespaces, default: policy.Default, tenant_roles: bool) -> None:
        self._namespaces = namespaces
        self._default = default
        self._tenant_roles = tenant_roles

    def check_id(self, namespace: str, service_account: str, secret_id: str) -> None:
        """Raise NotAllowed if a binding of this namespace may not name this AWS secret; asked before AWS is."""
        if service_account and not self._tenant_roles:
            raise NotAllowed(
                "bindings may not name a ServiceAccount here: a cluster admin can allow it (chart value"
                " tenantRoles.enabled)"
            )
        policy.check_id(self._of(namespace, service_account), secret_id)

    def check_name(self, namespace: str, service_account: str, secret_name: str) -> None:
        """Raise NotAllowed unless it may read the AWS secret of exactly this name; asked once AWS has told it."""
        policy.check_name(self._of(namespace, service_account), secret_name)

    def allow(self, bound: BoundSecret) -> bool:
        """Whether a bound Secret may name what it names, as far as that can be told without AWS."""
        service_account = bound.annotations.get(SERVICE_ACCOUNT, "").strip()
        try:
            self.check_id(bound.target.namespace, service_account, bound.secret_id)
        except NotAllowed:
            return False
        return True

    def _of(self, namespace: str, service_account: str) -> policy.Tenancy:
        # Where the tenant's own role reads, IAM decides; what the namespace says narrows it further.
        default = policy.Default.ALLOW if service_account else self._default
        return policy.Tenancy(namespace, self._namespaces.annotations(namespace), default)
