"""The README's commands for EKS, checked against the code as far as that is possible without AWS."""

import re
import shlex

import yaml

from keyturn_local.aws import template
from keyturn_local.kubernetes.chart import CHART, rendered_chart
from keyturn_receiver.core.binding import BIND_LABEL, SECRET_ID
from keyturn_receiver.core.policy import ALLOW_SECRETS
from support.readme import ROOT, SIGNING_KEY, files, step, steps


def test_section_has_eight_commands_each_with_its_output() -> None:
    assert len(steps()) == 8
    assert all(each.prints for each in steps())


def test_parameters_of_the_commands_exist_and_have_allowed_values() -> None:
    for command, file in {"sam build": "template.yaml", "aws cloudformation": "infra/aws/receiver-role.yaml"}.items():
        words = shlex.split(step(command).command.replace("<SigningKeySecretId>", SIGNING_KEY))
        given = dict(word.split("=", 1) for word in words[words.index("--parameter-overrides") + 1 :])
        parameters = template.read(ROOT / file)["Parameters"]
        required = {name for name, each in parameters.items() if "Default" not in each}
        assert required <= given.keys() <= parameters.keys()
        for name, value in given.items():
            assert re.search(parameters[name].get("AllowedPattern", ""), value), name
            assert value in parameters[name].get("AllowedValues", [value]), name


def test_signing_key_of_the_chart_is_an_output_of_the_stack() -> None:
    assert "SigningKeySecretId" in template.read()["Outputs"]


def test_shown_notes_are_those_that_helm_install_prints() -> None:
    command = step("helm install")
    words = shlex.split(command.command)
    assert ROOT / words[3] == CHART
    assert words[words.index("--values") + 1] in files()
    rendered = rendered_chart(words[words.index("--namespace") + 1], words[2], files()["keyturn.yaml"])
    shown = command.prints[command.prints.index("NOTES:") + 1 :]
    assert shown
    assert all(line in rendered["keyturn/templates/NOTES.txt"].splitlines() for line in shown)


def test_load_balancer_has_the_host_and_port_of_the_receiver_url() -> None:
    rendered = rendered_chart("keyturn", values=files()["keyturn.yaml"])
    (service,) = filter(None, yaml.safe_load_all(rendered["keyturn/templates/service.yaml"]))
    assert service["spec"]["type"] == "LoadBalancer"
    assert service["spec"]["ports"] == [{"name": "https", "port": 443, "targetPort": "notifications"}]
    urls = re.findall(r"ReceiverUrls=(\S+)", step("sam build").command)
    (host,) = (text for name, text in service["metadata"]["annotations"].items() if "hostname" in name)
    assert urls == [f"https://{host}/v1/notifications"]


def test_shown_secret_is_bound_and_its_namespace_may_read_the_source() -> None:
    metadata = files()["db.yaml"]["metadata"]
    assert metadata["labels"] == {BIND_LABEL: "true"}
    assert f"{ALLOW_SECRETS}=shop/*" in step("kubectl annotate").command
    assert metadata["annotations"][SECRET_ID].startswith("shop/")
    assert "SecretNamePrefixes=shop/" in step("aws cloudformation").command
