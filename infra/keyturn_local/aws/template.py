"""template.yaml as data: the whole template, and its queues."""

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


def queues(template: Template) -> Template:
    """Return a template whose only resources are the queues. Its outputs are those of the queues."""
    resources = {name: each for name, each in template["Resources"].items() if each["Type"] == "AWS::SQS::Queue"}
    return {
        "AWSTemplateFormatVersion": template["AWSTemplateFormatVersion"],
        "Parameters": template["Parameters"],
        "Conditions": template["Conditions"],
        "Resources": resources,
        "Outputs": {name: each for name, each in template["Outputs"].items() if each["Value"].get("Ref") in resources},
    }
