"""S19: calls to the Kubernetes API for one namespace (restarts, statuses, Events) use up only the turns of this
namespace."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median
from typing import Any
from uuid import uuid4

import pytest

from keyturn_contract.message import Notification
from keyturn_local.aws.rotation import rotate
from support.background import PeriodicThread
from support.cluster_state import data_of, warnings_of
from support.deliveries import notification
from support.fault_env import FaultEnv
from support.fault_proxy import Call, Fault, Reply
from support.manifests import env_from, secret, workload
from support.wait import eventually

SECRETS, CONSUMERS = 10, 30  # Secrets of one tenant, and the Deployments that read each of them
BROKEN = 150  # Secrets that cannot be filled
ROTATIONS = 6


class Neighbour:
    """Another tenant: a namespace with an AWS secret of its own."""

    def __init__(self, env: FaultEnv) -> None:
        self.env = env
        self.namespace = f"neighbour-{uuid4().hex[:6]}"
        self.arn = env.client.create_secret(Name=f"{self.namespace}/db", SecretString=env.new_value("first"))["ARN"]
        annotations = {"keyturn.dev/allow-secrets": f"{self.namespace}/*"}
        env.create_objects(
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self.namespace, "annotations": annotations}}
        )

    def rotated(self) -> Notification:
        """Rotate the AWS secret, and return the notification of it."""
        return notification(self.arn, rotate(self.env.client, self.arn, self.env.new_value("next")))

    def bind(self, name: str, **annotations: str) -> dict[str, Any]:
        """Return the manifest of a Secret that is bound to the AWS secret."""
        return secret(self.namespace, name, f"{self.namespace}/db", **annotations)


class AllEdited(PeriodicThread):
    """Edits the bindings of all Secrets of a namespace again and again. Each edit causes a new error."""

    def __init__(self, env: FaultEnv, namespace: str) -> None:
        super().__init__(0, pause=0.01)
        self._env = env
        self._namespace = namespace
        self._number = 0

    def run_once(self) -> None:
        self._number += 1
        data = f"keyturn.dev/data=a: nowhere{self._number}"
        self._env.cluster.kubectl("annotate", "--overwrite", "secret", "--all", "-n", self._namespace, data)


def seconds_of_rotations(env: FaultEnv, count: int = ROTATIONS) -> list[float]:
    """Rotate a secret again and again. Each delivery has to be answered 200. Return how long each took."""
    took = []
    for _ in range(count):
        told, begun = env.rotate("db"), time.monotonic()
        assert env.send(told).status == 200
        took.append(time.monotonic() - begun)
        assert env.is_current("db")
    return took


@contextmanager
def lease_renewed(env: FaultEnv) -> Iterator[None]:
    """Check during the block that the leader renews its Lease, at least once in six seconds."""
    over, late = threading.Event(), []

    def watch() -> None:
        last, since = "", time.monotonic()
        while not over.wait(0.5):
            renewed = env.cluster.get("lease", "keyturn-poller", env.receiver_namespace)["spec"].get("renewTime")
            if renewed != last:
                last, since = renewed, time.monotonic()
            late.extend([time.monotonic() - since] if time.monotonic() - since > 6 else [])

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
    assert late == []


@pytest.mark.long
@pytest.mark.fault("S19")
def test_secrets_with_hundreds_of_consumers_hold_up_nobody_else(env: FaultEnv) -> None:
    """Ten Secrets of a tenant are read by 300 Deployments and rotate at once, and each restart takes the API server
    three tenths of a second. Another tenant's rotations are answered 200 meanwhile, about as fast as before, the Lease
    is renewed, and each of the 300 is restarted once."""
    receiver = env.receiver()
    neighbour = Neighbour(env)
    env.create_bound_secret("db")
    env.create_objects(*(neighbour.bind(f"db-{number}") for number in range(SECRETS)))
    # A pod that starts before its Secret is filled, or in the same second, has to restart.
    eventually(lambda: all(data_of(env.cluster, neighbour.namespace, f"db-{number}") for number in range(SECRETS)))
    env.let_settle()
    env.create_objects(
        *(
            workload(neighbour.namespace, f"web-{number}-{consumer}", env_from(f"db-{number}"))
            for number in range(SECRETS)
            for consumer in range(CONSUMERS)
        ),
    )

    def marks() -> int:
        deployments = env.cluster.list("deployments", neighbour.namespace)
        templates = [each["spec"]["template"]["metadata"].get("annotations", {}) for each in deployments]
        return sum(any(name.startswith("revision.keyturn.dev/db-") for name in each) for each in templates)

    mine = f"/{neighbour.namespace}/deployments/"
    eventually(lambda: len(env.kubernetes_proxy.matching("PATCH", mine)) >= SECRETS * CONSUMERS, 90)
    quiet = seconds_of_rotations(env)
    in_flight, most = 0, 0
    lock = threading.Lock()

    def slow(call: Call) -> Fault:
        nonlocal in_flight, most
        if call.method == "PATCH" and mine in call.path:
            with lock:
                in_flight += 1
                most = max(most, in_flight)
            time.sleep(0.3)
            with lock:
                in_flight -= 1
        return None

    env.kubernetes_proxy.fault_for = slow
    with lease_renewed(env):
        restarting = threading.Thread(target=env.send, args=[neighbour.rotated()], kwargs={"seconds": 60})
        restarting.start()
        eventually(lambda: in_flight > 0)
        busy = seconds_of_rotations(env)
        restarting.join()
        eventually(lambda: marks() == SECRETS * CONSUMERS, 120)
    assert 16 < most <= 24  # of 32 calls in flight, at most three quarters are of one namespace
    print(f"a rotation took {median(quiet):.2f} s before and {median(busy):.2f} s meanwhile")
    assert median(busy) < 2 * median(quiet) + 0.5, (quiet, busy)
    assert "Lease" not in receiver.log
    assert "too many requests wait" not in receiver.log  # this message would concern all namespaces
    assert f"for namespace {env.namespace} wait" not in receiver.log
    assert receiver.metric("keyturn_rollouts_total") == SECRETS * CONSUMERS + len(quiet) + len(busy)
    env.wait_converged()


@pytest.mark.long
@pytest.mark.fault("S19")
def test_broken_bindings_edited_without_end_cost_nobody_elses_events_and_reconciles(env: FaultEnv) -> None:
    """A tenant has 150 Secrets that cannot be filled, and edits them as fast as it can, so that each edit is a new
    error. Within 10 s, another tenant's new Secret is filled, and a Warning is written about its broken one. That
    tenant's rotations are answered about as fast as before, and the receiver stays ready and alive."""
    receiver = env.receiver()
    neighbour = Neighbour(env)
    env.create_bound_secret("db", consumers=())
    quiet = seconds_of_rotations(env)
    names = [f"broken-{number}" for number in range(BROKEN)]
    env.create_objects(*(neighbour.bind(name, **{"keyturn.dev/data": "a: nowhere"}) for name in names))
    edits = AllEdited(env, neighbour.namespace)
    with edits:
        eventually(lambda: receiver.metric("keyturn_events_total", outcome="written") > 25)
        begun = time.monotonic()
        env.create_objects(secret(env.namespace, "new", f"{env.namespace}/db"))
        env.create_objects(secret(env.namespace, "wrong", f"{env.namespace}/db", **{"keyturn.dev/data": "a: nowhere"}))
        assert env.status("new") == "ok"
        eventually(lambda: "InvalidValue" in warnings_of(env.cluster, env.namespace, "wrong"), 10)
        assert time.monotonic() - begun < 10
        busy = seconds_of_rotations(env)
    assert median(busy) < 2 * median(quiet) + 0.5, (quiet, busy)
    assert receiver.ready()[0] == receiver.alive()[0] == 200
    env.assert_no_value_leaked()


