"""The emulator's program. It runs ministack, and adds the features of AWS that Keyturn's templates and tests need and
ministack does not have. Each part below closes one such gap.

This file runs as a script in the emulator's own virtual environment, so it imports nothing of this repository. If
KEYTURN_BARE=1 is set, the gaps stay open. Tests use this to find out whether ministack still has the gaps.
"""

import dataclasses
import json
import os
import re
import time
from collections.abc import Callable
from typing import Any

from ministack import app
from ministack.core import iam_actions, iam_evaluator
from ministack.core.concurrency import spawn_background
from ministack.core.responses import new_uuid
from ministack.services import cloudwatch_logs, eks, eventbridge, lambda_svc, secretsmanager, sqs
from ministack.services.cloudformation import changesets, engine, provisioners, stacks
from ministack.services.cloudformation import handlers as handlers_of_requests

Properties = dict[str, Any]

STEPS = ("createSecret", "setSecret", "testSecret", "finishSecret")


def close_gaps() -> None:
    """Close every gap."""
    provisioners._RESOURCE_HANDLERS["AWS::SecretsManager::RotationSchedule"] = {
        "create": lambda _, properties, __: _schedule_rotation(properties),
        "update": lambda _, __, properties, ___: _schedule_rotation(properties),
        "delete": lambda _, properties: _end_rotation(properties),
    }
    provisioners._RESOURCE_HANDLERS["AWS::SecretsManager::ResourcePolicy"] = {
        "create": lambda _, properties, __: _put_policy(properties),
        "update": lambda _, __, properties, ___: _put_policy(properties),
        "delete": lambda _, properties: secretsmanager._delete_resource_policy({"SecretId": properties["SecretId"]}),
    }
    provisioners._RESOURCE_HANDLERS["AWS::Events::EventBusPolicy"] = {
        "create": lambda _, properties, __: _permit(properties),
        "update": lambda _, __, properties, ___: _permit(properties),
        "delete": lambda _, properties: eventbridge._remove_permission(properties),
    }
    provisioners._RESOURCE_HANDLERS["AWS::SecretsManager::Secret"].update(
        create=_create_secret, update=_update_secret, delete=_delete_secret
    )
    provisioners._RESOURCE_HANDLERS["AWS::EKS::PodIdentityAssociation"] = {
        "create": lambda _, properties, __: _associate(properties),
        "delete": lambda physical, properties: eks._delete_pod_identity_association(
            properties["ClusterName"], physical
        ),
    }
    iam_evaluator.evaluate_trust_policy = _evaluate_trust_policy
    eventbridge.bus_policy_for_arn = _bus_policy_for_arn
    iam_evaluator._RESOURCE_POLICY_LOOKUPS["events"] = ("eventbridge", "bus_policy_for_arn")
    iam_evaluator._resolve_condition_key = _resolve_condition_key
    rules = provisioners._RESOURCE_HANDLERS["AWS::Events::Rule"]
    rules.update(create=_create_rule, update=_update_rule, delete=_delete_rule)
    provisioners._sm_secret_string = _secret_string
    secretsmanager._rotate_secret = _rotate_secret
    for resource_type, change in (
        ("AWS::Lambda::EventSourceMapping", _number_of_concurrency),
        ("AWS::CloudWatch::Alarm", _first_metric),
    ):
        handlers = provisioners._RESOURCE_HANDLERS[resource_type]
        for kind in ("create", "update"):
            handlers[kind] = _with_properties(handlers[kind], change)
    for module in (engine, changesets, handlers_of_requests, stacks):
        module._evaluate_conditions = _evaluate_conditions
    eventbridge._dispatch_to_event_bus = _dispatch_to_event_bus
    secretsmanager._get_secret_value = _get_secret_value
    for name in ("DeleteSecret", "RestoreSecret"):
        attribute = "_" + "_".join(re.findall("[A-Z][a-z]+", name)).lower()
        setattr(secretsmanager, attribute, _with_api_event(name, getattr(secretsmanager, attribute)))
    iam_actions._action_from_target = _action_of_target
    sqs._HANDLERS["StartMessageMoveTask"] = _move_messages
    lambda_svc._emit_lambda_logs = _write_logs
    # The policies of the queues demand TLS, but the emulator has no TLS. So every request counts as sent over TLS.
    app.pin_request_origin = lambda address, _: iam_evaluator.pin_request_origin(address, True)


