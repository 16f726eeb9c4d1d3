"""What several unit tests stand on."""

import pytest


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"
