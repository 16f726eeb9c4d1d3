"""S13: the receiver's own AWS identity, as pods on EKS have it. If it does not work, the receiver waits, says why, and
recovers by itself."""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from pathlib import Path

import pytest

from keyturn_local.receiver.process import LocalReceiver
from support.cluster_state import warnings_of
from support.fault_env import FaultEnv
from support.fault_proxy import Call, Fault, Hang, Reply
from support.manifests import secret
from support.pod_identity_agent import PodIdentityAgent, token_for
from support.wait import eventually

ROLE = "arn:aws:iam::123456789012:role/keyturn"


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[PodIdentityAgent]:
    made = PodIdentityAgent(tmp_path)
    yield made
    made.stop()


def launch(env: FaultEnv, variables: Mapping[str, str], **settings: str) -> LocalReceiver:
    receiver = env.receiver(start=False, KEYTURN_SIGNING_KEY_INTERVAL_SECONDS="1", **variables, **settings)
    receiver.launch()
    return receiver


def waits_in_words(env: FaultEnv, receiver: LocalReceiver, *words: str) -> None:
    """Check that the receiver stays alive, that readiness and an Event contain the words, and that the log is not
    flooded."""
    for word in words:
        eventually(lambda word=word: word in receiver.ready()[1], 40)
    env.cluster.create([secret(env.namespace, "waiting", f"{env.namespace}/waiting")])
    told = eventually(lambda: warnings_of(env.cluster, env.namespace, "waiting").get("NoCredentials"), 40)
    assert words[0] in told
    lines = len(receiver.log.splitlines())
    for _ in range(10):
        begun = time.monotonic()
        assert receiver.alive()[0] == 200
        assert time.monotonic() - begun < 2  # the event loop is not blocked, even on a machine that is busy
        assert receiver.ready()[0] == 503
        time.sleep(0.3)
    assert len(receiver.log.splitlines()) - lines < 10
    logged = [json.loads(line) for line in receiver.log.splitlines()]
    assert not [line for line in logged if "traceback" in line]
    assert receiver.running


def is_well(env: FaultEnv, receiver: LocalReceiver) -> None:
    eventually(lambda: receiver.ready()[0] == 200, 30)
    env.create_bound_secret("own")
    env.send_until_accepted(env.rotate("own"))
    env.wait_converged()


@pytest.mark.fault("S13")
@pytest.mark.parametrize("how", ["late", "refusing", "hanging"])
def test_receiver_waits_for_the_pod_identity_agent(env: FaultEnv, agent: PodIdentityAgent, how: str) -> None:
    """When the receiver starts, the Pod Identity agent is not there yet, refuses, or hangs. The receiver stays alive,
    says so in readiness and an Event, and becomes ready once the agent answers."""
    if how != "late":
        agent.start()
        agent.status = 404
        agent.hang(how == "hanging")
    receiver = launch(env, agent.variables())
    words = ("refuses credentials to ServiceAccount keyturn/keyturn (status 404)", "association")
    waits_in_words(env, receiver, *(words if how == "refusing" else ("the EKS Pod Identity agent does not answer",)))
    agent.status = 200
    agent.hang(False)
    if how == "late":
        agent.start()
    is_well(env, receiver)


@pytest.mark.fault("S13")
def test_association_that_is_removed_and_made_again(env: FaultEnv, agent: PodIdentityAgent) -> None:
    """Credentials expire within seconds and the token file is rotated, but deliveries succeed. Then the association is
    removed, which makes the receiver unready until the association is made again, and the receiver says why."""
    agent.lifetime = timedelta(seconds=10)
    agent.start()
    receiver = env.receiver(KEYTURN_SIGNING_KEY_INTERVAL_SECONDS="1", **agent.variables())
    env.create_bound_secret("own")
    agent.token_file.write_text(token_for("keyturn", "rotated"))
    env.send_until_accepted(env.rotate("own"))
    assert receiver.ready()[0] == 200
    agent.status = 400
    eventually(lambda: "refuses credentials to ServiceAccount keyturn/rotated" in receiver.ready()[1], 30)
    told = env.rotate("own")
    assert env.send(told).status == 503
    assert receiver.alive()[0] == 200
    agent.status = 200
    eventually(lambda: receiver.ready()[0] == 200, 30)
    env.send_until_accepted(told)
    assert "botocore" not in receiver.log
    env.wait_converged()


def web_identity(directory: Path, **more: str) -> dict[str, str]:
    """Return the variables that EKS sets for IRSA, and clear the variables of static keys."""
    file = directory / "web-identity-token"
    file.write_text(token_for("keyturn", "keyturn"))
    keys = {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}
    return {"AWS_ROLE_ARN": ROLE, "AWS_WEB_IDENTITY_TOKEN_FILE": str(file), **keys, **more}


def sts(fault: Fault) -> Callable[[Call], Fault]:
    return lambda call: fault if b"AssumeRoleWithWebIdentity" in call.body else None


def refusal(code: str) -> Reply:
    body = f"<ErrorResponse><Error><Type>Sender</Type><Code>{code}</Code></Error></ErrorResponse>".encode()
    return Reply(403, body, {"Content-Type": "text/xml"})


@pytest.mark.fault("S13")
@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (
            refusal("AccessDenied"),
            (f"AWS role {ROLE} cannot be assumed by ServiceAccount keyturn/keyturn", "its trust policy must name"),
        ),
        (refusal("InvalidIdentityToken"), (f"AWS role {ROLE} cannot be assumed", "OIDC provider")),
        (Hang(), ("because STS cannot be reached (ReadTimeoutError)", "VPC endpoint for STS")),
    ],
    ids=["trust policy", "OIDC provider", "STS hangs"],
)
def test_role_that_cannot_be_assumed(env: FaultEnv, tmp_path: Path, fault: Fault, words: tuple[str, ...]) -> None:
    """With IRSA, the role's trust policy does not fit, its account has no OIDC provider, or STS does not answer. The
    receiver names the cause and the remedy, and becomes ready once the cause is removed."""
    env.aws_proxy.fault_for = sts(fault)
    receiver = launch(env, web_identity(tmp_path))
    waits_in_words(env, receiver, *words)
    assert "signing-key (" not in receiver.ready()[1]  # the receiver does not blame the policy of the signing key
    env.aws_proxy.heal()
    is_well(env, receiver)


@pytest.mark.fault("S13")
@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"AWS_ROLE_ARN": "keyturn"}, ("'keyturn' is not the ARN of an AWS role: correct the annotation",)),
        ({"AWS_ROLE_SESSION_NAME": "x"}, ("AWS_ROLE_SESSION_NAME is not the name of a session",)),
        ({}, ("web-identity-token of the receiver's ServiceAccount cannot be read (FileNotFoundError)",)),
    ],
    ids=["role ARN", "session name", "token file"],
)
def test_identity_that_is_set_wrong(
    env: FaultEnv, tmp_path: Path, variables: dict[str, str], words: tuple[str, ...]
) -> None:
    """With IRSA, the role's ARN or the session's name is wrong, or the token file is missing. The receiver says which
    one it is, waits, and does not say that AWS cannot be reached. Once the token file exists, the receiver becomes
    ready."""
    given = web_identity(tmp_path, **variables)
    if not variables:
        Path(given["AWS_WEB_IDENTITY_TOKEN_FILE"]).unlink()
    receiver = launch(env, given)
    waits_in_words(env, receiver, *words)
    assert "AWS cannot be reached" not in receiver.log
    if not variables:
        web_identity(tmp_path)
        is_well(env, receiver)
