"""The end-to-end tests run several installations of Keyturn at the same time, so each test module has its own
cluster."""

from collections.abc import Iterator

import pytest

from keyturn_local.kubernetes.control_plane import ControlPlane


@pytest.fixture(scope="module")
def control_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    with ControlPlane.start(tmp_path_factory.mktemp("control-plane")) as running:
        yield running
