"""The chart's values: their documentation, the refusal of wrong values, and their effect on the receiver's settings."""

import ipaddress
import json
import re
from typing import Any

import botocore.session
import helm_python
import pytest
import yaml

from keyturn_local.docs import chart_values
from keyturn_local.docs.chart_values import Value
from keyturn_local.kubernetes.chart import CHART, SOME_KEY, chart_objects, rendered_chart
from keyturn_receiver.settings import Settings
from support.chart_values import EVERYTHING

VALUES = chart_values.values()
SECRET = {"aws_secret_access_key": "testing"}
GROUPS = {each.path.rpartition(".")[0] for each in VALUES}
CHECKS = (CHART / "templates" / "_checks.tpl").read_text()
SCHEMA = json.loads(chart_values.SCHEMA.read_text())

# Settings whose default in the chart differs from the receiver's own default.
OTHERWISE = {
    "KEYTURN_DRAIN_SECONDS": "15",  # load balancers take time to notice that a pod is terminating
}
OF_THE_POD = {
    "KEYTURN_HOST",
    "KEYTURN_PORT",
    "KEYTURN_OPERATIONS_PORT",
}  # the chart does not set these, so the receiver's defaults apply


def at(path: str, value: object) -> dict[str, Any]:
    """Return chart values in which ``path``, such as "a.b", is set to ``value``."""
    for name in reversed(path.split(".")):
        value = {name: value}
    assert isinstance(value, dict)
    return value


def refused(values: dict[str, Any]) -> str:
    """Check that the chart refuses these values. Return Helm's error message."""
    with pytest.raises((helm_python.HelmValuesError, helm_python.HelmRenderError)) as error:
        rendered_chart("keyturn", values=values)
    return str(error.value)


def leaves(schema: dict[str, Any], path: str = "") -> set[str]:
    """Return the paths of those values in a schema that have no properties of their own."""
    if "properties" not in schema:
        return {path}
    return {leaf for name, each in schema["properties"].items() for leaf in leaves(each, f"{path}.{name}".lstrip("."))}


def environment(values: dict[str, Any]) -> dict[str, str]:
    """Return the environment variables of the receiver's container whose value is given literally."""
    (deployment,) = (each for each in chart_objects("keyturn", values) if each["kind"] == "Deployment")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    return {each["name"]: each["value"] for each in container["env"] if "value" in each}


def test_value_table_equals_the_descriptions_of_the_values() -> None:
    assert chart_values.README.read_text() == chart_values.readme(), "run `make chart-docs`"
    assert chart_values.SCHEMA.read_text() == chart_values.schema(), "run `make chart-docs`"


def test_schema_has_every_value_and_no_other() -> None:
    assert leaves(SCHEMA) - {"enabled", "global"} == {each.path for each in VALUES}


@pytest.mark.parametrize("group", sorted(GROUPS))
def test_misspelt_value_is_refused_by_name(group: str) -> None:
    told = refused(at(f"{group}.enabeld".lstrip("."), True))
    place = "/" + group.replace(".", "/") if group else ""
    assert f"at '{place}': additional properties 'enabeld' not allowed" in told


