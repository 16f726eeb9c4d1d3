"""S6: errors that contain secret values, whether the receiver or another program raises them, put no value into a log,
metric, Event, status, reply or trace."""

import asyncio
import base64
import gc
import json
import logging
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import pytest

from keyturn_contract.message import EventType
from keyturn_local.bench.stub_aws import CANARY
from keyturn_local.processes.environment import IMPORT_ROOTS, clean_environment
from keyturn_receiver.telemetry.logs import JsonFormatter, log_unhandled
from keyturn_receiver.telemetry.tracing import opentelemetry
from support.cluster_state import data_of
from support.fault_env import FaultEnv
from support.fault_proxy import Call, Fault, Reply
from support.manifests import env_from, secret, workload
from support.otlp_collector import OtlpCollector
from support.wait import eventually

C = CANARY
DEEP = "[" * 100_000 + f'"{C}"' + "]" * 100_000
# For each Secret: its value in AWS, the annotation `data`, and the expected status. Most of these values make an
# expression fail, or cannot fill a Secret.
STUMBLED_OVER: Mapping[str, tuple[str | bytes, str, str]] = {
    "wrong-type": (json.dumps({"a": f"{C}-text"}), "K: abs(a)", "InvalidValue"),
    "wrong-element": (json.dumps({"a": [f"{C}-1", 2]}), "K: sort(a)", "InvalidValue"),
    "wrong-key": (json.dumps({"a": [{"b": f"{C}-1"}, {"b": 2}]}), "K: sort_by(a, &b)", "InvalidValue"),
    "no-number": (json.dumps({"a": f"{C}-1"}), "K: to_number(a)", "InvalidValue"),
    "not-joined": (json.dumps({"a": f"{C}-1", "b": 1}), "K: join(a, [b])", "InvalidValue"),
    "unknown-function": (json.dumps({"a": f"{C}-1"}), "K: nothing(a)", "InvalidBinding"),
    "missing": (json.dumps({f"{C}-name": f"{C}-text"}), "K: password", "InvalidValue"),
    "no-json": (f"{{{C}", "K: password", "InvalidValue"),
    "binary": (b"\xff\xfe" + C.encode(), "K: password", "InvalidValue"),
    "too-deep": (DEEP[:60_000], "K: password", "InvalidValue"),
    "half-a-pair": ('"' + C + '\\ud800"', "K: '@'", "ok"),
    "half-a-pair-within": ('{"a": "' + C + '\\ud800"}', "K: a", "InvalidValue"),
    "name-no-key": (json.dumps({f"{C} with spaces": "x", f"{C}/slash": "y"}), "", "InvalidValue"),
    "name-of-nothing": (json.dumps({f"{C}-null": None}), "", "InvalidValue"),
    "name-of-a-number": (f'{{"{C}-large": 1e999}}', "", "ok"),
    "name-half-a-pair": (f'{{"{C}-half": "\\ud800"}}', "", "InvalidValue"),
    "names": (json.dumps({f"{C}-token-1": "x", f"{C}-token-2": "y"}), "", "ok"),
    "text": (f"{C}-text", "", "ok"),
    "bytes": (b"\xff\xfe" + C.encode(), "", "ok"),
}


def create(env: FaultEnv, name: str, value: str | bytes) -> str:
    kind = "SecretString" if isinstance(value, str) else "SecretBinary"
    return str(env.client.create_secret(Name=f"{env.namespace}/{name}", **{kind: value})["ARN"])


def nothing_was_said(env: FaultEnv, collector: OtlpCollector, *others: str) -> None:
    """Check that no secret value, and none of ``others``, is in a status or in any output that can be read without
    access to Secrets."""
    said = env.observed_output()
    # Reading a Secret's annotations takes access to Secrets, so the status is the only annotation that is checked.
    metadata = json.loads(said.pop("annotations"))
    said["status"] = json.dumps([each.get("annotations", {}).get("keyturn.dev/status") for each in metadata])
    eventually(lambda: collector.bodies)
    said["traces"] = b"".join(collector.bodies).decode("latin-1")
    for place, text in said.items():
        for each in (CANARY, base64.b64encode(CANARY.encode()).decode()[:-2], *others):
            assert each not in text, f"{each} in {place}"


