"""S9: a region, partition or account that a tenant names affects only the tenant's own Secret, and nobody's
readiness."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from keyturn_local.receiver.process import LocalReceiver
from support.cluster_state import data_of
from support.fault_env import FaultEnv
from support.fault_proxy import Call, Fault, Reply
from support.manifests import secret
from support.wait import eventually

ACCOUNT = "123456789012"
REFUSED = 40  # number of Secrets that AWS refuses to read: enough for several batches
KEYS = {"KEYTURN_SIGNING_KEY_INTERVAL_SECONDS": "1"}  # the receiver checks its own credentials every second


def arn(env: FaultEnv, region: str, name: str = "db", partition: str = "aws") -> str:
    return f"arn:{partition}:secretsmanager:{region}:{ACCOUNT}:secret:{env.namespace}/{name}-AbCdEf"


def asked_regions(env: FaultEnv) -> set[str]:
    """Return the regions to which signed calls to AWS were made."""
    scopes = (call.headers.get("authorization", "").partition("Credential=")[2] for call in env.aws_proxy.calls)
    return {scope.split("/")[2] for scope in scopes if scope.count("/") > 2}


@contextmanager
def always_ready(*receivers: LocalReceiver) -> Iterator[None]:
    """Probe readiness and liveness ten times a second during the block, and fail if any probe has failed."""
    stop, failed = threading.Event(), []

    def probe() -> None:
        while not stop.wait(0.1):
            for each in receivers:
                failed.extend(answer for answer in (each.ready(), each.alive()) if answer[0] != 200)

    thread = threading.Thread(target=probe)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    assert failed == []


@pytest.mark.fault("S9")
def test_typo_in_a_region_concerns_its_own_secret_alone(env: FaultEnv) -> None:
    """A tenant names regions and partitions that do not exist here, and its Secrets say so (for a typo, with the region
    that was probably meant). AWS is not asked, and the receiver stays ready, even after the Secrets are deleted."""
    receiver = env.receiver(**KEYS, KEYTURN_POLL_INTERVAL_SECONDS="1")
    env.create_bound_secret("own")
    wrong = {
        "typo": arn(env, "us-esat-1"),
        "nowhere": arn(env, "xx-nowhere-1"),
        "china": arn(env, "cn-north-1", partition="aws-cn"),
        "mixed": arn(env, "us-east-1", partition="aws-cn"),
    }
    with always_ready(receiver):
        env.cluster.create(secret(env.namespace, name, each) for name, each in wrong.items())
        assert "names the AWS region us-esat-1" in env.status("typo")
        assert "did you mean us-east-1?" in env.status("typo")
        assert "names the AWS region xx-nowhere-1" in env.status("nowhere")
        for name in ("china", "mixed"):
            assert "names the AWS partition aws-cn, and this receiver's is aws" in env.status(name)
        time.sleep(3)
        env.send_until_accepted(env.rotate("own"))
        for name in wrong:
            env.cluster.kubectl("delete", "secret", name, "-n", env.namespace)
        time.sleep(2)
    assert asked_regions(env) == {"us-east-1"}
    env.wait_converged()


@pytest.mark.fault("S9")
def test_credentials_refused_for_a_tenants_secret_do_not_stop_everybody(env: FaultEnv) -> None:
    """AWS refuses the receiver's credentials in a region that a tenant names (as in one that the account has not opted
    into), and for forty secrets, which are read in batches. The receiver stays ready, and no probe fails."""

    def refuse(call: Call) -> Fault:
        elsewhere = "/eu-west-1/" in call.headers.get("authorization", "")
        if elsewhere or (call.action and call.about("/refused")):
            return Reply(400, {"__type": "UnrecognizedClientException"}, {"Content-Type": "application/x-amz-json-1.1"})
        return None

    env.aws_proxy.fault_for = refuse
    receiver = env.receiver(**KEYS)
    env.create_bound_secret("own")
    with always_ready(receiver):
        env.cluster.create(
            [
                secret(env.namespace, "region", arn(env, "eu-west-1")),
                *(secret(env.namespace, f"refused-{n}", f"{env.namespace}/refused-{n}") for n in range(REFUSED)),
            ]
        )
        eventually(lambda: "NoCredentials" in receiver.log.partition("started")[2])
        eventually(lambda: env.aws_proxy.actions("ListSecrets"))
        eventually(lambda: env.aws_proxy.actions("BatchGetSecretValue"))
        time.sleep(3)
        env.send_until_accepted(env.rotate("own"))
    assert data_of(env.cluster, env.namespace, "region") == {}
    env.wait_converged()


@pytest.mark.fault("S9")
def test_operators_regions_are_the_only_ones_asked(env: FaultEnv) -> None:
    """The operator names one region besides the receiver's own. Secrets of that region are filled, and those of any
    other region are refused without a call to AWS."""
    env.receiver(KEYTURN_REGIONS="eu-west-1")
    value = env.new_value("elsewhere")
    there = env.client_in("eu-west-1").create_secret(Name=f"{env.namespace}/own", SecretString=value)["ARN"]
    env.create_bound_secret("own")
    env.cluster.create(
        [secret(env.namespace, "there", there), secret(env.namespace, "other", arn(env, "eu-central-1"))]
    )
    assert env.status("there") == "ok"
    assert data_of(env.cluster, env.namespace, "there") == {"value": value.encode()}
    assert env.status("other").startswith("InvalidBinding: annotation keyturn.dev/secret-id names the AWS region eu-c")
    assert asked_regions(env) == {"us-east-1", "eu-west-1"}
    env.wait_converged()
