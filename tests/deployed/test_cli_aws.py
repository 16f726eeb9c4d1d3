"""The commands `send`, `redeliver`, `rotate` and `ui` on a deployed stack, with a receiver and a real API server."""

import json
import re
import signal
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import pytest

from keyturn_cli.dead_letters import DeadLetterQueue
from support.cli_samples import aligned, hold_samples, replaced
from support.cluster_state import annotations_of
from support.database import Database
from support.installed_site import Done, InstalledSite
from support.manifests import env_from, workload
from support.notifier_function import NotifierFunction
from support.rotations import deploy_rotation
from support.wait import eventually

UUID = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"


@pytest.fixture(autouse=True)
def empty_dead_letters(installed: InstalledSite) -> Iterator[None]:
    yield
    sqs = client(installed, "sqs")
    sqs.purge_queue(QueueUrl=installed.site.deployment.outputs["DeadLetterQueueUrl"])


def client(installed: InstalledSite, service: str) -> Any:
    return installed.site.deployment.emulator.client(service)


def hold_sample(installed: InstalledSite, name: str, sample: str, text: str) -> None:
    """Check that an output about the secret ``name`` is a sample of docs/cli.md."""
    site = installed.site
    names = {f"{site.team}/{name}": "shop/db", site.team: "shop", installed.pod: "keyturn-7c9-x2"}
    names |= {urlsplit(site.receiver.url).netloc: "keyturn.example.com", "keyturn-local": "blue"}
    patterns = [
        (UUID, "d47862ed-55b2-4b4e-a1f4-3f4b7c9d2e10"),
        (r"\bversion [0-9a-f]{8}\b", "version 7d09fed6"),
        (r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}Z", "2026-11-28T08:30:56Z"),
        (r"^(AWSCURRENT .*) \(\d+[smh]\)", r"\1 (4s)"),
        (r"^(shop/db version .*) \(\d+[smh]\)", r"\1 (9s)"),
        (r"^http://127.0.0.1:\d+/", "http://127.0.0.1:9091/"),
    ]
    shown = replaced(text, names, patterns)
    hold_samples({sample: aligned(shown, lambda line: bool(re.match(f"EVENT ID|{UUID}", line)))})


def send(installed: InstalledSite, name: str, *arguments: str, **environment: str) -> Done:
    place = ("--release", installed.release, "--stack", installed.site.deployment.name)
    return installed.run("send", f"{installed.site.team}/{name}", *place, *arguments, **environment)


def redeliver(installed: InstalledSite, *arguments: str) -> Done:
    return installed.run("redeliver", "--stack", installed.site.deployment.name, *arguments)


@contextmanager
def lost_events(installed: InstalledSite) -> Iterator[None]:
    """Disable the stack's rule, so that a change in AWS makes no notification."""
    events, name = client(installed, "events"), installed.site.deployment.resources()["LabelUpdatedRule"]
    events.disable_rule(Name=name)
    try:
        yield
    finally:
        events.enable_rule(Name=name)


def changed_silently(installed: InstalledSite, name: str) -> str:
    """Bind a Secret, and change its AWS secret without a notification; return the new value."""
    site = installed.site
    site.bind(name)
    value = uuid4().hex
    with lost_events(installed):
        site.put(name, value)
    assert site.data(name) == {"value": b"first"}
    return value


# --- send


def test_notification_to_a_pod_brings_a_lost_change(installed: InstalledSite) -> None:
    value = changed_silently(installed, "by-pod")
    done = send(installed, "by-pod", "-o", "json")
    assert done.code == 0, done.err
    assert done.data()["outcome"] == "applied"
    assert done.data()["secrets"] == [f"{installed.site.team}/by-pod"]
    installed.site.wait_applied("by-pod", value)
    assert send(installed, "by-pod").out == f"{installed.site.team}/by-pod: unchanged\n"


