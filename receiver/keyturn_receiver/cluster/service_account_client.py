"""ServiceAccounts of tenants: which AWS role one names, and tokens with which AWS lets that role be taken on."""

from dataclasses import dataclass

from keyturn_receiver.cluster.api import Api, Json, path
from keyturn_receiver.errors import ClusterRefused, InvalidBinding, NotFound

ROLE_ARN = (
    "eks.amazonaws.com/role-arn"  # https://docs.aws.amazon.com/eks/latest/userguide/associate-service-account-role.html
)
AUDIENCE = "sts.amazonaws.com"
TOKEN_SECONDS = 600  # the least that Kubernetes gives; it is used at once, and never kept


@dataclass(frozen=True, slots=True, order=True)
class ServiceAccount:
    """A ServiceAccount by its place."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


class ServiceAccountClient:
    """Reads of ServiceAccounts, and tokens for them."""

    def __init__(self, api: Api) -> None:
        self._api = api

    async def role_arn(self, account: ServiceAccount) -> str:
        """Read which AWS role it names. Raises InvalidBinding when there is no such account, or it names none."""
        try:
            obj = await self._api.request("GET", path("v1", "serviceaccounts", account.namespace, account.name))
        except NotFound:
            raise InvalidBinding(
                f"ServiceAccount {account} does not exist: create it, or correct the binding"
            ) from None
        role_arn = (obj["metadata"].get("annotations") or {}).get(ROLE_ARN, "").strip()
        if not role_arn:
            raise InvalidBinding(f"ServiceAccount {account} names no AWS role: set its annotation {ROLE_ARN}")
        return str(role_arn)

    async def token(self, account: ServiceAccount) -> str:
        """Ask for a token of the account, for AWS alone (TokenRequest)."""
        body: Json = {"spec": {"audiences": [AUDIENCE], "expirationSeconds": TOKEN_SECONDS}}
        try:
            answer = await self._api.request(
                "POST", path("v1", "serviceaccounts", account.namespace, account.name) + "/token", body=body
            )
        except ClusterRefused as error:
            if isinstance(error, NotFound):
                raise
            raise ClusterRefused(
                f"no token for ServiceAccount {account}: let the receiver create them (chart value tenantRoles.enabled)"
            ) from None
        return str(answer["status"]["token"])
