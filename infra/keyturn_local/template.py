"""template.yaml as data: what `sam deploy` creates, and the part of it that the local AWS stands on."""

from pathlib import Path
from typing import Any

from samtranslator.yaml_helper import yaml_parse

FILE = Path(__file__).parents[2] / "template.yaml"

Template = dict[str, Any]


def read(file: Path = FILE) -> Template:
    """Read a template; short forms such as `!Ref` become what they stand for."""
    return dict(yaml_parse(file.read_text()))


def event_path(template: Template) -> Template:
    """The queues and the rules that fill them, with their outputs: plain CloudFormation, and all that moto can play."""
    kept = {"AWS::SQS::Queue", "AWS::Events::Rule"}
    resources = {name: each for name, each in template["Resources"].items() if each["Type"] in kept}
    return {
        "AWSTemplateFormatVersion": template["AWSTemplateFormatVersion"],
        "Parameters": template["Parameters"],
        "Conditions": template["Conditions"],
        "Resources": resources,
        "Outputs": {name: each for name, each in template["Outputs"].items() if each["Value"].get("Ref") in resources},
    }