@pytest.mark.parametrize("value", VALUES, ids=lambda value: value.path)
def test_value_of_the_wrong_type_is_refused_by_name(value: Value) -> None:
    wrong: object = "two" if isinstance(value.default, int | dict | list | None) else 2
    assert f"at '/{value.path.replace('.', '/')}':" in refused(at(value.path, wrong))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"replicas": "two"}, "at '/replicas': got string, want integer"),
        ({"replcas": 2}, "additional properties 'replcas' not allowed"),
        ({"aws": {"endpointUrl": "http://vpce.example.com"}}, "at '/aws/endpointUrl': 'http://vpce.example.com'"),
        ({"metrics": {"prometheusRule": {"runbookUrl": "http://wiki/x"}}}, "at '/metrics/prometheusRule/runbookUrl'"),
        ({"traces": {"endpoint": "http://collector.example.com:4318"}}, "at '/traces/endpoint'"),
        ({"aws": {"roleArn": "keyturn-receiver"}}, "at '/aws/roleArn'"),
        ({"image": {"digest": "sha256:abc"}}, "at '/image/digest'"),
        ({"drainSeconds": 60}, "at '/drainSeconds': maximum: got 60, want 15"),
        ({"deliveries": {"deadlineSeconds": 10}}, "at '/deliveries/deadlineSeconds': maximum: got 10, want 9"),
        ({"namespaces": ["Team_A"]}, "at '/namespaces/0'"),
        ({"policy": {"default": "permit"}}, "at '/policy/default': value must be one of 'deny', 'allow'"),
        ({"rollouts": {"default": "off"}}, "at '/rollouts/default': value must be one of 'enabled', 'disabled'"),
        ({"rollouts": {"reloader": True}}, "at '/rollouts/reloader': value must be one of 'absent'"),
        ({"proxy": {"url": "proxy.example.com:3128"}}, "at '/proxy/url'"),
        ({"proxy": {"url": "http://proxy.example.com"}}, "at '/proxy/url'"),  # a port is needed for the NetworkPolicy
        ({"proxy": {"noProxy": ["https://example.com"]}}, "at '/proxy/noProxy/0'"),
        ({"proxy": {"noProxy": ["a.example.com,b.example.com"]}}, "at '/proxy/noProxy/0'"),
        ({"httpRoute": {"parentRefs": [{"name": "g", "gateway": "x"}]}}, "additional properties 'gateway' not allowed"),
        ({"httpRoute": {"parentRefs": [{"namespace": "g"}]}}, "missing property 'name'"),
        ({"httpRoute": {"hostnames": ["https://keyturn.example.com"]}}, "at '/httpRoute/hostnames/0'"),
        ({"nlb": {"loadBalancerClass": "eks amazonaws"}}, "at '/nlb/loadBalancerClass'"),
    ],
    ids=lambda each: next(iter(each)) if isinstance(each, dict) else "",
)
def test_wrong_value_is_refused_with_a_message_that_names_it(values: dict[str, Any], words: str) -> None:
    assert words in refused({**SOME_KEY, **values})


# Values that contradict each other. The key is the beginning of the error message.
CONTRADICTIONS: dict[str, dict[str, Any]] = {
    "signingKey": {"signingKey": {"secretId": ""}},
    "aws.roleArn": {
        "aws": {"roleArn": "arn:aws:iam::123456789012:role/keyturn"},
        "serviceAccount": {"create": False, "name": "theirs"},
    },
    "serviceAccount.name": {"serviceAccount": {"create": False}},
    "metrics.podMonitor.enabled": {"metrics": {"podMonitor": {"enabled": True}, "serviceMonitor": {"enabled": True}}},
    "tls.certManager.issuerRef.name": {"tls": {"certManager": {"enabled": True}}},
    "nlb.enabled: the notifier": {"nlb": {"enabled": True}},
    "nlb.enabled: it makes": {"nlb": {"enabled": True}, "tls": {"secretName": "t"}, "service": {"type": "NodePort"}},
    "nlb.certificateArn": {"nlb": {"certificateArn": "arn:aws:acm:eu-west-1:123456789012:certificate/1"}},
    "ingress.host": {"ingress": {"enabled": True}},
    "deliveries.enabled": {"deliveries": {"enabled": False}},
    "httpRoute.parentRefs": {"httpRoute": {"enabled": True, "hostnames": ["keyturn.example.com"]}},
    "httpRoute.hostnames": {"httpRoute": {"enabled": True, "parentRefs": [{"name": "public"}]}},
    "proxy.url": {"proxy": {"url": "http://me:hunter2@proxy.example.com:3128"}},
    "proxy.noProxy: there is": {"proxy": {"noProxy": ["10.0.0.0/8"]}},
    "proxy.noProxy: 10.0.0.0/33": {"proxy": {"url": "http://10.1.2.3:3128", "noProxy": ["10.0.0.0/33"]}},
    "aws.fips": {"aws": {"fips": True, "endpointUrl": "https://vpce-1.example.com"}},
    "service.loadBalancerClass": {"service": {"loadBalancerClass": "service.k8s.aws/nlb"}},
    "extraEnv": {"extraEnv": [{"name": "KEYTURN_LOG_LEVEL", "value": "DEBUG"}]},
    "extraVolumes": {"extraVolumes": [{"name": "tls", "emptyDir": {}}]},
    "traces.endpoint": {"traces": {"endpoint": "https://collector.example.com"}},
    "priorityClassName": {"priorityClass": {"create": True}, "priorityClassName": "high"},
    "networkPolicy.operationsFrom": {"metrics": {"podMonitor": {"enabled": True}}},
}


@pytest.mark.parametrize("begins", CONTRADICTIONS)
def test_contradicting_values_are_refused_with_advice(begins: str) -> None:
    told = refused({**SOME_KEY, **CONTRADICTIONS[begins]})
    assert begins in told
    assert re.search(r"\b(set|name|leave|annotate)\b", told.partition(begins)[2])


