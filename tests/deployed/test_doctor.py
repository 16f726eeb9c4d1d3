"""The doctor on a stack that SAM has deployed, and a real API server: one thing is broken at a time."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from support.fake_receiver import FakeReceiver
from support.installed_site import InstalledSite
from support.manifests import secret
from support.wait import eventually


def findings(installed: InstalledSite, *arguments: str) -> list[tuple[str, str, str]]:
    """Run the doctor, and return its warnings and errors."""
    done = installed.doctor("--aws", *arguments)
    found = done.data()["findings"]
    bad = [(each["section"], each["level"], each["text"]) for each in found if each["level"] in ("warning", "error")]
    assert done.code == (1 if any(level == "error" for _, level, _ in bad) else 0)
    assert all(each["remedy"] for each in found if each["level"] in ("warning", "error"))
    return bad


def test_healthy_installation_has_no_finding(installed: InstalledSite) -> None:
    url = installed.site.receiver.url
    assert findings(installed, "--url", url, "--ca-file", str(installed.ca_file)) == []


def test_report_for_people_has_a_line_for_each_finding(installed: InstalledSite) -> None:
    done = installed.run("doctor", "--aws", "--release", installed.release, "--stack", installed.site.deployment.name)
    lines = done.out.splitlines()
    sections = [line.removeprefix("► ") for line in lines if line.startswith("► ")]
    assert sections == ["cluster", "rights", "bindings", "path", "keys", "clocks"]
    assert {line[:4] for line in lines[:-1] if not line.startswith("► ")} == {"  ✔ "}
    assert lines[-1] == "0 errors, 0 warnings"
    assert done.code == 0


def test_heartbeat_is_sent_over_the_whole_event_path(installed: InstalledSite) -> None:
    done = installed.doctor("--send")
    (heartbeat,) = (each for each in done.data()["findings"] if each["section"] == "heartbeat")
    assert heartbeat["level"] == "ok"
    assert "bus to Lease keyturn-event-path in " in heartbeat["text"]


# --- one thing broken at a time: each function breaks it, and mends it at the end


@contextmanager
def unready_pod(installed: InstalledSite) -> Iterator[None]:
    installed.set_ready(False)
    yield
    installed.set_ready(True)


@contextmanager
def pod_of_another_release(installed: InstalledSite) -> Iterator[None]:
    for version in ("0.1.0", "0.2.0"):
        change = {"metadata": {"labels": {"app.kubernetes.io/version": version}}}
        installed.patch("pod", installed.pod, change)
        if version == "0.1.0":
            yield


@contextmanager
def silent_poller(installed: InstalledSite) -> Iterator[None]:
    """The process is paused and does not end, so it does not release the Lease."""
    receiver = installed.site.receiver
    receiver.pause()
    try:
        time.sleep(32)  # the doctor tests the Lease's age, and 30 s are its limit
        yield
    finally:
        receiver.resume()
        eventually(lambda: receiver.ready()[0] == 200)
        eventually(lambda: not [each for each in findings(installed) if "poller" in each[2]])


@contextmanager
def silent_event_path(installed: InstalledSite) -> Iterator[None]:
    """The receivers write the Lease with each heartbeat, so the doctor has to look before the next heartbeat."""
    installed.patch("lease", "keyturn-event-path", {"spec": {"renewTime": "2020-01-01T00:00:00.000000Z"}})
    yield
    installed.doctor("--send")


@contextmanager
def missing_right(installed: InstalledSite) -> Iterator[None]:
    site = installed.site
    (role,) = site.cluster.list("roles", site.team)
    name = role["metadata"]["name"]
    for rule in role["rules"]:
        if rule["resources"] == ["events"]:
            rule["verbs"].remove("patch")
    before = site.cluster.get("role", name, site.team)["rules"]
    installed.patch("role", name, {"rules": role["rules"]}, namespace=site.team)
    yield
    installed.patch("role", name, {"rules": before}, namespace=site.team)


@contextmanager
def unallowed_namespace(installed: InstalledSite) -> Iterator[None]:
    site = installed.site
    site.cluster.kubectl("annotate", "namespace", site.team, "keyturn.dev/allow-secrets-")
    yield
    site.cluster.kubectl("annotate", "namespace", site.team, f"keyturn.dev/allow-secrets={site.team}/*")
    eventually(lambda: findings(installed) == [])


@contextmanager
def bound(installed: InstalledSite, manifest: Any, has_status: bool = True) -> Iterator[None]:
    site, name = installed.site, manifest["metadata"]["name"]
    site.cluster.create([manifest])
    if has_status:
        eventually(
            lambda: "keyturn.dev/status" in site.cluster.get("secret", name, site.team)["metadata"]["annotations"]
        )
    yield
    site.cluster.delete([manifest])


def failing_binding(installed: InstalledSite) -> Any:
    return bound(installed, secret(installed.site.team, "lost", f"{installed.site.team}/nowhere"))


def wrong_label(installed: InstalledSite) -> Any:
    manifest = secret(installed.site.team, "shouted", f"{installed.site.team}/db")
    manifest["metadata"]["labels"]["keyturn.dev/bind"] = "True"
    return bound(installed, manifest, has_status=False)


@contextmanager
def shared_key(installed: InstalledSite) -> Iterator[None]:
    """Another tool applies a key with its present value, so the tool and Keyturn both own the key."""
    site = installed.site
    site.bind("shared")
    value = site.cluster.get("secret", "shared", site.team)["data"]
    theirs = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "shared", "namespace": site.team},
        "data": value,
    }
    flags = ("--server-side", "--field-manager=argocd-controller", "-f", "-")
    site.cluster.kubectl("apply", *flags, stdin=json.dumps(theirs))
    yield
    site.cluster.delete([theirs])


@contextmanager
def disabled_rule(installed: InstalledSite) -> Iterator[None]:
    events, name = client(installed, "events"), rule_name(installed)
    events.disable_rule(Name=name)
    yield
    events.enable_rule(Name=name)


@contextmanager
def wrong_pattern(installed: InstalledSite) -> Iterator[None]:
    events, name = client(installed, "events"), rule_name(installed)
    before = events.describe_rule(Name=name)["EventPattern"]
    events.put_rule(Name=name, EventPattern=json.dumps({"source": ["aws.secretsmanagers"]}), State="ENABLED")
    yield
    events.put_rule(Name=name, EventPattern=before, State="ENABLED")


@contextmanager
def rule_without_target(installed: InstalledSite) -> Iterator[None]:
    events, name = client(installed, "events"), rule_name(installed)
    targets = events.list_targets_by_rule(Rule=name)["Targets"]
    events.remove_targets(Rule=name, Ids=[each["Id"] for each in targets])
    yield
    events.put_targets(Rule=name, Targets=targets)


@contextmanager
def disabled_schedule(installed: InstalledSite) -> Iterator[None]:
    scheduler = client(installed, "scheduler")
    name = installed.site.deployment.resources()["Heartbeat"]
    schedule = scheduler.get_schedule(Name=name)
    wanted = ("ScheduleExpression", "FlexibleTimeWindow", "Target")
    fields = {"Name": name, **{each: schedule[each] for each in wanted}}
    scheduler.update_schedule(**fields, State="DISABLED")
    yield
    scheduler.update_schedule(**fields, State="ENABLED")


@contextmanager
def closed_queue(installed: InstalledSite) -> Iterator[None]:
    sqs, url = client(installed, "sqs"), installed.site.deployment.outputs["QueueUrl"]
    before = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["Policy"])["Attributes"]["Policy"]
    sqs.set_queue_attributes(QueueUrl=url, Attributes={"Policy": json.dumps({"Statement": []})})
    yield
    sqs.set_queue_attributes(QueueUrl=url, Attributes={"Policy": before})


@contextmanager
def message_in(installed: InstalledSite, output: str) -> Iterator[None]:
    sqs, url = client(installed, "sqs"), installed.site.deployment.outputs[output]
    sqs.send_message(QueueUrl=url, MessageBody="{}")
    yield
    sqs.purge_queue(QueueUrl=url)


@contextmanager
def stopped_event_source(installed: InstalledSite) -> Iterator[None]:
    functions = client(installed, "lambda")
    name = installed.site.deployment.outputs["NotifierName"]
    (mapping,) = functions.list_event_source_mappings(FunctionName=name)["EventSourceMappings"]
    functions.update_event_source_mapping(UUID=mapping["UUID"], Enabled=False)
    yield
    functions.update_event_source_mapping(UUID=mapping["UUID"], Enabled=True)


@contextmanager
def another_signing_key(installed: InstalledSite) -> Iterator[None]:
    site = installed.site
    for key in ("keyturn/other", site.deployment.outputs["SigningKeySecretId"]):
        variable = f"KEYTURN_SIGNING_KEY_SECRET_ID={key}"
        site.cluster.kubectl("set", "env", "deployment/keyturn", variable, "-n", site.namespace)
        if key == "keyturn/other":
            yield


def client(installed: InstalledSite, service: str) -> Any:
    return installed.site.deployment.emulator.client(service)


def rule_name(installed: InstalledSite) -> str:
    return installed.site.deployment.resources()["LabelUpdatedRule"]


BROKEN: dict[str, tuple[Callable[[InstalledSite], Any], str, str, str]] = {
    "pod is not ready": (unready_pod, "cluster", "error", "0/1 receivers ready"),
    "pod is of another release": (pod_of_another_release, "cluster", "warning", "receivers 0.1.0, CLI 0.2.0"),
    "poller is silent": (silent_poller, "cluster", "error", "has not renewed the Lease keyturn-poller"),
    "event path is silent": (silent_event_path, "cluster", "error", "event path: silent for "),
    "right is missing": (missing_right, "rights", "error", "RBAC: the receivers may not patch events in team-"),
    "namespace may read nothing": (unallowed_namespace, "rights", "warning", "without keyturn.dev/allow-secrets"),
    "binding fails": (failing_binding, "bindings", "error", "1 of 2 bindings fails ("),
    "label is wrong": (wrong_label, "bindings", "warning", "1 Secret with a wrong label keyturn.dev/bind"),
    "key has two owners": (shared_key, "bindings", "warning", "argocd-controller (value)"),
    "rule is disabled": (disabled_rule, "path", "error", "is disabled, so no event reaches the queue"),
    "pattern is wrong": (wrong_pattern, "path", "error", "does not match a label move"),
    "rule has no target": (rule_without_target, "path", "error", "does not send to the stack's queue"),
    "schedule is disabled": (disabled_schedule, "path", "error", "the schedule of the heartbeats is DISABLED"),
    "queue's policy is gone": (closed_queue, "path", "error", "the queue's policy does not let the rule send to it"),
    "dead letter": (lambda it: message_in(it, "DeadLetterQueueUrl"), "path", "warning", "dead letters 1"),
    "undelivered event": (
        lambda it: message_in(it, "UndeliveredEventsUrl"),
        "path",
        "warning",
        "1 event that EventBridge could not put into the queue",
    ),
    "event source is off": (stopped_event_source, "path", "error", "the notifier's event source is Disabled"),
    "signing keys differ": (another_signing_key, "keys", "error", "receivers read the signing key keyturn/other"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_one_broken_thing_is_the_only_finding(name: str, installed: InstalledSite) -> None:
    breaking, section, level, text = BROKEN[name]
    with breaking(installed):
        ((found_section, found_level, found_text),) = findings(installed)
    assert (found_section, found_level) == (section, level)
    assert text in found_text


def test_everything_is_mended_again(installed: InstalledSite) -> None:
    """The tests above have mended everything that they broke."""
    eventually(lambda: findings(installed) == [], 90)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (
            ["--release", "keyturn-nowhere/keyturn"],
            "there is no release keyturn of Keyturn in namespace keyturn-nowhere",
        ),
        (["--stack", "nowhere"], "DescribeStacks nowhere: ValidationError"),
    ],
)
def test_what_is_not_there_is_an_error_with_a_remedy(installed: InstalledSite, arguments: list[str], text: str) -> None:
    done = installed.doctor("--aws", *arguments)
    errors = [each for each in done.data()["findings"] if each["level"] == "error"]
    assert any(text in each["text"] for each in errors)
    assert any(arguments[0] in each["remedy"] for each in errors)
    assert done.code == 1


def test_certificate_that_is_not_trusted_is_found(installed: InstalledSite) -> None:
    ((section, level, text),) = findings(installed, "--url", installed.site.receiver.url)
    assert (section, level) == ("receiver's URL", "error")
    assert "TLS: unable to get local issuer certificate" in text


def test_something_in_front_of_the_receiver_is_found(installed: InstalledSite) -> None:
    with closing(FakeReceiver(installed.site.endpoints.certificate.context())) as proxy:
        proxy.respond = lambda headers, body: (403, b"<html>blocked</html>")
        proxy.is_marked = False
        ((section, level, text),) = findings(installed, "--url", proxy.url, "--ca-file", str(installed.ca_file))
    assert (section, level) == ("receiver's URL", "error")
    assert "unsigned POST answered 403 by something in front of the receiver" in text


def test_caller_without_rights_is_told_what_is_not_checked(installed: InstalledSite, tmp_path: Path) -> None:
    site = installed.site
    site.cluster.kubectl("create", "serviceaccount", "stranger", "-n", site.namespace)
    kubeconfig = site.cluster.kubeconfig_for(site.namespace, "stranger", tmp_path)
    done = installed.doctor(KUBECONFIG=str(kubeconfig))
    found = done.data()["findings"]
    skipped = {each["text"].partition(":")[0] for each in found if each["level"] == "skipped"}
    assert skipped == {"receivers", "poller", "event path", "RBAC of the chart", "bindings"}
    assert not [each for each in found if each["level"] in ("error", "warning")]
    assert done.code == 0


def test_receiver_itself_may_run_the_checks(installed: InstalledSite, tmp_path: Path) -> None:
    """The receiver's ServiceAccount may not ask for the rights of others, and it reads what it needs."""
    site = installed.site
    kubeconfig = site.cluster.kubeconfig_for(site.namespace, "keyturn", tmp_path)
    found = installed.doctor(KUBECONFIG=str(kubeconfig)).data()["findings"]
    assert not [each for each in found if each["level"] in ("error", "warning")]
    texts = [each["text"] for each in found if each["level"] == "ok"]
    assert any("poller: " in text for text in texts)
    assert any("event path: heartbeat" in text for text in texts)


