"""template.yaml as CloudFormation receives it: transformed by AWS's own translator, and in a form that moto accepts."""

import json
import subprocess
from collections.abc import Mapping
from typing import Any

from keyturn_local.aws.template import FILE, read

PYTHON = FILE.parent / ".venv-sam" / "bin" / "python"
_TRANSLATE = """
import json, os, sys
os.environ["AWS_DEFAULT_REGION"] = "us-east-1"
from samtranslator.parser.parser import Parser
from samtranslator.translator.translator import Translator
print(json.dumps(Translator({}, Parser()).translate(json.load(sys.stdin), {})))
"""
CODE = {"Bucket": "artifacts", "Key": "notifier.zip"}  # the place to which `sam deploy` would upload the zip
RECEIVER = "https://keyturn.example.com/v1/notifications"


def transformed() -> dict[str, Any]:
    """Return the template after the SAM transform."""
    template = read()
    template["Globals"]["Function"]["CodeUri"] = CODE
    done = subprocess.run([PYTHON, "-c", _TRANSLATE], input=json.dumps(template), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def parameters(values: Mapping[str, str]) -> list[Any]:
    """Return stack parameters in the form that the API expects. ``values`` may override the default receiver URL."""
    return [
        {"ParameterKey": name, "ParameterValue": value} for name, value in {"ReceiverUrls": RECEIVER, **values}.items()
    ]


def resolved(node: Any, conditions: Mapping[str, bool]) -> Any:
    """Return a part of the template in which each `Fn::If` is resolved. Parts that resolve to `AWS::NoValue`, and
    resources whose condition is false, are left out."""
    if isinstance(node, dict) and "Fn::If" in node:
        condition, yes, no = node["Fn::If"]
        return resolved(yes if conditions[condition] else no, conditions)
    if isinstance(node, dict):
        if "Condition" in node and isinstance(node["Condition"], str) and not conditions[node["Condition"]]:
            return NOTHING
        found = {name: resolved(each, conditions) for name, each in node.items()}
        return NOTHING if found == {"Ref": "AWS::NoValue"} else {n: v for n, v in found.items() if v is not NOTHING}
    if isinstance(node, list):
        return [each for each in (resolved(each, conditions) for each in node) if each is not NOTHING]
    return node


NOTHING = object()


def broken_rules(template: Mapping[str, Any], values: Mapping[str, str]) -> list[str]:
    """Return the description of each assertion of the template's rules that these parameters violate."""
    given = {name: values.get(name, each.get("Default", "")) for name, each in template["Parameters"].items()}
    return [
        assertion["AssertDescription"]
        for rule in template.get("Rules", {}).values()
        if "RuleCondition" not in rule or _is_true(rule["RuleCondition"], given)
        for assertion in rule["Assertions"]
        if not _is_true(assertion["Assert"], given)
    ]


def _is_true(node: Any, given: Mapping[str, str]) -> bool:
    """Evaluate a rule-specific intrinsic function.

    https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/intrinsic-function-reference-rules.html
    """
    ((function, arguments),) = node.items()
    if function in ("Fn::And", "Fn::Or"):
        return (all if function == "Fn::And" else any)(_is_true(each, given) for each in arguments)
    if function == "Fn::Not":
        return not _is_true(arguments[0], given)
    left, right = (given[each["Ref"]] if isinstance(each, dict) else each for each in arguments)
    if function == "Fn::EachMemberEquals":
        return all(each == right for each in left.split(","))
    if function == "Fn::Equals":
        return bool(left == right)
    raise NotImplementedError(function)
