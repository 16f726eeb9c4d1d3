"""F23 to F25: a leader loses the Lease, a receiver is stuck, or a receiver is terminated under load."""

import json
import os
import signal
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import cycle

import httpx
import pytest

from keyturn_contract.message import Notification, Outcome, encode
from keyturn_local.aws.rotation import rotate
from keyturn_local.receiver.process import LocalReceiver
from support.deliveries import notification, signed
from support.fault_env import FaultEnv
from support.fault_proxy import Call, CutAfter, Drip, Fault, FaultProxy, Hang, Reply
from support.wait import eventually

LEASE = "/leases/keyturn-poller"


def leads(receiver: LocalReceiver) -> bool:
    """Return whether a replica reports that it is the leader."""
    return receiver.metric("keyturn_poller_leader") == 1


def holder(env: FaultEnv) -> str:
    """Return the holder of the Lease according to the API server."""
    return str(env.cluster.get("lease", "keyturn-poller", env.receiver_namespace)["spec"].get("holderIdentity") or "")


def pid_of_leader(env: FaultEnv) -> int:
    """Return the process id of the Lease's holder. The holder's name ends with it."""
    return int(holder(env).rpartition("-")[2])


def take_lease(env: FaultEnv) -> None:
    """Give the Lease to a replica that does not exist, so nobody renews it."""
    spec = {"holderIdentity": "somebody-else", "renewTime": "2026-11-25T00:00:00.000000Z"}
    env.cluster.kubectl(
        "patch",
        "lease",
        "keyturn-poller",
        "-n",
        env.receiver_namespace,
        "--type=merge",
        "-p",
        json.dumps({"spec": spec}),
    )


def applies(call: Call, name: str = "db") -> bool:
    """Return whether a call writes the data of the Secret called ``name``."""
    return "apply-patch" in call.headers.get("content-type", "") and call.path.endswith(f"/secrets/{name}")


