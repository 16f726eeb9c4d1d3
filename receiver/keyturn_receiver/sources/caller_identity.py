"""Caller identities: who calls AWS. The receiver's own one finds and renews its credentials, and explains failures.

The SDK fetches credentials while a client is built and while a request is signed, and its errors then look like those
of the call. Here they are fetched in a step of their own, so that each failure is known to concern the identity.
"""

import base64
import json
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    NoCredentialsError,
    ParamValidationError,
)

RENEW_BEFORE_EXPIRY = (
    600  # seconds; from then on, the SDK too refuses to sign with the credentials before it renews them
)
FAILURE_TTL = 2.0  # seconds for which a failure is shared, because an agent that hangs takes up to nine seconds
MAX_WAIT = 15.0  # seconds for another thread's attempt; the longest one, at an STS that hangs, takes 14

_SUBJECT = re.compile(r"system:serviceaccount:([a-z0-9.-]{1,253}):([a-z0-9.-]{1,253})")
_STATUS = re.compile(r"non 200 response (\d{3})")
_CODE = re.compile(r"[A-Za-z][A-Za-z0-9.]{2,63}")


class IdentityFault(Exception):
    """There are no credentials now. The text says why, and what to do; it names no AWS secret."""


class CallerIdentity(Protocol):
    """Who calls AWS."""

    @property
    def account(self) -> str:
        """The id of the identity's AWS account; empty if it is not known."""

    def check(self) -> None:
        """Make sure that there are credentials, and block meanwhile. Raises IdentityFault."""


@dataclass(frozen=True, slots=True)
class TenantIdentity:
    """The AWS role of a tenant, whose credentials are already there."""

    account: str

    def check(self) -> None:
        pass


