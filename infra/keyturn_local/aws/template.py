"""template.yaml as data: the whole template, and the part that the local AWS deploys."""

import json
from pathlib import Path
from typing import Any

from keyturn_local.paths import ROOT

FILE = ROOT / "template.yaml"

Template = dict[str, Any]


def read(file: Path = FILE) -> Template:
    """Read a template, and expand short forms such as `!Ref`."""
    # cfn-lint is imported here, because the import takes a second and most processes do not need it.
    from cfnlint.decode import cfn_yaml

    plain: Template = json.loads(json.dumps(cfn_yaml.load(str(file))))
    return plain


def event_path(template: Template) -> Template:
    """Return a template with only the queues, the rules that fill them, and their outputs, which moto supports."""
    types = {"AWS::SQS::Queue", "AWS::Events::Rule"}
    resources = {name: each for name, each in template["Resources"].items() if each["Type"] in types}
    return {
        "AWSTemplateFormatVersion": template["AWSTemplateFormatVersion"],
        "Parameters": template["Parameters"],
        "Conditions": template["Conditions"],
        "Resources": resources,
        "Outputs": {name: each for name, each in template["Outputs"].items() if each["Value"].get("Ref") in resources},
    }