# --- AWS::SecretsManager::RotationSchedule ---------------------------------------------------------------------------


def _schedule_rotation(properties: Properties) -> tuple[str, dict[str, str]]:
    """Enable rotation, and start a rotation.

    If RotateImmediatelyOnUpdate is false, only the test step runs, on an empty version.

    https://docs.aws.amazon.com/secretsmanager/latest/apireference/API_RotateSecret.html#SecretsManager-RotateSecret-request-RotateImmediately
    """
    _, secret = secretsmanager._resolve(properties["SecretId"])
    at_once = str(properties.get("RotateImmediatelyOnUpdate", True)).lower() == "true"
    request = {
        "SecretId": properties["SecretId"],
        "RotationLambdaARN": properties.get("RotationLambdaARN"),
        "RotationRules": properties.get("RotationRules"),
        "RotateImmediately": at_once,
    }
    status, _, body = _rotate_secret(request)
    if status != 200:
        raise ValueError(body.decode())
    return secret["ARN"], {}


def _end_rotation(properties: Properties) -> None:
    _, secret = secretsmanager._resolve(properties["SecretId"])
    if secret:
        secret["RotationEnabled"] = False


# --- AWS::SecretsManager::ResourcePolicy -----------------------------------------------------------------------------


def _put_policy(properties: Properties) -> tuple[str, dict[str, str]]:
    policy = json.dumps(properties["ResourcePolicy"])
    secretsmanager._put_resource_policy({"SecretId": properties["SecretId"], "ResourcePolicy": policy})
    return str(properties["SecretId"]), {}


# --- AWS::Events::EventBusPolicy -------------------------------------------------------------------------------------


def _permit(properties: Properties) -> tuple[str, dict[str, str]]:
    statement, identifier = properties["Statement"], str(properties["StatementId"])
    eventbridge._put_permission({**statement, **properties})
    (kept,) = (each for each in _bus_policy(properties["EventBusName"])["Statement"] if each["Sid"] == identifier)
    kept["Effect"] = statement["Effect"]
    return identifier, {}


# --- The policy of a bus has an effect, and PutEvents checks it ------------------------------------------------------


def _bus_policy(name: str) -> Any:
    return eventbridge._event_bus_policies.get(name)


def _bus_policy_for_arn(arn: str) -> tuple[Any, str] | None:
    """Return the policy and the account of a bus, or None if the bus has no policy. ministack's evaluator calls this
    function by its name."""
    policy = _bus_policy(arn.split(":event-bus/")[-1])
    return (policy, arn.split(":")[4]) if policy else None


_resolve_key = iam_evaluator._resolve_condition_key


def _resolve_condition_key(key: str, context: Any) -> Any:
    """Resolve a condition key. For a role's session, aws:PrincipalArn is the ARN of the role.

    https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_condition-keys.html#condition-keys-principalarn
    """
    value = _resolve_key(key, context)
    if key.lower() == "aws:principalarn" and ":assumed-role/" in str(value):
        account, role = value.split(":")[4], value.split("/")[1]
        return f"arn:aws:iam::{account}:role/{role}"
    return value


# --- Ref of a secret is its ARN, not its name ------------------------------------------------------------------------


def _create_secret(logical_id: str, properties: Properties, stack: str) -> tuple[str, dict[str, str]]:
    _, attributes = provisioners._sm_secret_create(logical_id, properties, stack)
    return attributes["Arn"], attributes


def _update_secret(arn: str, old: Properties, new: Properties, stack: str, logical_id: str) -> Any:
    _, attributes = provisioners._sm_secret_update(_name_of(arn), old, new, stack, logical_id)
    return attributes["Arn"], attributes


def _delete_secret(arn: str, properties: Properties) -> None:
    provisioners._sm_secret_delete(_name_of(arn), properties)


def _name_of(arn: str) -> str:
    return str(secretsmanager._resolve(arn)[0])


# --- AWS::EKS::PodIdentityAssociation, and the account for which a service assumes a role ----------------------------


