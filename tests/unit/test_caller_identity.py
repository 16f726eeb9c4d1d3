"""Caller identity: if there are no credentials, the error says which role and ServiceAccount it is about, and what to
do."""

import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from botocore.credentials import Credentials, RefreshableCredentials
from botocore.exceptions import (
    ClientError,
    ConnectTimeoutError,
    CredentialRetrievalError,
    EndpointConnectionError,
    ParamValidationError,
)

from keyturn_receiver.sources.caller_identity import FAILURE_TTL, IdentityFault, OwnIdentity, explain
from support.clock import FakeClock
from support.pod_identity_agent import token_for

CANARY = "hunter2-canary"
ROLE = "arn:aws:iam::123456789012:role/keyturn"


def sts_error(code: str) -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": CANARY}}, "AssumeRoleWithWebIdentity")


def agent_error(text: str) -> CredentialRetrievalError:
    return CredentialRetrievalError(provider="container-role", error_msg=text)


def invalid(name: str) -> ParamValidationError:
    return ParamValidationError(report=f"Invalid length for parameter {name}, value: 1, valid min length: 20")


@pytest.fixture
def web_identity(tmp_path: Path) -> dict[str, str]:
    file = tmp_path / "token"
    file.write_text(token_for("keyturn", "reader"))
    return {"AWS_ROLE_ARN": ROLE, "AWS_WEB_IDENTITY_TOKEN_FILE": str(file)}


@pytest.fixture
def pod_identity(tmp_path: Path) -> dict[str, str]:
    file = tmp_path / "token"
    file.write_text(token_for("keyturn", "reader"))
    uri = "http://169.254.170.23/v1/credentials"
    return {"AWS_CONTAINER_CREDENTIALS_FULL_URI": uri, "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": str(file)}


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            sts_error("AccessDenied"),
            [ROLE, "ServiceAccount keyturn/reader", "trust policy", "system:serviceaccount:keyturn:reader"],
        ),
        (sts_error("InvalidIdentityToken"), [ROLE, "OIDC provider", "sts.amazonaws.com"]),
        (sts_error("ExpiredTokenException"), [ROLE, "has expired", "clock"]),
        (sts_error("ValidationError"), [ROLE, "eks.amazonaws.com/role-arn"]),
        (sts_error("Throttling"), [ROLE, "STS answered Throttling", "trying again"]),
        (sts_error(f"<html>{CANARY}"), ["STS answered an error"]),
        (EndpointConnectionError(endpoint_url=CANARY), ["STS cannot be reached", "VPC endpoint", "NetworkPolicy"]),
        (ConnectTimeoutError(endpoint_url=CANARY), ["STS cannot be reached (ConnectTimeoutError)"]),
        (FileNotFoundError(CANARY), ["the token file", "cannot be read (FileNotFoundError)", "create the pod again"]),
        (PermissionError(CANARY), ["the token file", "(PermissionError)"]),
        (invalid("RoleArn"), [ROLE, "is not the ARN of an AWS role", "eks.amazonaws.com/role-arn"]),
        (invalid("RoleSessionName"), ["AWS_ROLE_SESSION_NAME"]),
        (invalid("WebIdentityToken"), ["its token in", "create the pod again"]),
    ],
)
def test_failed_web_identity_is_explained(web_identity: dict[str, str], error: Exception, words: list[str]) -> None:
    text = explain(error, web_identity)
    assert all(each in text for each in words), text
    assert CANARY not in text
    assert "AWS cannot be reached" not in text


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (agent_error("Received error: timed out"), ["agent does not answer", "eks-pod-identity-agent"]),
        (
            agent_error(f"Received non 200 response 403 from container metadata: {CANARY}"),
            ["refuses credentials to ServiceAccount keyturn/reader (status 403)", "association"],
        ),
        (FileNotFoundError(CANARY), ["the token file", "create the pod again"]),
        (KeyError("AccessKeyId"), ["is not the EKS Pod Identity agent"]),
        (ValueError(CANARY), ["is not the EKS Pod Identity agent (ValueError)"]),
    ],
)
def test_failed_pod_identity_is_explained(pod_identity: dict[str, str], error: Exception, words: list[str]) -> None:
    text = explain(error, pod_identity)
    assert all(each in text for each in words), text
    assert CANARY not in text