# Each value that is useful only with deliveries, mapped to chart values that set it.
FOR_DELIVERIES: dict[str, dict[str, Any]] = {
    "signingKey.secretId": SOME_KEY,
    "signingKey.publicKeys": {"signingKey": {"publicKeys": [f"whpk_{'A' * 43}="]}},
    "signingKey.existingSecret.name": {"signingKey": {"existingSecret": {"name": "signing-keys"}}},
    "ingress.enabled": {"ingress": {"enabled": True, "host": "keyturn.example.com"}},
    "httpRoute.enabled": {
        "httpRoute": {"enabled": True, "hostnames": ["a.example.com"], "parentRefs": [{"name": "public"}]}
    },
    "nlb.enabled": {"nlb": {"enabled": True, "certificateArn": "arn:aws:acm:eu-west-1:123456789012:certificate/1"}},
    "service.type": {"service": {"type": "LoadBalancer"}},
    "tls.secretName": {"tls": {"secretName": "certificate"}},
    "tls.certManager.enabled": {"tls": {"certManager": {"enabled": True, "issuerRef": {"name": "internal"}}}},
}


@pytest.mark.parametrize("value", FOR_DELIVERIES)
def test_value_for_deliveries_is_refused_without_deliveries(value: str) -> None:
    told = refused({**FOR_DELIVERIES[value], "deliveries": {"enabled": False}})
    assert (
        f"deliveries.enabled: it is false, and {value} is of use for deliveries alone: set deliveries.enabled" in told
    )


def test_every_way_in_and_every_key_is_refused_without_deliveries() -> None:
    """The chart refuses exactly the values in FOR_DELIVERIES. They let a sender reach the receiver, or verify the
    sender."""
    (checked,) = re.findall(r"range \$name, \$used := dict(.*?)\}\}", CHECKS, re.DOTALL)
    assert re.findall(r'"([\w.]+)" ', checked.replace('"ClusterIP"', "")) == list(FOR_DELIVERIES)


@pytest.mark.parametrize(
    ("text", "fits"),
    [
        ("10.0.0.0/8", True),
        ("172.20.1.0/16", True),
        ("0.0.0.0/0", True),
        ("fd00:ec2::/32", True),
        ("::ffff:10.0.0.0/104", True),
        ("10.0.0.0/33", False),
        ("10.0.0/8", False),
        ("256.0.0.0/8", False),
        ("fd00::/129", False),
    ],
)
def test_address_range_of_no_proxy_is_checked(text: str, fits: bool) -> None:
    values = {**SOME_KEY, "proxy": {"url": "http://proxy.example.com:3128", "noProxy": ["a.example.com", text]}}
    if fits:
        ipaddress.ip_network(text, strict=False)
        assert environment(values)["NO_PROXY"] == f"a.example.com,{text}"
    else:
        with pytest.raises(ValueError, match="IPv"):
            ipaddress.ip_network(text, strict=False)
        assert f"proxy.noProxy: {text} is no address range" in refused(values)


@pytest.mark.parametrize(
    ("url", "opened"),
    [
        ("", set()),
        ("http://proxy.example.com:3128", {3128}),
        ("http://[fd00::1]:3128/", {3128}),
        ("https://proxy.example.com:443", set()),  # this port is open anyway
    ],
)
def test_network_policy_lets_the_pods_reach_the_proxy(url: str, opened: set[int]) -> None:
    def ports(values: dict[str, Any]) -> set[int]:
        (policy,) = (each["spec"] for each in chart_objects("keyturn", values) if each["kind"] == "NetworkPolicy")
        return {port["port"] for rule in policy["egress"] for port in rule["ports"]}

    assert ports({"proxy": {"url": url}}) - ports({}) == opened
    pods = [each for each in chart_objects("keyturn", {"proxy": {"url": url}}) if each["kind"] in ("Deployment", "Pod")]
    assert len(pods) == 2
    assert all(("HTTPS_PROXY" in str(each)) is bool(url) for each in pods)


@pytest.mark.parametrize(
    ("values", "port"),
    [
        ({}, ("http", 80, "http")),
        ({"tls": {"secretName": "certificate"}}, ("https", 443, "https")),
        (
            {"nlb": {"enabled": True, "certificateArn": "arn:aws:acm:eu-west-1:123456789012:certificate/1"}},
            ("https", 443, "http"),  # TLS ends at the load balancer; a mesh must not expect it in the pods
        ),
    ],
    ids=["plain", "TLS in the pods", "TLS at the load balancer"],
)
def test_service_port_says_which_protocol_the_pods_speak(values: dict[str, Any], port: tuple[str, int, str]) -> None:
    (service,) = (each["spec"] for each in chart_objects("keyturn", values) if each["kind"] == "Service")
    (made,) = service["ports"]
    assert (made["name"], made["port"], made["appProtocol"]) == port