def _associate(properties: Properties) -> tuple[str, dict[str, str]]:
    names = {"namespace": "Namespace", "serviceAccount": "ServiceAccount", "roleArn": "RoleArn"}
    request = {name: properties[each] for name, each in names.items()}
    status, _, body = eks._create_pod_identity_association(properties["ClusterName"], request)
    if status != 200:
        raise ValueError(body.decode())
    association = json.loads(body)["association"]
    identifier = str(association["associationId"])
    return identifier, {"AssociationId": identifier, "AssociationArn": association["associationArn"]}


_trusts = iam_evaluator.evaluate_trust_policy


def _evaluate_trust_policy(document: Any, caller: str, context: Any = None) -> bool:
    """Evaluate a trust policy. If the caller is a service, add the condition key aws:SourceAccount.

    In the emulator, a service calls as the root user.

    https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_condition-keys.html#condition-keys-sourceaccount
    """
    if context and caller.endswith(":root"):
        keys = {"aws:sourceaccount": context.principal_account, **context.service_context}
        context = dataclasses.replace(context, service_context=keys)
    return bool(_trusts(document, caller, context))


# --- Ref of a rule names the bus of the rule, unless the bus is the default bus --------------------------------------
# https://docs.aws.amazon.com/AWSCloudFormation/latest/TemplateReference/aws-resource-events-rule.html#aws-resource-events-rule-return-values


def _create_rule(logical_id: str, properties: Properties, stack: str) -> tuple[str, dict[str, str]]:
    return _with_bus(properties, *provisioners._eb_rule_create(logical_id, properties, stack))


def _update_rule(
    rule: str, old: Properties, new: Properties, stack: str, logical_id: str
) -> tuple[str, dict[str, str]]:
    return _with_bus(new, *provisioners._eb_rule_update(rule.split("|")[-1], old, new, stack, logical_id))


def _delete_rule(rule: str, properties: Properties) -> None:
    provisioners._eb_rule_delete(rule.split("|")[-1], properties)


def _with_bus(properties: Properties, name: str, attributes: dict[str, str]) -> tuple[str, dict[str, str]]:
    bus = provisioners._eb_rule_bus_name(properties)
    return name if bus == "default" else f"{bus}|{name}", attributes


# --- GenerateSecretString: ExcludePunctuation and the other exclusions -----------------------------------------------


def _secret_string(properties: Properties) -> str:
    """Return the value of a secret. If the template asks for a generated value, ministack's own GetRandomPassword
    generates it, because GetRandomPassword supports all exclusions."""
    generate = properties.get("GenerateSecretString")
    if not generate or properties.get("SecretString"):
        return str(properties.get("SecretString", ""))
    generate = {name: {"true": True, "false": False}.get(str(each).lower(), each) for name, each in generate.items()}
    generated = json.loads(secretsmanager._get_random_password(generate)[2])["RandomPassword"]
    if "SecretStringTemplate" not in generate:
        return str(generated)
    return json.dumps({**json.loads(generate["SecretStringTemplate"]), generate["GenerateStringKey"]: generated})


# --- RotateSecret ----------------------------------------------------------------------------------------------------


def _rotate_secret(request: dict[str, Any]) -> Any:
    """Create an empty version with the staging label AWSPENDING. Then run the steps of the rotation function in the
    background.

    This replaces ministack's own RotateSecret, which calls no function: it copies the current value into a new version,
    and makes this version current.

    https://docs.aws.amazon.com/secretsmanager/latest/userguide/rotate-secrets_lambda-functions.html
    """
    _, secret = secretsmanager._resolve(request.get("SecretId"))
    if not secret:
        return _error("ResourceNotFoundException", "Secrets Manager can't find the specified secret.")
    secret["RotationLambdaARN"] = request.get("RotationLambdaARN") or secret.get("RotationLambdaARN")
    secret["RotationRules"] = request.get("RotationRules") or secret.get("RotationRules")
    if not secret["RotationLambdaARN"]:
        return _error("InvalidRequestException", "No Lambda rotation function ARN is associated with this secret.")
    function = secret["RotationLambdaARN"].split(":function:")[1]
    record, _ = lambda_svc._get_func_record_for_qualifier(function, None)
    if record is None:
        return _error("ResourceNotFoundException", "Lambda does not exist.")
    version_id = request.get("ClientRequestToken") or new_uuid()
    for other, version in secret["Versions"].items():
        if "AWSPENDING" in version["Stages"] and "AWSCURRENT" not in version["Stages"] and other != version_id:
            return _error(
                "InvalidRequestException", "A previous rotation isn't complete. That rotation will be reattempted."
            )
    secret["RotationEnabled"] = True
    secretsmanager._remove_stage_everywhere(secret, "AWSPENDING")
    now = int(time.time())
    secret["Versions"].setdefault(
        version_id, {"SecretString": None, "SecretBinary": None, "CreatedDate": now, "Stages": []}
    )
    secretsmanager._add_stage(secret, version_id, "AWSPENDING")
    steps = STEPS if request.get("RotateImmediately", True) else ("testSecret",)
    spawn_background(_run_steps, secret, record, version_id, steps, thread_name="rotation")
    body = json.dumps({"ARN": secret["ARN"], "Name": secret["Name"], "VersionId": version_id})
    return 200, {"Content-Type": "application/x-amz-json-1.1"}, body.encode()