@pytest.mark.parametrize("content", ["", "no.token", "a.b.c", "a.eyJzdWIiOiAieFx1MDAxYnkifQ.c"])
def test_malformed_token_names_no_service_account(web_identity: dict[str, str], content: str) -> None:
    Path(web_identity["AWS_WEB_IDENTITY_TOKEN_FILE"]).write_text(content)
    assert "by the receiver's ServiceAccount (AccessDenied)" in explain(sts_error("AccessDenied"), web_identity)


def test_missing_credentials_are_looked_for_again() -> None:
    found: list[Any] = [None]
    clock = FakeClock()
    identity = OwnIdentity(lambda: found[0], {}, clock)
    with pytest.raises(IdentityFault) as fault:
        identity.check()
    assert "there are no AWS credentials" in str(fault.value)
    found[0] = Credentials("key", "secret", account_id="123456789012")
    clock.advance(FAILURE_TTL)
    identity.check()
    assert identity.account == "123456789012"


class Agent:
    """Gives credentials that are valid for ``lifetime``, or raises ``error``."""

    def __init__(self) -> None:
        self.lifetime = timedelta(hours=6)
        self.account = "1" * 12
        self.error: Exception | None = None
        self.asked = 0

    def fetch(self) -> dict[str, str]:
        self.asked += 1
        if self.error:
            raise self.error
        expiry = (datetime.now(UTC) + self.lifetime).isoformat()
        return {
            "access_key": "k",
            "secret_key": "s",
            "token": "t",
            "expiry_time": expiry,
            "account_id": self.account,
        }

    def find(self) -> RefreshableCredentials:
        return RefreshableCredentials.create_from_metadata(self.fetch(), self.fetch, "container-role")


def test_credentials_are_fetched_once_and_renewed_before_they_expire() -> None:
    agent = Agent()
    identity = OwnIdentity(agent.find, {})
    for _ in range(5):
        identity.check()
    assert agent.asked == 1
    agent.lifetime, agent.account = timedelta(seconds=30), "2" * 12
    identity = OwnIdentity(agent.find, {})
    identity.check()
    identity.check()
    assert agent.asked >= 3
    agent.lifetime, agent.account = timedelta(hours=6), "3" * 12
    identity.check()
    assert identity.account == "3" * 12  # a Pod Identity association can be made again with a role of another account


def test_failure_is_shared_for_a_moment_and_over_once_the_agent_is_well(pod_identity: dict[str, str]) -> None:
    agent, clock = Agent(), FakeClock()
    agent.error = agent_error("timed out")
    identity = OwnIdentity(agent.find, pod_identity, clock)
    for _ in range(10):
        with pytest.raises(IdentityFault):
            identity.check()
    assert agent.asked == 1
    agent.error = None
    clock.advance(FAILURE_TTL)
    identity.check()
    assert agent.asked == 2


def test_threads_that_wait_share_one_attempt(pod_identity: dict[str, str]) -> None:
    agent, released = Agent(), threading.Event()
    agent.error = agent_error("timed out")

    def find() -> RefreshableCredentials:
        released.wait(10)
        return agent.find()

    identity = OwnIdentity(find, pod_identity)
    faults: list[str] = []

    def check() -> None:
        try:
            identity.check()
        except IdentityFault as fault:
            faults.append(str(fault))

    threads = [threading.Thread(target=check) for _ in range(8)]
    for each in threads:
        each.start()
    released.set()
    for each in threads:
        each.join()
    assert len(faults) == 8
    assert agent.asked == 1
