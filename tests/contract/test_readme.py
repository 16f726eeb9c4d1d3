"""The README's commands for EKS, checked against the code. tests/node/test_walk.py runs these commands."""

import re
from collections.abc import Mapping
from typing import Any

import pytest
import yaml

from keyturn_local.aws import template
from keyturn_local.kubernetes.chart import CHART, rendered_chart
from keyturn_local.node import images
from keyturn_receiver.core.binding import BIND_LABEL, SECRET_ID
from keyturn_receiver.core.policy import ALLOW_SECRETS
from support.readme import ROOT, SECTION, SIGNING_KEY, Step, step, steps, unprinted, variables

SILENT = ("export CLUSTER", "docker buildx build")  # commands for which the README shows no output
VARIABLES = {**variables(), "SIGNING_KEY": SIGNING_KEY}


def words(beginning: str) -> list[str]:
    return step(beginning).words(**VARIABLES)


def option(beginning: str, name: str) -> str:
    given = words(beginning)
    return given[given.index(name) + 1]


def values() -> dict[str, Any]:
    """Return the chart's values of `helm install`."""
    given = words("helm install")
    made: dict[str, Any] = {}
    for name, value in (given[at + 1].split("=", 1) for at, word in enumerate(given) if word == "--set"):
        *parents, last = name.split(".")
        place = made
        for each in parents:
            place = place.setdefault(each, {})
        place[last] = {"true": True, "false": False}.get(value, value)
    return made


def objects_of(file: str) -> dict[str, Any]:
    return {each["kind"]: each for each in yaml.safe_load_all((ROOT / file).read_text())}


def test_every_command_shows_output() -> None:
    assert {each.command for each in steps() if not each.prints} == {step(each).command for each in SILENT}


def test_every_variable_is_set_before_it_is_used() -> None:
    known: set[str] = set()
    for each in steps():
        known |= set(re.findall(r"\b([A-Z_]+)=(?!=)", each.command.split("--parameter-overrides")[0]))
        assert set(re.findall(r"\$([A-Z_]+)", each.command)) <= known, each.command
    assert all(f"${name}" in SECTION for name in VARIABLES)


@pytest.mark.parametrize(
    ("beginning", "file"),
    [("sam build", "template.yaml"), ("aws cloudformation deploy", "infra/aws/receiver-role.yaml")],
)
def test_parameters_of_the_commands_exist_and_have_allowed_values(beginning: str, file: str) -> None:
    given = words(beginning)
    overrides = dict(word.split("=", 1) for word in given[given.index("--parameter-overrides") + 1 :])
    parameters = template.read(ROOT / file)["Parameters"]
    required = {name for name, each in parameters.items() if "Default" not in each}
    assert required <= overrides.keys() <= parameters.keys()
    for name, value in overrides.items():
        members = value.split(",") if parameters[name]["Type"] == "CommaDelimitedList" else [value]
        assert all(re.search(parameters[name].get("AllowedPattern", ""), each) for each in members), name
        assert value in parameters[name].get("AllowedValues", [value]), name


def test_stack_names_carry_the_cluster() -> None:
    """If two clusters used the same stack names, the second one would replace the role and the receiver of the first
    one."""
    named = [each for each in steps() if "--stack-name" in each.command]
    assert len(named) == 3
    assert all(re.search(r"--stack-name keyturn-(\w+-)?\$CLUSTER\b", each.command) for each in named)


def test_stack_is_deployed_without_a_question() -> None:
    command = step("sam build").command
    assert "--no-confirm-changeset" in command
    assert "--guided" not in command


def test_functions_are_in_the_subnets_that_an_internal_load_balancer_needs() -> None:
    (service,) = filter(None, yaml.safe_load_all(rendered("service.yaml")))
    scheme = service["metadata"]["annotations"]["service.beta.kubernetes.io/aws-load-balancer-scheme"]
    assert scheme == "internal"
    assert {"SubnetIds=$SUBNETS", "SecurityGroupIds=$SECURITY_GROUP"} <= set(step("sam build").line.split())


def rendered(file: str, changed: Mapping[str, Any] | None = None) -> str:
    given = words("helm install")
    namespace = given[given.index("--namespace") + 1]
    made = rendered_chart(namespace, given[2], values() if changed is None else changed)
    return made[f"keyturn/templates/{file}"]


def test_signing_key_of_the_chart_is_an_output_of_the_stack() -> None:
    (name,) = re.findall(r"OutputKey=='(\w+)'", step("SIGNING_KEY").command)
    assert name in template.read()["Outputs"]
    assert values()["signingKey"] == {"secretId": SIGNING_KEY}


