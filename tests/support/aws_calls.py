"""Finds the AWS operations that the code calls, by parsing the source."""

import ast
from collections.abc import Iterable
from pathlib import Path

import boto3
from botocore import xform_name

OPERATIONS = {
    name: {xform_name(operation): f"{name}:{operation}" for operation in model.operation_names}
    for name, model in (
        (name, boto3.client(name, "us-east-1", aws_access_key_id="x", aws_secret_access_key="x").meta.service_model)
        for name in ("dynamodb", "events", "iam", "kms", "secretsmanager", "sqs", "sts")
    )
}
# IAM actions that are not named after their operation:
# https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-api-permissions-reference.html
RENAMED = {"sqs:ChangeMessageVisibilityBatch": "sqs:ChangeMessageVisibility"}


def imported(module: str, root: Path) -> set[Path]:
    """Return the file of a module under ``root``, and the files there that it imports, directly or through other
    modules."""
    found: set[Path] = set()
    waiting = [module]
    while waiting:
        file = root / (waiting.pop().replace(".", "/") + ".py")
        if not file.exists() or file in found:
            continue
        found.add(file)
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module:
                waiting += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return found


def called(files: Iterable[Path]) -> set[str]:
    """Return the IAM actions of the AWS operations that these files call.

    An operation counts as called if the files contain its method name and also create a client for its service.
    """
    nodes = [node for file in files for node in ast.walk(ast.parse(file.read_text()))]
    services = {
        node.args[0].value
        for node in nodes
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "client"
        if node.args and isinstance(node.args[0], ast.Constant)
    }
    names = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    found = {OPERATIONS[service][name] for service in services for name in names if name in OPERATIONS[service]}
    return {RENAMED.get(action, action) for action in found}
