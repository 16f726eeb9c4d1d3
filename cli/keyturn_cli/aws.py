"""Access to AWS with the caller's credentials: clients, the stack's resources, and the texts of errors.

Only the code of an AWS error is shown, because the text of the error may quote a secret value.
"""

import functools
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any

from keyturn_cli.errors import CliError, UsageError
from keyturn_receiver.core.arn import region
from keyturn_receiver.core.binding import is_secret_id

CONNECT_SECONDS, READ_SECONDS, ATTEMPTS = 5, 20, 3
_CONFIGURATION = "check AWS_PROFILE and ~/.aws/config"
DENIED = ("AccessDenied", "AccessDeniedException", "UnauthorizedOperation", "AuthorizationError")


class AwsError(CliError):
    """An error in the use of AWS: AWS refuses a call or does not answer, the configuration cannot be used, or the stack
    is not Keyturn's. ``code`` is AWS's error code, the name of the exception's class, or a short text such as "no
    credentials"."""

    def __init__(self, call: str, code: str, advice: str) -> None:
        super().__init__(f"AWS: {call}: {code}", advice)
        self.call = call
        self.code = code


@dataclass(frozen=True, slots=True)
class Stack:
    """A deployed stack of template.yaml. ``resources`` maps each logical id to its physical id. ``date`` is the time by
    AWS's clock at which the stack was read. ``skew`` is the number of seconds by which this machine's clock is ahead of
    AWS's clock."""

    name: str
    outputs: Mapping[str, str]
    parameters: Mapping[str, str]
    resources: Mapping[str, str]
    date: datetime
    skew: float


def configured_region() -> str | None:
    """Return the value of AWS_REGION. Return None if it is not set, so that boto3 finds the region.

    boto3 reads AWS_DEFAULT_REGION and the profile, but not AWS_REGION. AWS's other SDKs read AWS_REGION:

    https://docs.aws.amazon.com/sdkref/latest/guide/feature-region.html
    """
    return os.environ.get("AWS_REGION") or None


class Aws:
    """Access to AWS. A client is created at its first use. The region is AWS_REGION, or else the region in boto3's
    configuration. boto3 finds the credentials. Raises AwsError if boto3's configuration cannot be used."""

    def __init__(self) -> None:
        # It takes half a second to import AWS's SDK. Help and completion do not need the SDK.
        import boto3
        from botocore.exceptions import BotoCoreError

        try:
            self._session = boto3.Session(region_name=configured_region())
        except BotoCoreError as error:  # such as ProfileNotFound
            raise AwsError("the configuration", type(error).__name__, _CONFIGURATION) from None

    @property
    def region(self) -> str:
        """The configured region, or an empty text."""
        return self._session.region_name or ""

    @functools.cache  # noqa: B019 - one object lives as long as the process
    def client(self, service: str, region_name: str = "") -> Any:
        """Return the client for an AWS service. Raises AwsError if no region is known, or if the configuration cannot
        be used."""
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError, NoRegionError

        retries: Any = {"mode": "standard", "total_max_attempts": ATTEMPTS}
        config = Config(connect_timeout=CONNECT_SECONDS, read_timeout=READ_SECONDS, retries=retries)
        try:
            return self._session.client(service, region_name=region_name or None, config=config)
        except NoRegionError:
            raise AwsError(service, "no region", "set AWS_REGION") from None
        except BotoCoreError as error:
            raise AwsError(service, type(error).__name__, _CONFIGURATION) from None

    def stack(self, name: str) -> Stack:
        """Read the stack with this name. Raises AwsError."""
        cloudformation = self.client("cloudformation")
        with errors(f"DescribeStacks {name}", "name the stack: --stack NAME, and its region: AWS_REGION"):
            reply = cloudformation.describe_stacks(StackName=name)
            received = time.time()
            resources = cloudformation.describe_stack_resources(StackName=name)["StackResources"]
        (stack,) = reply["Stacks"]
        date = parsedate_to_datetime(reply["ResponseMetadata"]["HTTPHeaders"]["date"])
        return Stack(
            name,
            {each["OutputKey"]: each["OutputValue"] for each in stack.get("Outputs", [])},
            {each["ParameterKey"]: each.get("ParameterValue", "") for each in stack.get("Parameters", [])},
            {each["LogicalResourceId"]: each.get("PhysicalResourceId", "") for each in resources},
            date,
            # The Date header has whole seconds. So the true time is on average half a second later than the header.
            received - date.timestamp() - 0.5,
        )

    def output(self, stack: str, name: str) -> str:
        """Return an output of a stack. Raises AwsError."""
        outputs = self.stack(stack).outputs
        if name not in outputs:
            raise AwsError(f"stack {stack}", f"it has no output {name}", "name Keyturn's stack: --stack NAME")
        return outputs[name]

    def secrets_manager(self, secret_id: str) -> Any:
        """Return a client for Secrets Manager in the region of a secret. Raises UsageError if ``secret_id`` is neither
        a name nor an ARN. Raises AwsError."""
        if not is_secret_id(secret_id):
            raise UsageError(f"{secret_id} is no name of a secret", "write the name or ARN of an AWS secret")
        return self.client("secretsmanager", region(secret_id))

    def describe_secret(self, secret_id: str) -> Mapping[str, Any]:
        """Return the reply of DescribeSecret. Raises the errors of ``secrets_manager``."""
        client = self.secrets_manager(secret_id)
        with errors(
            f"secretsmanager:DescribeSecret {secret_id}", "check the name and the region (AWS_REGION), or write the ARN"
        ):
            secret: Mapping[str, Any] = client.describe_secret(SecretId=secret_id)
        return secret


@contextmanager
def errors(call: str, advice: str = "") -> Iterator[None]:
    """Context manager that turns errors of the SDK into AwsError. ``call`` is the name of the call. If AWS refuses the
    call, and the reason is not the credentials or a missing right, ``advice`` says what to do."""
    from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

    try:
        yield
    except NoCredentialsError:
        raise AwsError(call, "no credentials", "log in: aws sso login, or set AWS_PROFILE") from None
    except ClientError as error:
        code = str(error.response.get("Error", {}).get("Code") or type(error).__name__)
        if code in DENIED:
            raise AwsError(call, code, f"ask for the right to {call.split()[0]}") from None
        if code.startswith("ExpiredToken"):
            raise AwsError(call, code, "log in again") from None
        raise AwsError(call, code, advice) from None
    except BotoCoreError as error:
        raise AwsError(
            call, type(error).__name__, "check the network, and log in: aws sts get-caller-identity"
        ) from None