def test_shown_notes_are_those_that_helm_install_prints() -> None:
    assert ROOT / words("helm install")[3] == CHART
    shown = step("helm install").prints
    assert unprinted(shown[shown.index("NOTES:") + 1 :], rendered("NOTES.txt")) == []


def test_load_balancer_has_the_certificate_and_the_port_of_the_receiver_url() -> None:
    (service,) = filter(None, yaml.safe_load_all(rendered("service.yaml")))
    assert service["spec"]["type"] == "LoadBalancer"
    (port,) = service["spec"]["ports"]
    assert port == {"name": "https", "port": 443, "targetPort": "notifications", "appProtocol": "http"}
    assert VARIABLES["CERTIFICATE"] in service["metadata"]["annotations"].values()
    assert f"ReceiverUrls=https://{VARIABLES['HOST_NAME']}/v1/notifications" in words("sam build")


def test_built_image_is_the_one_that_the_chart_pulls() -> None:
    """The tests have no Docker. The node's image is built from the same Dockerfile with buildah instead."""
    (deployment,) = filter(None, yaml.safe_load_all(rendered("deployment.yaml")))
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert option("docker buildx build", "--tag") == container["image"]
    assert ROOT / option("docker buildx build", "--file") == images.DOCKERFILE
    assert words("docker buildx build")[-2:] == ["--push", "."]
    assert option("docker buildx build", "--platform") in ("linux/amd64", "linux/arm64")


def test_registry_is_logged_in_to_under_the_name_of_the_repository() -> None:
    registry, repository = option("docker buildx build", "--tag").rsplit(":", 1)[0].split("/")
    assert words("aws ecr get-login-password")[-1] == registry
    assert option("aws ecr create-repository", "--repository-name") == repository
    assert step("aws ecr create-repository").prints == (f"{registry}/{repository}",)


def test_first_binding_is_bound_read_and_allowed() -> None:
    objects = objects_of(option("kubectl apply", "--filename"))
    metadata = objects["Secret"]["metadata"]
    assert metadata["labels"] == {BIND_LABEL: "true"}
    assert metadata["annotations"] == {SECRET_ID: option("aws secretsmanager create-secret", "--name")}
    assert f"{ALLOW_SECRETS}=shop/*" in words("kubectl create namespace")
    assert "SecretNamePrefixes=shop/" in words("aws cloudformation deploy")
    (container,) = objects["Deployment"]["spec"]["template"]["spec"]["containers"]
    (variable,) = container["env"]
    assert variable["valueFrom"]["secretKeyRef"]["name"] == metadata["name"]


def test_poller_first_needs_no_values_but_those_that_the_readme_leaves() -> None:
    assert "`--set deliveries.enabled=false` in place of the `signingKey` and `nlb` values" in " ".join(SECTION.split())
    left = {name: value for name, value in values().items() if name not in ("signingKey", "nlb")}
    assert "poller alone" in rendered("NOTES.txt", {**left, "deliveries": {"enabled": False}})


def test_wait_for_the_rotation_is_too_short_for_the_poller() -> None:
    """If the event path is broken, the receivers poll every 30 s. So a shorter wait shows that the event path works."""
    (seconds,) = re.findall(r"--timeout=(\d+)s", step("kubectl wait secret/db").command)
    assert int(seconds) < 30


def test_heartbeats_are_awaited_for_longer_than_their_interval() -> None:
    schedule = template.read()["Resources"]["Heartbeat"]["Properties"]["ScheduleExpression"]
    assert schedule == "rate(1 minute)"
    (minutes,) = re.findall(r"--timeout=(\d+)m", step("kubectl wait lease").command)
    assert int(minutes) >= 2


def test_unprinted_finds_what_is_missing_and_what_is_in_another_order() -> None:
    assert unprinted(("a ... c", "d"), "x\na b c  \nd") == []
    assert unprinted(("d", "a ... c"), "a b c\nd") == ["a ... c"]
    assert unprinted(("a.c",), "abc") == ["a.c"]


def test_steps_keep_commands_byte_for_byte() -> None:
    section = "text\n\n```\n$ one \\\n    two\nprinted\n\n$ three\n```\n\n```yaml\n$ no\n```\n"
    assert steps(section) == [Step("one \\\n    two", ("printed",)), Step("three", ())]
    assert steps(section)[0].line == "one two"
