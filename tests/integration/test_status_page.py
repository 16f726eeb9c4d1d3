"""The status page of a real receiver: what it answers, whom it refuses, and what it costs."""

import json
import socket
import threading
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from keyturn_local.bench.stub_aws import CANARY
from support.cluster_state import annotations_of
from support.fault_env import FaultEnv
from support.manifests import env_from, secret, workload
from support.page_client import PageClient
from support.wait import eventually


@pytest.fixture
def page(env: FaultEnv) -> PageClient:
    """The page of a receiver that has filled the Secret `db` and given `web` its baseline."""
    # The page counts all bound Secrets of the cluster, so those of earlier tests have to be gone.
    eventually(lambda: not env.cluster.kubectl("get", "secrets", "-A", "-l", "keyturn.dev/bind=true", "-o", "name"))
    receiver = env.receiver()
    env.create_bound_secret()
    return PageClient(receiver.page_url)


def newest(page: PageClient) -> dict[str, Any]:
    rotations = page.get("/v1/status")["rotations"]
    return rotations[0] if rotations else {}


def test_rotation_is_shown_with_its_legs_in_order(env: FaultEnv, page: PageClient) -> None:
    notification = env.rotate()
    env.send_until_accepted(notification)
    rotation = eventually(lambda: (found := newest(page)).get("liveAt") and found, 60)
    assert rotation["id"] == notification.id
    assert rotation["secret"] == f"{env.namespace}/db"
    assert rotation["version"] == notification.data.version_id
    assert (rotation["cause"], rotation["outcome"], rotation["open"]) == ("event", "applied", False)
    assert rotation["rollouts"] == {"live": 1}
    (fill,) = page.get(f"/v1/bindings/{env.namespace}/db")["rotations"][0]["fills"]
    (web,) = fill["consumers"]
    assert (fill["namespace"], fill["name"]) == (env.namespace, "db")
    assert (web["kind"], web["name"], web["state"]) == ("Deployment", "web", "live")
    legs = [rotation["receivedAt"], fill["fetchedAt"], fill["appliedAt"], web["markedAt"], web["liveAt"]]
    assert legs == sorted(legs)
    assert rotation["toldAt"] <= rotation["receivedAt"] + 1
    status = page.get("/v1/status")
    assert status["counts"] == {
        "bindings": 1,
        "ok": 1,
        "needSomebody": 0,
        "retrying": 0,
        "new": 0,
        "stuckRollouts": 0,
        "rotations": 1,
    }
    assert status["propagation"]["count"] == 1
    assert [each["title"] for each in status["health"]] == ["Event path", "Poller", "AWS", "Kubernetes"]
    binding = page.get(f"/v1/bindings/{env.namespace}/db")
    assert binding["consumers"][0]["state"] == "live"
    assert [each["id"] for each in binding["rotations"]] == [notification.id]
    env.wait_converged()


def test_other_replica_shows_the_rotation_by_what_its_watches_tell(env: FaultEnv, page: PageClient) -> None:
    first, other = env.receivers[-1], env.receiver()
    notification = env.rotate()
    env.send_until_accepted(notification, to=first)
    there = PageClient(other.page_url)
    rotation = eventually(lambda: (found := newest(there)).get("liveAt") and found, 60)
    assert (rotation["cause"], rotation["secret"]) == ("replica", f"{env.namespace}/db")
    assert rotation["version"] == notification.data.version_id
    (detail,) = there.get(f"/v1/bindings/{env.namespace}/db")["rotations"]
    assert [each["name"] for each in detail["fills"][0]["consumers"]] == ["web"]
    eventually(lambda: newest(page).get("liveAt"), 60)
    assert [each["cause"] for each in page.get("/v1/status")["rotations"]] == ["event"]


def test_error_of_a_binding_needs_somebody_until_it_is_corrected(env: FaultEnv, page: PageClient) -> None:
    env.cluster.create([secret(env.namespace, "broken", f"{env.namespace}/absent")])
    found = eventually(lambda: page.get("/v1/status")["attention"])
    assert [(each["name"], each["reason"]) for each in found] == [("broken", "SourceNotFound")]
    rows = page.get("/v1/bindings?failing=1")
    assert [(each["name"], each["state"]) for each in rows["bindings"]] == [("broken", "failing")]
    assert page.get("/v1/bindings?q=absent")["total"] == 1
    assert page.get(f"/v1/bindings?q={env.namespace}/d")["bindings"][0]["name"] == "db"
    assert page.get(f"/v1/bindings/{env.namespace}/broken")["text"]
    env.cluster.kubectl("delete", "secret", "broken", "-n", env.namespace)
    eventually(lambda: not page.get("/v1/status")["attention"])


