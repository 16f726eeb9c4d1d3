"""F26 and F27: tenants write malformed bindings and values, or only a few Secrets of a large cluster are bound."""

import asyncio
import json
import ssl
import time
from base64 import b64encode
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest

from keyturn_contract.message import Outcome
from keyturn_local.bench.stub_aws import CANARY
from keyturn_local.kubernetes.control_plane import ControlPlane
from keyturn_local.receiver.process import LocalReceiver
from keyturn_receiver.core.binding import DATA, SECRET_ID
from keyturn_receiver.core.revision import APPLIED_AT, BINDING_HASH, DATA_HASH, REVISIONS, STATUS, VERSION_IDS
from support.cluster_state import annotations_of, data_of
from support.fault_env import FaultEnv
from support.manifests import env_from, secret, workload
from support.wait import eventually

MANY = 20_000
OURS = 10
AT_ONCE = 64

DOUBLING = "|".join(["[@,@]"] * 30)
LAUGHS = "a: &a lol\n" + "".join(
    f"{chr(98 + number)}: &{chr(98 + number)} [{', '.join([f'*{chr(97 + number)}'] * 9)}]\n" for number in range(12)
)

# For each malformed binding: the annotations that a tenant writes on a Secret, in a namespace that may read
# {ns}/victim, and the reason and the advice that the status then gives.
BINDINGS: Mapping[str, tuple[dict[str, str], str, str]] = {
    "no secret id": ({SECRET_ID: " "}, "InvalidBinding", "set it to the name or ARN"),
    "a secret id of odd characters": (
        {SECRET_ID: "{ns}/\u202ebd\u0000 ü"},
        "InvalidBinding",
        "copy it from the console",
    ),
    "a secret id without end": ({SECRET_ID: "{ns}/" + "x" * 5000}, "InvalidBinding", "copy it from the console"),
    "an ARN of nothing": ({SECRET_ID: "arn:"}, "InvalidBinding", "copy it from the console"),
    "an ARN with an allowed name and no region": ({SECRET_ID: "arn:secret:{ns}/x"}, "InvalidBinding", "copy it"),
    "an ARN in a region that is none": (
        {SECRET_ID: "arn:aws:secretsmanager:-:123456789012:secret:{ns}/x-abcdef"},
        "InvalidBinding",
        "copy it from the console",
    ),
    "a label without end": ({"keyturn.dev/version-stage": "x" * 300}, "InvalidBinding", "name a staging label"),
    "a label that is on nothing": ({"keyturn.dev/version-stage": "\u202enone"}, "SourceRefused", "correct the label"),
    "another word for delete": ({"keyturn.dev/on-delete": "DELETE FROM"}, "InvalidBinding", "must be retain or delete"),
    "a path for a ServiceAccount": ({"keyturn.dev/service-account": "../x"}, "InvalidBinding", "of this namespace"),
    "no YAML": ({DATA: "A: [unclosed"}, "InvalidBinding", "KEY: expression"),
    "YAML with NUL": ({DATA: "A: a\u0000"}, "InvalidBinding", "KEY: expression"),
    "YAML that laughs a billion times": ({DATA: LAUGHS}, "InvalidBinding", "must be plain text"),
    "YAML that runs code": ({DATA: "A: !!python/object/apply:os.abort []"}, "InvalidBinding", "must be plain text"),
    "YAML of 60,000 brackets": ({DATA: "A: " + "[" * 60_000}, "InvalidBinding", "KEY: expression"),
    "YAML of 30,000 lists": ({DATA: "- " * 30_000}, "InvalidBinding", "KEY: expression"),
    "more YAML than is read": ({DATA: "A: a\n" + "#" * 70_000}, "InvalidBinding", "bind several Secrets"),
    "8,000 faults": (
        {DATA: "".join(f"{number:x}/: )\n" for number in range(7_000))},
        "InvalidBinding",
        "is not a valid key for a Secret",
    ),
    "half a surrogate pair": ({DATA: 'A: "\\ud800"'}, "InvalidBinding", "KEY: expression"),
    "a key twice": ({DATA: "A: user\nA: password"}, "InvalidBinding", "keep one"),
    "a key that is a path": ({DATA: '"../../etc/x": user'}, "InvalidBinding", "is not a valid key for a Secret"),
    "a key that Kubernetes alone refuses": ({DATA: '"..": user'}, "InvalidBinding", "is not a valid key for a Secret"),
    "a key of 254 characters": ({DATA: "k" * 254 + ": user"}, "InvalidBinding", "is not a valid key for a Secret"),
    "a key of odd characters": ({DATA: '"\u202ekey": user'}, "InvalidBinding", "is not a valid key for a Secret"),
    "no expression": ({DATA: "A: ''"}, "InvalidBinding", "name a property"),
    "an expression without end": ({DATA: "A: " + "user.".ljust(5000, "x")}, "InvalidBinding", "shorten it"),
    "an expression of 2,000 brackets": (
        {DATA: "A: '" + "(" * 2000 + "user" + ")" * 2000 + "'"},
        "InvalidBinding",
        "not a JMESPath expression",
    ),
    "projections in projections": (
        {DATA: "A: '" + "list[?" * 8 + "@" + "]" * 8 + "'"},
        "InvalidBinding",
        "simplify it",
    ),
    "a bomb that doubles": ({DATA: f"A: '{DOUBLING}'"}, "InvalidValue", "simplify the expression"),
    "bombs that are small alone": (
        {DATA: "".join(f"A{number}: '{'|'.join(['[@,@]'] * 5)}|to_string(@)|length(@)'\n" for number in range(200))},
        "InvalidValue",
        "simplify them",
    ),
    "more expressions than are parsed": (
        {DATA: "".join(f"A{number}: '{'|'.join(['[@,@]'] * 7)}|to_string(@)|length(@)'\n" for number in range(600))},
        "InvalidBinding",
        "bind several Secrets",
    ),
    "an index of 4,000 digits": ({DATA: f"A: 'list[{'9' * 4000}]'"}, "InvalidValue", "correct the expression"),
    "a function that quotes its value": ({DATA: "A: join(user, password)"}, "InvalidValue", "convert it with"),
    "what is not there": ({DATA: "A: nowhere"}, "InvalidValue", "add the property in AWS"),
}

