"""The stack with default parameters: each way to rotate a secret ends with the value in the Secret."""

import ssl
from collections.abc import Iterator

import httpx
import pytest

from keyturn_local.aws.emulator.server import Emulator
from keyturn_local.kubernetes.control_plane import ControlPlane
from support.site import Site
from support.wait import eventually


@pytest.fixture(scope="module")
def site(control_plane: ControlPlane, emulator: Emulator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with Site.run(control_plane, emulator, tmp_path_factory.mktemp("site")) as running:
        yield running


def test_put_value_arrives_signed_over_tls(site: Site) -> None:
    site.bind("token")
    version_id = site.put("token", "second")
    site.wait_applied("token", "second")
    eventually(lambda: version_id in site.delivered())
    (line,) = [line for line in site.log() if line.get("version_id") == version_id and line["message"] == "delivered"]
    assert line["event_name"] == "SecretLabelUpdated"
    assert site.receiver.metric("keyturn_deliveries_total", code="200") >= 1


def test_receiver_of_the_stack_refuses_a_delivery_without_a_signature(site: Site) -> None:
    context = ssl.create_default_context(cadata=site.endpoints.certificate.bundle.decode())
    reply = httpx.post(site.receiver.url, content=b"{}", verify=context)
    assert reply.status_code == 401
