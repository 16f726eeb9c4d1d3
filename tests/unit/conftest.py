"""Fixtures of the unit tests."""

import time
from typing import Any

import pytest

from support.virtual_time import VirtualTime


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "virtual_time: asyncio and time.monotonic jump ahead in place of waiting")


@pytest.fixture
def anyio_backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str | tuple[str, dict[str, Any]]:
    if request.node.get_closest_marker("virtual_time") is None:
        return "asyncio"
    virtual = VirtualTime()
    monkeypatch.setattr(time, "monotonic", virtual.monotonic)
    return "asyncio", {"loop_factory": virtual.event_loop}
