"""Stacks that CloudFormation's API deploys to the emulator: infra/aws, and template.yaml as `sam package` leaves it."""

import base64
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from botocore.exceptions import ClientError, WaiterError

from keyturn_local.aws.emulator import sam
from keyturn_local.aws.emulator.sam import Deployment
from keyturn_local.aws.emulator.server import Emulator

ROOT = Path(__file__).parents[2]
CAPABILITIES = ["CAPABILITY_IAM", "CAPABILITY_NAMED_IAM", "CAPABILITY_AUTO_EXPAND"]
POLLING = {"Delay": 1, "MaxAttempts": 60}


@contextmanager
def deployed(emulator: Emulator, template: str, name: str = "", **parameters: str) -> Iterator[Deployment]:
    """Create a stack, and delete it at the end. ``template`` is the text or the URL of the template. Raises Refused."""
    name = name or f"stack-{uuid4().hex[:6]}"
    create(emulator, template, name, **parameters)
    deployment = sam.describe(emulator, name)
    try:
        yield deployment
    finally:
        deployment.delete()


class Refused(AssertionError):
    """CloudFormation refused a stack, or one of its resources failed."""


def create(emulator: Emulator, template: str, name: str, **parameters: str) -> None:
    """Create a stack, and wait for it. Raises Refused with CloudFormation's words."""
    cloudformation = emulator.client("cloudformation")
    source = {"TemplateURL" if template.startswith("http") else "TemplateBody": template}
    given = [{"ParameterKey": key, "ParameterValue": value} for key, value in parameters.items()]
    try:
        cloudformation.create_stack(StackName=name, Capabilities=CAPABILITIES, Parameters=given, **source)
        cloudformation.get_waiter("stack_create_complete").wait(StackName=name, WaiterConfig=POLLING)
    except ClientError as error:
        raise Refused(error.response["Error"]["Message"]) from None
    except WaiterError:
        events = cloudformation.describe_stack_events(StackName=name)["StackEvents"]
        reasons = [each.get("ResourceStatusReason", "") for each in events if "FAILED" in each["ResourceStatus"]]
        raise Refused("; ".join(reasons)) from None


def infra(name: str) -> str:
    """Return the text of a template of infra/aws."""
    return (ROOT / "infra" / "aws" / f"{name}.yaml").read_text()


def inventory(emulator: Emulator) -> Mapping[str, set[str]]:
    """Return the names of everything that a stack could leave behind, by kind."""
    iam, lambdas = emulator.client("iam"), emulator.client("lambda")
    listed = {
        "stacks": [each["StackName"] for each in emulator.client("cloudformation").describe_stacks()["Stacks"]],
        "rules": [each["Name"] for each in emulator.client("events").list_rules()["Rules"]],
        "schedules": [each["Name"] for each in emulator.client("scheduler").list_schedules()["Schedules"]],
        "queues": emulator.client("sqs").list_queues().get("QueueUrls", []),
        "functions": [each["FunctionName"] for each in lambdas.list_functions()["Functions"]],
        "mappings": [each["UUID"] for each in lambdas.list_event_source_mappings()["EventSourceMappings"]],
        "alarms": [each["AlarmName"] for each in emulator.client("cloudwatch").describe_alarms()["MetricAlarms"]],
        "dashboards": [
            each["DashboardName"] for each in emulator.client("cloudwatch").list_dashboards()["DashboardEntries"]
        ],
        "roles": [each["RoleName"] for each in iam.list_roles()["Roles"]],
        "policies": [each["Arn"] for each in iam.list_policies(Scope="Local")["Policies"]],
        "secrets": [
            each["Name"]
            for each in emulator.client("secretsmanager").list_secrets(IncludePlannedDeletion=True)["SecretList"]
        ],
        "log groups": [each["logGroupName"] for each in emulator.client("logs").describe_log_groups()["logGroups"]],
    }
    return {kind: set(names) for kind, names in listed.items()}


def web_identity(issuer: str, subject: str) -> str:
    """Return a token of a ServiceAccount, as IRSA projects it. Nobody verifies its signature here."""
    parts = ({"alg": "none"}, {"iss": f"https://{issuer}", "sub": subject, "aud": "sts.amazonaws.com"})
    return ".".join(_base64(json.dumps(part).encode()) for part in parts) + ".c2ln"


def _base64(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).decode().rstrip("=")
