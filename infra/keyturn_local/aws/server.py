"""An AWS on loopback: moto's server in a process of its own, and what `sam deploy` would create in it.

``python -m keyturn_local.aws.server --host ADDRESS --port N --timeline FILE`` is that process.
"""

import argparse
import json
import logging
import secrets
import sys
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

import boto3
import botocore.session
from botocore.config import Config

from keyturn_contract.signature import new_key
from keyturn_local.aws import template
from keyturn_local.processes.environment import IMPORT_ROOTS, clean_environment
from keyturn_local.processes.ports import free_ports
from keyturn_local.processes.program import Program, Stoppable, answers
from keyturn_local.timeline import Timeline

if TYPE_CHECKING:
    from mypy_boto3_cloudformation import CloudFormationClient
    from mypy_boto3_events import EventBridgeClient
    from mypy_boto3_kms import KMSClient
    from mypy_boto3_secretsmanager import SecretsManagerClient
    from mypy_boto3_sqs import SQSClient

REGION = "us-east-1"
STACK = "keyturn"
SIGNING_KEY = "keyturn/signing-key"
HEARTBEAT = {"name": "keyturn-heartbeat", "labelUpdated": "AWSCURRENT"}


@dataclass(frozen=True)
class EventPath:
    """What the notifier stands on: queue URLs, and the ARN of the secret that holds the signing key."""

    queue_url: str
    dlq_url: str
    signing_key_secret_id: str


class LocalAws(Stoppable):
    """A running moto server. Use as a context manager, or call ``stop``."""

    def __init__(self, directory: Path, timeline: Timeline, host: str = "127.0.0.1") -> None:
        (port,) = free_ports(1)
        self.endpoint_url = f"http://{host}:{port}"
        self._rule = ""
        self._targets: list[Any] = []
        self._program = Program(
            "aws",
            [
                *(sys.executable, "-m", "keyturn_local.aws.server"),
                *("--host", host, "--port", str(port), "--timeline", timeline.file),
            ],
            directory,
            {**clean_environment(), "PYTHONPATH": IMPORT_ROOTS, **self.environment()},
        )

    @classmethod
    def start(cls, directory: Path, timeline: Timeline, host: str = "127.0.0.1") -> Self:
        """Start the server and wait until it answers; ``host`` is where it listens. Raises StartFailed."""
        aws = cls(directory, timeline, host)
        aws._program.wait_for(answers(f"{aws.endpoint_url}/keyturn/calls"), 60)
        return aws

    def stop(self) -> None:
        """End the server; all that it held is gone."""
        self._program.stop()

    def environment(self) -> dict[str, str]:
        """The variables that make AWS's own tools and SDKs talk to this server."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint_url,
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def calls(self) -> dict[str, int]:
        """How many calls of each action it has served, such as "secretsmanager.GetSecretValue"."""
        with urllib.request.urlopen(f"{self.endpoint_url}/keyturn/calls", timeout=5) as reply:  # noqa: S310 - loopback
            return dict(json.load(reply))

    def secrets_manager(self) -> "SecretsManagerClient":
        """A client of its Secrets Manager."""
        client: SecretsManagerClient = self._client("secretsmanager")
        return client

    def sqs(self) -> "SQSClient":
        """A client of its SQS."""
        client: SQSClient = self._client("sqs")
        return client

    def kms(self) -> "KMSClient":
        """A client of its KMS, which has one key of Ed25519, whatever it is called."""
        client: KMSClient = self._client("kms")
        return client

    def provision(self, visibility_seconds: int | None = None, max_receives: int | None = None) -> EventPath:
        """Deploy the event path of template.yaml and a signing key; numbers given here stand in place of its own."""
        key_id = self.create_signing_key()  # first: its own label must not be the first message
        event_path = template.event_path(template.read())
        queue = event_path["Resources"]["Queue"]["Properties"]
        queue["VisibilityTimeout"] = visibility_seconds or queue["VisibilityTimeout"]
        queue["RedrivePolicy"]["maxReceiveCount"] = max_receives or queue["RedrivePolicy"]["maxReceiveCount"]
        cloudformation: CloudFormationClient = self._client("cloudformation")
        cloudformation.create_stack(
            StackName=STACK,
            TemplateBody=json.dumps(event_path),
            Parameters=[
                {"ParameterKey": "ReceiverUrls", "ParameterValue": "https://receiver.invalid/v1/notifications"}
            ],
        )
        (stack,) = cloudformation.describe_stacks(StackName=STACK)["Stacks"]
        urls = {output["OutputKey"]: output["OutputValue"] for output in stack["Outputs"]}
        (self._rule,) = [rule["Name"] for rule in self._events().list_rules()["Rules"]]
        self._targets = self._events().list_targets_by_rule(Rule=self._rule)["Targets"]
        return EventPath(self._here(urls["QueueUrl"]), self._here(urls["DeadLetterQueueUrl"]), key_id)

    def create_signing_key(self) -> str:
        """Create the AWS secret that holds the signing key; return its ARN."""
        key = new_key(secrets.token_bytes(32))
        return self.secrets_manager().create_secret(Name=SIGNING_KEY, SecretString=key)["ARN"]

    def cut_event_path(self) -> None:
        """Take the queue off the rule: events are sent, and reach nobody. (moto ignores that a rule is disabled.)"""
        self._events().remove_targets(Rule=self._rule, Ids=[target["Id"] for target in self._targets])

    def restore_event_path(self) -> None:
        """Put the queue back on the rule."""
        self._events().put_targets(Rule=self._rule, Targets=self._targets)

    def heartbeat(self) -> None:
        """Put one heartbeat on the event bus, as the schedule does each minute."""
        entry: Any = {"Source": "dev.keyturn", "DetailType": "Keyturn Heartbeat", "Detail": json.dumps(HEARTBEAT)}
        self._events().put_events(Entries=[entry])

    def _here(self, queue_url: str) -> str:
        return self.endpoint_url + urlsplit(queue_url).path

    def _events(self) -> "EventBridgeClient":
        client: EventBridgeClient = self._client("events")
        return client

    def _client(self, service: str) -> Any:
        nobodys = botocore.session.Session({"profile": (None, None, None, None)})  # AWS_PROFILE may name anything
        session = boto3.session.Session("testing", "testing", region_name=REGION, botocore_session=nobodys)
        return session.client(service, endpoint_url=self.endpoint_url, config=Config(proxies={}))


def _serve(host: str, port: int, timeline: Timeline) -> None:
    # Imported here: the parent has no use for half a second of moto.
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    from keyturn_local.aws.kms import Ed25519Kms
    from keyturn_local.aws.label_events import LabelEvents

    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    application = LabelEvents(Ed25519Kms(DomainDispatcherApplication(create_backend_app)), timeline)
    make_server(host, port, application, threaded=True).serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--timeline", type=Path, required=True)
    arguments = parser.parse_args()
    _serve(arguments.host, arguments.port, Timeline(arguments.timeline))
