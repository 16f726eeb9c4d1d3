"""Lambda function that retires the previous credential once every cluster uses the current one. This is a sample:
change `revoke`.

Each receipt `Keyturn Secret Live` of the secret starts the function (docs/receipts.md). A table has three facts from
the last receipt of each cluster: the version, the time since which the version is live, and the time at which its
staging label moved. The last two steps of a run revoke the previous credential, and remove the staging label
AWSPREVIOUS. If a run fails between these two steps, Lambda's next attempt makes both of them. If no version has
AWSPREVIOUS, there is nothing to retire.
"""

import json
import os
import time
from datetime import UTC, datetime
from typing import Any

import boto3

MAX_AGE = 3600  # seconds; an older receipt is refused, because it was delayed or replayed


def handler(event: dict[str, Any], context: object) -> dict[str, Any]:
    """Handle one receipt. An error of AWS is raised, so that Lambda tries again."""
    reason = refusal(event, time.time())
    if not reason:
        reason = retire(event["detail"])
    print(json.dumps({"receipt": event.get("detail", {}).get("receiptId"), "retired": not reason, "reason": reason}))
    return {"retired": not reason, "reason": reason}


def refusal(event: dict[str, Any], now: float) -> str:
    """Return the reason why a receipt is refused, or an empty text if it is accepted.

    Only the notifier may put events on the receipts' bus. A rule of this bus starts this function. These checks are
    against principals that invoke the function directly, and against events that EventBridge replays.
    """
    if event.get("source") != "dev.keyturn" or event.get("detail-type") != "Keyturn Secret Live":
        return "it is no receipt about a version that is live"
    if event.get("account") != os.environ["ACCOUNT"] or "replay-name" in event:
        return "it is of another account, or is played again"
    sent = datetime.fromisoformat(event["time"]).astimezone(UTC).timestamp()
    if not -300 < now - sent < MAX_AGE:
        return "it is too old"
    detail = event["detail"]
    if detail.get("secretArn") != os.environ["SECRET_ARN"] or detail.get("host") not in clusters():
        return "it is about another secret, or another cluster"
    return ""


def clusters() -> set[str]:
    """Return the hosts of the receivers of all clusters that use the secret."""
    return set(filter(None, os.environ["CLUSTERS"].split(",")))


def retire(detail: dict[str, Any]) -> str:
    """Record that a version is live in a cluster. If the version is current, and is now live in all clusters, retire
    the previous credential. Return the reason why the credential was not retired, or an empty text."""
    arn, version = detail["secretArn"], detail["versionId"]
    live = note(detail)
    if live is None:
        return "a later receipt of this cluster was here before"
    if missing := clusters() - live.keys():
        return not_yet(missing)
    secrets_manager = boto3.client("secretsmanager")
    stages = secrets_manager.describe_secret(SecretId=arn)["VersionIdsToStages"]
    if "AWSCURRENT" not in stages.get(version, []):
        return "it is not the current version any more"
    previous = next((each for each, labels in stages.items() if "AWSPREVIOUS" in labels), None)
    if previous is None:
        return "it was retired before"
    read = [secrets_manager.get_secret_value(SecretId=arn, VersionId=each) for each in (previous, version)]
    # After a rollback, the table may still have a receipt from before the rollback. The cluster's pods may then use the
    # version that is now the previous one. So in each cluster, the version must have become live after the previous
    # version was created, and after the staging label last moved.
    current_since = max(int(read[0]["CreatedDate"].timestamp()), *(moved for _, moved in live.values()))
    if missing := {host for host, (since, _) in live.items() if since < current_since}:
        return not_yet(missing)
    old, new = (json.loads(each["SecretString"]) for each in read)
    if not revoke(old, new):
        return "both versions have the same credential"
    secrets_manager.update_secret_version_stage(SecretId=arn, VersionStage="AWSPREVIOUS", RemoveFromVersionId=previous)
    return ""


def note(detail: dict[str, Any]) -> dict[str, tuple[int, int]] | None:
    """Record the version that is live in a cluster. Return the clusters whose last receipt is about this version, each
    with two times in seconds since 1970: since when the version is live, and when the staging label moved (0 if this is
    not known).

    Return None if the table has a later receipt of the cluster. Receipts may arrive twice, and in any order.
    """
    since = int(datetime.fromisoformat(detail["since"]).timestamp())
    moved = since - detail["seconds"] if "seconds" in detail else 0
    dynamodb = boto3.client("dynamodb")
    entry = {"version": {"S": detail["versionId"]}, "since": {"N": str(since)}, "moved": {"N": str(moved)}}
    try:
        noted = dynamodb.update_item(
            TableName=os.environ["TABLE"],
            Key={"id": {"S": detail["secretArn"]}},
            UpdateExpression="SET #host = :entry",
            ConditionExpression="attribute_not_exists(#host) OR #host.#since <= :since",
            ExpressionAttributeNames={"#host": detail["host"], "#since": "since"},
            ExpressionAttributeValues={":entry": {"M": entry}, ":since": entry["since"]},
            ReturnValues="ALL_NEW",
        )
    except dynamodb.exceptions.ConditionalCheckFailedException:
        return None
    by_host = {host: noted["Attributes"][host]["M"] for host in clusters() & noted["Attributes"].keys()}
    return {
        host: (int(each["since"]["N"]), int(each["moved"]["N"]))
        for host, each in by_host.items()
        if each["version"]["S"] == detail["versionId"]
    }


def not_yet(missing: set[str]) -> str:
    """Return the reason why a version is not retired yet. ``missing`` are the clusters in which it is not live."""
    return f"not live yet in {', '.join(sorted(missing))}"


def revoke(old: dict[str, str], new: dict[str, str]) -> bool:
    """Revoke the old credential, and return True. If the new credential is the same, do nothing, and return False. This
    function must be idempotent, because Lambda may repeat a run.

    This sample makes an access key of IAM inactive, which can be undone. If each version has a user of its own in a
    database, change the password of the old user, or lock the old user.
    """
    if old["AccessKeyId"] == new["AccessKeyId"]:
        return False
    boto3.client("iam").update_access_key(UserName=old["UserName"], AccessKeyId=old["AccessKeyId"], Status="Inactive")
    return True
