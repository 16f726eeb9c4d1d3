"""template.yaml as data: all that `sam deploy` creates, and the part that the local AWS deploys."""

import json
from pathlib import Path
from typing import Any

from keyturn_local.paths import ROOT

FILE = ROOT / "template.yaml"

Template = dict[str, Any]


def read(file: Path = FILE) -> Template:
    """Read a template; short forms such as `!Ref` are expanded."""
    from cfnlint.decode import cfn_yaml  # a second of imports, which most processes do not need

    plain: Template = json.loads(json.dumps(cfn_yaml.load(str(file))))
    return plain


def event_path(template: Template) -> Template:
    """The queues and the rules that fill them, with their outputs: plain CloudFormation that moto supports."""
    types = {"AWS::SQS::Queue", "AWS::Events::Rule"}
    resources = {name: each for name, each in template["Resources"].items() if each["Type"] in types}
    return {
        "AWSTemplateFormatVersion": template["AWSTemplateFormatVersion"],
        "Parameters": template["Parameters"],
        "Conditions": template["Conditions"],
        "Resources": resources,
        "Outputs": {name: each for name, each in template["Outputs"].items() if each["Value"].get("Ref") in resources},
    }