GOOD = {"user": "u", "password": "p"}
EXPRESSION = {DATA: "user: user\npassword: password\n"}
KEYS = 10_000


def text(**properties: Any) -> str:
    return json.dumps({"user": f"{CANARY}-user", **properties})


# For each poisonous value: the value that a good secret is rotated to, the annotations of its binding, and the reason
# and the advice that the status then gives.
VALUES: Mapping[str, tuple[str | bytes, dict[str, str], str, str]] = {
    "JSON without its end": (text(password=f"{CANARY}-p")[:-1], {}, "InvalidValue", "a closing bracket is expected"),
    "JSON of another secret": (json.dumps({"token": f"{CANARY}-t"}), {}, "InvalidValue", "none of the keys"),
    "blanks": (" \n", {}, "InvalidValue", "it is blank"),
    "plain text for an expression": (f"{CANARY}-plain", EXPRESSION, "InvalidValue", "not JSON"),
    "JSON that is no object": (f'["{CANARY}"]', EXPRESSION, "InvalidValue", "correct the expression"),
    "nothing": ("{}", {}, "InvalidValue", "has no properties"),
    "two byte order marks": ("\ufeff\ufeff" + text(password="p"), {}, "InvalidValue", "other characters come first"),
    "JSON 12,000 deep": ('{"user":' * 12_000 + "1" + "}" * 12_000, {}, "InvalidValue", "nested too deeply"),
    "JSON 12,000 deep for an expression": (
        '{"user":' + "[" * 12_000 + "]" * 12_000 + "}",
        EXPRESSION,
        "InvalidValue",
        "nested too deeply",
    ),
    "a number beyond all bounds": (
        '{"user": "", "numbers": [1e999, 1]}',
        {DATA: "user: user || sum(numbers)"},
        "InvalidValue",
        "too large for a number",
    ),
    "not a number": (text(password=0)[:-2] + "NaN}", {}, "InvalidValue", "NaN and Infinity are not JSON"),
    "null": ('{"user": null, "password": null}', {}, "InvalidValue", "properties are all null"),
    "two of one name": (text(password="p")[:-1] + ', "user": 1}', {}, "InvalidValue", "keep one of the two"),
    "a key with line breaks": (text(key="-----BEGIN")[:-2] + '\n"}', {}, "InvalidValue", "a string has a line break"),
    "null for an expression": (text(password=None), EXPRESSION, "InvalidValue", "or it is null"),
    "a property that is gone": (text(), EXPRESSION, "InvalidValue", "add the property in AWS"),
    "half a surrogate pair": (text(password="p")[:-3] + '\\ud800"}', {}, "InvalidValue", "half a surrogate pair"),
    "keys that are no Secret keys": (
        text(**{f"\u202e {CANARY[:6]}\0": 1, "": 2}),
        {},
        "InvalidValue",
        "cannot be a key",
    ),
    "a key that Kubernetes alone refuses": (text(**{"..": f"{CANARY}-dots"}), {}, "InvalidValue", "cannot be a key"),
    "4,000 keys that are none": (
        json.dumps({f" {number:x}": CANARY[-1] for number in range(4_000)}),
        {},
        "InvalidValue",
        "cannot be a key",
    ),
    "10,000 keys": (
        text(password=0, **{f"{number:x}": number for number in range(KEYS)}),
        {},
        "InvalidValue",
        "name those you need",
    ),
    "JSON in Latin-1": (b'{"user": "\xe9' + CANARY.encode() + b'"}', {}, "InvalidValue", "it is not UTF-8"),
    "bytes that are no text for an expression": (
        b"\xff\xfe" + CANARY.encode(),
        EXPRESSION,
        "InvalidValue",
        "not JSON",
    ),
    "what fills a Secret sixteen times": (
        text(password="x" * 60_000),
        {DATA: "".join(f"k{number}: '@'\n" for number in range(18))},
        "InvalidValue",
        "take fewer of them",
    ),
}


