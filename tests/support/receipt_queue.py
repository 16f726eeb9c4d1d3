"""A queue that a rule on the receipts' bus fills, as a team would have it."""

import json
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import uuid4

from keyturn_local.aws.emulator.sam import Deployment


class ReceiptQueue:
    """Collects the receipts of a stack, in the order of their arrival."""

    def __init__(self, deployment: Deployment) -> None:
        self._sqs = deployment.emulator.client("sqs")
        name = f"receipts-{uuid4().hex[:6]}"
        self.bus = deployment.outputs["ReceiptsBusArn"].split("/")[-1]
        self._url = self._sqs.create_queue(QueueName=f"{name}.fifo", Attributes={"FifoQueue": "true"})["QueueUrl"]
        attributes = self._sqs.get_queue_attributes(QueueUrl=self._url, AttributeNames=["QueueArn"])["Attributes"]
        events = deployment.emulator.client("events")
        events.put_rule(Name=name, EventBusName=self.bus, EventPattern='{"source": ["dev.keyturn"]}')
        target = {"Id": "queue", "Arn": attributes["QueueArn"], "SqsParameters": {"MessageGroupId": "receipts"}}
        events.put_targets(Rule=name, EventBusName=self.bus, Targets=[target])
        self._received: list[Mapping[str, Any]] = []

    def all(self) -> Sequence[Mapping[str, Any]]:
        """Return all receipts so far: complete events of EventBridge."""
        while messages := self._sqs.receive_message(QueueUrl=self._url, MaxNumberOfMessages=10).get("Messages"):
            for message in messages:
                self._received.append(json.loads(message["Body"]))
                self._sqs.delete_message(QueueUrl=self._url, ReceiptHandle=message["ReceiptHandle"])
        return self._received

    def of(self, detail_type: str, version_id: str = "") -> Sequence[Mapping[str, Any]]:
        """Return the details of the receipts of one kind, and only about ``version_id`` if it is given."""
        return [
            each["detail"]
            for each in self.all()
            if each["detail-type"] == detail_type and version_id in ("", each["detail"].get("versionId"))
        ]
