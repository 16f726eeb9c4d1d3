"""S20: what one namespace does to its own bindings does not make the delivery of a shared secret fail for all."""

import json
import threading
import time
from collections.abc import Callable
from uuid import uuid4

import pytest

from keyturn_contract.message import Outcome
from keyturn_local.kubernetes.cluster import KubectlFailed
from support.cluster_state import data_of
from support.fault_env import FaultEnv
from support.fault_proxy import Call, Fault, Hang
from support.manifests import env_from, secret, workload
from support.tenant_roles import account, role
from support.wait import eventually

CROWD = 400  # bindings of one tenant to a shared secret


def neighbour(env: FaultEnv) -> str:
    """Create the namespace of another tenant, which may read the same AWS secrets, and return its name."""
    name = f"neighbour-{uuid4().hex[:6]}"
    annotations = {"keyturn.dev/allow-secrets": f"{env.namespace}/*"}
    env.create_objects(
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "annotations": annotations}}
    )
    return name


def edit_before_writes(env: FaultEnv, namespace: str, kind: str, name: str) -> threading.Event:
    """Edit an object just before each write of the object by the receiver, until the returned event is set."""
    over, number = threading.Event(), iter(range(10**9))

    def edit(call: Call) -> Fault:
        if call.method == "PATCH" and call.path.endswith(f"/{namespace}/{kind}/{name}") and not over.is_set():
            env.cluster.kubectl("annotate", "--overwrite", kind, name, "-n", namespace, f"edit={next(number)}")
        return None

    env.kubernetes_proxy.fault_for = edit
    return over


@pytest.mark.fault("S20")
@pytest.mark.parametrize("kind", ["secrets", "deployments"])
def test_tenant_that_edits_its_own_object_does_not_fail_the_delivery_for_others(env: FaultEnv, kind: str) -> None:
    """Two tenants bind Secrets to one AWS secret. One of them edits its own Secret, or a Deployment that reads it, just
    before each write of the receiver. The delivery is answered 200 and names the Secret that is tried again, and the
    receiver fills it once the edits are over, without another delivery."""
    receiver = env.receiver()
    other = neighbour(env)
    env.create_bound_secret("db")
    env.create_objects(secret(other, "db", f"{env.namespace}/db"), workload(other, "web", env_from("db")))
    eventually(lambda: len(env.kubernetes_proxy.matching("PATCH", f"/{other}/deployments/web")) > 0)
    env.let_settle(2)
    over = edit_before_writes(env, other, kind, "db" if kind == "secrets" else "web")
    told = env.rotate("db")
    (result,) = env.send(told).results
    assert (result.outcome, result.secrets) == (Outcome.APPLIED, (f"{env.namespace}/db",))
    assert result.retrying == (f"{other}/db",)
    assert result.reason is not None
    assert "keeps changing: trying again" in result.reason
    assert receiver.metric("keyturn_failing_bindings") == 1
    over.set()
    env.kubernetes_proxy.heal()
    eventually(lambda: data_of(env.cluster, other, "db") == {"value": env.aws_value("db").encode()}, 60)
    eventually(lambda: receiver.metric("keyturn_failing_bindings") == 0, 60)
    env.wait_converged()


def create_secret_of_the_largest_size(env: FaultEnv, namespace: str, name: str, secret_id: str) -> None:
    """Create a bound Secret so large that etcd takes none that is 1 KB larger. The names of its keys, which have no
    limit of their own, take the most."""
    fits, too_large = 0, 1_000_000
    while too_large - fits > 1000:
        size = (fits + too_large) // 2
        made = secret(namespace, name, secret_id)
        made["data"] = {f"{number:04d}{'k' * 246}": "" for number in range(2000)}
        made["stringData"] = {"padding": "x" * size}
        try:
            env.cluster.kubectl("create", "-f", "-", stdin=json.dumps(made))
        except KubectlFailed:
            too_large = size
        else:
            env.cluster.kubectl("delete", "secret", name, "-n", namespace)
            fits = size
    made["stringData"] = {"padding": "x" * fits}
    env.create_objects(made)


@pytest.mark.fault("S20")
def test_secret_that_leaves_no_room_for_its_value_does_not_fail_the_delivery_for_others(env: FaultEnv) -> None:
    """A tenant binds a Secret that is almost as large as etcd takes, so that the API server answers each write of the
    receiver with 500. Deliveries of the AWS secret, which another tenant binds, too, are answered 200, and say that the
    object is too large."""
    env.receiver()
    other = neighbour(env)
    env.create_bound_secret("db")
    create_secret_of_the_largest_size(env, other, "db", f"{env.namespace}/db")
    reply = env.send(env.rotate("db"))
    assert reply.status == 200
    (result,) = reply.results
    assert (result.outcome, result.secrets) == (Outcome.APPLIED, (f"{env.namespace}/db",))
    assert "the object is too large for Kubernetes" in str(result.reason)
    assert data_of(env.cluster, other, "db").keys() > {"padding"}
    env.cluster.kubectl("delete", "secret", "db", "-n", other)
    env.wait_converged()