@pytest.fixture(scope="module")
def control_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A control plane that only this file uses, because the file's twenty thousand Secrets would slow down other
    tests."""
    with ControlPlane.start(tmp_path_factory.mktemp("control-plane")) as running:
        yield running


def statuses(env: FaultEnv) -> dict[str, str]:
    """Return the status of each Secret in the namespace, as one line."""
    listed = env.cluster.list("secrets", env.namespace)
    return {
        each["metadata"]["name"]: " ".join(each["metadata"].get("annotations", {}).get(STATUS, "").split())
        for each in listed
    }


def warnings(env: FaultEnv) -> set[tuple[str, str, str]]:
    """Return the Secret, reason and message of each Warning Event of the namespace."""
    listed = env.cluster.kubectl("get", "events", "-n", env.namespace, "-o", "json", "--field-selector=type=Warning")
    return {(each["involvedObject"]["name"], each["reason"], each["message"]) for each in json.loads(listed)["items"]}


def clear(env: FaultEnv, expected: Mapping[str, tuple[str, str]]) -> bool:
    """Return whether each Secret has the expected reason and advice in its status and in one of its Events."""
    told, said = statuses(env), warnings(env)
    return all(
        told[name].startswith(f"{reason}: ")
        and advice in told[name]
        and any((name, reason) == each[:2] and advice in each[2] for each in said)
        for name, (reason, advice) in expected.items()
    )


def unclear(env: FaultEnv, expected: Mapping[str, tuple[str, str]]) -> str:
    """Describe the Secrets whose status or Events lack the expected reason or advice."""
    told, said = statuses(env), warnings(env)
    return "\n".join(
        f"{name}: {reason}, {advice}: {told[name]!r:.300}, {[each[1:] for each in said if each[0] == name]!r:.300}"
        for name, (reason, advice) in expected.items()
        if not clear(env, {name: (reason, advice)})
    )


def beside(env: FaultEnv, ask: Callable[[], bool], why: Callable[[], str], seconds: float = 60) -> None:
    """Rotate a good secret again and again until ``ask()`` is true. Check that each rotation is applied within the
    deadline of its delivery."""
    end = time.monotonic() + seconds
    while not ask():
        assert time.monotonic() < end, why()
        answer = env.send(env.rotate("good"))
        assert answer.status == 200, answer.body
        assert env.is_current("good")


def same_process(receiver: LocalReceiver) -> float:
    """Return the start time of the receiver's process. It changes only if the process is replaced."""
    return receiver.metric("process_start_time_seconds")


