"""Deploys the rotation function of a secret (rotation_function.py) to the emulator."""

import io
import json
import zipfile
from pathlib import Path
from uuid import uuid4

from support.database import Database
from support.site import Site

ROTATION = Path(__file__).with_name("rotation_function.py")


def deploy_rotation(site: Site, database: Database, users: tuple[str, ...], arn: str) -> str:
    """Deploy the rotation function with the rights that it needs, and return its ARN."""
    emulator, name = site.deployment.emulator, f"rotation-{uuid4().hex[:6]}"
    trust = {"Effect": "Allow", "Principal": {"Service": "lambda.amazonaws.com"}, "Action": "sts:AssumeRole"}
    actions = ["DescribeSecret", "GetSecretValue", "PutSecretValue", "UpdateSecretVersionStage"]
    rights = {"Effect": "Allow", "Action": [f"secretsmanager:{each}" for each in actions], "Resource": arn}
    iam, functions = emulator.client("iam"), emulator.client("lambda")
    role = iam.create_role(RoleName=name, AssumeRolePolicyDocument=document(trust))["Role"]["Arn"]
    iam.put_role_policy(RoleName=name, PolicyName="rotate", PolicyDocument=document(rights))
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as opened:
        opened.write(ROTATION, "rotation_function.py")
    variables = {"DATABASE": database.url, "USERS": ",".join(users)}
    function = functions.create_function(
        FunctionName=name,
        Runtime="python3.13",
        Role=role,
        Handler="rotation_function.handler",
        Code={"ZipFile": archive.getvalue()},
        Timeout=30,
        Environment={"Variables": variables},
    )
    functions.add_permission(
        FunctionName=name,
        StatementId="rotate",
        Action="lambda:InvokeFunction",
        Principal="secretsmanager.amazonaws.com",
    )
    return str(function["FunctionArn"])


def document(statement: object) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})
