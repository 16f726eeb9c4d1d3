"""Tenancy where it is asked: by reconciles, by drift and by the poller, all of them here."""

from collections.abc import Iterable

from keyturn_receiver.cluster.namespace_cache import NamespaceCache
from keyturn_receiver.cluster.secret_cache import BoundSecret
from keyturn_receiver.core import policy
from keyturn_receiver.core.arn import candidate_names
from keyturn_receiver.core.binding import names_a_source
from keyturn_receiver.errors import NotAllowed


class AccessPolicy:
    """What each namespace may name. ``tenant_roles``: bindings may read with the role of a ServiceAccount of theirs.

    ``signing_key_id`` names what nobody may: whoever could read it could sign deliveries.
    """

    def __init__(
        self, namespaces: NamespaceCache, default: policy.Default, tenant_roles: bool, signing_key_id: str = ""
    ) -> None:
        self._namespaces = namespaces
        self._default = default
        self._tenant_roles = tenant_roles
        self._reserved = frozenset(candidate_names(signing_key_id)) - {""}

    def check_id(self, namespace: str, service_account: str, secret_id: str) -> None:
        """Raise NotAllowed if a binding of this namespace may not name this AWS secret; asked before AWS is."""
        if service_account and not self._tenant_roles:
            raise NotAllowed(
                "bindings may not name a ServiceAccount here: a cluster admin can allow it (chart value"
                " tenantRoles.enabled)"
            )
        self._check_reserved(candidate_names(secret_id))
        policy.check_id(self._of(namespace, service_account), secret_id)

    def allows_every_reading(self, namespace: str, service_account: str, secret_id: str) -> bool:
        """Whether all that this name or ARN can stand for may be read."""
        return policy.allows_every_reading(self._of(namespace, service_account), secret_id)

    def check_name(self, namespace: str, service_account: str, secret_name: str) -> None:
        """Raise NotAllowed unless it may read the AWS secret of exactly this name; asked once AWS has told it."""
        self._check_reserved((secret_name,))
        policy.check_name(self._of(namespace, service_account), secret_name)

    def allow(self, bound: BoundSecret) -> bool:
        """Whether a bound Secret may name what it names, as far as that can be told without AWS."""
        if not names_a_source(bound.annotations):
            return False
        try:
            self.check_id(bound.target.namespace, bound.service_account, bound.secret_id)
        except NotAllowed:
            return False
        return True

    def could_apply(self, bound: BoundSecret, names: Iterable[str]) -> bool:
        """Whether it could matter to a bound Secret what AWS tells of a secret that may be called any of ``names``.

        What it names, and what it says it was made from, stands in annotations that its owner can write; so nobody's
        deliveries wait for a binding that must not read what they are about.
        """
        tenancy = self._of(bound.target.namespace, bound.service_account)
        return self.allow(bound) and policy.could_apply(tenancy, names)

    def _check_reserved(self, names: Iterable[str]) -> None:
        if not self._reserved.isdisjoint(names):
            raise NotAllowed("no Secret is filled from Keyturn's own signing key: name another AWS secret")

    def _of(self, namespace: str, service_account: str) -> policy.Tenancy:
        # Where the tenant's own role reads, IAM decides; what the namespace says narrows it further.
        default = policy.Default.ALLOW if service_account else self._default
        return policy.Tenancy(namespace, self._namespaces.annotations(namespace), default)
