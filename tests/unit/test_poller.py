"""The sweep: who is behind, found without reading a value; by one list, or secret by secret."""

import asyncio
from collections.abc import AsyncIterator, Mapping

import pytest

from keyturn_receiver.cluster.bound_secrets import BoundSecrets
from keyturn_receiver.core.binding import Target
from keyturn_receiver.core.revision import Record, version_key, write_record
from keyturn_receiver.errors import SourceRefused, SourceUnavailable
from keyturn_receiver.poller import Poller
from keyturn_receiver.reconcile.queue import Queue
from keyturn_receiver.reconcile.request import Cause, Reconciled, Request
from keyturn_receiver.sources.secrets_manager import Listed
from keyturn_receiver.telemetry import Metrics

pytestmark = pytest.mark.anyio
ARN = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:prod/{}-a1B2c3"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Aws:
    """Secrets Manager at its port: the current version of each secret, by name."""

    def __init__(self, current: Mapping[str, str], may_list: bool = True) -> None:
        self.current = current
        self.may_list = may_list
        self.listed = 0

    async def all(self) -> AsyncIterator[Listed]:
        if not self.may_list:
            raise SourceRefused("ListSecrets may not be called")
        self.listed += 1
        for name, version_id in self.current.items():
            yield Listed(ARN.format(name), f"prod/{name}", {version_id: frozenset({"AWSCURRENT"})})

    async def stages(self, secret_id: str) -> Mapping[str, frozenset[str]]:
        name = secret_id.removeprefix("prod/")
        if name == "hung":
            raise SourceUnavailable("AWS did not answer")
        if name not in self.current:
            raise SourceRefused("no such secret")
        return {self.current[name]: frozenset({"AWSCURRENT"})}


def poller(aws: Aws, made_from: Mapping[str, str | None], changed: bool = True) -> tuple[Poller, list[Target], Metrics]:
    """A poller over Secrets bound to the AWS secrets named, each made from a version or never filled."""
    bound = BoundSecrets(lambda target, change: None)
    for number, (name, version_id) in enumerate(made_from.items()):
        record = Record({version_key(ARN.format(name), "AWSCURRENT"): version_id}) if version_id else Record()
        annotations = {"keyturn.dev/secret-id": f"prod/{name}", **write_record(record, "2026-11-24T00:00:00Z")}
        bound.put(
            {
                "metadata": {
                    "namespace": "team",
                    "name": name,
                    "uid": str(number),
                    "resourceVersion": "1",
                    "labels": {"keyturn.dev/bind": "true"},
                    "annotations": annotations,
                }
            }
        )
    looked_at: list[Target] = []

    async def work(target: Target, request: Request) -> Reconciled:
        assert request.causes == {Cause.POLL}
        looked_at.append(target)
        return Reconciled(True, changed=changed)

    metrics = Metrics()
    return Poller(aws, bound, Queue(work, 4, metrics), asyncio.Event(), 300, metrics), looked_at, metrics


def recovered(metrics: Metrics) -> float | None:
    return metrics.registry.get_sample_value("keyturn_recovered_by_poll_total")


@pytest.mark.parametrize("may_list", [True, False], ids=["by list", "secret by secret"])
async def test_only_those_behind_are_looked_at(may_list: bool) -> None:
    aws = Aws({"same": "v1", "moved": "v2", "new": "v1", "unbound": "v9"}, may_list)
    sweeper, looked_at, metrics = poller(aws, {"same": "v1", "moved": "v1", "new": None})
    assert await sweeper.sweep() == sorted(looked_at) == [Target("team", "moved"), Target("team", "new")]
    assert recovered(metrics) == 2


async def test_a_look_that_changes_nothing_is_not_counted_as_recovered() -> None:
    sweeper, looked_at, metrics = poller(Aws({"moved": "v1"}), {"moved": "v2"}, changed=False)  # the list lags
    assert await sweeper.sweep() == []
    assert looked_at == [Target("team", "moved")]
    assert recovered(metrics) == 0


async def test_secrets_that_cannot_be_described_hold_up_no_other() -> None:
    aws = Aws({"moved": "v2"}, may_list=False)
    sweeper, looked_at, _ = poller(aws, {"hung": "v1", "missing": "v1", "moved": "v1"})
    await sweeper.sweep()
    assert looked_at == [Target("team", "moved")]


async def test_many_bindings_of_one_secret_cost_one_list() -> None:
    aws = Aws({"moved": "v2"})
    sweeper, _, _ = poller(aws, {"moved": "v1"})
    await sweeper.sweep()
    assert aws.listed == 1
