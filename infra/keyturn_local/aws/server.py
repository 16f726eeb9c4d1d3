"""moto's server. It is a fast replacement for single services of AWS. `deployed.py` has the whole stack.

``python -m keyturn_local.aws.server --host ADDRESS --port N`` runs the server.
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

from keyturn_contract.signature import new_key
from keyturn_local.aws import sdk, template
from keyturn_local.processes.environment import IMPORT_ROOTS, clean_environment
from keyturn_local.processes.ports import free_ports
from keyturn_local.processes.program import Program, Stoppable, answers

if TYPE_CHECKING:
    from mypy_boto3_cloudformation import CloudFormationClient
    from mypy_boto3_secretsmanager import SecretsManagerClient
    from mypy_boto3_sqs import SQSClient

STACK = "keyturn"
SIGNING_KEY = "keyturn/signing-key"


@dataclass(frozen=True)
class EventPath:
    """Resources of the notifier: the queues' URLs, and the ARN of the AWS secret that holds the signing key."""

    queue_url: str
    dlq_url: str
    signing_key_secret_id: str


class LocalAws(Stoppable):
    """A running moto server. Use it as a context manager, or call ``stop``."""

    def __init__(self, directory: Path, host: str = "127.0.0.1") -> None:
        (port,) = free_ports(1)
        self.endpoint_url = f"http://{host}:{port}"
        self._program = Program(
            "aws",
            [sys.executable, "-m", "keyturn_local.aws.server", "--host", host, "--port", str(port)],
            directory,
            {**clean_environment(), "PYTHONPATH": IMPORT_ROOTS, **self.environment()},
        )

    @classmethod
    def start(cls, directory: Path, host: str = "127.0.0.1") -> Self:
        """Start the server on the address ``host``, and wait until it answers. Raises StartFailed."""
        aws = cls(directory, host)
        aws._program.wait_for(answers(f"{aws.endpoint_url}/keyturn/calls"), 60)
        return aws

    def stop(self) -> None:
        """Stop the server. Its state is lost."""
        self._program.stop()

    def reset(self) -> None:
        """Delete everything in this AWS with moto's own API."""
        request = urllib.request.Request(f"{self.endpoint_url}/moto-api/reset", method="POST")  # noqa: S310 - loopback
        urllib.request.urlopen(request, timeout=30).close()  # noqa: S310

    def environment(self) -> dict[str, str]:
        """Return the variables that make AWS's own tools and SDKs use this server."""
        return sdk.environment(self.endpoint_url)

    def calls(self) -> dict[str, int]:
        """Return the number of calls by action, such as "secretsmanager.GetSecretValue"."""
        with urllib.request.urlopen(f"{self.endpoint_url}/keyturn/calls", timeout=5) as reply:  # noqa: S310 - loopback
            return dict(json.load(reply))

    def secrets_manager(self) -> "SecretsManagerClient":
        """Return a client for this server's Secrets Manager."""
        client: SecretsManagerClient = self._client("secretsmanager")
        return client

    def sqs(self) -> "SQSClient":
        """Return a client for this server's SQS."""
        client: SQSClient = self._client("sqs")
        return client

    def provision(self) -> EventPath:
        """Create the queues of template.yaml and a signing key."""
        cloudformation: CloudFormationClient = self._client("cloudformation")
        cloudformation.create_stack(
            StackName=STACK,
            TemplateBody=json.dumps(template.queues(template.read())),
            Parameters=[
                {"ParameterKey": "ReceiverUrls", "ParameterValue": "https://receiver.invalid/v1/notifications"}
            ],
        )
        (stack,) = cloudformation.describe_stacks(StackName=STACK)["Stacks"]
        urls = {output["OutputKey"]: output["OutputValue"] for output in stack["Outputs"]}
        return EventPath(
            self._local(urls["QueueUrl"]), self._local(urls["DeadLetterQueueUrl"]), self.create_signing_key()
        )

    def create_signing_key(self) -> str:
        """Create the AWS secret that holds the signing key. Return its ARN."""
        key = new_key(secrets.token_bytes(32))
        return self.secrets_manager().create_secret(Name=SIGNING_KEY, SecretString=key)["ARN"]

    def _local(self, queue_url: str) -> str:
        return self.endpoint_url + urlsplit(queue_url).path

    def _client(self, service: str) -> Any:
        return sdk.client(service, self.endpoint_url)


def _serve(host: str, port: int) -> None:
    # moto is imported here, because its import takes half a second, and the parent process does not need moto.
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    from keyturn_local.aws.moto_gaps import MotoGaps

    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    application = MotoGaps(DomainDispatcherApplication(create_backend_app))
    make_server(host, port, application, threaded=True).serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    arguments = parser.parse_args()
    _serve(arguments.host, arguments.port)