def test_notification_to_a_url_brings_a_lost_change(installed: InstalledSite) -> None:
    value = changed_silently(installed, "by-url")
    url = ("--url", installed.site.receiver.url)
    refused = send(installed, "by-url", *url)
    assert (refused.code, refused.out) == (1, "")
    assert refused.err.startswith("Error: TLS: unable to get local issuer certificate: ")
    done = send(installed, "by-url", *url, "--ca-file", str(installed.ca_file))
    assert done.code == 0, done.err
    assert done.out.splitlines()[0] == f"{installed.site.team}/by-url: applied"
    installed.site.wait_applied("by-url", value)


def test_sample_of_send_is_what_is_printed(installed: InstalledSite) -> None:
    site = installed.site
    site.bind("sent")
    site.cluster.create([workload(site.team, "web", env_from("sent"))])
    eventually(lambda: "revision.keyturn.dev/sent" in annotations_of(site.cluster, "deployment", site.team, "web"))
    with lost_events(installed):
        site.put("sent", "second")
    done = send(installed, "sent")
    assert done.code == 0, done.err
    hold_sample(installed, "sent", "send", f"$ keyturn send shop/db\n{done.out}")


def test_event_in_the_queue_takes_the_whole_way(installed: InstalledSite) -> None:
    value = changed_silently(installed, "by-queue")
    done = send(installed, "by-queue", "--queue", "-o", "json")
    assert done.code == 0, done.err
    installed.site.wait_applied("by-queue", value)
    event_id = done.data()["eventId"]
    eventually(lambda: [each for each in installed.site.log() if each.get("correlation_id") == event_id])


def test_secret_that_nobody_binds_is_said(installed: InstalledSite) -> None:
    installed.site.secrets_manager.create_secret(Name=f"{installed.site.team}/unbound", SecretString="x")
    done = send(installed, "unbound")
    assert (done.code, done.out) == (1, f"{installed.site.team}/unbound: ignored: no Secret is bound to it\n")


def test_secret_that_aws_does_not_know_is_said(installed: InstalledSite) -> None:
    done = send(installed, "nowhere")
    assert (done.code, done.out) == (1, "")
    assert "ResourceNotFoundException: check the name and the region (AWS_REGION), or write the ARN" in done.err


def test_other_signing_key_is_refused_and_said(installed: InstalledSite) -> None:
    other = installed.site.secrets_manager.create_secret(Name=f"other-{uuid4().hex}", SecretString="whsec_" + "A" * 44)
    site = installed.site
    for key in (other["ARN"], site.deployment.outputs["SigningKeySecretId"]):
        variable = f"KEYTURN_SIGNING_KEY_SECRET_ID={key}"
        site.cluster.kubectl("set", "env", "deployment/keyturn", variable, "-n", site.namespace)
        if key == other["ARN"]:
            done = send(installed, "db")
    assert done.code == 1
    assert "the receiver does not accept the signature (401)" in done.err
    assert "A" * 44 not in done.out + done.err


def test_receiver_that_is_not_ready_is_said(installed: InstalledSite) -> None:
    installed.set_ready(False)
    try:
        done = send(installed, "db")
    finally:
        installed.set_ready(True)
    assert done.code == 1
    doctor = f"keyturn doctor --release {installed.release}"
    assert done.err == f"Error: no receiver of {installed.release} is ready: run {doctor}\n"