def test_no_value_is_in_any_output(installed: InstalledSite) -> None:
    canary = "canary-8c1f6e0a"
    installed.site.put("db", canary)
    installed.site.wait_applied("db", canary)
    key = client(installed, "secretsmanager").get_secret_value(
        SecretId=installed.site.deployment.outputs["SigningKeySecretId"]
    )["SecretString"]
    done = installed.doctor("--aws", "--send", "--url", installed.site.receiver.url)
    sent = installed.run(
        "send", f"{installed.site.team}/db", "--stack", installed.site.deployment.name, "--release", installed.release
    )
    for text in (done.out, done.err, sent.out, sent.err):
        assert canary not in text
        assert key not in text


# Mounts the ServiceAccount's files as the kubelet does:
# https://kubernetes.io/docs/tasks/run-application/access-api-from-pod/
IN_POD = """
set -e
mount -t tmpfs none /var/run
mkdir -p /var/run/secrets/kubernetes.io/serviceaccount
cp "$1"/* /var/run/secrets/kubernetes.io/serviceaccount
shift
exec "$@"
"""


@pytest.fixture
def pod(installed: InstalledSite, tmp_path: Path) -> list[str]:
    """Return a command that runs another command with the mounts of a receiver's pod, in its own mount namespace."""
    site = installed.site
    mounted = tmp_path / "mounted"
    mounted.mkdir()
    (mounted / "token").write_text(site.cluster.create_token("keyturn", site.namespace))
    (mounted / "ca.crt").write_bytes(site.cluster.ca_file.read_bytes())
    (mounted / "namespace").write_text(site.namespace)
    return ["unshare", "--map-root-user", "--mount", "sh", "-c", IN_POD, "sh", str(mounted)]