def test_no_answer_has_a_byte_of_a_value(env: FaultEnv, page: PageClient) -> None:
    with page.stream() as stream:
        reader = threading.Thread(target=lambda: list(page.events(stream, 5)))
        reader.start()
        env.send_until_accepted(env.rotate())
        paths = ["/", "/v1/status", "/v1/bindings", f"/v1/bindings/{env.namespace}/db", "/v1/bindings/a/b", "/nowhere"]
        for path in paths * 3:
            page.request(path)
        reader.join()
    assert b"snapshot" in page.seen
    assert CANARY.encode() not in page.seen
    assert env.aws_value().encode() not in page.seen


@pytest.mark.parametrize(
    ("headers", "method", "status", "words"),
    [
        ({"Host": "attacker.example:9091"}, "GET", 403, "localhost"),
        ({"Host": "localhost.attacker.example"}, "GET", 403, "localhost"),
        ({"Host": "127.0.0.1:1@attacker.example"}, "GET", 403, "localhost"),
        ({"Sec-Fetch-Site": "cross-site"}, "GET", 403, "another site"),
        ({"Sec-Fetch-Site": "same-site"}, "GET", 403, "another site"),
        ({}, "POST", 405, "use GET"),
        ({}, "DELETE", 405, "use GET"),
    ],
)
def test_other_hosts_sites_and_methods_are_refused(
    page: PageClient, headers: dict[str, str], method: str, status: int, words: str
) -> None:
    for path in ("/", "/v1/status", "/v1/stream"):
        found, body = page.request(path, method, headers)
        assert (found, words in body["error"]) == (status, True)


def test_page_allows_no_outside_resource_and_is_small(page: PageClient) -> None:
    page.get("/")
    text = page.seen.decode()
    assert len(page.seen) < 60_000
    (policy,) = [line for line in text.splitlines() if line.lower().startswith("content-security-policy")]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "http://" not in text.replace("http://www.w3.org/2000/svg", "")
    assert "https://" not in text


def test_ninth_stream_gets_a_sentence_and_a_closed_one_frees_its_place(page: PageClient) -> None:
    with ExitStack() as streams:
        opened = [streams.enter_context(page.stream()) for _ in range(8)]
        assert [each.status for each in opened] == [200] * 8
        status, body = page.request("/v1/stream")
        assert status == 503
        assert "8 pages are open" in body["error"]
        assert page.get("/v1/status")["counts"]["bindings"] == 1

    def opens() -> bool:
        with page.stream() as stream:
            return stream.status == 200

    eventually(opens)


def test_page_listens_on_loopback_only(env: FaultEnv, page: PageClient) -> None:
    port = urlsplit(page.url).port or 0
    listening = "0A"  # https://www.kernel.org/doc/Documentation/networking/proc_net_tcp.txt
    found = [
        line.split()[1]
        for file in ("/proc/net/tcp", "/proc/net/tcp6")
        for line in Path(file).read_text().splitlines()[1:]
        if line.split()[3] == listening and line.split()[1].endswith(f":{port:04X}")
    ]
    assert found == [f"0100007F:{port:04X}"]


def test_open_pages_make_no_call_at_rest_and_a_history_takes_one(env: FaultEnv, page: PageClient) -> None:
    def calls() -> Counter[tuple[str, str]]:
        seen = [*env.kubernetes_proxy.calls, *env.aws_proxy.calls]
        return Counter((each.method, each.path) for each in seen if not each.watch and "/leases" not in each.path)

    env.let_settle(3)
    before = calls()
    with ExitStack() as streams:
        for _ in range(8):
            streams.enter_context(page.stream())
        for _ in range(20):
            page.get("/v1/status")
            page.get("/v1/bindings?q=db")
            page.get(f"/v1/bindings/{env.namespace}/db?history=0")
        env.let_settle(3)
        assert calls() == before
        page.get(f"/v1/bindings/{env.namespace}/db")
        assert calls() - before == {("GET", f"/api/v1/namespaces/{env.namespace}/secrets/db"): 1}


