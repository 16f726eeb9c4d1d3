"""Access policy: which AWS secrets each namespace may name. Reconciles, drift checks, the webhook and the poller all
use it."""

from collections.abc import Iterable

from keyturn_receiver.cluster.namespace_cache import NamespaceCache
from keyturn_receiver.cluster.secret_cache import BoundSecret
from keyturn_receiver.core import policy
from keyturn_receiver.core.arn import candidate_names
from keyturn_receiver.core.binding import Source
from keyturn_receiver.core.regions import Regions
from keyturn_receiver.errors import InvalidBinding, NotAllowed


class AccessPolicy:
    """Access policy. It decides according to the namespaces' annotations.

    ``tenant_roles`` is true if a binding may read with the AWS role of a ServiceAccount in its own namespace.
    ``regions`` are the AWS regions that bindings may name. No binding may name the AWS secret ``signing_key_id``,
    because a reader of that secret could sign deliveries.
    """

    def __init__(
        self,
        namespaces: NamespaceCache,
        default: policy.Default,
        tenant_roles: bool,
        regions: Regions,
        signing_key_id: str = "",
    ) -> None:
        self._namespaces = namespaces
        self._default = default
        self._tenant_roles = tenant_roles
        self._regions = regions
        self._reserved = frozenset(candidate_names(signing_key_id)) - {""}

    def check_id(self, namespace: str, service_account: str, secret_id: str) -> None:
        """Raise NotAllowed if a binding in this namespace may not name this AWS secret.

        Raises InvalidBinding if the secret is in a region or a partition that bindings may not name. This check is made
        before any call to AWS.
        """
        self._regions.check(secret_id)
        if service_account and not self._tenant_roles:
            raise NotAllowed(
                "bindings may not name a ServiceAccount here: a cluster admin can allow it (chart value"
                " tenantRoles.enabled)"
            )
        self._check_reserved(candidate_names(secret_id))
        policy.check_id(self._tenancy(namespace, bool(service_account)), secret_id)

    def allows_every_reading(self, namespace: str, service_account: str, secret_id: str) -> bool:
        """Return whether the namespace may read every secret that ``secret_id`` can mean."""
        return policy.allows_every_reading(self._tenancy(namespace, bool(service_account)), secret_id)

    def check_name(self, namespace: str, service_account: str, secret_name: str) -> None:
        """Raise NotAllowed unless the AWS secret that has exactly this name is allowed.

        This check is possible only after AWS has returned the name.
        """
        self._check_reserved((secret_name,))
        policy.check_name(self._tenancy(namespace, bool(service_account)), secret_name)

    def allows(self, bound: BoundSecret) -> bool:
        """Return whether a bound Secret may name its AWS secrets. The decision is made without a call to AWS, so a
        later check may still forbid one of them."""
        return bound.spec.names_a_source and all(self.allows_source(bound, each) for each in bound.spec.sources)

    def allows_source(self, bound: BoundSecret, source: Source) -> bool:
        """Return whether a bound Secret may name one of its AWS secrets. The decision is made without a call to AWS, as
        in ``allows``."""
        spec = bound.spec
        if not (spec.names(source) and self._regions.allows(source.secret_id)):
            return False
        try:
            self.check_id(bound.target.namespace, spec.account, source.secret_id)
        except (InvalidBinding, NotAllowed):
            return False
        return True

    def could_apply(self, bound: BoundSecret, source: Source, names: Iterable[str]) -> bool:
        """Return whether a bound Secret may name ``source``, and may read an AWS secret with one of ``names``.

        ``source`` is one of the AWS secrets that the bound Secret names. ``names`` are all possible names of the AWS
        secret that a notification or a sweep is about. The owner of a Secret can write any name and any ARN into its
        annotations. So a delivery waits only for bindings that may read the AWS secret in the notification.
        """
        tenancy = self._tenancy(bound.target.namespace, bool(bound.spec.account))
        return self.allows_source(bound, source) and policy.could_apply(tenancy, names)

    def may_concern(self, namespace: str, has_account: bool, names: Iterable[str]) -> bool:
        """Return whether ``could_apply`` can be true for any binding of this namespace. ``has_account`` tells whether
        the bindings name a ServiceAccount.

        Callers make this check before they look at the bindings, because a tenant who may not read an AWS secret can
        still name it in thousands of bindings.
        """
        if has_account and not self._tenant_roles:
            return False
        return policy.could_apply(self._tenancy(namespace, has_account), names)

    def _check_reserved(self, names: Iterable[str]) -> None:
        if not self._reserved.isdisjoint(names):
            raise NotAllowed("no Secret is filled from Keyturn's own signing key: name another AWS secret")

    def _tenancy(self, namespace: str, has_account: bool) -> policy.Tenancy:
        # If the tenant's own role reads the secret, IAM decides. The namespace's annotation can only restrict access
        # further.
        default = policy.Default.ALLOW if has_account else self._default
        return policy.Tenancy(namespace, self._namespaces.annotations(namespace), default)
