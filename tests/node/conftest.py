"""Fixtures of the tests on a real node. `make test-node` runs these tests in an enclosure. Outside the enclosure, no
such test is collected."""

import os
from collections.abc import Iterator

import pytest

from keyturn_contract.signature import parse_key
from keyturn_local.aws.server import LocalAws
from keyturn_local.kubernetes.control_plane import ControlPlane
from keyturn_local.node import enclosure, network
from keyturn_local.node.node import Node

ENCLOSED = enclosure.MARK in os.environ
collect_ignore_glob = [] if ENCLOSED else ["*"]


def pytest_report_header() -> str | None:
    return None if ENCLOSED else "tests/node: none outside of an enclosure; make test-node"


@pytest.fixture(scope="session")
def control_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    with ControlPlane.start(tmp_path_factory.mktemp("control-plane"), host=network.HOST) as running:
        yield running


@pytest.fixture(scope="session", autouse=True)
def node(control_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """The node. Its kubelet updates mounted Secrets after at most 6 s, because the usual 90 s are too long for
    tests."""
    with Node.start(tmp_path_factory.mktemp("node"), control_plane, sync_seconds=4) as running:
        yield running


@pytest.fixture(scope="session")
def aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalAws]:
    """An AWS that pods can reach."""
    with LocalAws.start(tmp_path_factory.mktemp("aws"), network.HOST) as running:
        yield running


@pytest.fixture(scope="session")
def signing_key_id(aws: LocalAws) -> str:
    return aws.create_signing_key()


@pytest.fixture(scope="session")
def key(aws: LocalAws, signing_key_id: str) -> bytes:
    """The signing key as bytes."""
    return parse_key(aws.secrets_manager().get_secret_value(SecretId=signing_key_id)["SecretString"])