@pytest.mark.fault("F26")
def test_malformed_binding_says_why_and_affects_no_other(env: FaultEnv) -> None:
    """Some thirty bindings are malformed, endless, full of odd characters, or contain YAML or JMESPath bombs. Each
    Secret says why in its status and in an Event, while the receiver keeps running, can be restarted, and applies a
    good binding."""
    receiver = env.receiver(KEYTURN_POLL_INTERVAL_SECONDS="1")
    env.create_bound_secret("good")
    process = same_process(receiver)
    value = {
        "user": env.new_value("user"),
        "password": env.new_value("password"),
        "list": [env.new_value("in-a-list")] * 9,
    }
    env.client.create_secret(Name=f"{env.namespace}/victim", SecretString=json.dumps(value))
    made, expected = [], {}
    for number, (annotations, reason, advice) in enumerate(BINDINGS.values()):
        written = {name: text.replace("{ns}", env.namespace) for name, text in annotations.items()}
        made.append(secret(env.namespace, f"bad-{number}", f"{env.namespace}/victim", **written))
        expected[f"bad-{number}"] = (reason, advice)
    env.cluster.create(made)
    beside(env, lambda: clear(env, expected), lambda: unclear(env, expected))
    assert all(data_of(env.cluster, env.namespace, name) == {} for name in expected)
    sweeps = receiver.metric("keyturn_sweeps_total", outcome="ok")
    eventually(lambda: receiver.metric("keyturn_sweeps_total", outcome="ok") >= sweeps + 2)
    assert receiver.metric("keyturn_failing_bindings") == len(expected)
    assert same_process(receiver) == process
    assert receiver.alive()[0] == 200
    assert max(map(len, receiver.log.splitlines())) < 20_000

    receiver.stop()
    receiver.start()
    env.rotate("good", "unheard")
    eventually(lambda: env.is_current("good"), 30)
    assert receiver.metric("keyturn_sweeps_total", outcome="ok") > 0
    env.wait_converged()
    assert receiver.running


@pytest.mark.long
@pytest.mark.fault("F26")
def test_poisonous_value_keeps_the_last_good_secret(env: FaultEnv) -> None:
    """Some twenty good secrets are rotated to values that are broken, deeply nested, huge, empty, binary, not text, or
    objects of 10,000 keys. Each Secret keeps its last good data, says why, and recovers with the next rotation."""
    receiver = env.receiver()
    env.create_bound_secret("good")
    process = same_process(receiver)
    expected, arns = {}, {}
    good = json.dumps({key: env.new_value(key) for key in GOOD})
    for number, (_, annotations, reason, advice) in enumerate(VALUES.values()):
        name = f"value-{number}"
        made = env.client.create_secret(Name=f"{env.namespace}/{name}", SecretString=good)
        arns[name] = made["ARN"]
        expected[name] = (reason, advice)
        env.cluster.create([secret(env.namespace, name, f"{env.namespace}/{name}", **annotations)])
    eventually(lambda: all(statuses(env)[name] == "ok" for name in expected), 60)
    env.cluster.create([workload(env.namespace, "reader", env_from("value-0"))])
    eventually(lambda: env.history.baseline("reader", "value-0"))
    before = {name: data_of(env.cluster, env.namespace, name) for name in expected}
    assert all(before.values())

    for name, (value, *_) in zip(expected, VALUES.values(), strict=True):
        content = {"SecretBinary": value} if isinstance(value, bytes) else {"SecretString": value}
        version = env.client.put_secret_value(SecretId=arns[name], **content)["VersionId"]
        answer = env.send_until_accepted(env.notification_of(name, version))
        assert answer.outcome == Outcome.IGNORED, (name, answer.body)
    beside(env, lambda: clear(env, expected), lambda: unclear(env, expected))
    assert {name: data_of(env.cluster, env.namespace, name) for name in expected} == before
    assert env.history.marks("reader", "value-0") == [None]
    assert receiver.metric("keyturn_failing_bindings") == len(expected)
    assert same_process(receiver) == process
    assert max(map(len, receiver.log.splitlines())) < 20_000

    for name in expected:
        version = env.client.put_secret_value(SecretId=arns[name], SecretString=good)["VersionId"]
        env.send_until_accepted(env.notification_of(name, version))
    eventually(lambda: all(statuses(env)[name] == "ok" for name in expected))
    assert {name: data_of(env.cluster, env.namespace, name) for name in expected} == before
    assert receiver.metric("keyturn_failing_bindings") == 0
    env.wait_converged()


