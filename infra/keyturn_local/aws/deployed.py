"""The emulated AWS of the demo and the tests, with Keyturn's stack. SAM's command line has deployed the stack."""

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from keyturn_local.aws import sdk
from keyturn_local.aws.emulator import sam
from keyturn_local.aws.emulator.server import Emulator
from keyturn_local.aws.notifier_log import NotifierLog
from keyturn_local.aws.server import EventPath
from keyturn_local.processes.program import Stoppable

if TYPE_CHECKING:
    from mypy_boto3_secretsmanager import SecretsManagerClient
    from mypy_boto3_sqs import SQSClient

STACK = "keyturn"
RULE = "LabelUpdatedRule"  # in template.yaml
HEARTBEAT = {"name": "keyturn-heartbeat", "labelUpdated": "AWSCURRENT"}


@dataclass(frozen=True)
class Call:
    """A call to AWS, as CloudTrail has recorded it."""

    id: str
    action: str
    at: float  # seconds since the epoch
    by_function: bool


class DeployedAws:
    """A running emulator with a deployed stack."""

    def __init__(self, emulator: Emulator, deployment: sam.Deployment) -> None:
        outputs = deployment.outputs
        self.emulator = emulator
        self.outputs = outputs
        self.path = EventPath(outputs["QueueUrl"], outputs["DeadLetterQueueUrl"], outputs["SigningKeySecretId"])
        self.notifier_log = NotifierLog(emulator.client("logs"), outputs["NotifierLogGroup"])
        self._rule = deployment.resources()[RULE]

    def environment(self) -> dict[str, str]:
        """Return the variables that point AWS's own tools and SDKs to the emulator."""
        return self.emulator.environment()

    def secrets_manager(self) -> "SecretsManagerClient":
        """Return a client for Secrets Manager."""
        client: SecretsManagerClient = self.emulator.client("secretsmanager")
        return client

    def sqs(self) -> "SQSClient":
        """Return a client for SQS."""
        client: SQSClient = self.emulator.client("sqs")
        return client

    def key_is_rotating(self) -> bool:
        """Return whether a version of the signing key has AWSPENDING. This is so during a rotation, and during the dry
        run of a new stack."""
        secret = self.secrets_manager().describe_secret(SecretId=self.path.signing_key_secret_id)
        return any("AWSPENDING" in labels for labels in secret["VersionIdsToStages"].values())

    def kms_public_key(self) -> bytes | None:
        """Return the public key of the stack's KMS key, in DER, or None if the stack does not sign with KMS."""
        if key_id := self.outputs.get("SigningKmsKeyId"):
            return bytes(self.emulator.client("kms").get_public_key(KeyId=key_id)["PublicKey"])
        return None

    def cut_event_path(self) -> None:
        """Disable the stack's rule. From then on, events are lost."""
        self.emulator.client("events").disable_rule(Name=self._rule)

    def restore_event_path(self) -> None:
        """Enable the stack's rule again."""
        self.emulator.client("events").enable_rule(Name=self._rule)

    def heartbeat(self) -> str:
        """Put a heartbeat on the event bus, as the stack's schedule does every minute. Return the event's id."""
        entry = {"Source": "dev.keyturn", "DetailType": "Keyturn Heartbeat", "Detail": json.dumps(HEARTBEAT)}
        (answer,) = self.emulator.client("events").put_events(Entries=[entry])["Entries"]
        return str(answer["EventId"])

    def recent_calls(self, service: str) -> Sequence[Call]:
        """Return the last calls to a service, such as "kms". They are at most 50, newest first."""
        source = {"AttributeKey": "EventSource", "AttributeValue": f"{service}.amazonaws.com"}
        events = self.emulator.client("cloudtrail").lookup_events(LookupAttributes=[source])["Events"]
        return [
            Call(
                event["EventId"],
                event["EventName"],
                event["EventTime"].timestamp(),
                event["AccessKeyId"] != sdk.CREDENTIAL,
            )
            for event in events
        ]

    def log_events(self) -> None:
        """Make the notifier log the event of each invocation. Powertools has an environment variable for this.

        https://docs.powertools.aws.dev/lambda/python/latest/core/logger/#logging-incoming-event
        """
        functions, name = self.emulator.client("lambda"), self.outputs["NotifierName"]
        variables = functions.get_function_configuration(FunctionName=name)["Environment"]["Variables"]
        functions.update_function_configuration(
            FunctionName=name, Environment={"Variables": {**variables, "POWERTOOLS_LOGGER_LOG_EVENT": "true"}}
        )
        functions.get_waiter("function_updated_v2").wait(FunctionName=name, WaiterConfig={"Delay": 1})


class Deploying(Stoppable):
    """A deployment in progress. It starts an emulator, and deploys the stack to it, in the background.

    ``parameters`` are parameters of the stack. The emulator listens on the address ``host``. If ``log_events`` is true,
    the notifier logs the event of each invocation.
    """

    def __init__(
        self, directory: Path, parameters: Mapping[str, str], host: str = "127.0.0.1", log_events: bool = False
    ) -> None:
        self._emulator: Emulator | None = None
        self._thread = ThreadPoolExecutor(1)
        self._deployed: Future[DeployedAws] = self._thread.submit(self._deploy, directory, parameters, host, log_events)

    def result(self) -> DeployedAws:
        """Wait for the deployment, and return it. Raises StartFailed or DeployFailed."""
        return self._deployed.result()

    def stop(self) -> None:
        """Stop the emulator. Its state is lost."""
        self._deployed.cancel()
        if self._emulator:
            self._emulator.stop()
        self._thread.shutdown()
        if self._emulator:
            self._emulator.stop()  # the emulator may have started after the check above

    def _deploy(self, directory: Path, parameters: Mapping[str, str], host: str, log_events: bool) -> DeployedAws:
        built = sam.build()
        self._emulator = Emulator.start(directory, host)
        aws = DeployedAws(self._emulator, sam.deploy(self._emulator, STACK, parameters, built))
        if log_events:
            aws.log_events()
        return aws
