"""F4 to F8: what the receiver is shown is not what is."""

import json

import pytest

from keyturn_local.aws.rotation import promote
from support.fault_env import Scene
from support.fault_proxy import Call, Edit, Fate, Reply
from support.manifests import annotations_of, eventually


def stalled(call: Call) -> Fate:
    """Keep every event of a watch of Secrets back."""
    return Edit(lambda line: None) if call.watch and call.path.endswith("/secrets") else None


@pytest.mark.fault("F4")
def test_the_cached_object_is_older_than_the_live_one(scene: Scene) -> None:
    """The picture of a Secret is older than the Secret: the conflict leads to a new read, and the edit survives."""
    scene.kubernetes.fate = stalled
    scene.receiver(KEYTURN_RESYNC_SECONDS="1", KEYTURN_WATCH_SECONDS="1")
    scene.given()
    scene.settled(4)  # seen by the lists, each second or two
    scene.kubernetes.fate = lambda call: stalled(call) or (Reply(503) if "limit" in call.query else None)
    statuses: list[int] = []
    scene.kubernetes.answered = lambda call, status: (
        statuses.append(status) if call.method == "PATCH" and call.path.endswith("/secrets/db") else None
    )
    scene.cluster.kubectl("annotate", "secret", "db", "-n", scene.namespace, "theirs=stays")
    assert scene.send(scene.rotate()).outcome == "applied"
    assert statuses[0] == 409
    assert statuses[-1] == 200
    assert annotations_of(scene.cluster, "secret", scene.namespace, "db")["theirs"] == "stays"
    scene.kubernetes.heal()
    scene.converge()


@pytest.mark.fault("F5")
def test_an_older_version_never_goes_over_a_newer_one(scene: Scene) -> None:
    """The API server shows a Secret of three versions ago, AWS one of two ago, while another replica has written the
    newest: the old one is not written over it."""
    straight = scene.receiver(straight=True)
    behind = scene.receiver()
    scene.given()
    old_secret = scene.cluster.get("secret", "db", scene.namespace)
    one = scene.rotate(text="one")
    scene.deliver(one, to=straight)
    stale = scene.client.get_secret_value(SecretId=f"{scene.namespace}/db")
    scene.deliver(scene.rotate(text="two"), to=straight)

    def old(call: Call) -> Fate:
        if call.method == "GET" and call.path.endswith("/secrets/db"):
            return Reply(200, old_secret, {"Content-Type": "application/json"})
        return stalled(call)

    def stale_value(call: Call) -> Fate:
        if call.action == "GetSecretValue":
            kept = {key: stale[key] for key in ("ARN", "Name", "VersionId", "SecretString")}
            return Reply(200, kept, {"Content-Type": "application/x-amz-json-1.1"})
        return None

    scene.kubernetes.fate, scene.aws_proxy.fate = old, stale_value
    answer = scene.send(one, to=behind)
    assert answer.status == 503
    assert scene.kubernetes.matching("PATCH", "/secrets/db")  # it has tried, and was refused
    values = [state["value"] for state in scene.witness.secret("db") if state]
    assert [value.split(b"-")[2] for value in values] == [b"first", b"one", b"two"]
    scene.kubernetes.heal()
    scene.aws_proxy.heal()
    scene.deliver(one, to=behind)
    scene.converge()
    assert [state["value"] for state in scene.witness.secret("db") if state] == values


@pytest.mark.fault("F6")
@pytest.mark.parametrize("times", [2, 100])
def test_aws_still_gives_the_version_before(scene: Scene, times: int) -> None:
    """GetSecretValue gives the version before, twice or for ever: it is read again until it agrees with the label, and
    never taken for the new one; as long as it does not agree, the answer is 503."""
    scene.receiver()
    scene.given()
    before = scene.client.get_secret_value(SecretId=f"{scene.namespace}/db")
    left = [before] * times

    def stale(call: Call) -> Fate:
        if call.action == "GetSecretValue" and left:
            kept = {key: left.pop()[key] for key in ("ARN", "Name", "VersionId", "SecretString")}
            return Reply(200, kept, {"Content-Type": "application/x-amz-json-1.1"})
        return None

    told = scene.rotate()
    scene.aws_proxy.fate = stale
    answer = scene.send(told)
    if times > 10:
        assert answer.status == 503
        assert "AWS still gives the version before" in answer.body
        assert int(answer.headers["retry-after"]) > 0
        scene.aws_proxy.heal()
        scene.deliver(told)
    else:
        assert answer.outcome == "applied"
    scene.converge()


@pytest.mark.fault("F7")
def test_notifications_in_the_wrong_order(scene: Scene) -> None:
    """Notifications v3, v2, v1: the end is v3."""
    scene.receiver()
    scene.given()
    told = [scene.rotate(text=f"v{number}") for number in (1, 2, 3)]
    outcomes = [scene.send(each).outcome for each in reversed(told)]
    assert outcomes == ["applied", "superseded", "superseded"]
    assert b"-v3-" in scene.witness.secret("db")[-1]["value"]
    scene.converge()


@pytest.mark.fault("F8")
def test_a_roll_back_in_aws(scene: Scene) -> None:
    """AWS rolls back to the first version, and forward again: each is applied, and restarts the consumer once."""
    scene.receiver()
    scene.given()
    (first,) = scene.client.describe_secret(SecretId=f"{scene.namespace}/db")["VersionIdsToStages"]
    second = scene.rotate(text="second")
    scene.deliver(second)
    for version_id in (first, second.data.version_id, first):
        promote(scene.client, f"{scene.namespace}/db", version_id)
        assert scene.deliver(scene.changed("db", version_id)).outcome == "applied"
    scene.converge()
    values = [state["value"].split(b"-")[2] for state in scene.witness.secret("db") if state]
    assert values == [b"first", b"second", b"first", b"second", b"first"]
    eventually(lambda: len([mark for mark in scene.witness.marks("web", "db") if mark]) == 4)
    marks = [mark for mark in scene.witness.marks("web", "db") if mark]
    assert len(set(marks)) == 2
    assert json.loads(annotations_of(scene.cluster, "secret", scene.namespace, "db")["keyturn.dev/revisions"]) == {
        "value": first
    }