class OwnIdentity:
    """The receiver's own identity: an AWS role for its ServiceAccount, or what else the SDK finds.

    ``find`` returns the SDK's credentials, or None if it finds none. ``environment`` are the variables that EKS sets in
    the pod. ``now`` returns monotonic seconds. The methods may be called by many threads at once.
    """

    def __init__(
        self,
        find: Callable[[], Any],
        environment: Mapping[str, str],
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._find = find
        self._environment = environment
        self._now = now
        self._lock = threading.Lock()
        self._credentials: Any = None
        self._account = ""
        self._fault = ""
        self._failed_at = 0.0

    @property
    def account(self) -> str:
        """The id of the identity's AWS account; empty if the credentials do not tell."""
        return self._account

    def check(self) -> None:
        """Make sure that there are credentials that do not expire within RENEW_BEFORE_EXPIRY.

        Finds or renews them if necessary. Raises IdentityFault. While one thread tries, the others wait, and share its
        failure.
        """
        if self._are_valid():
            self._freeze()
            return
        if not self._lock.acquire(timeout=MAX_WAIT):
            raise IdentityFault(self._fault or "the AWS credentials do not arrive: trying again")
        try:
            if self._fault and self._now() - self._failed_at < FAILURE_TTL:
                raise IdentityFault(self._fault)
            try:
                self._credentials = self._credentials or self._find()
                self._freeze()
            except Exception as error:
                self._fault = explain(error, self._environment)
                self._failed_at = self._now()
                raise IdentityFault(self._fault) from None  # AWS's own text may quote anything
            self._fault = ""
        finally:
            self._lock.release()

    def _freeze(self) -> None:
        if self._credentials is None:
            raise NoCredentialsError
        self._account = str(self._credentials.get_frozen_credentials().account_id or "")

    def _are_valid(self) -> bool:
        if self._credentials is None:
            return False
        needed = getattr(self._credentials, "refresh_needed", None)  # static credentials cannot be renewed
        return needed is None or not needed(RENEW_BEFORE_EXPIRY)


def explain(error: Exception, environment: Mapping[str, str]) -> str:
    """Say in words why there are no credentials, and what to do. AWS's own text is dropped: it may quote anything."""
    if isinstance(error, NoCredentialsError):
        return (
            "there are no AWS credentials: give the receiver's ServiceAccount an AWS role (chart value aws.roleArn, or"
            " a Pod Identity association), and create the pod again"
        )
    if environment.get("AWS_WEB_IDENTITY_TOKEN_FILE") and not environment.get("AWS_ACCESS_KEY_ID"):
        return _explain_web_identity(error, environment)
    if environment.get("AWS_CONTAINER_CREDENTIALS_FULL_URI") and not environment.get("AWS_ACCESS_KEY_ID"):
        return _explain_pod_identity(error, environment)
    return (
        f"the AWS credentials cannot be found ({type(error).__name__}): check the role of the receiver's"
        " ServiceAccount (IRSA annotation or Pod Identity association)"
    )


def _explain_web_identity(error: Exception, environment: Mapping[str, str]) -> str:
    file, role = environment["AWS_WEB_IDENTITY_TOKEN_FILE"], environment.get("AWS_ROLE_ARN", "")
    account, subject = _service_account(file)
    assume = f"AWS role {role} cannot be assumed by {account}"
    annotation = "eks.amazonaws.com/role-arn"
    if isinstance(error, OSError) and not isinstance(error, BotoCoreError):
        return _no_token(error, file)
    if isinstance(error, ParamValidationError):
        if "RoleSessionName" in str(error):
            return "AWS_ROLE_SESSION_NAME is not the name of a session: use 2 to 64 letters, digits and =,.@-"
        if "RoleArn" in str(error):
            return f"{role!r:.200} is not the ARN of an AWS role: correct the annotation {annotation} of {account}"
        return f"{assume}: its token in {file} is empty or malformed: create the pod again"
    if not isinstance(error, ClientError):
        return (
            f"{assume}, because STS cannot be reached ({type(error).__name__}): a private cluster needs a VPC endpoint"
            " for STS, and a NetworkPolicy must let the receiver reach it: trying again"
        )
    code = str(error.response.get("Error", {}).get("Code") or "")
    code = code if _CODE.fullmatch(code) else "an error"
    if code in ("AccessDenied", "AccessDeniedException"):
        return (
            f"{assume} ({code}): its trust policy must name the cluster's OIDC provider, and {subject} as the subject"
        )
    if code in ("InvalidIdentityToken", "InvalidIdentityTokenException"):
        return (
            f"{assume} ({code}): the role's account needs an IAM OIDC provider for this cluster, with the audience"
            " sts.amazonaws.com"
        )
    if code in ("ExpiredToken", "ExpiredTokenException"):
        return (
            f"{assume} ({code}): the token in {file} has expired: check the clock of the node, or create the pod again"
        )
    if code in ("ValidationError", "ValidationException"):
        return (
            f"{assume} ({code}): check that the annotation {annotation} is the ARN of a role, and AWS_ROLE_SESSION_NAME"
            " if it is set"
        )
    return f"{assume}: STS answered {code}: trying again"


def _explain_pod_identity(error: Exception, environment: Mapping[str, str]) -> str:
    uri = environment["AWS_CONTAINER_CREDENTIALS_FULL_URI"]
    file = environment.get("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", "")
    account, _ = _service_account(file)
    if isinstance(error, OSError) and not isinstance(error, BotoCoreError):
        return _no_token(error, file)
    if status := _STATUS.search(str(error)):
        return (
            f"the EKS Pod Identity agent refuses credentials to {account} (status {status[1]}): a Pod Identity"
            " association must name this ServiceAccount, and its role must trust pods.eks.amazonaws.com: trying again"
        )
    if isinstance(error, CredentialRetrievalError):
        return (
            f"the EKS Pod Identity agent does not answer at {uri}: on a new node it may start after this pod; check the"
            " add-on eks-pod-identity-agent, and that a NetworkPolicy lets the receiver reach it: trying again"
        )
    return (
        f"what answers at {uri} is not the EKS Pod Identity agent ({type(error).__name__}): check the add-on"
        " eks-pod-identity-agent, and proxies in between: trying again"
    )


def _no_token(error: OSError, file: str) -> str:
    return (
        f"the token file {file} of the receiver's ServiceAccount cannot be read ({type(error).__name__}): EKS mounts it"
        " when the pod is created: create the pod again, and check who sets the variable that names the file"
    )


def _service_account(file: str) -> tuple[str, str]:
    """Return the ServiceAccount that a token names, in words and as the subject of the token."""
    try:
        with open(file) as opened:
            payload = opened.read(64 * 1024).split(".")[1]
        content = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        subject = _SUBJECT.fullmatch(content["sub"])
    except (OSError, LookupError, TypeError, ValueError):
        subject = None
    if subject is None:
        return "the receiver's ServiceAccount", "this ServiceAccount (system:serviceaccount:<namespace>:<name>)"
    return f"ServiceAccount {subject[1]}/{subject[2]}", subject[0]
