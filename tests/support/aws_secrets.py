"""The AWS secrets of one namespace, and notifications of their changes."""

from dataclasses import replace
from functools import cached_property
from typing import Any
from uuid import uuid4

import boto3

from keyturn_contract.message import EventType, Notification
from keyturn_local.aws.rotation import rotate
from keyturn_local.aws.server import LocalAws
from keyturn_local.bench.stub_aws import CANARY
from support.deliveries import notification

CREDENTIALS = {"aws_access_key_id": "testing", "aws_secret_access_key": "testing"}


class AwsSecrets:
    """AWS secrets whose names begin with the namespace. Every value begins with CANARY."""

    def __init__(self, aws: LocalAws, namespace: str) -> None:
        self.aws = aws
        self.namespace = namespace
        self.secret_ids: dict[str, str] = {}  # maps each Secret to the name of its AWS secret

    @cached_property
    def client(self) -> Any:
        """A client that calls AWS without the proxy. It is kept, because each new client needs a new botocore
        session."""
        return self.aws.secrets_manager()

    def client_in(self, region: str) -> Any:
        """Return a client for the same AWS in another region."""
        return boto3.client("secretsmanager", region, endpoint_url=self.aws.endpoint_url, **CREDENTIALS)

    def new_value(self, text: str) -> str:
        """Return a new value that the search for leaked values will recognize in any output."""
        return f"{CANARY}-{text}-{uuid4().hex[:8]}"

    def create_aws_secret(self, name: str) -> str:
        """Create an AWS secret and return its ARN."""
        secret_id = f"{self.namespace}/{name}"
        return str(self.client.create_secret(Name=secret_id, SecretString=self.new_value("first"))["ARN"])

    def aws_value(self, name: str = "db") -> str:
        """Return the value that AWS currently has for a Secret."""
        secret_id = self.secret_ids.get(name, f"{self.namespace}/{name}")
        return str(self.client.get_secret_value(SecretId=secret_id)["SecretString"])

    def rotate(self, name: str = "db", text: str = "next") -> Notification:
        """Rotate an AWS secret and return the notification of the change."""
        version_id = rotate(self.client, f"{self.namespace}/{name}", self.new_value(text))
        return self.notification_of(name, version_id)

    def version_id(self, name: str = "db") -> str:
        """Return the id of the version that has the label AWSCURRENT."""
        return str(self.client.get_secret_value(SecretId=f"{self.namespace}/{name}")["VersionId"])

    def move_label(self, to: str, name: str = "db") -> Notification:
        """Move the label AWSCURRENT to an earlier version, and return the notification of the change."""
        self.client.update_secret_version_stage(
            SecretId=f"{self.namespace}/{name}",
            VersionStage="AWSCURRENT",
            MoveToVersionId=to,
            RemoveFromVersionId=self.version_id(name),
        )
        return self.notification_of(name, to)

    def notification_of(self, name: str, version_id: str, kind: EventType = EventType.CHANGED) -> Notification:
        """Return a notification, with a new id, about an AWS secret."""
        arn = self.client.describe_secret(SecretId=f"{self.namespace}/{name}")["ARN"]
        return notification(arn, version_id, kind)

    def notification_without_version(self, arn: str, kind: EventType) -> Notification:
        """Return a notification that names no version."""
        named = notification(arn, "none", kind)
        return replace(named, data=replace(named.data, version_id=None, label=None))
