"""AWS roles of tenants: a ServiceAccount's token for credentials of the role that the account names.

https://docs.aws.amazon.com/eks/latest/userguide/iam-roles-for-service-accounts.html
"""

import re
from typing import TYPE_CHECKING

from botocore.exceptions import BotoCoreError, ClientError, ParamValidationError

from keyturn_receiver.errors import KeyturnError, SourceRefused, SourceUnavailable
from keyturn_receiver.sources.clients import Credentials
from keyturn_receiver.sources.error_mapping import SLOW_DOWN
from keyturn_receiver.sources.thread_pools import CallTimeout, PoolExhausted, ThreadPool
from keyturn_receiver.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from mypy_boto3_sts import STSClient

SECONDS = 3600  # the longest that every role allows

_ACTION = "AssumeRoleWithWebIdentity"


async def assume(
    sts: "STSClient", pool: ThreadPool, metrics: Metrics, account: str, role_arn: str, token: str
) -> Credentials:
    """Take on ``role_arn`` for the ServiceAccount ``account`` ("namespace/name").

    Raises SourceRefused or SourceUnavailable.
    """
    session_name = re.sub(r"[^\w+=,.@-]", ".", f"keyturn.{account}")[:64]

    def call() -> Credentials:
        answer = sts.assume_role_with_web_identity(
            RoleArn=role_arn, RoleSessionName=session_name, WebIdentityToken=token, DurationSeconds=SECONDS
        )
        given = answer["Credentials"]
        return Credentials(given["AccessKeyId"], given["SecretAccessKey"], given["SessionToken"], given["Expiration"])

    try:
        credentials = await pool.run(call)
    except (ClientError, BotoCoreError, CallTimeout, PoolExhausted) as error:
        fault = _translate(error, account, role_arn)
        metrics.aws_requests.labels(_ACTION, fault.reason).inc()
        raise fault from None
    metrics.aws_requests.labels(_ACTION, "ok").inc()
    return credentials


def _translate(error: Exception, account: str, role_arn: str) -> KeyturnError:
    # https://docs.aws.amazon.com/STS/latest/APIReference/API_AssumeRoleWithWebIdentity.html#API_AssumeRoleWithWebIdentity_Errors
    what = f"AWS role {role_arn} of ServiceAccount {account}"
    if isinstance(error, ParamValidationError):
        return SourceRefused(f"{what} is no ARN of a role: correct the ServiceAccount's annotation")
    if not isinstance(error, ClientError):
        return SourceUnavailable(f"{what}: AWS cannot be reached ({type(error).__name__}): trying again", SLOW_DOWN)
    code = error.response.get("Error", {}).get("Code", "")
    if code in ("AccessDenied", "InvalidIdentityToken", "ValidationError", "MalformedPolicyDocument"):
        return SourceRefused(
            f"{what} cannot be taken on ({code}): let its trust policy name the cluster's OIDC provider and the account"
        )
    return SourceUnavailable(f"{what}: AWS answered {code or 'with an error'}: trying again", SLOW_DOWN)
