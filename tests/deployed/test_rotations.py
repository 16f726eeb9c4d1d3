"""The stack with default parameters: each way to rotate a secret ends with the value in the Secret."""

import json
import ssl
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import closing

import httpx
import pytest

from keyturn_local.aws.emulator.server import Emulator
from keyturn_local.aws.rotation import promote, rotate
from keyturn_local.kubernetes.control_plane import ControlPlane
from support import aws_page
from support.database import Database
from support.fake_receiver import FakeReceiver
from support.manifests import secret
from support.rotations import deploy_rotation
from support.site import Site
from support.wait import eventually


@pytest.fixture(scope="module")
def site(control_plane: ControlPlane, emulator: Emulator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with Site.run(control_plane, emulator, tmp_path_factory.mktemp("site")) as running:
        yield running


@pytest.fixture(autouse=True)
def running_receiver(site: Site) -> Iterator[None]:
    """Start the receiver again if a test has failed while it was down."""
    yield
    if not site.receiver.running:
        site.receiver.start()


def test_put_value_arrives_signed_over_tls(site: Site) -> None:
    site.bind("token")
    version_id = site.put("token", "second")
    site.wait_applied("token", "second")
    eventually(lambda: version_id in site.delivered())
    (line,) = [line for line in site.log() if line.get("version_id") == version_id and line["message"] == "delivered"]
    assert line["event_name"] == "SecretLabelUpdated"
    assert site.receiver.metric("keyturn_deliveries_total", code="200") >= 1


def test_receiver_of_the_stack_refuses_a_delivery_without_a_signature(site: Site) -> None:
    context = ssl.create_default_context(cadata=site.endpoints.certificate.bundle.decode())
    reply = httpx.post(site.receiver.url, content=b"{}", verify=context)
    assert reply.status_code == 401


def test_moved_stage_arrives_forwards_and_back(site: Site) -> None:
    arn = site.bind("moved")
    first = site.secrets_manager.get_secret_value(SecretId=arn)["VersionId"]
    rotate(site.secrets_manager, arn, "second")
    site.wait_applied("moved", "second")
    promote(site.secrets_manager, arn, first)
    site.wait_applied("moved", "first")


@pytest.mark.parametrize("users", [("app",), ("app_a", "app_b")], ids=["single-user", "alternating-users"])
def test_rotation_function_rotates_and_the_secret_logs_in(site: Site, users: tuple[str, ...]) -> None:
    first = {"username": users[0], "password": "first"}
    name = f"login-of-{len(users)}"
    with closing(Database(**dict.fromkeys(users, "first"))) as database:
        arn = site.bind(name, json.dumps(first))
        function = deploy_rotation(site, database, users, arn)
        for number in (1, 2):
            before = login_of(site, name)
            reply = site.secrets_manager.rotate_secret(SecretId=arn, RotationLambdaARN=function)
            eventually(lambda version_id=reply["VersionId"]: version_id in site.delivered(), 60)
            after = login_of(site, name)
            assert after["username"] == users[number % len(users)]
            assert after["password"] not in (before["password"], "first")
            assert database.logs_in(after)
            # Consumers use the old login until they have restarted. With a pair of users, it stays in force.
            assert database.logs_in(before) == (len(users) == 2)


def login_of(site: Site, name: str) -> dict[str, str]:
    """Return the user's name and password that a Secret holds."""
    return {key: value.decode() for key, value in site.data(name).items()}


def test_signing_key_rotates_and_deliveries_go_on(site: Site) -> None:
    site.bind("signed")
    key = site.deployment.outputs["SigningKeySecretId"]

    def is_rotating() -> bool:
        stages = site.secrets_manager.describe_secret(SecretId=key)["VersionIdsToStages"].values()
        return any("AWSPENDING" in each and "AWSCURRENT" not in each for each in stages)

    eventually(lambda: not is_rotating(), 60)  # the deployment has started a first rotation
    old = site.secrets_manager.get_secret_value(SecretId=key)
    pending = site.secrets_manager.rotate_secret(SecretId=key)["VersionId"]

    def current() -> dict:
        return site.secrets_manager.get_secret_value(SecretId=key)

    eventually(lambda: current()["VersionId"] == pending, 60)
    assert current()["SecretString"] != old["SecretString"]
    assert (
        "AWSPENDING" not in site.secrets_manager.describe_secret(SecretId=key)["VersionIdsToStages"][old["VersionId"]]
    )
    site.put("signed", "second")
    site.wait_applied("signed", "second")


def test_rotation_during_an_outage_arrives_when_the_receiver_is_back(site: Site) -> None:
    site.bind("outage")
    site.receiver.kill()
    version_id = site.put("outage", "second")

    def refusals() -> list[dict]:
        return [line for line in site.log() if line.get("version_id") == version_id]

    # The event is tried again and again. The first try may have used a connection that was open before.
    eventually(lambda: "connection refused" in json.dumps([line["answers"] for line in refusals()]), 60)
    assert all(line["message"] == "not delivered" for line in refusals())
    assert site.messages("DeadLetterQueueUrl") == {"visible": 0, "taken": 0}
    site.receiver.start()
    site.wait_applied("outage", "second")
    eventually(lambda: version_id in site.delivered())


def test_poison_goes_to_the_dead_letters_and_the_printed_command_sends_it_back(site: Site) -> None:
    """A receiver refuses an event. Once a receiver takes it, the commands of docs/aws.md send the event back."""
    site.bind("refused")
    site.receiver.stop()
    with closing(FakeReceiver(site.endpoints.certificate.context(), site.endpoints.ports[0])) as refusing:
        refusing.respond = lambda headers, body: (400, b"{}")
        refusing.extra_headers = {"Connection": "close"}  # else the notifier keeps its connection to this receiver
        site.put("refused", "second")
        eventually(lambda: site.messages("DeadLetterQueueUrl")["visible"] >= 1, 60)
    sqs = site.deployment.emulator.client("sqs")
    (message,) = sqs.receive_message(
        QueueUrl=site.deployment.outputs["DeadLetterQueueUrl"], MessageAttributeNames=["All"], VisibilityTimeout=0
    )["Messages"]
    assert "status 400" in message["MessageAttributes"]["reason"]["StringValue"]
    site.receiver.start()
    version_id = json.loads(message["Body"])["detail"]["versionId"]
    aws_page.run("aws sqs start-message-move-task", site.deployment)
    eventually(lambda: version_id in site.delivered(), 60)
    site.wait_applied("refused", "second")
    eventually(lambda: site.messages("DeadLetterQueueUrl") == {"visible": 0, "taken": 0})


def test_message_of_no_known_shape_is_poison(site: Site) -> None:
    sqs = site.deployment.emulator.client("sqs")
    sqs.send_message(QueueUrl=site.deployment.outputs["QueueUrl"], MessageBody='{"detail-type": "Unknown"}')
    eventually(lambda: site.messages("DeadLetterQueueUrl")["visible"] == 1, 60)
    sqs.purge_queue(QueueUrl=site.deployment.outputs["DeadLetterQueueUrl"])


def test_label_moved_to_secret_applied_takes_less_than_a_second(
    site: Site, record_property: Callable[[str, object], None]
) -> None:
    site.bind("fast")
    took = []
    for number in range(20):
        start = time.monotonic()
        site.put("fast", f"value-{number}")
        site.wait_applied("fast", f"value-{number}")
        took.append(time.monotonic() - start)
    measured = f"median {statistics.median(took):.2f} s, slowest of {len(took)} {max(took):.2f} s"
    record_property("label moved to Secret applied", measured)
    assert statistics.median(took) < 5  # 0.1 s on a quiet machine; the bound is for a busy one


def test_hundred_rotations_survive_kills_of_the_receiver(site: Site) -> None:
    names = [f"s{number}" for number in range(10)]
    for name in names:
        site.secrets_manager.create_secret(Name=f"{site.team}/{name}", SecretString="first")
    site.cluster.create(secret(site.team, name, f"{site.team}/{name}") for name in names)
    for name in names:
        site.wait_applied(name, "first")
    version_ids = set()
    for number in range(10):
        if number % 3 == 1:
            site.receiver.kill()
        version_ids |= {site.put(name, f"value-{number}") for name in names}
        if number % 3 == 1:
            site.receiver.start()
    assert len(version_ids) >= 100
    eventually(lambda: version_ids <= site.delivered(), 120)
    for name in names:
        site.wait_applied(name, "value-9")
    for queue in ("QueueUrl", "DeadLetterQueueUrl", "UndeliveredEventsUrl"):
        eventually(lambda queue=queue: site.messages(queue) == {"visible": 0, "taken": 0})


def test_heartbeat_of_the_schedule_arrives(site: Site) -> None:
    eventually(lambda: site.metrics().get("HeartbeatsAccepted", 0) >= 1, 90)
    assert site.receiver.ready()[0] == 200
