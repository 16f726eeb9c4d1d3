"""Shared fixtures: for each test file a local AWS with the event path, and for each test a fake receiver."""

from collections.abc import Iterator

import pytest

from keyturn_local.aws.server import EventPath, LocalAws
from support.fake_receiver import FakeReceiver


@pytest.fixture(scope="session")
def moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalAws]:
    """One server for all tests. Fixtures reset it, because a new server takes ten seconds to create its first stack."""
    with LocalAws.start(tmp_path_factory.mktemp("aws")) as running:
        yield running


@pytest.fixture(scope="module")
def aws(moto: LocalAws) -> LocalAws:
    moto.reset()
    return moto


@pytest.fixture(scope="module")
def path(aws: LocalAws) -> EventPath:
    return aws.provision()


@pytest.fixture
def receiver() -> Iterator[FakeReceiver]:
    made = FakeReceiver()
    yield made
    made.close()