@pytest.mark.fault("S20")
def test_tenant_that_edits_its_own_secret_alone_is_answered_with_retrying(env: FaultEnv) -> None:
    """The only Secret that is bound to an AWS secret is edited before each write. The delivery is answered 200 with the
    outcome `retrying`. Once the edits are over, the replica is stopped, and fills the Secret before it ends."""
    receiver = env.receiver(KEYTURN_DRAIN_SECONDS="0")
    env.create_bound_secret("db", consumers=())
    over = edit_before_writes(env, env.namespace, "secrets", "db")
    (result,) = env.send(env.rotate("db")).results
    assert (result.outcome, result.retrying) == (Outcome.RETRYING, (f"{env.namespace}/db",))
    assert receiver.metric("keyturn_notifications_total", outcome="retrying") == 1
    over.set()
    env.kubernetes_proxy.heal()
    receiver.stop()
    assert env.is_current("db")
    receiver.start()
    env.wait_converged()


@pytest.mark.fault("S20")
def test_change_whose_retry_dies_with_its_process_is_carried_by_the_poller(env: FaultEnv) -> None:
    """A delivery is answered with `retrying`, and then the process is killed. The poller of the next process applies
    the change, without another delivery."""
    receiver = env.receiver()
    env.create_bound_secret("db")
    over = edit_before_writes(env, env.namespace, "secrets", "db")
    (result,) = env.send(env.rotate("db")).results
    assert result.outcome is Outcome.RETRYING
    receiver.kill()
    over.set()
    env.kubernetes_proxy.heal()
    assert not env.is_current("db")
    env.expire_lease()
    receiver.start()
    eventually(lambda: env.is_current("db"), 60)
    env.wait_converged()


@pytest.mark.long
@pytest.mark.fault("S20")
def test_crowd_of_bindings_to_a_shared_secret_does_not_fail_its_deliveries(env: FaultEnv) -> None:
    """A tenant binds 400 Secrets to a shared AWS secret, and the API server takes half a second for each write of them.
    Another tenant's one Secret is filled within 4 s. The delivery is answered 200 although some of the 400 Secrets are
    not filled yet, and they follow without another delivery."""
    receiver = env.receiver()
    crowd = neighbour(env)
    env.create_bound_secret("db", consumers=())
    env.create_objects(*(secret(crowd, f"db-{number}", f"{env.namespace}/db") for number in range(CROWD)))
    filled = f"/{crowd}/secrets/db-"
    eventually(lambda: len(env.kubernetes_proxy.matching("PATCH", filled)) >= CROWD, 90)
    env.let_settle(2)

    def slow(call: Call) -> Fault:
        if call.method == "PATCH" and filled in call.path:
            time.sleep(0.5)
        return None

    env.kubernetes_proxy.fault_for = slow
    told, begun = env.rotate("db"), time.monotonic()
    answers = []
    sending = threading.Thread(target=lambda: answers.append(env.send(told)))
    sending.start()
    eventually(lambda: env.is_current("db"), 8)
    assert time.monotonic() - begun < 4
    sending.join()
    assert answers[0].status == 200
    (result,) = answers[0].results
    assert result.outcome is Outcome.APPLIED
    assert f"{env.namespace}/db" in (*result.secrets, *result.retrying)
    assert result.retrying
    env.kubernetes_proxy.heal()
    value = {"value": env.aws_value("db").encode()}
    eventually(lambda: data_of(env.cluster, crowd, f"db-{CROWD - 1}") == value, 60)
    eventually(lambda: receiver.metric("keyturn_staleness_seconds") == 0, 60)
    env.wait_converged()


@pytest.mark.fault("S20")
def test_role_of_a_tenant_that_hangs_does_not_fail_the_delivery_for_others(make_env: Callable[..., FaultEnv]) -> None:
    """A tenant reads a shared AWS secret with a role of its own, which STS does not answer for. The delivery of the
    secret is answered 200 for the other tenant, and names the Secret that is tried again."""
    env = make_env(tenantRoles={"enabled": True})

    def hang(call: Call) -> Fault:
        return Hang() if b"AssumeRoleWithWebIdentity" in call.body else None

    env.aws_proxy.fault_for = hang
    env.receiver(KEYTURN_TENANT_ROLES="true")
    other = neighbour(env)
    env.create_bound_secret("db", consumers=())
    env.create_objects(account(other, "app", role("silent")))
    env.create_objects(secret(other, "db", f"{env.namespace}/db", **{"keyturn.dev/service-account": "app"}))
    eventually(lambda: [call for call in env.aws_proxy.calls if hang(call)])
    (result,) = env.send(env.rotate("db")).results
    assert (result.outcome, result.secrets) == (Outcome.APPLIED, (f"{env.namespace}/db",))
    assert result.retrying == (f"{other}/db",)
    env.wait_converged()


@pytest.mark.fault("S20")
def test_failure_that_concerns_everybody_still_fails_the_delivery(env: FaultEnv) -> None:
    """AWS does not answer, or the API server does not, for a secret that two tenants share. The delivery is answered
    503, so that the queue keeps its message."""
    env.receiver(KEYTURN_DEADLINE_SECONDS="4")
    other = neighbour(env)
    env.create_bound_secret("db", consumers=())
    env.create_objects(secret(other, "db", f"{env.namespace}/db"))
    eventually(lambda: data_of(env.cluster, other, "db"))
    for proxy, about in ((env.aws_proxy, ""), (env.kubernetes_proxy, f"/{other}/secrets/")):
        told = env.rotate("db")
        proxy.fault_for = lambda call, about=about: Hang() if about in call.path and not call.watch else None
        answer = env.send(told)
        assert answer.status == 503
        assert answer.results[0].retrying == ()
        proxy.heal()
        assert env.send_until_accepted(told).status == 200
    env.wait_converged()