def test_missing_credentials_of_aws_are_said(installed: InstalledSite) -> None:
    gone = {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "AWS_EC2_METADATA_DISABLED": "true"}
    for arguments in (("send", "x"), ("redeliver", "--list"), ("doctor", "--aws", "--release", installed.release)):
        done = installed.run(*arguments, HOME="/proc/no-home", **gone)
        assert done.code == 1
        assert "no credentials" in done.out + done.err
        assert "log in: aws sso login, or set AWS_PROFILE" in done.out + done.err
        assert "Traceback" not in done.err


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["send", "x", "--queue", "--url", "https://a/v1/notifications"], "--queue and --url exclude each other"),
        (["send", "x", "--ca-file", "x"], "--ca-file needs --url"),
        (["send", "x", "--url", "nonsense"], "nonsense is not the URL of a receiver"),
        (["send", "a b"], "a b is no name of a secret: write the name or ARN of an AWS secret"),
        (["rotate", "a\x1b[2Jb"], "a\\x1b[2Jb is no name of a secret"),
        (["redeliver"], "choose one of --list, --all and EVENT-ID"),
        (["redeliver", "--list", "--all"], "choose one of --list, --all and EVENT-ID"),
        (["redeliver", "an-id", "--all"], "choose one of --list, --all and EVENT-ID"),
        (["doctor", "--ca-file", "x"], "--ca-file needs --url"),
        (["doctor", "--release", "x"], "--release x is not NAMESPACE/NAME"),
    ],
)
def test_wrong_usage_has_its_exit_code(installed: InstalledSite, arguments: list[str], text: str) -> None:
    done = installed.run(*arguments)
    assert (done.code, done.out) == (2, "")
    assert text in done.err


# --- redeliver


def dead_letter(installed: InstalledSite, name: str, reason: str | None = "status 400") -> str:
    """Put the event of a label move into the dead-letter queue, as the notifier does; return the event's id."""
    site = installed.site
    secret = site.secrets_manager.describe_secret(SecretId=f"{site.team}/{name}")
    (version,) = [each for each, labels in secret["VersionIdsToStages"].items() if "AWSCURRENT" in labels]
    event = {
        "version": "0",
        "id": str(uuid4()),
        "detail-type": "Secret Label Updated",
        "source": "aws.secretsmanager",
        "account": "111122223333",
        "time": "2026-11-29T12:00:00Z",
        "region": "eu-west-1",
        "resources": [secret["ARN"]],
        "detail": {"name": secret["Name"], "labelUpdated": "AWSCURRENT", "versionId": version},
    }
    attributes = {"reason": {"DataType": "String", "StringValue": reason}} if reason else {}
    url = site.deployment.outputs["DeadLetterQueueUrl"]
    client(installed, "sqs").send_message(QueueUrl=url, MessageBody=json.dumps(event), MessageAttributes=attributes)
    return str(event["id"])


def count(installed: InstalledSite) -> int:
    """Return how many dead letters there are."""
    return sum(installed.site.messages("DeadLetterQueueUrl").values())


def test_no_dead_letters_are_said(installed: InstalledSite) -> None:
    done = redeliver(installed, "--list")
    assert (done.code, done.out) == (0, "no dead letters\n")


def test_dead_letters_are_listed_with_their_reasons_and_stay(installed: InstalledSite) -> None:
    first, second = dead_letter(installed, "db"), dead_letter(installed, "db", reason=None)
    for _ in range(2):
        letters = redeliver(installed, "--list", "-o", "json").data()["deadLetters"]
        assert {each["eventId"]: each["reason"] for each in letters} == {
            first: "status 400",
            second: "tried 1000 times: see 'not delivered' in the notifier's log",
        }
        assert {each["secret"] for each in letters} == {f"{installed.site.team}/db"}
    table = redeliver(installed, "--list").out.splitlines()
    assert table[0].split() == ["EVENT", "ID", "TIME", "EVENT", "SECRET", "REASON"]
    assert len(table) == 3


def test_one_event_is_sent_back_and_delivered(installed: InstalledSite) -> None:
    value = changed_silently(installed, "again")
    event_id, other = dead_letter(installed, "again"), dead_letter(installed, "db")
    done = redeliver(installed, event_id)
    assert done.code == 0, done.err
    assert done.out.splitlines()[0] == f"sent back: {event_id}  {installed.site.team}/again"
    installed.site.wait_applied("again", value)
    letters = redeliver(installed, "--list", "-o", "json").data()["deadLetters"]
    assert [each["eventId"] for each in letters] == [other]


