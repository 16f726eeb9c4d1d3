"""The objects that the chart renders for each value: the real API server accepts them without a warning."""

from collections.abc import Iterator, Mapping
from copy import deepcopy
from functools import reduce
from typing import Any

import helm_python
import pytest
import yaml

from keyturn_local.kubernetes.chart import CHART, chart_objects, rendered_chart
from keyturn_local.kubernetes.control_plane import ControlPlane
from support.chart_values import COMBINABLE, EXCLUSIVE, SERVED, VARIANTS, dry_run

RESTRICTED = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn")}


@pytest.fixture(scope="module")
def home(control_plane: ControlPlane, custom_resources: None) -> Iterator[str]:
    """Yield a namespace that admits only restricted pods. The namespaces that the receivers serve are created, too."""
    names = {"strict": RESTRICTED, **{name: {} for name in (*SERVED, "123", "on")}}
    made = [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}
        for name, labels in names.items()
    ]
    control_plane.create(made)
    yield "strict"
    control_plane.delete(made, wait=False)


@pytest.mark.parametrize("values", VARIANTS.values(), ids=VARIANTS)
def test_rendered_objects_are_accepted_without_a_warning(
    control_plane: ControlPlane, home: str, values: dict[str, Any]
) -> None:
    objects = chart_objects(home, values)
    verdict = dry_run(control_plane, objects)
    assert (verdict.returncode, verdict.stderr) == (0, "")
    assert len(verdict.stdout.splitlines()) == len(objects)


def test_pods_over_the_restricted_profile_are_warned_of_and_refused(control_plane: ControlPlane, home: str) -> None:
    objects = chart_objects(home, {"securityContext": {"allowPrivilegeEscalation": True}})
    verdict = dry_run(control_plane, objects)
    # This warning is about the Deployment. The API server accepts the Deployment nevertheless.
    assert 'Warning: would violate PodSecurity "restricted' in verdict.stderr
    assert 'pods "keyturn-self-test" is forbidden: violates PodSecurity "restricted' in verdict.stderr
    assert verdict.returncode == 1
    assert len(verdict.stdout.splitlines()) == len(objects) - 1


def test_field_unknown_to_kubernetes_is_refused(control_plane: ControlPlane, home: str) -> None:
    verdict = dry_run(control_plane, chart_objects(home, {"podSecurityContext": {"runAsNobody": True}}))
    assert 'unknown field "spec.template.spec.securityContext.runAsNobody"' in verdict.stderr
    assert verdict.returncode == 1


# Without quotes, YAML reads these words as numbers, booleans, null and an alias.
WORDS = {
    "namespaces": ["on"],
    "imagePullSecrets": [{"name": "0x1f"}],
    "serviceAccount": {"name": "1e3"},
    "signingKey": {"existingSecret": {"name": "123", "key": "null"}},
    "tls": {"secretName": "0o7"},
    "priorityClassName": "off",
    "ingress": {"enabled": True, "className": "yes", "host": "*.example.com", "tlsSecretName": "1.5"},
    "service": {"type": "LoadBalancer", "loadBalancerClass": "1e3"},
    "metrics": {"serviceMonitor": {"enabled": True}},
    "networkPolicy": {"enabled": False},
}


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize("release", ["123", "my.keyturn", f"{'long' * 13}s"])
def test_release_of_any_name_is_accepted(control_plane: ControlPlane, release: str) -> None:
    rendered = rendered_chart("123", release, WORDS)
    objects = [each for name, text in rendered.items() if name.endswith(".yaml") for each in yaml.safe_load_all(text)]
    verdict = dry_run(control_plane, filter(None, objects))
    assert (verdict.returncode, verdict.stderr) == (0, "")


def test_network_policy_for_few_senders_admits_helm_test() -> None:
    peer = {"ipBlock": {"cidr": "10.0.0.0/8"}}
    objects = chart_objects("strict", {"networkPolicy": {"deliveriesFrom": [peer]}})
    (pod,) = [each for each in objects if each["kind"] == "Pod"]
    (policy,) = [each["spec"] for each in objects if each["kind"] == "NetworkPolicy"]
    (rule,) = [each for each in policy["ingress"] if each["ports"][0]["port"] == "notifications"]
    *given, ours = rule["from"]
    assert given == [peer]
    assert ours["podSelector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()


@pytest.fixture(scope="module")
def chart() -> Iterator[helm_python.Chart]:
    with helm_python.Chart.load(CHART) as loaded:
        yield loaded


def leaves(value: Any, schema: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield each value that has no properties of its own, with its path. A map with arbitrary keys counts as one
    value."""
    if "properties" not in schema:
        yield path, value
    else:
        for key, inner in value.items():
            yield from leaves(inner, schema["properties"][key], (*path, key))


def tried(chart: helm_python.Chart) -> dict[tuple[str, ...], list[Any]]:
    """Return, for each path, all values that the sets in VARIANTS give it."""
    assert chart.schema is not None
    found: dict[tuple[str, ...], list[Any]] = {}
    for values in VARIANTS.values():
        for path, value in leaves(chart.merge_values(values), chart.schema):
            found.setdefault(path, []).append(value)
    return found


def test_value_of_the_chart_is_tried_beside_its_default(chart: helm_python.Chart) -> None:
    assert chart.schema is not None
    found = tried(chart)
    defaults = list(leaves(chart.values, chart.schema))
    assert len(defaults) > 80
    assert not [".".join(path) for path, default in defaults if all(value == default for value in found[path])]


def test_choice_of_a_value_is_tried(chart: helm_python.Chart) -> None:
    def choices(schema: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
        if schema.get("type") == "boolean":
            yield from ((path, choice) for choice in (True, False))
        yield from ((path, choice) for choice in schema.get("enum", []))
        for key, inner in schema.get("properties", {}).items():
            yield from choices(inner, (*path, key))

    assert chart.schema is not None
    found = tried(chart)
    few = [each for each in choices(chart.schema) if each[0] != ("enabled",)]  # "enabled" is only for parent charts
    assert len(few) > 40
    assert not [(".".join(path), choice) for path, choice in few if choice not in found[path]]


@pytest.mark.parametrize("name", [*EXCLUSIVE, *COMBINABLE])
def test_value_of_the_chart_has_an_effect(chart: helm_python.Chart, name: str) -> None:
    """If a set loses any of its values that differ from the default, the chart renders different manifests, or refuses
    the set."""
    assert chart.schema is not None
    defaults = dict(leaves(chart.values, chart.schema))
    whole = manifests(chart, VARIANTS[name])
    for path, value in leaves(VARIANTS[name], chart.schema):
        if value != defaults[path]:
            less = deepcopy(VARIANTS[name])
            del reduce(dict.__getitem__, path[:-1], less)[path[-1]]
            assert manifests(chart, less) != whole, path


def manifests(chart: helm_python.Chart, values: dict[str, Any]) -> dict[str, str]:
    """Return the rendered manifests without NOTES.txt. If the chart refuses the values, return nothing."""
    try:
        rendered = chart.render(values, name="keyturn", namespace="keyturn")
    except helm_python.HelmRenderError:
        return {}
    return {template: text for template, text in rendered.items() if template.endswith(".yaml")}
