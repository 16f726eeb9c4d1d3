"""Tests of the deployed stack: SAM's command line deploys it to an emulator. Each test process has its own emulator."""

from collections.abc import Iterator
from uuid import uuid4

import pytest

from keyturn_local.aws.emulator import sam
from keyturn_local.aws.emulator.server import Emulator
from keyturn_local.kubernetes.control_plane import ControlPlane
from support.installed_site import InstalledSite
from support.site import Endpoints, Site


@pytest.fixture(scope="session")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulator]:
    with Emulator.start(tmp_path_factory.mktemp("emulator")) as running:
        yield running


@pytest.fixture(scope="module")
def installed(
    control_plane: ControlPlane, emulator: Emulator, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[InstalledSite]:
    """A site as the command line sees it, with a receiver that the API server's proxy reaches."""
    directory = tmp_path_factory.mktemp("installed")
    endpoints = Endpoints(directory)
    deployment = sam.deploy(emulator, f"keyturn-{uuid4().hex[:6]}", endpoints.parameters())
    with Site.of(control_plane, deployment, endpoints, directory) as site:
        site.start_receivers(KEYTURN_HOST="0.0.0.0")  # noqa: S104 - the API server's proxy reaches no loopback
        site.bind("db")
        running = InstalledSite(site, directory)
        sent = running.doctor("--send")
        (heartbeat,) = (each for each in sent.data()["findings"] if each["section"] == "heartbeat")
        assert heartbeat["level"] == "ok", heartbeat
        yield running
    deployment.delete()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what tests have measured."""
    for report in terminalreporter.getreports("passed"):
        for name, value in report.user_properties:
            terminalreporter.write_line(f"{name}: {value}")