@pytest.mark.fault("F26")
def test_forged_record_is_rewritten_and_stops_no_rotation(env: FaultEnv) -> None:
    """The record that Keyturn keeps on a Secret is garbled by hand, or forged under Keyturn's field manager. The
    receiver rewrites the record, and rotations continue to be applied."""
    receiver = env.receiver()
    env.create_bound_secret("good")
    process = same_process(receiver)
    names = {
        "bracketed": {VERSION_IDS: "[" * 50_000, REVISIONS: "{" * 50_000},
        "numbered": {VERSION_IDS: '{"x": 1, "y": null}', REVISIONS: '{"value": 7}'},
        "endless": {REVISIONS: json.dumps({"value": "+" + "9" * 5000}), STATUS: "x" * 5000},
        "half": {REVISIONS: '{"value": "\\ud800"}', VERSION_IDS: '{"arn:\\udfff:secret:x#\\ud800": "\\ud800"}'},
        "another": {BINDING_HASH: "\u202e\u0000", DATA_HASH: ""},
    }
    for name in names:
        env.create_bound_secret(name, consumers=(f"web-{name}",))
    for name, garbled in names.items():
        patch = json.dumps({"metadata": {"annotations": garbled}})
        env.cluster.kubectl("patch", "secret", name, "-n", env.namespace, "-p", patch)
    eventually(lambda: all(map(env.is_current, names)), 30)

    # This record looks as if Keyturn had written it, except that one revision is not valid text.
    env.create_bound_secret("forged", consumers=("web-forged",))
    record = annotations_of(env.cluster, "secret", env.namespace, "forged")
    record = {name: text for name, text in record.items() if name not in (SECRET_ID, APPLIED_AT)}
    forged = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "namespace": env.namespace,
            "name": "forged",
            "annotations": {**record, REVISIONS: '{"value":"\\ud800"}', APPLIED_AT: "never"},
        },
        "data": {"value": b64encode(env.aws_value("forged").encode()).decode()},
    }
    env.cluster.kubectl("apply", "--server-side", "--field-manager=keyturn", "-f", "-", stdin=json.dumps(forged))
    eventually(lambda: annotations_of(env.cluster, "secret", env.namespace, "forged")[APPLIED_AT] != "never")
    assert same_process(receiver) == process
    receiver.stop()
    receiver.start()
    env.send_until_accepted(env.rotate("good"))
    env.wait_converged()


def fill(control_plane: ControlPlane, namespace: str, count: int) -> None:
    """Create ``count`` unbound Secrets of a kilobyte each, many of them at a time."""
    data = {"value": b64encode(b"x" * 1000).decode()}

    async def create() -> None:
        url = f"{control_plane.url}/api/v1/namespaces/{namespace}/secrets"
        context = ssl.create_default_context(cafile=control_plane.ca_file)
        headers = {"Authorization": f"Bearer {control_plane.admin_token}"}
        numbers = iter(range(count))
        async with aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=AT_ONCE, ssl=context), headers=headers
        ) as session:

            async def some() -> None:
                for number in numbers:
                    body = {"metadata": {"name": f"other-{number}", "annotations": {"note": "x" * 100}}, "data": data}
                    async with session.post(url, json=body) as reply:
                        assert reply.status == 201, await reply.text()

            await asyncio.gather(*(some() for _ in range(AT_ONCE)))

    asyncio.run(create())


@dataclass(frozen=True)
class Start:
    """What one start costs: seconds, bytes of memory, and the number of list calls for each path."""

    seconds: float
    memory: float
    lists: Mapping[str, int]


def start(env: FaultEnv, receiver: LocalReceiver) -> Start:
    """Start a stopped receiver, wait for its first full sweep, stop it again, and return what the start cost."""
    env.kubernetes_proxy.calls.clear()
    env.expire_lease()
    begun = time.monotonic()
    receiver.start(60)
    seconds = time.monotonic() - begun
    eventually(lambda: receiver.metric("keyturn_sweeps_total", kind="full", outcome="ok") > 0)
    assert receiver.metric("keyturn_bindings") == OURS + 1
    memory = receiver.metric("process_resident_memory_bytes")
    lists = Counter(
        call.path
        for call in env.kubernetes_proxy.calls
        if call.method == "GET" and not call.watch and "limit" in call.query
    )
    receiver.stop()
    return Start(seconds, memory, lists)


@pytest.mark.long
@pytest.mark.fault("F27")
def test_twenty_thousand_unbound_secrets_cost_neither_memory_nor_calls(env: FaultEnv) -> None:
    """The cluster holds twenty thousand Secrets, and only eleven of them are bound. Compared with a cluster of the
    eleven alone, the receiver makes the same list calls, needs less than 15% and less than 8 MiB more memory, and
    starts in less than three times the time plus 2 s."""
    receiver = env.receiver()
    for number in range(OURS):
        env.create_bound_secret(f"ours-{number}", consumers=())
    env.create_bound_secret("good")
    receiver.stop()
    start(env, receiver)  # this start warms up the page cache and the proxy's connections
    few = start(env, receiver)
    fill(env.cluster, env.receiver_namespace, MANY)
    many = start(env, receiver)
    assert many.memory - few.memory < 8 * 2**20, (few, many)
    assert many.memory < 1.15 * few.memory, (few, many)
    assert many.seconds < 3 * few.seconds + 2, (few, many)
    assert many.lists == few.lists, (few, many)
    receiver.start()
    env.send_until_accepted(env.rotate("good"))
    env.wait_converged()