def in_pod(installed: InstalledSite, **variables: str) -> dict[str, str]:
    """Return the environment variables that the kubelet and the chart give a receiver's pod."""
    site = installed.site
    return {
        "KUBECONFIG": "",
        "HOME": "/proc/no-home",
        "KUBERNETES_SERVICE_HOST": "127.0.0.1",
        "KUBERNETES_SERVICE_PORT": str(site.cluster.port),
        "KEYTURN_LEASE_NAMESPACE": site.namespace,
        "KEYTURN_LEASE_NAME": "keyturn",
        "KEYTURN_NAMESPACES": site.team,
        "KEYTURN_SIGNING_KEY_SECRET_ID": site.deployment.outputs["SigningKeySecretId"],
        **variables,
    }


def test_doctor_in_the_pod_checks_the_receivers_own_rights_and_identity(
    installed: InstalledSite, pod: list[str]
) -> None:
    done = installed.run("doctor", "-o", "json", before=pod, **in_pod(installed))
    assert (done.code, done.err) == (0, "")
    by_section: dict[str, list[str]] = {}
    for each in done.data()["findings"]:
        assert each["level"] in ("ok", "skipped"), each
        if each["level"] == "ok":
            by_section.setdefault(each["section"], []).append(each["text"])
    assert "RBAC of the chart, all verbs" in by_section["rights"]
    assert by_section["identity"][1:] == ["region us-east-1", "reads signing key", "ListSecrets"]
    assert by_section["bindings"] == ["1 binding, none fails"]


def test_right_that_the_pod_lacks_is_found_from_within(installed: InstalledSite, pod: list[str]) -> None:
    with missing_right(installed):
        done = installed.run("doctor", "-o", "json", before=pod, **in_pod(installed))
    bad = [each["text"] for each in done.data()["findings"] if each["level"] in ("error", "warning")]
    assert bad == [f"RBAC: the receivers may not patch events in {installed.site.team}"]


def test_identity_that_the_pod_lacks_is_found(installed: InstalledSite, pod: list[str]) -> None:
    gone = {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "AWS_EC2_METADATA_DISABLED": "true"}
    done = installed.run("doctor", "-o", "json", before=pod, **in_pod(installed, **gone))
    bad = [(each["section"], each["text"]) for each in done.data()["findings"] if each["level"] == "error"]
    assert bad == [("identity", "AWS identity: sts:GetCallerIdentity: no credentials")]
    assert done.code == 1
