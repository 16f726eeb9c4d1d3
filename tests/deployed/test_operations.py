"""What operators look at: alarms and dashboard name metrics that the notifier really emits."""

import base64
import json
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from uuid import uuid4

from keyturn_contract.message import CONTENT_TYPE_BATCH, Outcome, Result, decode, encode_reply
from keyturn_local.aws.emulator import sam
from keyturn_local.aws.emulator.server import Emulator
from keyturn_notifier.telemetry import NAMESPACE, Metric
from support import aws_page
from support.authority import Authority
from support.fake_receiver import FakeReceiver
from support.site import Endpoints, notifier_log
from support.wait import eventually


def refused_by_a_binding(_: dict[str, str], body: bytes) -> tuple[int, bytes]:
    events = decode(CONTENT_TYPE_BATCH, body)
    return 200, encode_reply([Result(each.id, Outcome.APPLIED, reason="shop/db: SourceRefused") for each in events])


def shown(body: str) -> set[str]:
    """Return the notifier's metrics on a dashboard. A dot stands for the namespace of the line before."""
    names = set()
    for widget in json.loads(body)["widgets"]:
        namespace = ""
        for line in widget["properties"].get("metrics", []):
            namespace = namespace if line[0] in (".", "...") else line[0]
            if namespace == NAMESPACE and line[0] != "...":
                names.add(line[1])
    return names


def test_alarms_and_dashboard_name_metrics_that_are_emitted(emulator: Emulator, tmp_path: Path) -> None:
    """The test makes the notifier emit each of its metrics, most of them by the answers of a receiver."""
    endpoints = Endpoints(tmp_path)
    given = endpoints.parameters()
    bundle = given["CaBundle"] + "," + base64.b64encode(b"no certificate").decode()
    given |= {"CaBundle": bundle, "MemberCount": "1", "Receipts": "true"}
    deployment = sam.deploy(emulator, f"keyturn-{uuid4().hex[:6]}", given)
    secrets_manager, log = emulator.client("secretsmanager"), notifier_log(deployment)
    secrets_manager.create_secret(Name=deployment.name, SecretString="first")
    numbers = iter(range(100))

    def rotate() -> None:
        secrets_manager.put_secret_value(SecretId=deployment.name, SecretString=str(next(numbers)))

    def heartbeat(kind: str = "Keyturn Heartbeat") -> None:
        detail = json.dumps({"name": "keyturn-heartbeat", "labelUpdated": "AWSCURRENT"})
        entry = {"Source": "dev.keyturn", "DetailType": kind, "Detail": detail}
        emulator.client("events").put_events(Entries=[entry])

    def read_event() -> None:
        event = json.loads((Path(__file__).parents[1] / "events" / "api-list-secrets.json").read_text())
        emulator.client("sqs").send_message(QueueUrl=deployment.outputs["QueueUrl"], MessageBody=json.dumps(event))

    def refuse_receipts() -> None:
        name = deployment.outputs["NotifierName"]
        function = emulator.client("lambda").get_function_configuration(FunctionName=name)
        denied = {"Effect": "Deny", "Action": "events:PutEvents", "Resource": "*"}
        document = json.dumps({"Version": "2012-10-17", "Statement": [denied]})
        role = function["Role"].rpartition("/")[2]
        emulator.client("iam").put_role_policy(RoleName=role, PolicyName="no-receipts", PolicyDocument=document)

    def wait_for(metric: Metric, cause: Callable[[], None]) -> None:
        before = log.metrics().get(metric, 0)
        cause()
        eventually(lambda: log.metrics().get(metric, 0) > before, 60)

    with closing(FakeReceiver(endpoints.certificate.context(), endpoints.ports[0])) as receiver:
        wait_for(Metric.RECEIPTS_SENT, rotate)
        wait_for(Metric.DELIVERIES_DONE, rotate)
        refuse_receipts()
        wait_for(Metric.RECEIPTS_FAILED, rotate)
        wait_for(Metric.HEARTBEATS_ACCEPTED, heartbeat)
        receiver.respond = refused_by_a_binding
        wait_for(Metric.NOTIFICATIONS_REFUSED_BY_BINDING, rotate)
        receiver.respond = lambda headers, body: (401, b"{}")
        wait_for(Metric.DELIVERIES_REFUSED, rotate)
        wait_for(Metric.HEARTBEATS_REFUSED, heartbeat)
        receiver.respond = lambda headers, body: (400, b"{}")
        receiver.extra_headers = {"Connection": "close"}  # the next receiver needs a connection of its own
        wait_for(Metric.DELIVERIES_POISON, rotate)
    with closing(FakeReceiver(Authority().server_context(tmp_path), endpoints.ports[0])):
        wait_for(Metric.TLS_FAILURES, rotate)
    wait_for(Metric.EVENTS_IGNORED, read_event)
    wait_for(Metric.MEMBER_HEARTBEATS, lambda: heartbeat("Keyturn Member Heartbeat"))
    emitted = set(log.metrics())
    assert emitted == set(Metric)

    cloudwatch = emulator.client("cloudwatch")
    (body,) = [
        cloudwatch.get_dashboard(DashboardName=each["DashboardName"])["DashboardBody"]
        for each in cloudwatch.list_dashboards()["DashboardEntries"]
        if each["DashboardName"] == deployment.outputs["DashboardName"]
    ]
    alarms = cloudwatch.describe_alarms(AlarmNamePrefix=f"{deployment.name}-")["MetricAlarms"]
    watched = {each["MetricName"] for each in alarms if each["Namespace"] == NAMESPACE}
    assert watched
    assert watched <= emitted
    assert shown(body) == emitted
    # The dimension is the stack's name, by which the metrics of several stacks are told apart.
    service = {line["service"] for line in log.lines() if "_aws" in line}
    assert service == {deployment.name}
    assert all(
        each["Dimensions"] == [{"Name": "service", "Value": deployment.name}]
        for each in alarms
        if each["Namespace"] == NAMESPACE
    )
    deployment.delete()


def test_undelivered_events_are_read_and_removed_by_the_printed_commands(emulator: Emulator, tmp_path: Path) -> None:
    """The test itself sends EventBridge's dead letter of a rule, because the emulator has none."""
    deployment = sam.deploy(emulator, f"keyturn-{uuid4().hex[:6]}", Endpoints(tmp_path).parameters())
    sqs = emulator.client("sqs")
    url = deployment.outputs["UndeliveredEventsUrl"]
    cause = {"ERROR_MESSAGE": {"DataType": "String", "StringValue": "Access denied"}}
    sqs.send_message(QueueUrl=url, MessageBody="{}", MessageAttributes=cause)
    (message,) = json.loads(aws_page.run("aws sqs receive-message", deployment))["Messages"]
    assert message["MessageAttributes"]["ERROR_MESSAGE"]["StringValue"] == "Access denied"
    aws_page.run("aws sqs purge-queue", deployment)
    attributes = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
    assert (
        int(attributes["ApproximateNumberOfMessages"]) + int(attributes["ApproximateNumberOfMessagesNotVisible"]) == 0
    )
    deployment.delete()
