"""Client for tenants' ServiceAccounts. It reads the AWS role that a ServiceAccount names, and requests tokens for the
ServiceAccount."""

from dataclasses import dataclass

from keyturn_receiver.cluster.api import METADATA_ONLY, Api, Json, path
from keyturn_receiver.errors import ClusterRefused, InvalidBinding, NotFound

# https://docs.aws.amazon.com/eks/latest/userguide/associate-service-account-role.html
ROLE_ARN = "eks.amazonaws.com/role-arn"
AUDIENCE = "sts.amazonaws.com"
TOKEN_SECONDS = 600  # the shortest lifetime that Kubernetes allows; a token is used immediately and never kept


@dataclass(frozen=True, slots=True, order=True)
class ServiceAccount:
    """Reference to a ServiceAccount."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class AwsRole:
    """The AWS role that a ServiceAccount names, and the UID of the ServiceAccount."""

    uid: str
    arn: str


class ServiceAccountClient:
    """Client for ServiceAccounts. It reads them, and requests tokens for them."""

    def __init__(self, api: Api) -> None:
        self._api = api

    async def role(self, account: ServiceAccount) -> AwsRole:
        """Read the AWS role of a ServiceAccount. Raises InvalidBinding if the ServiceAccount does not exist or names no
        role."""
        where = path("v1", "serviceaccounts", account.namespace, account.name)
        try:
            obj = await self._api.request("GET", where, accept=METADATA_ONLY)
        except NotFound:
            raise InvalidBinding(
                f"ServiceAccount {account} does not exist: create it, or correct the binding"
            ) from None
        role_arn = (obj["metadata"].get("annotations") or {}).get(ROLE_ARN, "").strip()
        if not role_arn:
            raise InvalidBinding(f"ServiceAccount {account} names no AWS role: set its annotation {ROLE_ARN}")
        return AwsRole(str(obj["metadata"]["uid"]), str(role_arn))

    async def token(self, account: ServiceAccount) -> str:
        """Request a token for the ServiceAccount (TokenRequest). The token is valid only for AWS, not for the
        Kubernetes API."""
        body: Json = {"spec": {"audiences": [AUDIENCE], "expirationSeconds": TOKEN_SECONDS}}
        try:
            reply = await self._api.request(
                "POST", path("v1", "serviceaccounts", account.namespace, account.name) + "/token", body=body
            )
        except ClusterRefused as error:
            if isinstance(error, NotFound):
                raise
            raise ClusterRefused(
                f"no token for ServiceAccount {account}: let the receiver create them (chart value tenantRoles.enabled)"
            ) from None
        return str(reply["status"]["token"])
