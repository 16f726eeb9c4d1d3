"""Rotations of many secrets that travel through a whole stack."""

import json

from keyturn_local.stack import Stack
from support.cluster_state import data_of
from support.manifests import secret
from support.wait import eventually

# The poller sweeps when the receiver becomes the leader, and then only once an hour, so later changes arrive by events.
SLEEPING = {"KEYTURN_POLL_INTERVAL_SECONDS": "3600"}


def given_bindings(stack: Stack, namespace: str, count: int) -> list[str]:
    """Create ``count`` AWS secrets and a Secret bound to each of them. Wait until each Secret
    is filled. Return the names of the AWS secrets."""
    names = [f"{namespace}/s{number}" for number in range(count)]
    for name in names:
        stack.aws.secrets_manager().create_secret(Name=name, SecretString=value(0))
    stack.cluster.create([secret(namespace, f"s{number}", name) for number, name in enumerate(names)])
    for number in range(count):
        eventually(lambda number=number: data_of(stack.cluster, namespace, f"s{number}"))
    return names


def value(number: int) -> str:
    """Return the value that a secret has after this number of rotations."""
    return json.dumps({"number": str(number)})


def values(stack: Stack, namespace: str) -> set[bytes | None]:
    """Return the distinct numbers that the bound Secrets of a namespace have now."""
    listed = stack.cluster.list("secrets", namespace, "keyturn.dev/bind=true")
    return {data_of(stack.cluster, namespace, each["metadata"]["name"]).get("number") for each in listed}


def delivered(stack: Stack) -> set[str]:
    """Return the ids of all versions whose notifications have been delivered."""
    return stack.aws.notifier_log.delivered()


def counted(stack: Stack, metric: str) -> float:
    """Return the sum of one of the notifier's metrics. It is read from the notifier's log."""
    return stack.aws.notifier_log.metrics().get(metric, 0)