@pytest.mark.long
@pytest.mark.fault("S6")
def test_values_in_own_errors_leak_nowhere(env: FaultEnv, collector: OtlpCollector) -> None:
    """Expressions, JSON and encodings fail on secret values and on property names in JSON. Neither appears in any log
    (even at DEBUG), metric, Event, status, reply or trace."""
    receiver = env.receiver(KEYTURN_LOG_LEVEL="DEBUG", **collector.settings)
    arns = {name: create(env, name, value) for name, (value, _, _) in STUMBLED_OVER.items()}
    env.cluster.create(
        secret(env.namespace, name, f"{env.namespace}/{name}", **({"keyturn.dev/data": data} if data else {}))
        for name, (_, data, _) in STUMBLED_OVER.items()
    )
    for name, (_, _, wanted) in STUMBLED_OVER.items():
        assert env.status(name).partition(":")[0] == wanted, name
    # The Deployment is created after the Secret is filled. Otherwise it would be restarted, and would get no baseline.
    env.cluster.create([workload(env.namespace, "web", env_from("names"))])
    eventually(lambda: env.history.baseline("web", "names"))
    for name, (value, _, wanted) in STUMBLED_OVER.items():
        again = value + (b" " if isinstance(value, bytes) else " ")
        again = again.replace(f"{C}-token-2", f"{C}-token-3") if isinstance(again, str) else again
        kind = "SecretString" if isinstance(again, str) else "SecretBinary"
        env.client.put_secret_value(SecretId=arns[name], **{kind: again})
        answer = env.send(env.notification_without_version(arns[name], EventType.CHANGED))
        assert answer.outcome in {"ok": ("applied", "unchanged")}.get(wanted, ("ignored",)), (name, answer.body)
    eventually(lambda: any(env.history.marks("web", "names")))
    assert f"{C}-token-3" in data_of(env.cluster, env.namespace, "names")  # the Secret itself may contain the name
    eventually(
        lambda: "wrote 2 keys from version" in env.cluster.kubectl("get", "events", "-n", env.namespace, "-o", "yaml")
    )
    assert f'"{env.namespace}/names"' in receiver.log
    nothing_was_said(env, collector)


LEAKY: Any = {
    "kind": "Status",
    "metadata": {},
    "status": "Failure",
    "message": f'admission webhook "w" denied the request: Secret "db" has data {C}-in-a-message',
    "reason": f"{C}-in-a-reason",
    "details": {
        "causes": [
            {"reason": f"{C}-reason", "message": f"{C}-cause", "field": f"data[{C}-field]"},
            {"reason": "x", "message": f"Invalid value: {C}", "field": f"{C}-field"},
            {"field": "metadata.annotations"},
            C,
        ]
    },
}
AWS_JSON = {"Content-Type": "application/x-amz-json-1.1"}
GARBLED_VALUES: Mapping[str, Any] = {
    "without-arn": {"Name": "x", "VersionId": "v", "SecretString": f"{C}-x"},
    "of-other-kinds": {"ARN": [C], "Name": {C: C}, "VersionId": 5, "SecretString": {C: 1}},
    "not-base64": {"ARN": "a", "Name": "n", "VersionId": "v", "SecretBinary": f"!{C}!"},
    "an-error": {"__type": f"{C}Exception-{C}", "message": f"{C}-in-a-message"},
    "a-list": [C],
}