def test_all_events_are_sent_back(installed: InstalledSite) -> None:
    ids = {dead_letter(installed, "db") for _ in range(23)}
    done = redeliver(installed, "--all", "-o", "json")
    assert done.code == 0, done.err
    assert set(done.data()["redelivered"]) == ids
    assert count(installed) == 0
    eventually(lambda: ids <= {each.get("correlation_id") for each in installed.site.log()})


def test_sample_of_redeliver_is_what_is_printed(installed: InstalledSite) -> None:
    """The URL of the receiver has a wrong path at first, so the event becomes a dead letter. After the correction, the
    event arrives."""
    site = installed.site
    site.bind("moved")
    url = site.receiver.url.replace("/v1/notifications", "/v1/moved")
    with NotifierFunction(site.deployment).variables(KEYTURN_RECEIVER_URLS=url):
        site.put("moved", "second")
        eventually(lambda: count(installed) == 1)
    listed, sent = redeliver(installed, "--list"), redeliver(installed, "--all")
    assert (listed.code, sent.code) == (0, 0), listed.err + sent.err
    shown = f"$ keyturn redeliver --list\n{listed.out}$ keyturn redeliver --all\n{sent.out}"
    hold_sample(installed, "moved", "redeliver", shown)
    site.wait_applied("moved", "second")


def test_poison_comes_back_and_the_command_ends(installed: InstalledSite) -> None:
    """The notifier makes a dead letter of an event that names no secret, and does so again when it comes back."""
    detail = {"name": "shop/db", "labelUpdated": "AWSCURRENT"}
    event = {
        "id": str(uuid4()),
        "source": "aws.secretsmanager",
        "detail-type": "Secret Label Updated",
        "detail": detail,
    }
    queue_url = installed.site.deployment.outputs["QueueUrl"]
    client(installed, "sqs").send_message(QueueUrl=queue_url, MessageBody=json.dumps(event))
    eventually(lambda: count(installed) == 1)
    (letter,) = redeliver(installed, "--list", "-o", "json").data()["deadLetters"]
    assert letter["reason"] == "resources must hold the secret's ARN"
    assert redeliver(installed, "--all").code == 0
    eventually(lambda: count(installed) == 1)


def test_crash_between_send_and_deletion_loses_nothing(installed: InstalledSite) -> None:
    value = changed_silently(installed, "crash")
    event_id = dead_letter(installed, "crash")
    sqs, outputs = client(installed, "sqs"), installed.site.deployment.outputs

    handles = []

    class Crashing:
        """A client of SQS whose process ends when it would delete a message."""

        def __getattr__(self, name: str) -> Any:
            return getattr(sqs, name)

        def delete_message(self, QueueUrl: str, ReceiptHandle: str) -> None:
            handles.append(ReceiptHandle)
            raise SystemExit

        def change_message_visibility(self, **_: Any) -> None:
            """A process that is killed releases nothing."""

    queue = DeadLetterQueue(Crashing(), outputs["DeadLetterQueueUrl"], outputs["QueueUrl"])
    with pytest.raises(SystemExit):
        list(queue.redeliver({event_id}))
    installed.site.wait_applied("crash", value)
    assert count(installed) == 1
    # SQS would show the letter again after a minute. The test does it at once.
    sqs.change_message_visibility(QueueUrl=outputs["DeadLetterQueueUrl"], ReceiptHandle=handles[0], VisibilityTimeout=0)
    assert redeliver(installed, event_id).code == 0
    assert count(installed) == 0
    eventually(lambda: len(delivered(installed, event_id)) == 2)
    # The second delivery changes nothing.
    assert installed.site.history.data_history("crash") == [{}, {"value": b"first"}, {"value": value.encode()}]


def delivered(installed: InstalledSite, event_id: str) -> list[Any]:
    """Return the lines of the notifier's log about the delivery of an event."""
    lines = [each for each in installed.site.log() if each.get("correlation_id") == event_id]
    return [each for each in lines if each["message"] == "delivered"]