_get = secretsmanager._get_secret_value


def _get_secret_value(request: dict[str, Any]) -> Any:
    """Read a value. If the version has no value, answer with ResourceNotFoundException, as AWS does."""
    status, headers, body = _get(request)
    if status == 200 and not {"SecretString", "SecretBinary"} & json.loads(body).keys():
        return _error("ResourceNotFoundException", "Secrets Manager can't find the specified secret value.")
    return status, headers, body


def _run_steps(secret: Any, record: Any, version_id: str, steps: tuple[str, ...]) -> None:
    for step in steps:
        event = {"Step": step, "SecretId": secret["ARN"], "ClientRequestToken": version_id, "RotationToken": new_uuid()}
        if lambda_svc._execute_function(record, event).get("error"):
            break  # if a rotation fails, its version keeps AWSPENDING, as in AWS
    if steps == ("testSecret",):
        secretsmanager._remove_stage_everywhere(secret, "AWSPENDING")  # AWS also removes it after a dry run
        secret["Versions"].pop(version_id, None)


def _error(kind: str, message: str) -> Any:
    return secretsmanager.error_response_json(kind, message, 400)


# --- SQS: StartMessageMoveTask ---------------------------------------------------------------------------------------


def _move_messages(request: dict[str, Any], _: str) -> dict[str, str]:
    """Move all messages of a dead-letter queue to the destination that the request names.

    By default, AWS moves each message back to the queue from which SQS has moved it to the dead-letter queue. For
    messages that the notifier itself has sent to the dead-letter queue, there is no such queue. So the request must
    name a destination.

    https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_StartMessageMoveTask.html
    """
    arn = request["SourceArn"]
    source, destination = sqs._queue_by_arn(arn), sqs._queue_by_arn(request.get("DestinationArn", ""))
    if source is None or destination is None:
        raise sqs._Err("ResourceNotFoundException", "The resource that you specified for the queue doesn't exist.")
    redrives = [str(each["attributes"].get("RedrivePolicy", "")) for each in sqs._queues.values()]
    if not any(arn in each for each in redrives):
        raise sqs._Err("InvalidParameterValue", "Source queue must be configured as a Dead Letter Queue.")
    with sqs._queues_lock:
        for message in list(source["messages"]):
            source["messages"].remove(message)
            now = time.time()
            message.update(receive_count=0, receipt_handle=None, first_receive_at=None, visible_at=now, sent_at=now)
            destination["messages"].append(message)
    lambda_svc._esm_wake.set()
    return {"TaskHandle": new_uuid()}


# --- Schedules that send to a bus ------------------------------------------------------------------------------------

_to_bus = eventbridge._dispatch_to_event_bus


def _dispatch_to_event_bus(bus: Any, event: Properties, rule: Properties, *rest: Any) -> None:
    """Send a schedule's event to a bus, with the source and the detail type that the schedule's target names. The
    default bus is created first if it does not exist yet."""
    eventbridge._ensure_default_bus()
    named = rule.get("Target", {}).get("EventBridgeParameters", {})
    _to_bus(bus, {**event, **{each: named[each] for each in ("Source", "DetailType") if each in named}}, rule, *rest)


# --- A function's logs do not create the log group that the function names -------------------------------------------

_emit_logs = lambda_svc._emit_lambda_logs


