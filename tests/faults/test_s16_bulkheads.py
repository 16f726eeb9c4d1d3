"""S16: if a region or role that a tenant names does not answer, this holds up only the tenant's own Secrets."""

import time
from collections import Counter
from collections.abc import Callable

import pytest

from keyturn_receiver.poller.poller import SWEEP_LANES
from support.cluster_state import data_of
from support.fault_env import FaultEnv
from support.fault_proxy import Call, Fault, Hang, Reply
from support.manifests import secret
from support.tenant_roles import ACCOUNT, Sts, account, role
from support.wait import eventually

REGIONS = ("eu-west-1", "eu-central-1", "ap-south-1", "sa-east-1", "ca-central-1", "us-west-2")


@pytest.mark.fault("S16")
def test_regions_that_hang_hold_up_only_the_secrets_that_name_them(env: FaultEnv) -> None:
    """A tenant makes 120 Secrets that name secrets in regions that do not answer. Each delivery about another secret is
    applied within 8 s, and the poller finds the rotations of a third secret within 30 s. The receiver logs that it
    tries again, and makes fewer than 120 calls to these regions."""

    def hang(call: Call) -> Fault:
        scope = call.headers.get("authorization", "")
        return Hang() if any(f"/{region}/" in scope for region in REGIONS) else None

    env.aws_proxy.fault_for = hang
    env.create_aws_secret("polled")
    env.cluster.create(
        secret(
            env.namespace,
            f"a-hung-{number}",
            f"arn:aws:secretsmanager:{REGIONS[number % len(REGIONS)]}:{ACCOUNT}:secret:{env.namespace}/{number}-AbCdEf",
        )
        for number in range(120)
    )
    receiver = env.receiver(KEYTURN_POLL_INTERVAL_SECONDS="2", KEYTURN_STUCK_SECONDS="30")
    env.create_bound_secret("own")
    env.bind_secret("polled")
    for _ in range(6):
        told, begun = env.rotate("own"), time.monotonic()
        assert env.send_until_accepted(told).outcome in ("applied", "unchanged")
        assert time.monotonic() - begun < 8
        env.rotate("polled")  # no notification is sent, so only the poller can find this rotation
        eventually(lambda: env.is_current("polled"), 30)
    assert receiver.ready()[0] == receiver.alive()[0] == 200
    words = "does not answer this receiver: trying again"
    eventually(lambda: words in receiver.log, 60)
    hanging = [call for call in env.aws_proxy.calls if hang(call)]
    assert len(hanging) < 120  # a few attempts at each region, not one for each Secret
    assert data_of(env.cluster, env.namespace, "a-hung-0") == {}
    env.assert_no_value_leaked()


@pytest.mark.fault("S16")
def test_roles_that_hang_hold_up_only_the_namespace_that_names_them(make_env: Callable[..., FaultEnv]) -> None:
    """A tenant makes 40 ServiceAccounts whose roles STS does not answer for. Another tenant's Secret, which is read
    with that tenant's own role, is filled within 15 s."""
    env = make_env(tenantRoles={"enabled": True})

    def hang(call: Call) -> Fault:
        return Hang() if b"AssumeRoleWithWebIdentity" in call.body and b"hostile" in call.body else None

    env.aws_proxy.fault_for = hang
    hostile = f"{env.namespace}-hostile"
    annotations = {"keyturn.dev/allow-secrets": "*"}
    env.create_objects(
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": hostile, "annotations": annotations}}
    )
    env.create_objects(*(account(hostile, f"app{number}", role(f"hostile{number}")) for number in range(40)))
    env.create_objects(account(env.namespace, "app", role("honest")))
    env.create_aws_secret("db")
    env.cluster.create(
        secret(hostile, f"a-{number}", f"{env.namespace}/db", **{"keyturn.dev/service-account": f"app{number}"})
        for number in range(40)
    )
    receiver = env.receiver(KEYTURN_TENANT_ROLES="true", KEYTURN_POLL_INTERVAL_SECONDS="2")
    eventually(lambda: [call for call in env.aws_proxy.calls if hang(call)])
    begun = time.monotonic()
    env.cluster.create([secret(env.namespace, "db", f"{env.namespace}/db", **{"keyturn.dev/service-account": "app"})])
    eventually(lambda: data_of(env.cluster, env.namespace, "db"), 20)
    assert time.monotonic() - begun < 15
    assert receiver.ready()[0] == receiver.alive()[0] == 200
    env.assert_no_value_leaked()


