"""The stack with other parameters than the default ones."""

import json
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

import pytest

from keyturn_local.aws import sdk
from keyturn_local.aws.emulator import sam
from keyturn_local.aws.emulator.server import Emulator
from keyturn_local.kubernetes.control_plane import ControlPlane
from support import aws_page, stacks
from support.cluster_state import annotations_of
from support.site import Endpoints, Site, new_team
from support.wait import eventually


def test_prefixes_labels_and_lifecycle_events_deliver_what_they_name(
    control_plane: ControlPlane, emulator: Emulator, tmp_path: Path
) -> None:
    team = new_team()
    named = {"NamePrefixes": f"{team}/,shop/", "Labels": "AWSCURRENT,BLUE", "LifecycleEvents": "true"}
    with Site.run(control_plane, emulator, tmp_path, team, **named) as site:
        arn = site.bind("db")
        outside = site.secrets_manager.create_secret(Name=f"other/{team}", SecretString="first")["ARN"]
        site.secrets_manager.put_secret_value(SecretId=outside, SecretString="second")
        first = site.secrets_manager.get_secret_value(SecretId=arn)["VersionId"]
        for label in ("GREEN", "BLUE"):
            site.secrets_manager.update_secret_version_stage(SecretId=arn, VersionStage=label, MoveToVersionId=first)
        second = site.put("db", "second")
        site.wait_applied("db", "second")
        eventually(lambda: {first, second} <= site.delivered())
        # The rule lets the schedule's own heartbeat pass.
        schedule = emulator.client("scheduler").get_schedule(Name=site.deployment.resources()["Heartbeat"])["Target"]
        entry = {"Source": "dev.keyturn", "DetailType": "Keyturn Heartbeat", "Detail": schedule["Input"]}
        emulator.client("events").put_events(Entries=[entry])
        eventually(lambda: site.metrics().get("HeartbeatsAccepted", 0) >= 1)

        site.secrets_manager.delete_secret(SecretId=outside)
        site.secrets_manager.delete_secret(SecretId=arn)
        eventually(lambda: "SourcePendingDeletion" in status(site, "db"))
        site.secrets_manager.restore_secret(SecretId=arn)
        eventually(lambda: status(site, "db") == "ok")
        # The label GREEN and the other secret have sent nothing.
        moves = [line for line in site.log() if line.get("event_name") == "SecretLabelUpdated"]
        assert sorted({line["version_id"] for line in moves}) == sorted([first, second])
        assert len([line for line in moves if line["message"] == "delivered"]) == 2
        assert not [line for line in site.log() if "other/" in json.dumps(line)]
        assert site.metrics()["EventsIgnored"] == 1


def status(site: Site, name: str) -> str:
    return annotations_of(site.cluster, "secret", site.team, name).get("keyturn.dev/status", "")


def test_two_receivers_with_the_public_key_alone_both_take_every_event(
    control_plane: ControlPlane, emulator: Emulator, tmp_path: Path
) -> None:
    endpoints = Endpoints(tmp_path, 2)
    given = {**endpoints.parameters(), "SignWithKms": "true"}
    deployment = sam.deploy(emulator, f"keyturn-{uuid4().hex[:6]}", given)
    with Site.of(control_plane, deployment, endpoints, tmp_path) as site:
        public_key = aws_page.run("aws kms get-public-key", deployment).strip()
        site.start_receivers(KEYTURN_SIGNING_KEY_SECRET_ID="", KEYTURN_SIGNING_PUBLIC_KEYS=public_key)
        site.bind("db")
        version_id = site.put("db", "second")
        site.wait_applied("db", "second")
        eventually(lambda: version_id in site.delivered())
        assert all(each.metric("keyturn_deliveries_total", code="200") >= 1 for each in site.receivers)

        site.receivers[1].kill()
        version_id = site.put("db", "third")
        site.wait_applied("db", "third")  # the receiver that runs is not held up
        host = urlsplit(site.receivers[1].url).netloc
        eventually(lambda: [line for line in of(site, version_id) if "refused" in line["answers"].get(host, "")])
        assert version_id not in site.delivered()
        site.receivers[1].start()
        eventually(lambda: version_id in site.delivered(), 60)
    deployment.delete()


def of(site: Site, version_id: str) -> list[dict]:
    """Return the lines of the notifier's log about the event of a version."""
    return [line for line in site.log() if line.get("version_id") == version_id]


def test_events_of_a_member_arrive_over_a_bus_of_their_own(
    control_plane: ControlPlane, emulator: Emulator, tmp_path: Path
) -> None:
    """The emulator forwards only between buses of the same account, so the account is its own member."""
    bus = f"keyturn-{uuid4().hex[:6]}"
    with (
        stacks.deployed(emulator, stacks.infra("event-bus"), BusName=bus, AccountIds=sdk.ACCOUNT) as central,
        Site.run(control_plane, emulator, tmp_path, EventBusName=bus, MemberCount="1") as site,
    ):
        site.bind("db")
        with stacks.deployed(emulator, stacks.infra("event-forwarding"), BusArn=central.outputs["BusArn"]):
            version_id = site.put("db", "second")
            site.wait_applied("db", "second")
            eventually(lambda: version_id in site.delivered())
            # A member's heartbeat is counted, and delivered to no receiver: the stack's own path must not look healthy.
            entry = {"Source": "dev.keyturn", "DetailType": "Keyturn Member Heartbeat", "Detail": "{}"}
            emulator.client("events").put_events(Entries=[entry])
            eventually(lambda: site.metrics().get("MemberHeartbeats", 0) >= 1)
            heartbeats = sum(site.metrics().get(f"Heartbeats{each}", 0) for each in ("Accepted", "Refused"))
            assert len([line for line in site.log() if line.get("event_name") == "Heartbeat"]) == heartbeats
        events = emulator.client("events")
        policy = json.loads(events.describe_event_bus(Name=bus)["Policy"])
        assert [statement["Sid"] for statement in policy["Statement"]] == ["accounts"]
        site.put("db", "fourth")  # nothing forwards it now
        assert events.list_rules(EventBusName=bus)["Rules"]
        with pytest.raises(AssertionError, match="not within"):
            site.wait_applied("db", "fourth", 2)
