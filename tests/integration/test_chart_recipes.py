"""The recipes: the real Helm renders each example, the real API server accepts it, and it does what its page says."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import yaml

from keyturn_local.kubernetes.chart import rendered_chart
from keyturn_local.kubernetes.control_plane import ControlPlane
from support.chart_values import dry_run
from support.recipes import FILES, documents, values_of

Objects = list[Any]

HOME = "recipes"
GITOPS = ("argocd", "keyturn", "shop")  # namespaces of the objects of GitOps tools


@pytest.fixture(scope="module")
def home(control_plane: ControlPlane, custom_resources: None) -> Iterator[None]:
    """Create a namespace that only admits restricted pods, and the namespaces that the examples name."""
    restricted = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn")}
    made = [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}
        for name, labels in {HOME: restricted, **{name: {} for name in GITOPS}}.items()
    ]
    control_plane.create(made)
    yield
    control_plane.delete(made, wait=False)


def rendered(recipe: str) -> Objects:
    """Return the objects of the chart with the values of a recipe and no others."""
    manifests = rendered_chart(HOME, values=values_of(FILES[recipe]))
    texts = (text for template, text in manifests.items() if template.endswith(".yaml"))
    return [each for text in texts for each in yaml.safe_load_all(text) if each]


def of(kind: str, objects: Objects) -> Any:
    """Return the one object of a kind."""
    (found,) = (each for each in objects if each["kind"] == kind)
    return found


def receiver(objects: Objects) -> Any:
    (container,) = pod(objects)["containers"]
    return container


def pod(objects: Objects) -> Any:
    return of("Deployment", objects)["spec"]["template"]["spec"]


def environment(objects: Objects) -> dict[str, str]:
    return {each["name"]: each["value"] for each in receiver(objects)["env"]}


def check_poller_first(objects: Objects) -> None:
    assert not {"Service", "Ingress", "HTTPRoute"} & {each["kind"] for each in objects}
    assert environment(objects)["KEYTURN_DELIVERIES"] == "false"
    assert environment(objects)["KEYTURN_POLL_INTERVAL_SECONDS"] == "60"


def check_alb(objects: Objects) -> None:
    ingress = of("Ingress", objects)
    assert ingress["spec"]["ingressClassName"] == "alb"
    annotations = ingress["metadata"]["annotations"]
    alb = "alb.ingress.kubernetes.io"
    assert annotations[f"{alb}/listen-ports"] == '[{"HTTPS":443}]'
    assert (annotations[f"{alb}/target-type"], annotations[f"{alb}/success-codes"]) == ("ip", "405")
    assert f"{alb}/scheme" not in annotations  # the controller's default is internal
    (rule,) = ingress["spec"]["rules"]
    assert rule["host"] == annotations["external-dns.alpha.kubernetes.io/hostname"] == "keyturn.example.com"


def check_gateway_api(objects: Objects) -> None:
    route, service = of("HTTPRoute", objects)["spec"], of("Service", objects)
    assert route["parentRefs"] == [{"name": "internal", "namespace": "gateways", "sectionName": "https"}]
    (rule,) = route["rules"]
    assert rule["matches"] == [{"path": {"type": "Exact", "value": "/v1/notifications"}}]
    (port,) = service["spec"]["ports"]
    assert rule["backendRefs"] == [{"name": service["metadata"]["name"], "port": port["port"]}]


def check_nlb(objects: Objects, load_balancer_class: str) -> None:
    service = of("Service", objects)
    annotations = service["metadata"]["annotations"]
    nlb = "service.beta.kubernetes.io/aws-load-balancer"
    assert service["spec"]["type"] == "LoadBalancer"
    assert service["spec"]["loadBalancerClass"] == load_balancer_class
    assert (annotations[f"{nlb}-scheme"], annotations[f"{nlb}-nlb-target-type"]) == ("internal", "ip")
    assert annotations[f"{nlb}-ssl-cert"].startswith("arn:aws:acm:")
    (port,) = service["spec"]["ports"]
    assert annotations[f"{nlb}-ssl-ports"] == port["name"] == "https"
    assert port["appProtocol"] == "http"


def check_eks_auto_mode(objects: Objects) -> None:
    check_nlb(objects, "eks.amazonaws.com/nlb")


def check_fargate(objects: Objects) -> None:
    check_nlb(objects, "service.k8s.aws/nlb")
    account = of("ServiceAccount", objects)["metadata"]["annotations"]
    assert account["eks.amazonaws.com/role-arn"].startswith("arn:aws:iam::")
    assert "NetworkPolicy" not in {each["kind"] for each in objects}
    # Fargate allows no privileged pods, no host ports and no host network.
    assert not pod(objects).get("hostNetwork")


def check_openshift(objects: Objects) -> None:
    for each in (pod(objects), of("Pod", objects)["spec"]):
        assert not {"runAsUser", "runAsGroup", "fsGroup"} & each["securityContext"].keys()
        assert each["securityContext"]["runAsNonRoot"] is True
    route, service = of("Route", objects)["spec"], of("Service", objects)
    assert route["to"] == {"kind": "Service", "name": service["metadata"]["name"]}
    assert [route["port"]["targetPort"]] == [port["name"] for port in service["spec"]["ports"]]
    assert (route["path"], route["tls"]["termination"]) == ("/v1/notifications", "edge")
    egress = of("NetworkPolicy", objects)["spec"]["egress"]
    assert {5353} in [{port["port"] for port in rule["ports"]} for rule in egress]


def check_private_registry(objects: Objects) -> None:
    for each in (pod(objects), of("Pod", objects)["spec"]):
        (container,) = each["containers"]
        assert container["image"] == "111122223333.dkr.ecr.eu-west-1.amazonaws.com/keyturn:0.2.0"
        assert each["imagePullSecrets"] == [{"name": "registry"}]


def check_proxy(objects: Objects) -> None:
    given = environment(objects)
    assert (given["HTTPS_PROXY"], given["NO_PROXY"]) == (
        "http://proxy.example.com:3128",
        "10.0.0.0/8,.internal.example.com",
    )
    egress = of("NetworkPolicy", objects)["spec"]["egress"]
    assert {3128} in [{port["port"] for port in rule["ports"]} for rule in egress]


def check_gitops(objects: Objects) -> None:
    assert environment(objects)["KEYTURN_DELIVERIES"] == "false"


CHECKS: dict[str, Callable[[Objects], None]] = {
    "alb": check_alb,
    "argo-cd": check_gitops,
    "eks-auto-mode": check_eks_auto_mode,
    "fargate": check_fargate,
    "flux": check_gitops,
    "gateway-api": check_gateway_api,
    "openshift": check_openshift,
    "poller-first": check_poller_first,
    "private-registry": check_private_registry,
    "proxy": check_proxy,
}
# No Go module that can be had contains definitions of these kinds, so the API server cannot check them here.
WITHOUT_DEFINITION = {"HelmRelease"}


def test_every_example_is_checked() -> None:
    assert list(FILES) == sorted(CHECKS)


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize("recipe", CHECKS)
def test_recipe_is_accepted_by_the_api_server_and_does_what_it_says(control_plane: ControlPlane, recipe: str) -> None:
    objects = rendered(recipe)
    verdict = dry_run(control_plane, objects)
    assert (verdict.returncode, verdict.stderr) == (0, "")
    assert len(verdict.stdout.splitlines()) == len(objects)
    CHECKS[recipe](objects)


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize("recipe", [name for name, file in FILES.items() if "kind" in documents(file)[0]])
def test_objects_of_a_gitops_tool_are_accepted_by_the_api_server(control_plane: ControlPlane, recipe: str) -> None:
    objects = [each for each in documents(FILES[recipe]) if each["kind"] not in WITHOUT_DEFINITION]
    assert objects
    verdict = dry_run(control_plane, objects)
    assert (verdict.returncode, verdict.stderr) == (0, "")
    assert len(verdict.stdout.splitlines()) == len(objects)


def test_release_of_flux_names_its_own_source() -> None:
    """Check the fields by which a HelmRelease finds the chart, because no definition checks them."""
    source, release = documents(FILES["flux"])
    assert release["apiVersion"] == "helm.toolkit.fluxcd.io/v2"
    assert release["spec"].keys() == {"interval", "chartRef", "test", "values"}
    assert release["spec"]["chartRef"] == {"kind": source["kind"], "name": source["metadata"]["name"]}
    assert release["metadata"]["namespace"] == source["metadata"]["namespace"]
