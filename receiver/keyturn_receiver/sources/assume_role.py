"""AssumeRoleWithWebIdentity. This call exchanges a token of a tenant's ServiceAccount for credentials of the AWS role
that the ServiceAccount names.

https://docs.aws.amazon.com/eks/latest/userguide/iam-roles-for-service-accounts.html
"""

import re
from typing import TYPE_CHECKING

from botocore.exceptions import BotoCoreError, ClientError, ParamValidationError

from keyturn_receiver.errors import KeyturnError, SourceRefused
from keyturn_receiver.sources import error_mapping
from keyturn_receiver.sources.call_credentials import Credentials
from keyturn_receiver.sources.thread_pools import CallTimeout, PoolExhausted, ThreadPool, namespace_owner
from keyturn_receiver.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from mypy_boto3_sts import STSClient

SESSION_SECONDS = 3600  # the longest session that AWS permits for every role

# https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_identifiers.html#identifiers-arns
ROLE_ARN = re.compile(r"arn:aws[a-z-]*:iam::[0-9]{12}:role/[\x21-\x7e]{1,576}")

_ACTION = "AssumeRoleWithWebIdentity"


async def assume(
    sts: "STSClient", pool: ThreadPool, metrics: Metrics, account: str, role_arn: str, token: str
) -> Credentials:
    """Assume ``role_arn`` for the ServiceAccount ``account`` ("namespace/name").

    Raises SourceRefused or SourceUnavailable.
    """
    subject = f"AWS role {role_arn:.200} of ServiceAccount {account}"  # an annotation can have 256 KiB
    if not ROLE_ARN.fullmatch(role_arn):
        raise SourceRefused(f"{subject} is not the ARN of a role: correct the ServiceAccount's annotation")
    session_name = re.sub(r"[^\w+=,.@-]", ".", f"keyturn.{account}")[:64]

    def call() -> Credentials:
        response = sts.assume_role_with_web_identity(
            RoleArn=role_arn, RoleSessionName=session_name, WebIdentityToken=token, DurationSeconds=SESSION_SECONDS
        )
        keys = response["Credentials"]
        return Credentials(keys["AccessKeyId"], keys["SecretAccessKey"], keys["SessionToken"], keys["Expiration"])

    try:
        credentials = await pool.run(call, namespace_owner(account.partition("/")[0]))
    except (ClientError, BotoCoreError, CallTimeout, PoolExhausted) as error:
        failure = _translate(error, subject)
        metrics.aws_requests.labels(_ACTION, failure.reason).inc()
        raise failure from None
    metrics.aws_requests.labels(_ACTION, "ok").inc()
    return credentials


def _translate(error: Exception, subject: str) -> KeyturnError:
    # https://docs.aws.amazon.com/STS/latest/APIReference/API_AssumeRoleWithWebIdentity.html#API_AssumeRoleWithWebIdentity_Errors
    if isinstance(error, ParamValidationError):
        return SourceRefused(f"{subject} is not the ARN of a role: correct the ServiceAccount's annotation")
    if not isinstance(error, ClientError):
        return error_mapping.unreachable(error, subject)
    code = error_mapping.error_code(error)
    if code in ("AccessDenied", "InvalidIdentityToken", "ValidationError", "MalformedPolicyDocument"):
        return SourceRefused(
            f"{subject} cannot be assumed ({code}): its trust policy must name the cluster's OIDC provider and this"
            " ServiceAccount"
        )
    return error_mapping.unexpected_code(code, subject)
