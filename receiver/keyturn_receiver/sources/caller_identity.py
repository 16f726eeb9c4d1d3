"""Caller identities: the AWS identities that make the calls. The receiver's own identity also finds and renews its
credentials. If this fails, it explains the reason.

The SDK fetches credentials while it builds a client or signs a request. An error in this step then looks like an error
of the call. Here the credentials are fetched in a separate step before the call. So each failure of this step is known
to concern the identity.
"""

import base64
import json
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    NoCredentialsError,
    ParamValidationError,
)

from keyturn_receiver.sources.call_credentials import Credentials, call_with

RENEW_BEFORE_EXPIRY = (
    600  # seconds before the expiry; from then on, the SDK itself signs nothing before it has renewed the credentials
)
FAILURE_TTL = 2.0  # seconds for which callers share a failure; a call to a hanging agent takes up to nine seconds
MAX_WAIT = 15.0  # seconds to wait for another thread's attempt; the longest attempt takes 14 s, when STS hangs

_SUBJECT = re.compile(r"system:serviceaccount:([a-z0-9.-]{1,253}):([a-z0-9.-]{1,253})")
_STATUS = re.compile(r"non 200 response (\d{3})")
_CODE = re.compile(r"[A-Za-z][A-Za-z0-9.]{2,63}")


class IdentityFault(Exception):
    """The identity has no credentials now. The text gives the reason, and says what to do. It names no AWS secret."""


class CallerIdentity(Protocol):
    """The identity that calls AWS."""

    @property
    def account(self) -> str:
        """The id of the identity's AWS account. It is empty if it is not known."""

    @property
    def role(self) -> str:
        """The ARN of the identity's AWS role. It is empty if it is not known."""

    def check(self) -> None:
        """Make sure that there are credentials. This call blocks until it is done. Raises IdentityFault."""

    def call(self) -> AbstractContextManager[None]:
        """Return a context manager. In its block, this thread calls AWS as this identity. Raises IdentityFault, like
        ``check``."""


@dataclass(frozen=True, slots=True)
class TenantIdentity:
    """The AWS role of a tenant. Its credentials have already been fetched. If ``credentials`` is None, calls on a
    shared client fail."""

    account: str
    role: str = ""
    credentials: Credentials | None = None

    def check(self) -> None:
        pass

    def call(self) -> AbstractContextManager[None]:
        return call_with(self.credentials.frozen()) if self.credentials else nullcontext()


class OwnIdentity:
    """The receiver's own identity: the AWS role of its ServiceAccount, or other credentials that the SDK finds.

    ``find`` returns the SDK's credentials, or None if there are no credentials. ``environment`` has the variables that
    EKS sets in the pod. ``now`` returns monotonic seconds. All methods are thread-safe.
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
        self._frozen: Any = None
        self._account = ""
        self._fault = ""
        self._failed_at = 0.0

    @property
    def account(self) -> str:
        """The id of the identity's AWS account. It is empty if the credentials do not contain the id."""
        return self._account

    @property
    def role(self) -> str:
        """The ARN of the role that IRSA gives the receiver. It is empty with Pod Identity, because the pod then does
        not get the ARN."""
        is_web_identity = self._environment.get("AWS_WEB_IDENTITY_TOKEN_FILE") and not self._environment.get(
            "AWS_ACCESS_KEY_ID"
        )
        return self._environment.get("AWS_ROLE_ARN", "") if is_web_identity else ""

    def check(self) -> None:
        """Make sure that there are credentials, and that they do not expire within RENEW_BEFORE_EXPIRY seconds.

        If necessary, find or renew the credentials. While one thread does this, other threads wait for it. If this
        thread fails, the waiting threads fail with the same text. Raises IdentityFault.
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

    @contextmanager
    def call(self) -> Iterator[None]:
        """Context manager. In its block, this thread calls AWS with the receiver's own credentials. Raises
        IdentityFault."""
        self.check()
        with call_with(self._frozen):
            yield

    def _freeze(self) -> None:
        if self._credentials is None:
            raise NoCredentialsError
        self._frozen = self._credentials.get_frozen_credentials()
        self._account = str(self._frozen.account_id or "")

    def _are_valid(self) -> bool:
        if self._credentials is None:
            return False
        needed = getattr(self._credentials, "refresh_needed", None)  # static credentials need no renewal
        return needed is None or not needed(RENEW_BEFORE_EXPIRY)


def explain(error: Exception, environment: Mapping[str, str]) -> str:
    """Return the reason why there are no credentials, and advice on what to do. AWS's own text is left out, because it
    may quote anything."""
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
    """Return the ServiceAccount that a token names, in two forms: as a phrase for messages, and as the subject of the
    token."""
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
