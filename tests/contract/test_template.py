"""template.yaml: valid, and the same facts as the code and the local AWS."""

import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from keyturn_local.aws import PATTERN, LocalAws
from keyturn_notifier.settings import InvalidSettings, read_settings

ROOT = Path(__file__).parents[2]


class Loader(yaml.SafeLoader):
    """Reads CloudFormation's short forms as what they are applied to."""


Loader.add_multi_constructor("!", lambda loader, suffix, node: f"{suffix} {node.value}")
TEMPLATE = yaml.load((ROOT / "template.yaml").read_text(), Loader)  # noqa: S506 - a SafeLoader
RESOURCES: dict[str, Any] = TEMPLATE["Resources"]


def test_cfn_lint_finds_nothing() -> None:
    done = subprocess.run(
        [Path(sys.executable).with_name("cfn-lint"), ROOT / "template.yaml"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


def test_the_function_gets_every_setting_it_requires() -> None:
    variables = RESOURCES["Notifier"]["Properties"]["Environment"]["Variables"]
    settings = read_settings({name: "https://x/v1/notifications" for name in variables})
    assert settings.receiver_url
    for name in variables:
        with pytest.raises(InvalidSettings, match=name):
            read_settings({other: "https://x" for other in variables if other != name})


def test_a_receiver_without_tls_is_refused_unless_it_is_on_loopback() -> None:
    others = {"KEYTURN_SIGNING_KEY_SECRET_ID": "a", "KEYTURN_DLQ_URL": "b"}
    with pytest.raises(InvalidSettings, match="https://"):
        read_settings({"KEYTURN_RECEIVER_URL": "http://example.com/v1/notifications", **others})
    read_settings({"KEYTURN_RECEIVER_URL": "http://127.0.0.1:1/v1/notifications", **others})


def test_the_queue_outlives_an_hour_of_a_dead_receiver() -> None:
    queue = RESOURCES["Queue"]["Properties"]
    function = RESOURCES["Notifier"]["Properties"]
    assert queue["VisibilityTimeout"] >= 6 * function["Timeout"]
    assert queue["RedrivePolicy"]["maxReceiveCount"] * queue["VisibilityTimeout"] >= 3600
    assert queue["RedrivePolicy"]["maxReceiveCount"] >= 500


def test_the_local_aws_has_the_same_queue_and_rule() -> None:
    defaults = inspect.signature(LocalAws.provision).parameters
    queue = RESOURCES["Queue"]["Properties"]
    assert defaults["visibility_seconds"].default == queue["VisibilityTimeout"]
    assert defaults["max_receives"].default == queue["RedrivePolicy"]["maxReceiveCount"]
    assert RESOURCES["LabelUpdatedRule"]["Properties"]["EventPattern"] == PATTERN


def test_the_handler_is_there() -> None:
    from keyturn_notifier import handler

    assert RESOURCES["Notifier"]["Properties"]["Handler"] == f"{handler.__name__}.{handler.handler.__name__}"