@contextmanager
def frozen(pid: int) -> Iterator[None]:
    """Stop a process with SIGSTOP for the duration of the block."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@pytest.mark.fault("F23")
@pytest.mark.parametrize(("mode", "action"), [("list", "ListSecrets"), ("describe", "DescribeSecret")])
def test_sweep_ends_when_its_lease_is_lost(env: FaultEnv, mode: str, action: str) -> None:
    """Another replica takes the Lease while a sweep waits for AWS. The sweep stops at that point and changes nothing.
    The replica that leads next finds all the rotations."""
    receiver = env.receiver(KEYTURN_POLL_INTERVAL_SECONDS="1", KEYTURN_POLL_MODE=mode)
    for name in ("db", "other"):
        env.create_bound_secret(name, consumers=(f"web-{name}",))
    eventually(lambda: leads(receiver) and receiver.metric("keyturn_sweeps_total", outcome="ok") > 0)

    lost = threading.Event()

    def slow(call: Call) -> Fault:
        if call.action == action:
            lost.wait(30)
        return None

    env.aws_proxy.fault_for = slow
    asked = len(env.aws_proxy.actions(action))
    eventually(lambda: len(env.aws_proxy.actions(action)) > asked)
    take_lease(env)
    for name in ("db", "other"):
        env.rotate(name, "unheard")
    eventually(lambda: not leads(receiver))
    lost.set()
    eventually(lambda: receiver.metric("keyturn_sweeps_total", outcome="interrupted") == 1)
    assert not leads(receiver)
    env.aws_proxy.heal()
    env.let_settle(2)
    assert [len(env.history.data_history(name)) for name in ("db", "other")] == [2, 2]  # empty, and the first value
    assert receiver.metric("keyturn_queue_depth") == 0
    env.expire_lease()  # the new holder does not exist, so it never releases the Lease
    env.wait_converged()
    assert leads(receiver)


@pytest.mark.fault("F23")
def test_leader_frozen_in_a_write_overwrites_nothing_newer(env: FaultEnv) -> None:
    """The leader freezes in the middle of a PATCH, another replica takes over, and then the leader and its PATCH
    continue. The newer value is not overwritten by an older one, and no consumer is restarted twice."""
    first = env.receiver(KEYTURN_POLL_INTERVAL_SECONDS="1")
    env.create_bound_secret()
    eventually(lambda: leads(first))
    second = env.receiver(via_proxy=False, KEYTURN_POLL_INTERVAL_SECONDS="1")
    late = threading.Event()

    def hold(call: Call) -> Fault:
        if applies(call):
            late.wait(60)
        return None

    env.kubernetes_proxy.fault_for = hold
    told = env.rotate(text="second")
    eventually(
        lambda: any(applies(call) and call.about(str(told.data.version_id)) for call in env.kubernetes_proxy.calls)
    )
    with frozen(pid_of_leader(env)):
        assert first.alive()[0] == 0
        eventually(lambda: leads(second), 40)
        eventually(env.is_current)
        env.rotate(text="third")
        eventually(env.is_current)
        late.set()
    eventually(lambda: not leads(first))
    env.let_settle(2)
    env.wait_converged()
    assert first.alive()[0] == 200
    assert len(env.history.data_history("db")) == 4  # empty, then the first, second and third value


@pytest.mark.fault("F23")
def test_two_leaders_at_once_write_the_same_bytes_and_restart_once(env: FaultEnv) -> None:
    """Two replicas both believe that they lead, and sweep and write at the same moment. Apart from annotations that
    record times, they write the same bytes, and each rotation restarts each consumer once."""
    own = FaultProxy(env.kubernetes_proxy.url)
    misled = env.receiver(proxies=(own, env.aws_proxy), KEYTURN_POLL_INTERVAL_SECONDS="1")
    env.create_bound_secret(consumers=("web", "api"))
    eventually(lambda: leads(misled))
    lease = env.cluster.get("lease", "keyturn-poller", env.receiver_namespace)

    def lie(call: Call) -> Fault:
        if not call.path.endswith(LEASE):
            return None
        return Reply(200, lease if call.method == "GET" else call.content, {"Content-Type": "application/json"})

    own.fault_for = lie
    both = threading.Barrier(2)

    def together(call: Call) -> Fault:
        if applies(call):
            with suppress(threading.BrokenBarrierError):
                both.wait(3)
            both.reset()
        return None

    other = env.receiver(KEYTURN_POLL_INTERVAL_SECONDS="1")
    env.expire_lease()
    eventually(lambda: leads(other))
    env.kubernetes_proxy.fault_for = together
    for turn in range(5):
        env.rotate(text=f"turn-{turn}")
        eventually(env.is_current)
        assert leads(misled)
        assert leads(other)
    env.wait_converged()
    own.close()

    written = defaultdict(list)
    for call in filter(applies, env.kubernetes_proxy.calls):
        annotations = call.content["metadata"]["annotations"]
        # These annotations record times, and nothing depends on them. A replica whose own sweep has not found the
        # rotation does not know when the label moved.
        for name in ("applied-at", "label-moved-at", "history"):
            annotations.pop(f"keyturn.dev/{name}", None)
        written[annotations["keyturn.dev/version-ids"]].append((annotations, call.content["data"]))
    assert any(len(same) > 1 for same in written.values())  # at least one version was written by both replicas
    assert all(each == same[0] for same in written.values() for each in same)
    assert len(env.history.data_history("db")) == 2 + 5


@pytest.mark.fault("F23")
def test_replica_that_misses_its_election_does_not_lead_or_block_others(env: FaultEnv) -> None:
    """The API server grants the Lease to a replica, but the answer never reaches that replica. The replica does not act
    as leader, and another one leads within a minute."""
    own = FaultProxy(env.kubernetes_proxy.url)
    own.fault_for = lambda call: CutAfter() if LEASE[:7] in call.path and call.method in ("POST", "PUT") else None
    deaf = env.receiver(proxies=(own, env.aws_proxy), KEYTURN_POLL_INTERVAL_SECONDS="1")
    env.create_bound_secret()
    eventually(lambda: holder(env))
    other = env.receiver(KEYTURN_POLL_INTERVAL_SECONDS="1")
    eventually(lambda: leads(other), 60)
    assert not leads(deaf)
    env.rotate(text="unheard")
    env.wait_converged()
    own.close()


@pytest.mark.fault("F24")
def test_frozen_process_fails_its_liveness_probe_until_it_runs_on(env: FaultEnv) -> None:
    """The receiver's process is frozen. Its liveness probe gets no answer until the process continues, and no rotation
    is lost."""
    receiver = env.receiver()
    env.create_bound_secret()
    eventually(lambda: leads(receiver))
    told = env.rotate()
    with frozen(pid_of_leader(env)):
        assert receiver.alive()[0] == 0
        assert env.send(told, seconds=1).status == 0
    eventually(lambda: receiver.alive()[0] == 200)
    env.send_until_accepted(told)
    env.wait_converged()


@pytest.mark.fault("F24")
def test_answer_of_aws_byte_by_byte_ends_and_delays_no_other(env: FaultEnv) -> None:
    """AWS sends its answers about one secret, and its lists of secrets, at one byte a second, so that no read times
    out. The liveness probe names the stuck reconcile until it ends, and other secrets are applied throughout."""
    receiver = env.receiver(KEYTURN_STUCK_SECONDS="10", KEYTURN_DEADLINE_SECONDS="3", KEYTURN_POLL_INTERVAL_SECONDS="5")
    for name in ("bad", "good"):
        env.create_bound_secret(name, consumers=(f"web-{name}",))
    env.aws_proxy.fault_for = lambda call: Drip() if call.about("/bad") or call.action == "ListSecrets" else None
    told = env.rotate("bad")
    answer = env.send(told)
    assert answer.status == 503
    assert "not done within the deadline" in answer.body
    seen = set()

    def ended() -> bool:
        seen.add(receiver.alive())
        assert env.send(env.rotate("good")).outcome == "applied"
        return receiver.metric("keyturn_failing_bindings") == 1

    eventually(ended, 60)
    assert any(status == 503 and "reconcile" in text for status, text in seen), seen
    eventually(lambda: receiver.alive()[0] == 200, 30)
    eventually(lambda: receiver.metric("keyturn_sweeps_total", outcome="failed") > 0, 60)
    env.aws_proxy.heal()
    env.send_until_accepted(told)
    env.wait_converged()


@pytest.mark.long
@pytest.mark.fault("F24")
def test_slow_api_server_gets_no_reconcile_stuck(env: FaultEnv) -> None:
    """The API server answers at one byte a second or not at all, and a dozen writes queue because the receiver sends
    only two requests at a time. The queued writes do not count as stuck, so the liveness probe succeeds throughout. The
    receiver catches up afterwards."""
    settings = {"KEYTURN_STUCK_SECONDS": "25", "KEYTURN_DEADLINE_SECONDS": "3", "KEYTURN_KUBERNETES_REQUESTS": "2"}
    receiver = env.receiver(KEYTURN_WATCH_SECONDS="4", **settings)
    names = [f"db-{number}" for number in range(12)]
    for name in names:
        env.create_bound_secret(name, consumers=())
    env.kubernetes_proxy.fault_for = lambda call: Drip() if call.watch or call.about("/db-1") else Hang()
    told = [env.rotate(name) for name in names]
    end = time.monotonic() + 32
    for turn in cycle((told[:6], told[6:])):
        assert env.send(*turn).status == 503
        assert receiver.alive() == (200, "ok\n")
        note = f"example.com/note={time.monotonic()}"  # a change that the watches have to deliver
        env.cluster.kubectl("annotate", "secret", "db-0", "-n", env.namespace, "--overwrite", note)
        if time.monotonic() > end:
            break
    env.kubernetes_proxy.heal()
    env.send_until_accepted(*told[:6])
    env.send_until_accepted(*told[6:])
    env.wait_converged(60)


@pytest.mark.fault("F24")
def test_answers_of_a_foreign_server_change_nothing(env: FaultEnv) -> None:
    """Some other server answers all calls to AWS and to the API server with 200 and a page of its own. The receiver
    stays alive, leaves its Secrets as they are, and catches up afterwards."""
    receiver = env.receiver(
        KEYTURN_DEADLINE_SECONDS="3",
        KEYTURN_POLL_INTERVAL_SECONDS="1",
        KEYTURN_WATCH_SECONDS="2",
        KEYTURN_SIGNING_KEY_INTERVAL_SECONDS="1",
    )
    for name in ("db", "other"):
        env.create_bound_secret(name, consumers=(f"web-{name}",))
    process = receiver.metric("process_start_time_seconds")
    told = []
    for page in (b"<html>Sign in</html>", b"{}", b"[]\n", b'{"items": 1, "ARN": 2}\n'):
        answer = Reply(200, page, {"Content-Type": "text/html"})
        env.kubernetes_proxy.fault_for = env.aws_proxy.fault_for = lambda call, answer=answer: answer
        told = told or [env.rotate("db"), env.rotate("other")]
        calls, end = len(env.kubernetes_proxy.calls), time.monotonic() + 3
        while time.monotonic() < end:
            assert env.send(*told).status == 503
            time.sleep(0.5)
        assert len(env.kubernetes_proxy.calls) - calls < 200
    assert receiver.alive() == (200, "ok\n")
    assert receiver.metric("process_start_time_seconds") == process
    assert [len(env.history.data_history(name)) for name in ("db", "other")] == [2, 2]
    env.kubernetes_proxy.heal()
    env.aws_proxy.heal()
    env.send_until_accepted(*told)
    env.wait_converged(60)


@dataclass
class Load:
    """Rotates its own secrets, and delivers each rotation until it is applied, to one replica after another.

    ``asked`` returns how often a replica has called AWS about a secret. ``cut`` lists the deliveries that got no answer
    although the replica had begun to work on them.
    """

    env: FaultEnv
    replicas: list[LocalReceiver]
    arns: Mapping[str, str]
    asked: Callable[[LocalReceiver, str], int]
    answered: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    cut: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Rotate and deliver for the duration of the block. Each secret has a thread of its own."""
        threads = [threading.Thread(target=self._rotate, args=each) for each in enumerate(self.arns)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self.over.set()
            for thread in threads:
                thread.join()

    def _rotate(self, number: int, name: str) -> None:
        turn, aws = number, self.env.client
        with httpx.Client(timeout=30) as client:
            while not self.over.is_set():
                value = self.env.new_value(name)
                version_id = rotate(aws, f"{self.env.namespace}/{name}", value)
                told = notification(self.arns[name], version_id)
                while True:
                    turn += 1
                    if self._taken(client, self.replicas[turn % len(self.replicas)], name, told):
                        break
                    time.sleep(0.1)
                if self.env.history.current(name)[0] != {"value": value.encode()}:
                    self.faults.append(f"{name} was told to be applied, and is not")

    def _taken(self, client: httpx.Client, receiver: LocalReceiver, name: str, told: Notification) -> bool:
        body = encode([told])
        asked = self.asked(receiver, name)
        try:
            reply = client.post(receiver.url, content=body, headers=signed(self.env.key, body))
        except httpx.TransportError as error:
            if self.asked(receiver, name) > asked:
                self.cut.append(f"{receiver.name}: {name}: {type(error).__name__}")
            return False
        self.answered[receiver.name].append(reply.status_code)
        heard = self.env.deliveries.record(reply)
        return heard.status == 200 and heard.results[0].outcome in (Outcome.APPLIED, Outcome.UNCHANGED)


@pytest.mark.long
@pytest.mark.fault("F25")
def test_sigterm_under_load_loses_no_accepted_delivery(env: FaultEnv) -> None:
    """One of two replicas gets SIGTERM while both receive deliveries. It exits by itself, answers every delivery that
    it has accepted with 200 or 503, has applied all that it reports as applied, and loses nothing."""
    aws = [FaultProxy(env.aws.endpoint_url) for _ in range(2)]
    ending, other = (env.receiver(proxies=(env.kubernetes_proxy, each), KEYTURN_DRAIN_SECONDS="2") for each in aws)
    arns = {
        f"db-{number}": env.create_bound_secret(f"db-{number}", consumers=(f"web-{number}",)) for number in range(6)
    }

    def slow(call: Call) -> Fault:
        if call.action in ("GetSecretValue", "BatchGetSecretValue"):
            time.sleep(0.3)
        return None

    for each in aws:
        each.fault_for = slow

    def asked(receiver: LocalReceiver, name: str) -> int:
        return sum(call.about(f'/{name}"') for call in list(aws[receiver is other].calls))

    load = Load(env, [ending, other], arns, asked)
    with load.running():
        eventually(lambda: len(load.answered[ending.name]) > 20 and len(load.answered[other.name]) > 20)
        begun, before = time.monotonic(), len(load.answered[ending.name])
        ending.stop()
        took = time.monotonic() - begun
        after = len(load.answered[other.name])
        eventually(lambda: len(load.answered[other.name]) > after + 20)
    assert took < 30
    assert ending.status == 0
    assert len(load.answered[ending.name]) > before  # the replica still answered deliveries while it drained
    assert set(load.answered[ending.name]) | set(load.answered[other.name]) <= {200, 503}
    assert load.faults == []
    assert load.cut == []
    env.wait_converged()
    for each in aws:
        each.close()


@pytest.mark.fault("F25")
def test_sigterm_while_nothing_answers_ends_within_half_a_minute(env: FaultEnv) -> None:
    """A receiver with a deadline of a minute and the longest possible drain gets SIGTERM while neither AWS nor the API
    server answers. It stays alive while it drains, answers 503 to the delivery that it has accepted, and ends within
    half a minute."""
    settings = {"KEYTURN_DRAIN_SECONDS": "15", "KEYTURN_DEADLINE_SECONDS": "60", "KEYTURN_STUCK_SECONDS": "25"}
    receiver = env.receiver(**settings)
    env.create_bound_secret()
    eventually(lambda: leads(receiver))
    env.kubernetes_proxy.fault_for = lambda call: Hang()
    env.aws_proxy.fault_for = lambda call: Drip()
    told = env.rotate()
    asked = len(env.aws_proxy.calls)
    with ThreadPoolExecutor() as beside:
        answer = beside.submit(env.send, told, seconds=60)
        eventually(lambda: len(env.aws_proxy.calls) > asked)
        begun = time.monotonic()
        stopped = beside.submit(receiver.stop)
        eventually(lambda: "shutting down" in receiver.ready()[1])
        while time.monotonic() < begun + 14:
            assert receiver.alive() == (200, "ok\n")
            time.sleep(1)
        stopped.result()
        assert time.monotonic() - begun < 30
    assert receiver.status == 0
    assert answer.result().status == 503
    env.kubernetes_proxy.heal()
    env.aws_proxy.heal()
    env.expire_lease()
    receiver.start()
    env.send_until_accepted(told)
    env.wait_converged()