@pytest.mark.long
@pytest.mark.fault("S6")
def test_values_in_foreign_errors_leak_nowhere(env: FaultEnv, collector: OtlpCollector) -> None:
    """The API server and webhooks put values into messages, reasons and field names, and so do unreadable answers of
    AWS, malformed Secrets and an unexpected error deep in the code. No output shows any of these values."""
    receiver = env.receiver(KEYTURN_LOG_LEVEL="DEBUG", **collector.settings)
    for name in ("writes", "tells", "restarts", "reads", "deep", *GARBLED_VALUES):
        env.create_bound_secret(name, consumers=(f"web-{name}",) if name == "restarts" else ())
    garbled = {f"{env.namespace}/{name}": value for name, value in GARBLED_VALUES.items()}

    def aws(call: Call) -> Fault:
        for name, value in garbled.items():
            if call.action in ("GetSecretValue", "BatchGetSecretValue") and call.about(name):
                return Reply(400 if "__type" in value else 200, value, AWS_JSON)
        return None

    def kubernetes(call: Call) -> Fault:
        if call.method == "PATCH" and call.path.endswith(("/secrets/writes", "/deployments/web-restarts")):
            return Reply(422, {**LEAKY, "code": 422})
        if call.method == "POST" and call.path.endswith("/events"):
            return Reply(403, {**LEAKY, "code": 403})
        if call.method == "GET" and call.path.endswith("/secrets/reads"):
            return Reply(500, {**LEAKY, "code": 500})
        if call.method == "GET" and call.path.endswith("/secrets/deep"):
            found = env.cluster.get("secret", "deep", env.namespace)
            return Reply(200, {**found, "data": {f"{C}-key": f"{C} is no base64, and long enough!!!"}})
        return None

    env.aws_proxy.fault_for, env.kubernetes_proxy.fault_for = aws, kubernetes
    # The edit makes the receiver read the Secret itself, instead of relying on the digests that it remembers.
    for name in ("reads", "deep"):
        env.cluster.kubectl("annotate", "secret", name, "-n", env.namespace, "example.com/seen=1")
    statuses = {
        name: env.send(env.rotate(name)).status
        for name in ("writes", "restarts", "reads", "deep", "tells", *GARBLED_VALUES)
    }
    assert statuses["writes"] == statuses["restarts"] == 200, statuses
    assert statuses["reads"] == statuses["deep"] == 503, statuses
    told = env.status("restarts")
    assert told.startswith("ClusterRefused: ")
    assert "answered 422 for data[...], metadata.annotations" in told
    assert "reconcile failed unexpectedly" in receiver.log
    assert "could not be recorded" in receiver.log
    nothing_was_said(env, collector)
    env.kubernetes_proxy.heal()
    env.aws_proxy.heal()


@pytest.mark.fault("S6")
def test_uncaught_error_is_logged_by_place_alone() -> None:
    """asyncio reports a task whose exception nobody retrieved, and a callback that failed. The log gives the type and
    the place of the error, but not its text."""

    async def breaks(value: str) -> None:
        raise ValueError(value)

    def broken(value: str) -> None:
        raise KeyError(value)

    async def run() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(log_unhandled)
        task = loop.create_task(breaks(f"{C}-in-a-task"), name=f"{C}-name")
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        del task
        gc.collect()
        loop.call_soon(broken, f"{C}-in-a-callback")
        await asyncio.sleep(0.01)

    formatter, lines = JsonFormatter(), []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(formatter.format(record))  # type: ignore[method-assign]
    logger = logging.getLogger(log_unhandled.__module__)
    logger.addHandler(handler)
    try:
        asyncio.run(run())
    finally:
        logger.removeHandler(handler)
    assert [json.loads(line)["error"] for line in lines] == ["ValueError", "KeyError"]
    assert C not in "".join(lines)


@pytest.mark.fault("S6")
def test_span_of_an_error_carries_no_error_text(collector: OtlpCollector, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error whose text contains a value is raised within a span. The span is exported without the text."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
    span, end = opentelemetry("a-service", "1")
    for event_ids in ([], ["6a7e8feb-b491-4cf7-a9f1-bf3703467718", "no-uuid"]):
        with pytest.raises(ValueError, match=C), span("a-span", event_ids):
            raise ValueError(f"{C}-in-an-error")
    end()
    sent = b"".join(collector.bodies)
    assert sent.count(b"a-span") == 2
    assert C.encode() not in sent


SECRET_SETTINGS = {
    "KEYTURN_SIGNING_PUBLIC_KEYS": f"whpk_{C}",
    "KEYTURN_PORT": f"{C}-port",
    "KEYTURN_POLICY_DEFAULT": f"{C}-policy",
    "KEYTURN_LOG_LEVEL": f"{C}-level",
    "KEYTURN_TENANT_ROLES": f"{C}-roles",
    "KEYTURN_DEADLINE_SECONDS": f"{C}-seconds",
}


@pytest.mark.fault("S6")
def test_wrong_settings_are_named_and_not_quoted() -> None:
    """Some settings have secret values in the wrong place. The receiver names each of these settings, and quotes no
    value."""
    done = subprocess.run(
        [sys.executable, "-m", "keyturn_receiver"],
        env={**clean_environment(), "PYTHONPATH": IMPORT_ROOTS, "AWS_SECRET_ACCESS_KEY": f"{C}-key", **SECRET_SETTINGS},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert all(name in done.stderr for name in SECRET_SETTINGS), done.stderr
    assert C not in done.stdout + done.stderr