def test_unknown_event_is_said(installed: InstalledSite) -> None:
    dead_letter(installed, "db")
    done = redeliver(installed, "an-unknown-id")
    assert (done.code, done.out) == (1, "")
    assert done.err == (
        "Error: no dead letter has the event id an-unknown-id:"
        f" keyturn redeliver --list --stack {installed.site.deployment.name} shows them\n"
    )
    assert installed.site.messages("DeadLetterQueueUrl")["visible"] == 1


# --- ui

PAGE = "<title>Keyturn</title>"
# A kubectl that forwards nothing: it serves a page at the local port, and writes down how it was called.
KUBECTL = f"""#!{sys.executable}
import http.server, pathlib, sys
pathlib.Path(__file__).with_name("called").write_text(" ".join(sys.argv[1:]))
class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"{PAGE}")
    def log_message(self, *_):
        pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[-1].split(":")[0])), Page)
print("Forwarding from", server.server_address, flush=True)
server.serve_forever()
"""


@pytest.fixture
def kubectl(tmp_path: Path) -> Path:
    file = tmp_path / "kubectl"
    file.write_text(KUBECTL)
    file.chmod(0o755)
    return file


def test_status_page_is_forwarded_until_ctrl_c(installed: InstalledSite, kubectl: Path) -> None:
    command = ["ui", "--no-browser", "--release", installed.release]
    with installed.start(*command, PATH=str(kubectl.parent)) as running:
        assert running.stdout
        line = running.stdout.readline()
        hold_sample(installed, "", "ui", f"$ keyturn ui\n{line}")
        url, _, about = line.partition("  ")
        assert about == f"(pod {installed.pod}; Ctrl-C ends it)\n"
        with urllib.request.urlopen(url, timeout=10) as page:  # noqa: S310 - loopback
            assert page.read().decode() == PAGE
        running.send_signal(signal.SIGINT)
        assert running.wait(20) == 130
    port = url.rsplit(":", 1)[1].strip("/")
    place = f"port-forward --context keyturn-local -n {installed.site.namespace} pod/{installed.pod}"
    assert kubectl.with_name("called").read_text() == f"{place} {port}:9091"
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(url, timeout=5)  # noqa: S310 - the forwarding has ended with the command


def test_release_without_a_status_page_is_said(installed: InstalledSite) -> None:
    place = ("deployment/keyturn", "-n", installed.site.namespace)
    installed.site.cluster.kubectl("set", "env", *place, "KEYTURN_STATUS_PAGE=false")
    done = installed.run("ui", "--no-browser", "--release", installed.release)
    installed.site.cluster.kubectl("set", "env", *place, "KEYTURN_STATUS_PAGE=true")
    assert (done.code, done.out) == (1, "")
    assert "serves no status page: set the chart's value statusPage.enabled" in done.err


def test_pod_that_cannot_be_reached_is_said_without_kubectl(installed: InstalledSite) -> None:
    """No kubelet runs the pod, so the API server refuses to forward."""
    done = installed.run("ui", "--no-browser", "--release", installed.release, PATH="/nonexistent")
    assert (done.code, done.out) == (1, "")
    assert f"no port of pod {installed.site.namespace}/{installed.pod} can be forwarded (Handshake status" in done.err
    assert "check that the pod runs, and that you have the right to create and get pods/portforward" in done.err


# --- rotate


@pytest.fixture
def database() -> Iterator[Database]:
    with closing(Database(app="first")) as running:
        yield running


@pytest.fixture
def login(installed: InstalledSite, database: Database) -> str:
    """Return the name of a Secret with a database login that a rotation function has rotated once."""
    site, name = installed.site, f"login-{uuid4().hex[:6]}"
    arn = site.bind(name, json.dumps({"username": "app", "password": "first"}))
    function = deploy_rotation(site, database, ("app",), arn)
    first = site.secrets_manager.rotate_secret(SecretId=arn, RotationLambdaARN=function)["VersionId"]
    eventually(lambda: first in site.delivered())
    return name


