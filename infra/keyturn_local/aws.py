"""An AWS on loopback: moto's server in a process of its own, and what `sam deploy` would create in it.

``python -m keyturn_local.aws --port N --timeline FILE`` is that process.
"""

import argparse
import json
import logging
import os
import secrets
import sys
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import boto3
import botocore.session
from botocore.config import Config

from keyturn_contract.signature import new_key
from keyturn_local.ports import free_ports
from keyturn_local.processes import Program, Stoppable, answers
from keyturn_local.timeline import Timeline

if TYPE_CHECKING:
    from mypy_boto3_events import EventBridgeClient
    from mypy_boto3_secretsmanager import SecretsManagerClient
    from mypy_boto3_sqs import SQSClient

REGION = "us-east-1"
RULE = "keyturn-label-updated"
PATTERN = {"source": ["aws.secretsmanager"], "detail-type": ["Secret Label Updated"]}
SIGNING_KEY = "keyturn/signing-key"
IMPORT_ROOTS = os.pathsep.join(str(Path(__file__).parents[2] / root) for root in ("lambda", "receiver", "infra"))


@dataclass(frozen=True)
class EventPath:
    """What the notifier stands on: queue URLs, and the name of the secret that holds the signing key."""

    queue_url: str
    dlq_url: str
    signing_key_secret_id: str


class LocalAws(Stoppable):
    """A running moto server. Use as a context manager, or call ``stop``."""

    def __init__(self, directory: Path, timeline: Timeline) -> None:
        (port,) = free_ports(1)
        self.endpoint_url = f"http://127.0.0.1:{port}"
        self._queue_arn = ""
        self._program = Program(
            "aws",
            [sys.executable, "-m", "keyturn_local.aws", "--port", str(port), "--timeline", timeline.file],
            directory,
            {**surroundings(), "PYTHONPATH": IMPORT_ROOTS, **self.environment()},
        )

    @classmethod
    def start(cls, directory: Path, timeline: Timeline) -> Self:
        """Start the server and wait until it answers. Raises StartFailed."""
        aws = cls(directory, timeline)
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

    def provision(self, visibility_seconds: int = 180, max_receives: int = 500) -> EventPath:
        """Create the rule, the queue, the dead-letter queue and the signing key, as template.yaml does."""
        sqs = self.sqs()
        dlq_url = sqs.create_queue(QueueName="keyturn-dead-letters")["QueueUrl"]
        dlq_arn = sqs.get_queue_attributes(QueueUrl=dlq_url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
        queue_url = sqs.create_queue(
            QueueName="keyturn-events",
            Attributes={
                "VisibilityTimeout": str(visibility_seconds),
                "RedrivePolicy": json.dumps({"deadLetterTargetArn": dlq_arn, "maxReceiveCount": max_receives}),
            },
        )["QueueUrl"]
        attributes = sqs.get_queue_attributes(QueueUrl=queue_url, AttributeNames=["QueueArn"])["Attributes"]
        self._queue_arn = attributes["QueueArn"]
        # The key first: its own label must not be the first message.
        self.secrets_manager().create_secret(Name=SIGNING_KEY, SecretString=new_key(secrets.token_bytes(32)))
        self._events().put_rule(Name=RULE, EventPattern=json.dumps(PATTERN))
        self.restore_event_path()
        return EventPath(queue_url, dlq_url, SIGNING_KEY)

    def cut_event_path(self) -> None:
        """Take the queue off the rule: events are sent, and reach nobody. (moto ignores that a rule is disabled.)"""
        self._events().remove_targets(Rule=RULE, Ids=["queue"])

    def restore_event_path(self) -> None:
        """Put the queue back on the rule."""
        self._events().put_targets(Rule=RULE, Targets=[{"Id": "queue", "Arn": self._queue_arn}])

    def _events(self) -> "EventBridgeClient":
        client: EventBridgeClient = self._client("events")
        return client

    def _client(self, service: str) -> Any:
        nobodys = botocore.session.Session({"profile": (None, None, None, None)})  # AWS_PROFILE may name anything
        session = boto3.session.Session("testing", "testing", region_name=REGION, botocore_session=nobodys)
        return session.client(service, endpoint_url=self.endpoint_url, config=Config(proxies={}))


def surroundings() -> dict[str, str]:
    """This process's environment without the user's own AWS, and without settings meant for a real Keyturn."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "KEYTURN_"))}


def _serve(port: int, timeline: Timeline) -> None:
    # Imported here: the parent has no use for half a second of moto.
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    from keyturn_local.label_events import LabelEvents

    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    application = LabelEvents(DomainDispatcherApplication(create_backend_app), timeline)
    make_server("127.0.0.1", port, application, threaded=True).serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--timeline", type=Path, required=True)
    arguments = parser.parse_args()
    _serve(arguments.port, Timeline(arguments.timeline))