@pytest.mark.fault("S16")
@pytest.mark.long
def test_many_roles_are_assumed_once_and_swept_at_the_cost_of_their_bindings(
    make_env: Callable[..., FaultEnv],
) -> None:
    """150 Secrets of a namespace name 150 ServiceAccounts, and each ServiceAccount has a role of its own. All Secrets
    are filled. At rest no role is assumed again, nothing is listed, and each sweep describes one secret for each
    binding. The poller then carries a rotation to all Secrets, and reads the value for each with its own role."""
    env = make_env(tenantRoles={"enabled": True})
    sts = Sts(env)
    numbers = range(150)
    env.create_aws_secret("db")
    bound = f"{env.namespace}/db"
    env.create_objects(*(account(env.namespace, f"app{number}", role(f"r{number}")) for number in numbers))
    env.cluster.create(
        secret(env.namespace, f"db-{number}", bound, **{"keyturn.dev/service-account": f"app{number}"})
        for number in numbers
    )
    receiver = env.receiver(KEYTURN_TENANT_ROLES="true", KEYTURN_POLL_INTERVAL_SECONDS="10")

    def applied() -> float:
        return receiver.metric("keyturn_reconciles_total", outcome="applied")

    def sweeps() -> float:
        return receiver.metric("keyturn_sweeps_total", outcome="ok")

    eventually(lambda: applied() >= len(numbers), 180)
    first = sweeps()
    eventually(lambda: sweeps() >= first + len(numbers), 120)
    env.aws_proxy.calls.clear()
    before = sweeps()
    eventually(lambda: sweeps() >= before + 2 * len(numbers), 120)
    calls = Counter(call.action or "STS" for call in env.aws_proxy.calls)
    swept = sweeps() - before
    assert set(calls) == {"DescribeSecret"}
    assert calls["DescribeSecret"] <= swept + 2 * SWEEP_LANES

    env.aws_proxy.calls.clear()
    env.rotate("db")  # no notification is sent, so only the poller can find this rotation
    eventually(lambda: applied() >= 2 * len(numbers), 120)
    assert {data_of(env.cluster, env.namespace, f"db-{number}")["value"] for number in (0, 77, 149)} == {
        env.aws_value().encode()
    }
    assert sts.readers(env, bound) == {role(f"r{number}") for number in numbers}
    assert len(sts.given) == len(numbers)
    assert receiver.ready()[0] == 200
    env.assert_no_value_leaked()


@pytest.mark.fault("S16")
def test_throttled_secrets_slow_down_no_others(env: FaultEnv) -> None:
    """AWS throttles 60 secrets of a tenant, for example by their KMS key. Each delivery about another secret is applied
    within 4 s."""
    names = [f"hot-{number}" for number in range(60)]
    for name in names:
        env.create_aws_secret(name)
    throttled = Reply(400, {"__type": "ThrottlingException"}, {"Content-Type": "application/x-amz-json-1.1"})
    env.aws_proxy.fault_for = lambda call: throttled if call.action and call.about("/hot-") else None
    receiver = env.receiver()
    env.create_bound_secret("own")
    env.cluster.create(secret(env.namespace, f"a-{name}", f"{env.namespace}/{name}") for name in names)
    eventually(lambda: receiver.metric("keyturn_failing_bindings") == 60, 60)
    for _ in range(6):
        told, begun = env.rotate("own"), time.monotonic()
        assert env.send(told).outcome == "applied"
        assert time.monotonic() - begun < 4
    env.aws_proxy.heal()
    eventually(lambda: receiver.metric("keyturn_failing_bindings") == 0, 120)
    env.wait_converged()