def test_busy_port_does_not_stop_the_receiver(env: FaultEnv) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        receiver = env.receiver(KEYTURN_STATUS_PAGE_PORT=port)
        assert "the status page is not served" in eventually(lambda: "status page" in receiver.log and receiver.log)
        env.create_bound_secret(consumers=())
    assert receiver.ready()[0] == 200


def test_page_can_be_switched_off(env: FaultEnv) -> None:
    receiver = env.receiver(KEYTURN_STATUS_PAGE="false")
    with pytest.raises(ConnectionRefusedError):
        PageClient(receiver.page_url).request("/")
    env.create_bound_secret()
    env.send_until_accepted(env.rotate())
    env.wait_converged()


def test_receiver_stops_at_once_under_open_pages(env: FaultEnv, page: PageClient) -> None:
    with page.stream() as stream:
        assert next(page.events(stream, 5))[0] == "snapshot"
        began = time.monotonic()
        env.receivers[-1].stop()
        assert time.monotonic() - began < 10
    assert env.receivers[-1].status == 0
    assert "error" not in env.receivers[-1].log.lower().partition("shutting down")[2]


def test_thousands_of_bindings_are_paged(env: FaultEnv) -> None:
    """Unit tests hold 10,000 bindings. Here the API server has 2,000, because creating them takes most of the time."""
    many = 2000
    receiver = env.receiver()
    page = PageClient(receiver.page_url)
    env.cluster.create(
        [secret(env.namespace, f"s{number:05}", f"{env.namespace}/none-{number}") for number in range(many)]
    )
    eventually(lambda: page.get("/v1/status")["counts"]["bindings"] == many, 120)
    began = time.monotonic()
    last = page.get(f"/v1/bindings?offset={many - 50}")
    assert time.monotonic() - began < 1
    assert (last["total"], len(last["bindings"]), last["bindings"][-1]["name"]) == (many, 50, f"s{many - 1:05}")
    assert page.get("/v1/bindings?q=s01999")["total"] == 1


def test_workload_that_goes_no_further_needs_somebody(env: FaultEnv, page: PageClient) -> None:
    nowhere = {"spec": {"nodeSelector": {"no": "node"}}}
    patch = json.dumps({"spec": {"progressDeadlineSeconds": 3, "paused": True, "template": nowhere}})
    env.cluster.kubectl("patch", "deployment", "web", "-n", env.namespace, "-p", patch)
    env.send_until_accepted(env.rotate())
    env.cluster.kubectl("patch", "deployment", "web", "-n", env.namespace, "-p", '{"spec": {"paused": false}}')
    (found,) = eventually(lambda: page.get("/v1/status")["attention"], 60)
    assert (found["name"], found["state"]) == ("db", "stuck")
    assert "Deployment web goes no further" in found["text"]
    assert page.get(f"/v1/bindings/{env.namespace}/db")["consumers"][0]["state"] == "failed"


def test_stuck_restart_for_a_watched_secret_needs_somebody(env: FaultEnv, page: PageClient) -> None:
    """Another controller fills the Secret, so it is not in the list of bindings."""
    tls = secret(env.namespace, "tls")
    tls["metadata"]["labels"] = {"keyturn.dev/watch": "true"}
    env.cluster.create([{**tls, "stringData": {"key": "first"}}])
    env.cluster.create([workload(env.namespace, "front", env_from("tls"))])
    mark = "revision.keyturn.dev/tls"
    eventually(lambda: mark in annotations_of(env.cluster, "deployment", env.namespace, "front"))
    place = ("deployment", "front", "-n", env.namespace, "-p")
    nowhere = {"spec": {"nodeSelector": {"no": "node"}}}
    patch = json.dumps({"spec": {"progressDeadlineSeconds": 3, "paused": True, "template": nowhere}})
    env.cluster.kubectl("patch", *place, patch)
    changed = '{"stringData": {"key": "second"}}'
    env.cluster.kubectl("patch", "secret", "tls", "-n", env.namespace, "--type=merge", "-p", changed)

    def marks() -> dict[str, str]:
        template = env.cluster.get("deployment", "front", env.namespace)["spec"]["template"]
        return dict(template["metadata"].get("annotations", {}))

    eventually(lambda: mark in marks())
    env.cluster.kubectl("patch", *place, '{"spec": {"paused": false}}')
    (found,) = eventually(lambda: page.get("/v1/status")["attention"], 60)
    assert (found["namespace"], found["name"], found["state"]) == (env.namespace, "tls", "stuck")
    assert "Deployment front goes no further" in found["text"]
    assert page.get("/v1/bindings")["total"] == 1