def _write_logs(function: Any, *arguments: Any, **options: Any) -> None:
    """Write the log of an invocation. If the function names a log group that does not exist, for example because the
    stack was deleted, write nothing, because the roles of the functions may not create log groups."""
    group = (function.get("config") or function).get("LoggingConfig", {}).get("LogGroup")
    if not group or group in cloudwatch_logs._log_groups:
        _emit_logs(function, *arguments, **options)


# --- CloudTrail's events on the bus: DeleteSecret and RestoreSecret --------------------------------------------------
# https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-service-event-cloudtrail.html


def _with_api_event(name: str, handler: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return a handler that calls ``handler``. If the call succeeds, the new handler then puts CloudTrail's event about
    it on the default bus."""

    def handle(request: dict[str, Any]) -> Any:
        answer = handler(request)
        if answer[0] == 200:
            _put_api_event(name, request, json.loads(answer[2]))
        return answer

    return handle


def _put_api_event(name: str, request: dict[str, Any], answer: dict[str, Any]) -> None:
    account, region = secretsmanager.get_account_id(), secretsmanager.get_region()
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    detail = {
        "eventVersion": "1.08",
        "eventTime": now,
        "eventSource": "secretsmanager.amazonaws.com",
        "eventName": name,
        "awsRegion": region,
        "requestParameters": {each[0].lower() + each[1:]: value for each, value in request.items()},
        "responseElements": {"name": answer["Name"], "arn": answer["ARN"]},
        "eventType": "AwsApiCall",
        "recipientAccountId": account,
    }
    event = {
        "EventId": new_uuid(),
        "Source": "aws.secretsmanager",
        "DetailType": "AWS API Call via CloudTrail",
        "Detail": json.dumps(detail),
        "EventBusName": "default",
        "Time": now,
        "Resources": [],
        "Account": account,
        "Region": region,
    }
    eventbridge._dispatch_event(event)


# --- Properties that ministack does not understand -------------------------------------------------------------------


def _with_properties(handler: Any, change: Callable[[Properties], Properties]) -> Any:
    """Return a provisioner that calls ``handler`` with the properties that ``change`` makes of the given ones."""
    return lambda *arguments: handler(*(change(each) if isinstance(each, dict) else each for each in arguments))


def _number_of_concurrency(mapping: Properties) -> Properties:
    """Turn MaximumConcurrency into a number. A stack parameter is a text, and a text here would stop ministack's
    poller."""
    scaling = mapping.get("ScalingConfig")
    if not scaling:
        return mapping
    return {**mapping, "ScalingConfig": {"MaximumConcurrency": int(scaling["MaximumConcurrency"])}}


def _first_metric(alarm: Properties) -> Properties:
    """Return an alarm with its first metric in place of metric math, because ministack refuses metric math."""
    metrics = [each["MetricStat"] for each in alarm.get("Metrics", []) if "MetricStat" in each]
    if not metrics:
        return alarm
    others = {name: each for name, each in alarm.items() if name != "Metrics"}
    return {**others, **metrics[0]["Metric"], "Period": metrics[0]["Period"], "Statistic": metrics[0]["Stat"]}


# --- Fn::Join in the template's conditions ---------------------------------------------------------------------------

_evaluate = engine._evaluate_conditions


def _evaluate_conditions(template: Properties, parameters: Properties) -> dict[str, bool]:
    return dict(_evaluate({**template, "Conditions": _joined(template.get("Conditions", {}), parameters)}, parameters))


def _joined(node: Any, parameters: Properties) -> Any:
    """Replace each Fn::Join of a list parameter by the joined text."""
    if isinstance(node, list):
        return [_joined(each, parameters) for each in node]
    if not isinstance(node, dict):
        return node
    if "Fn::Join" in node:
        separator, values = node["Fn::Join"]
        return separator.join(str(parameters[values["Ref"]]["Value"]).split(","))
    return {name: _joined(each, parameters) for name, each in node.items()}


# --- The IAM action for a batch call of SQS is the action for a single message ---------------------------------------
# https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-api-permissions-reference.html

_action = iam_actions._action_from_target


def _action_of_target(headers: dict[str, str]) -> str | None:
    action: str | None = _action(headers)
    return action.removesuffix("Batch") if action and headers["x-amz-target"].startswith("AmazonSQS.") else action


if __name__ == "__main__":
    if os.environ.get("KEYTURN_BARE") != "1":
        close_gaps()
    app.main()
