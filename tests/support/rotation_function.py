"""Code of a rotation function, as AWS's templates have it, for the stand-in of a database (database.py).

Only this file is deployed. If the environment variable USERS has a pair of names, the function alternates between these
two users. Otherwise it rotates the password of the single user.
https://github.com/aws-samples/aws-secrets-manager-rotation-lambdas
"""

import json
import os
import uuid
from urllib.request import Request, urlopen

import boto3

CLIENT = boto3.client("secretsmanager")


def handler(event, context):
    """Execute one step of a rotation."""
    secret_id, version_id, step = event["SecretId"], event["ClientRequestToken"], event["Step"]
    stages = CLIENT.describe_secret(SecretId=secret_id)["VersionIdsToStages"]
    if "AWSCURRENT" in stages[version_id]:
        return
    current = json.loads(CLIENT.get_secret_value(SecretId=secret_id)["SecretString"])
    if step == "createSecret":
        try:
            CLIENT.get_secret_value(SecretId=secret_id, VersionId=version_id, VersionStage="AWSPENDING")
        except CLIENT.exceptions.ResourceNotFoundException:
            CLIENT.put_secret_value(
                SecretId=secret_id,
                ClientRequestToken=version_id,
                SecretString=json.dumps({**current, "username": next_user(current), "password": uuid.uuid4().hex}),
                VersionStages=["AWSPENDING"],
            )
        return
    if step == "finishSecret":
        (old,) = [version for version, labels in stages.items() if "AWSCURRENT" in labels]
        CLIENT.update_secret_version_stage(
            SecretId=secret_id, VersionStage="AWSCURRENT", MoveToVersionId=version_id, RemoveFromVersionId=old
        )
        return
    reply = CLIENT.get_secret_value(SecretId=secret_id, VersionId=version_id, VersionStage="AWSPENDING")
    pending = json.loads(reply["SecretString"])
    if step == "setSecret":
        ask("password", by=current, **pending)
    elif step == "testSecret":
        ask("login", **pending)


def next_user(current):
    """Return the user whose password is changed next: the current user, or the other one of a pair."""
    pair = os.environ.get("USERS", current["username"]).split(",")
    return pair[(pair.index(current["username"]) + 1) % len(pair)]


def ask(action, **body):
    """Send a request to the database; raises if it refuses."""
    url = f"{os.environ['DATABASE']}/{action}"
    request = Request(url, json.dumps(body).encode(), method="POST")  # noqa: S310 - loopback
    urlopen(request, timeout=5).close()  # noqa: S310 - loopback