@pytest.mark.parametrize(
    ("values", "warned"),
    [
        ({}, True),
        ({"className": "alb"}, False),
        ({"annotations": {"kubernetes.io/ingress.class": "nginx"}}, False),
    ],
    ids=["no class", "a class", "a class of old"],
)
def test_notes_warn_of_an_ingress_that_no_class_serves(values: dict[str, Any], warned: bool) -> None:
    ingress = {"enabled": True, "host": "keyturn.example.com", **values}
    notes = rendered_chart("keyturn", values={**SOME_KEY, "ingress": ingress})["keyturn/templates/NOTES.txt"]
    assert ("set\ningress.className" in notes) is warned


def test_fips_value_leads_the_sdk_to_fips_endpoints(monkeypatch: pytest.MonkeyPatch) -> None:
    def endpoint(service: str, values: dict[str, Any]) -> str:
        with monkeypatch.context() as patch:
            for name in ("AWS_ENDPOINT_URL", "AWS_USE_FIPS_ENDPOINT"):
                patch.delenv(name, raising=False)
            for name, value in environment(values).items():
                patch.setenv(name, value)
            client = botocore.session.Session().create_client(service, "us-east-1", aws_access_key_id="a", **SECRET)
            return str(client.meta.endpoint_url)

    for service in ("secretsmanager", "sts"):
        assert endpoint(service, {"aws": {"fips": True}}) == f"https://{service}-fips.us-east-1.amazonaws.com"
        assert "fips" not in endpoint(service, {})


def test_notes_without_deliveries_say_how_to_add_the_event_path() -> None:
    notes = rendered_chart("keyturn", values={"deliveries": {"enabled": False}})["keyturn/templates/NOTES.txt"]
    assert "The poller alone carries changes, every 300 s" in notes
    added = yaml.safe_load("\n".join(re.findall(r"^     (?:deliveries|signingKey): .*$", notes, re.MULTILINE)))
    assert added.keys() == {"deliveries", "signingKey"}
    assert added["deliveries"] == {"enabled": True}
    (key,) = added["signingKey"]
    assert chart_objects("keyturn", {"deliveries": {"enabled": True}, "signingKey": {key: "keyturn/signing-key"}})


def test_password_of_a_proxy_is_not_quoted() -> None:
    told = refused({**SOME_KEY, **CONTRADICTIONS["proxy.url"]})
    assert "extraEnvFrom" in told
    assert "hunter2" not in told


def test_values_of_a_parent_chart_are_accepted() -> None:
    assert chart_objects("keyturn", {"enabled": True, "global": {"imageRegistry": "x"}}) == chart_objects("keyturn")


def test_contradictions_known_to_the_chart_are_all_tried() -> None:
    known = re.findall(r'fail (?:\(printf )?"([^:,]+)', CHECKS)
    tried = [begins.partition(":")[0] for begins in CONTRADICTIONS]
    assert sorted(known) == sorted(tried)


def test_settings_of_the_receiver_are_reachable_and_valid(monkeypatch: pytest.MonkeyPatch) -> None:
    given = environment(EVERYTHING)
    own = {name for name in given if name.startswith("KEYTURN_")}
    assert own == {f"KEYTURN_{name.upper()}" for name in Settings.model_fields} - OF_THE_POD
    for name in own:
        monkeypatch.setenv(name, given[name])
    settings = Settings()
    assert settings.namespaces
    assert settings.signing_public_keys


def test_chart_defaults_equal_the_defaults_of_the_receiver(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in environment({}).items():
        monkeypatch.setenv(name, text)
    ours = Settings().model_dump()
    theirs = Settings.model_construct().model_dump() | {"signing_key_secret_id": SOME_KEY["signingKey"]["secretId"]}
    differing = {f"KEYTURN_{name.upper()}": str(ours[name]) for name in ours if ours[name] != theirs[name]}
    assert differing == {name: f"{float(text)}" for name, text in OTHERWISE.items()}


def test_numbers_are_written_out() -> None:
    given = environment({"deliveries": {"maxConnections": 12345678}, "watches": {"resyncSeconds": 1000000}})
    assert given["KEYTURN_MAX_CONNECTIONS"] == "12345678"
    assert given["KEYTURN_RESYNC_SECONDS"] == "1000000"


def test_chart_passes_helm_lint() -> None:
    for values in (None, SOME_KEY, EVERYTHING):
        found = helm_python.lint(str(CHART), values, strict=True, namespace="keyturn")
        assert found["errors"] == []
        worse_than_a_hint = [each for each in found["messages"] if each["severity"] > 1]
        assert worse_than_a_hint == []
