"""Regions: bindings may name regions of the receiver's own partition. For a typo, the error suggests the nearest
name."""

import pytest

from keyturn_receiver.cluster.namespace_cache import NamespaceCache
from keyturn_receiver.core.policy import Default
from keyturn_receiver.core.regions import Regions
from keyturn_receiver.errors import InvalidBinding
from keyturn_receiver.reconcile.access_policy import AccessPolicy
from keyturn_receiver.sources import clients

REGIONS = Regions("aws", frozenset({"us-east-1", "us-east-2", "us-west-1", "eu-west-1"}))


def arn(region: str, partition: str = "aws") -> str:
    return f"arn:{partition}:secretsmanager:{region}:123456789012:secret:team/db-AbCdEf"


@pytest.mark.parametrize("secret_id", ["team/db", "us-esat-1", arn("us-east-1"), arn("eu-west-1")])
def test_name_and_arn_of_a_known_region_pass(secret_id: str) -> None:
    REGIONS.check(secret_id)
    assert REGIONS.allows(secret_id)


@pytest.mark.parametrize(
    ("secret_id", "advice"),
    [
        (
            arn("us-esat-1"),
            "names the AWS region us-esat-1, which this receiver does not know: did you mean us-east-1?",
        ),
        (arn("eu-wets-1"), "did you mean eu-west-1?"),
        (arn("xx-yyyyyy-7"), "correct the ARN, or let the receiver's operator add the region"),
        (arn("cn-north-1", "aws-cn"), "names the AWS partition aws-cn, and this receiver's is aws"),
        (arn("us-east-1", "aws-cn"), "names the AWS partition aws-cn, and this receiver's is aws"),
        (arn("us-east-1", "aws-evil"), "names the AWS partition aws-evil, and this receiver's is aws"),
    ],
)
def test_other_region_or_partition_is_refused_with_advice(secret_id: str, advice: str) -> None:
    assert not REGIONS.allows(secret_id)
    with pytest.raises(InvalidBinding) as refused:
        REGIONS.check(secret_id)
    assert advice in str(refused.value)


def test_policy_refuses_the_region_whatever_the_namespace_allows() -> None:
    policy = AccessPolicy(NamespaceCache(), Default.ALLOW, tenant_roles=True, regions=REGIONS)
    policy.check_id("team", "app", arn("us-east-1"))
    with pytest.raises(InvalidBinding):
        policy.check_id("team", "app", arn("us-esat-1"))


@pytest.mark.parametrize(
    ("own", "partition", "known", "unknown"),
    [
        (
            "us-east-1",
            "aws",
            {"us-east-1", "eu-west-1", "ap-southeast-7"},
            {"cn-north-1", "us-gov-west-1", "us-esat-1"},
        ),
        ("cn-north-1", "aws-cn", {"cn-north-1", "cn-northwest-1"}, {"us-east-1"}),
        ("us-gov-west-1", "aws-us-gov", {"us-gov-west-1", "us-gov-east-1"}, {"us-east-1"}),
    ],
)
def test_regions_are_those_of_the_receivers_own_partition(
    monkeypatch: pytest.MonkeyPatch, own: str, partition: str, known: set[str], unknown: set[str]
) -> None:
    monkeypatch.setattr(clients, "default_region", lambda: own)
    regions = clients.regions()
    assert regions.partition == partition
    assert known <= regions.names
    assert not unknown & regions.names


def test_operators_list_replaces_the_sdks_but_not_the_own_region(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clients, "default_region", lambda: "us-east-1")
    assert clients.regions(("eu-west-1", "eu-new-9")) == Regions(
        "aws", frozenset({"us-east-1", "eu-west-1", "eu-new-9"})
    )
