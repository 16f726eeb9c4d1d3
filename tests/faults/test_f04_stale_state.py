"""F4 to F8: the receiver sees an outdated state, or changes arrive out of order."""

import json

import pytest

from keyturn_local.aws.rotation import promote
from support.cluster_state import annotations_of
from support.fault_env import FaultEnv
from support.fault_proxy import Call, Edit, Fault, Reply
from support.wait import eventually


def stalled(call: Call) -> Fault:
    """Return a fault that drops every event if the call is a watch on Secrets, and None otherwise."""
    return Edit(lambda line: None) if call.watch and call.path.endswith("/secrets") else None


@pytest.mark.fault("F4")
def test_conflict_of_a_stale_cache_is_resolved_and_the_edit_survives(env: FaultEnv) -> None:
    """The receiver's cached copy of a Secret is outdated, so its write fails with a conflict. The receiver reads the
    Secret again and then writes it, without losing an edit that was made by hand."""
    env.kubernetes_proxy.fault_for = stalled
    env.receiver(KEYTURN_RESYNC_SECONDS="1", KEYTURN_WATCH_SECONDS="1")
    env.create_bound_secret()
    env.let_settle(4)  # the receiver lists every second or two, so by then a list has shown it the Secret
    env.kubernetes_proxy.fault_for = lambda call: stalled(call) or (Reply(503) if "limit" in call.query else None)
    statuses: list[int] = []
    env.kubernetes_proxy.on_answered = lambda call, status: (
        statuses.append(status) if call.method == "PATCH" and call.path.endswith("/secrets/db") else None
    )
    env.cluster.kubectl("annotate", "secret", "db", "-n", env.namespace, "theirs=stays")
    assert env.send(env.rotate()).outcome == "applied"
    assert statuses[0] == 409
    assert statuses[-1] == 200
    assert annotations_of(env.cluster, "secret", env.namespace, "db")["theirs"] == "stays"
    env.kubernetes_proxy.heal()
    env.wait_converged()


@pytest.mark.fault("F5")
def test_older_version_never_overwrites_a_newer_one(env: FaultEnv) -> None:
    """The API server returns a Secret as it was two versions ago and AWS returns the previous version, although another
    replica has already written the newest one. The receiver does not overwrite the newest version."""
    straight = env.receiver(via_proxy=False)
    behind = env.receiver()
    env.create_bound_secret()
    old_secret = env.cluster.get("secret", "db", env.namespace)
    one = env.rotate(text="one")
    env.send_until_accepted(one, to=straight)
    stale = env.client.get_secret_value(SecretId=f"{env.namespace}/db")
    env.send_until_accepted(env.rotate(text="two"), to=straight)

    def old(call: Call) -> Fault:
        if call.method == "GET" and call.path.endswith("/secrets/db"):
            return Reply(200, old_secret, {"Content-Type": "application/json"})
        return stalled(call)

    def stale_value(call: Call) -> Fault:
        if call.action == "GetSecretValue":
            kept = {key: stale[key] for key in ("ARN", "Name", "VersionId", "SecretString")}
            return Reply(200, kept, {"Content-Type": "application/x-amz-json-1.1"})
        return None

    env.kubernetes_proxy.fault_for, env.aws_proxy.fault_for = old, stale_value
    answer = env.send(one, to=behind)
    assert answer.status == 503
    assert env.kubernetes_proxy.matching("PATCH", "/secrets/db")  # the receiver tried to write, and was refused
    values = [state["value"] for state in env.history.data_history("db") if state]
    assert [value.split(b"-")[2] for value in values] == [b"first", b"one", b"two"]
    # AWS heals first, because a receiver that sees the newest Secret and an older version in AWS assumes a roll-back.
    env.aws_proxy.heal()
    env.kubernetes_proxy.heal()
    env.send_until_accepted(one, to=behind)
    env.wait_converged()
    assert [state["value"] for state in env.history.data_history("db") if state] == values


@pytest.mark.fault("F6")
@pytest.mark.parametrize("times", [2, 100])
def test_stale_value_of_aws_is_read_again_and_never_written(env: FaultEnv, times: int) -> None:
    """If GetSecretValue returns the previous version twice, the receiver repeats the read until it gets the version
    that has the label, and applies this version. If GetSecretValue returns the previous version a hundred times, the
    receiver answers 503, and applies the new version once AWS has recovered."""
    env.receiver()
    env.create_bound_secret()
    before = env.client.get_secret_value(SecretId=f"{env.namespace}/db")
    left = [before] * times

    def stale(call: Call) -> Fault:
        if call.action == "GetSecretValue" and left:
            kept = {key: left.pop()[key] for key in ("ARN", "Name", "VersionId", "SecretString")}
            return Reply(200, kept, {"Content-Type": "application/x-amz-json-1.1"})
        return None

    told = env.rotate()
    env.aws_proxy.fault_for = stale
    answer = env.send(told)
    if times > 10:
        assert answer.status == 503
        assert "AWS still gives the version before" in answer.body
        assert int(answer.headers["retry-after"]) > 0
        env.aws_proxy.heal()
        env.send_until_accepted(told)
    else:
        assert answer.outcome == "applied"
    env.wait_converged()


@pytest.mark.fault("F7")
def test_notifications_in_the_wrong_order_end_at_the_newest_version(env: FaultEnv) -> None:
    """Notifications arrive in the order v3, v2, v1. The Secret ends at v3."""
    env.receiver()
    env.create_bound_secret()
    told = [env.rotate(text=f"v{number}") for number in (1, 2, 3)]
    outcomes = [env.send(each).outcome for each in reversed(told)]
    assert outcomes == ["applied", "superseded", "superseded"]
    assert b"-v3-" in env.history.data_history("db")[-1]["value"]
    env.wait_converged()


@pytest.mark.fault("F8")
def test_roll_back_in_aws_is_applied_and_restarts_the_consumer_once(env: FaultEnv) -> None:
    """In AWS, the secret is rolled back to its first version, then forward to the second, then back again. Each change
    is applied, and each restarts the consumer once."""
    env.receiver()
    env.create_bound_secret()
    (first,) = env.client.describe_secret(SecretId=f"{env.namespace}/db")["VersionIdsToStages"]
    second = env.rotate(text="second")
    env.send_until_accepted(second)
    for version_id in (first, second.data.version_id, first):
        promote(env.client, f"{env.namespace}/db", version_id)
        assert env.send_until_accepted(env.notification_of("db", version_id)).outcome == "applied"
    env.wait_converged()
    values = [state["value"].split(b"-")[2] for state in env.history.data_history("db") if state]
    assert values == [b"first", b"second", b"first", b"second", b"first"]
    eventually(lambda: len([mark for mark in env.history.marks("web", "db") if mark]) == 4)
    marks = [mark for mark in env.history.marks("web", "db") if mark]
    assert len(set(marks)) == 2
    assert json.loads(annotations_of(env.cluster, "secret", env.namespace, "db")["keyturn.dev/revisions"]) == {
        "value": first
    }