@pytest.mark.fault("S19")
def test_writes_that_fail_in_one_namespace_do_not_slow_down_the_others(env: FaultEnv) -> None:
    """Every write of one tenant's Deployments fails with 500, as it does for a Deployment that is as large as etcd
    allows. The receiver does not take that for an overload of the API server, so it does not lower its limit of calls
    for everybody."""
    receiver = env.receiver()
    neighbour = Neighbour(env)
    env.create_bound_secret("db", consumers=())
    env.create_objects(
        neighbour.bind("db"), *(workload(neighbour.namespace, f"web-{number}", env_from("db")) for number in range(20))
    )
    mine = f"/{neighbour.namespace}/deployments/"
    eventually(lambda: len(env.kubernetes_proxy.matching("PATCH", mine)) >= 20)

    def fail(call: Call) -> Fault:
        fails = call.method == "PATCH" and mine in call.path
        return Reply(500, {"kind": "Status", "metadata": {}, "code": 500}) if fails else None

    env.kubernetes_proxy.fault_for = fail
    over = threading.Event()
    limits = []

    def deliver() -> None:
        while not over.is_set():
            env.send(neighbour.rotated())

    failing = threading.Thread(target=deliver)
    env.send_until_accepted(env.rotate("db"))
    failing.start()
    try:
        while len(limits) < 10 or len(env.kubernetes_proxy.matching("PATCH", mine)) < 100:
            env.send_until_accepted(env.rotate("db"))
            limits.append(receiver.metric("keyturn_kubernetes_request_limit"))
    finally:
        over.set()
        failing.join()
    assert min(limits) >= 16, limits  # half of 32, if the first failure came before any success of another tenant
    env.kubernetes_proxy.heal()
    env.wait_converged()


@pytest.mark.fault("S19")
def test_objects_of_a_namespace_that_is_being_deleted_are_no_refusals(env: FaultEnv) -> None:
    """A namespace is being deleted, and holds a broken binding whose Event the API server no longer takes. The receiver
    neither logs nor counts that as a failure."""
    neighbour = Neighbour(env)
    broken = neighbour.bind("held", **{"keyturn.dev/data": "a: nowhere"})
    broken["metadata"]["finalizers"] = ["example.com/held"]
    env.cluster.create([broken])
    env.cluster.kubectl("delete", "namespace", neighbour.namespace, "--wait=false")
    try:
        receiver = env.receiver()
        env.create_bound_secret(consumers=())
        posts = f"/namespaces/{neighbour.namespace}/events$"
        eventually(lambda: env.kubernetes_proxy.matching("POST", posts))
        eventually(lambda: receiver.metric("keyturn_events_total", outcome="dropped"))
        assert receiver.metric("keyturn_events_total", outcome="failed") == 0
        assert "Forbidden" not in receiver.log
    finally:
        patch = '{"metadata": {"finalizers": null}}'
        env.cluster.kubectl("patch", "secret", "held", "-n", neighbour.namespace, "--type=merge", "-p", patch)
        # No controller empties deleted namespaces here, so receivers of later tests would find the Secret.
        env.cluster.kubectl("delete", "secret", "held", "-n", neighbour.namespace, "--ignore-not-found")
