"""What the event path misses, the poller finds."""

import json
from collections.abc import Callable

from keyturn_local.rotation import rotate
from objects import data_of, eventually, secret

RECOVERED = "keyturn_recovered_by_poll_total"


def test_a_rotation_whose_event_is_lost_arrives_within_the_interval_and_is_counted(
    own_stack: Callable, namespace: str
) -> None:
    with own_stack(KEYTURN_POLL_INTERVAL_SECONDS="2") as stack:
        client = stack.aws.secrets_manager()
        name = f"{namespace}/db"
        client.create_secret(Name=name, SecretString="one")
        stack.cluster.create([secret(namespace, "db", name)])
        eventually(lambda: data_of(stack.cluster, namespace, "db"))
        eventually(lambda: stack.receiver.metric("keyturn_sweeps_total", outcome="ok"))
        assert stack.receiver.metric(RECOVERED) == 0

        stack.aws.cut_event_path()
        rotate(client, name, "two")
        eventually(lambda: data_of(stack.cluster, namespace, "db")["value"] == b"two", seconds=2 * 1.1 + 5)
        eventually(lambda: stack.receiver.metric(RECOVERED) == 1)


def test_a_sweep_that_finds_nothing_reads_no_value(own_stack: Callable, namespace: str) -> None:
    with own_stack(KEYTURN_POLL_INTERVAL_SECONDS="1", KEYTURN_SIGNING_KEY_INTERVAL_SECONDS="3600") as stack:
        name = f"{namespace}/db"
        stack.aws.secrets_manager().create_secret(Name=name, SecretString="one")
        stack.cluster.create([secret(namespace, "db", name)])
        eventually(lambda: data_of(stack.cluster, namespace, "db"))
        event = eventually(lambda: stack.timeline.find("delivered"))
        assert event["step"] == "delivered"
        before = stack.aws.calls()
        sweeps = stack.receiver.metric("keyturn_sweeps_total", outcome="ok")
        eventually(lambda: stack.receiver.metric("keyturn_sweeps_total", outcome="ok") >= sweeps + 2)
        after = stack.aws.calls()
        assert after["secretsmanager.ListSecrets"] >= before.get("secretsmanager.ListSecrets", 0) + 2
        assert after["secretsmanager.GetSecretValue"] == before["secretsmanager.GetSecretValue"], json.dumps(after)
