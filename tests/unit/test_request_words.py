"""Words for requests to the Kubernetes API: no message shows a path of the API."""

import pytest

from keyturn_receiver.cluster.api import path
from keyturn_receiver.cluster.request_words import action


@pytest.mark.parametrize(
    ("method", "where", "words"),
    [
        ("PATCH", path("v1", "secrets", "shop", "db"), "writing Secret shop/db"),
        ("GET", path("v1", "secrets", "shop", "db"), "reading Secret shop/db"),
        ("DELETE", path("v1", "secrets", "shop", "db"), "deleting Secret shop/db"),
        ("GET", path("v1", "secrets"), "listing secrets"),
        ("GET", path("v1", "secrets", "shop"), "listing secrets in namespace shop"),
        ("GET", path("v1", "namespaces"), "listing namespaces"),
        ("GET", path("v1", "namespaces", None, "shop"), "reading Namespace shop"),
        ("POST", path("v1", "events", "shop"), "creating Event in namespace shop"),
        ("PATCH", path("apps/v1", "deployments", "shop", "web"), "writing Deployment shop/web"),
        ("PATCH", path("apps/v1", "statefulsets", "shop", "web"), "writing StatefulSet shop/web"),
        ("PUT", path("coordination.k8s.io/v1", "leases", "keyturn", "poller"), "writing Lease keyturn/poller"),
        (
            "POST",
            path("v1", "serviceaccounts", "shop", "app") + "/token",
            "creating token of ServiceAccount shop/app",
        ),
        ("GET", path("example.com/v1", "shops", "shop", "a/b"), "reading shops shop/a/b"),
    ],
)
def test_request_is_told_in_words(method: str, where: str, words: str) -> None:
    assert action(method, where) == words