def rotate(installed: InstalledSite, name: str, *arguments: str) -> Done:
    return installed.run("rotate", f"{installed.site.team}/{name}", "--release", installed.release, *arguments)


def versions(installed: InstalledSite, name: str) -> dict[str, list[str]]:
    secret = installed.site.secrets_manager.describe_secret(SecretId=f"{installed.site.team}/{name}")
    stages: dict[str, list[str]] = secret["VersionIdsToStages"]
    return stages


@pytest.mark.parametrize("wait", ["--wait", "--wait=applied", "--wait=live"])
def test_rotation_is_followed_until_it_has_arrived(installed: InstalledSite, login: str, wait: str) -> None:
    site = installed.site
    before = site.data(login)
    site.cluster.create([workload(site.team, f"web-{login}", env_from(login))])
    site.cluster.kubectl("rollout", "status", f"deployment/web-{login}", "-n", site.team, "--timeout=60s")
    done = rotate(installed, login, wait, "--timeout", "2m")
    assert done.code == 0, done
    (current,) = [version for version, labels in versions(installed, login).items() if "AWSCURRENT" in labels]
    moved, arrived = done.out.splitlines()
    assert moved.startswith(f"AWSCURRENT of {site.team}/{login} is on version {current[:8]} (")
    goal = "live" if wait == "--wait=live" else "applied"
    assert f"{site.team}/{login} version {current[:8]} is {goal} in keyturn-local: 1 Secret" in arrived
    assert site.data(login)["password"] not in (before["password"], b"first")
    password = site.data(login)["password"].decode()
    assert password not in done.out + done.err
    if wait == "--wait=live":
        hold_sample(installed, login, "rotate", f"$ keyturn rotate shop/db --wait=live\n{done.out}")
    site.cluster.kubectl("delete", "deployment", f"web-{login}", "-n", site.team, "--wait=false")


def test_rotation_without_a_wait_names_the_command_that_waits(installed: InstalledSite, login: str) -> None:
    done = rotate(installed, login, "-o", "json")
    assert done.code == 0
    version = done.data()["version"]
    eventually(lambda: version in installed.site.delivered())
    assert "AWSCURRENT" in versions(installed, login)[version]


def test_rotation_that_fails_ends_the_wait_with_its_exit_code(
    installed: InstalledSite, login: str, database: Database
) -> None:
    """Somebody has changed the password in the database, so the rotation function fails."""
    database.passwords["app"] = "changed"
    done = rotate(installed, login, "--wait", "--timeout", "8s")
    assert (done.code, done.out) == (3, ""), done.err
    assert "has not ended after 8 s: the old value is current: see the rotation function's log" in done.err
    again = rotate(installed, login, "--wait")
    assert again.code == 1
    assert f"an earlier rotation of {installed.site.team}/{login} is not complete" in again.err


def test_secret_that_nobody_binds_is_not_rotated(installed: InstalledSite) -> None:
    installed.site.secrets_manager.create_secret(Name=f"{installed.site.team}/lonely", SecretString="x")
    before = versions(installed, "lonely")
    done = rotate(installed, "lonely", "--wait")
    assert (done.code, done.out) == (1, "")
    assert "no Secret is bound to the AWS secret" in done.err
    assert versions(installed, "lonely") == before


def test_secret_without_a_rotation_function_is_refused(installed: InstalledSite) -> None:
    done = rotate(installed, "db")
    assert (done.code, done.out) == (1, "")
    assert "has no rotation function: configure one" in done.err


@pytest.mark.parametrize("arguments", [["--timeout", "soon"], ["--wait=never"]])
def test_wrong_options_rotate_nothing(installed: InstalledSite, arguments: list[str]) -> None:
    before = versions(installed, "db")
    assert rotate(installed, "db", *arguments).code == 2
    assert versions(installed, "db") == before
