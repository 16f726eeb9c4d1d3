"""Fixtures that several tiers share, such as a real control plane and a complete Keyturn on one machine.

Each fixture imports what it starts. If these imports were at the top of the file, they would cost every tier two
seconds, even the unit tests.
"""

import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import hypothesis
import pytest
from xdist.remote import Producer

from keyturn_local.processes.environment import bypass_proxies
from support.scheduling import ByTestOrFile, start_long_tests_first

if TYPE_CHECKING:
    from playwright.sync_api import Browser

    from keyturn_local.aws.server import LocalAws
    from keyturn_local.kubernetes.control_plane import ControlPlane
    from keyturn_local.stack import Stack
    from support.fault_env import FaultEnv
    from support.otlp_collector import OtlpCollector


FEW = {"MaximumConcurrency": "2"}  # at most 2 batches at once, so that few copies of the notifier share the cores


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "long: the test takes half a minute or more, so it starts before others")
    bypass_proxies()
    # A shell makes its background jobs ignore SIGINT. If pytest is such a job, every program that a test starts would
    # ignore SIGINT, too.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # A busy machine makes an example slow. That is no fault of the code.
    hypothesis.settings.register_profile("keyturn", deadline=None)
    hypothesis.settings.load_profile("keyturn")


@pytest.hookimpl(trylast=True)  # runs after tests have been deselected
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if hasattr(config, "workerinput"):  # only workers of pytest-xdist have this attribute
        start_long_tests_first(config.rootpath, items)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> ByTestOrFile | None:
    return ByTestOrFile(config, log) if config.getvalue("dist") == "loadscope" else None


@pytest.fixture(scope="session")
def control_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator["ControlPlane"]:
    from keyturn_local.kubernetes.control_plane import ControlPlane

    with ControlPlane.start(tmp_path_factory.mktemp("control-plane")) as running:
        yield running


@pytest.fixture(scope="session")
def custom_resources(control_plane: "ControlPlane") -> None:
    """Install the custom resource definitions of other projects that the chart's objects need. They stay installed for
    the session."""
    from keyturn_local.toolchain.custom_resources import resolve as definitions

    made = control_plane.kubectl("create", "-o", "name", *(f"--filename={file}" for file in definitions()))
    control_plane.kubectl("wait", "--for=condition=Established", "--timeout=120s", *made.split())


@pytest.fixture(scope="module")
def stack(control_plane: "ControlPlane", tmp_path_factory: pytest.TempPathFactory) -> Iterator["Stack"]:
    """A complete Keyturn, shared by tests that leave it intact. After its first sweep, its poller sleeps for an hour,
    so only events can bring a change."""
    from keyturn_local.stack import run_stack

    settings = {"KEYTURN_POLL_INTERVAL_SECONDS": "3600", "KEYTURN_SIGNING_KEY_INTERVAL_SECONDS": "3600"}
    namespace = f"keyturn-{uuid4().hex[:6]}"
    with run_stack(tmp_path_factory.mktemp("stack"), control_plane, namespace, settings, FEW) as running:
        yield running


@pytest.fixture
def own_stack(control_plane: "ControlPlane", tmp_path: Path) -> "Callable[..., AbstractContextManager[Stack]]":
    """Return a function that starts a stack for a single test. The function takes settings of the receiver, and whether
    the stack signs with KMS."""

    from keyturn_local.stack import run_stack

    def make(kms: bool = False, **settings: str):
        parameters = {**FEW, "SignWithKms": "true" if kms else "false"}
        return run_stack(tmp_path, control_plane, f"keyturn-{uuid4().hex[:6]}", settings, parameters)

    return make


@pytest.fixture
def namespace(control_plane: "ControlPlane") -> Iterator[str]:
    """A namespace that may read the AWS secrets named ``<namespace>/*``."""
    name = f"team-{uuid4().hex[:6]}"
    annotations = {"keyturn.dev/allow-secrets": f"{name}/*"}
    made = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "annotations": annotations}}
    control_plane.create([made])
    yield name
    control_plane.delete_all("secret", name)  # at once, so that no receiver of a later test finds them bound
    control_plane.delete([made], wait=False)


@pytest.fixture(scope="session")
def session_aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator["LocalAws"]:
    from keyturn_local.aws.server import LocalAws

    with LocalAws.start(tmp_path_factory.mktemp("aws")) as running:
        yield running


@pytest.fixture(scope="session")
def signing_key_id(session_aws: "LocalAws") -> str:
    return session_aws.create_signing_key()


@pytest.fixture
def make_env(
    control_plane: "ControlPlane", session_aws: "LocalAws", signing_key_id: str, tmp_path: Path
) -> Iterator[Callable[..., "FaultEnv"]]:
    """Return a function that starts environments with the chart values that the function is given."""
    from support.fault_env import FaultEnv

    with ExitStack() as stack:

        def make(**values: Any) -> "FaultEnv":
            return stack.enter_context(FaultEnv.start(control_plane, session_aws, signing_key_id, tmp_path, values))

        yield make


@pytest.fixture
def env(make_env: Callable[..., "FaultEnv"]) -> "FaultEnv":
    """The environment of fault tests, with the chart's default values."""
    return make_env()


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    """Debian's Chromium, without a window."""
    from playwright.sync_api import sync_playwright

    from keyturn_local.toolchain import chromium

    try:
        program = chromium.resolve()
    except chromium.ChromiumNotFound as error:
        pytest.skip(str(error))
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield launched
        launched.close()


@pytest.fixture
def collector() -> Iterator["OtlpCollector"]:
    from support.otlp_collector import OtlpCollector

    made = OtlpCollector()
    yield made
    made.close()
