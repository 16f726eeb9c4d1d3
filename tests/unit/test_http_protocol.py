"""HTTP connections: which of them may be closed to make room for a new one."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from keyturn_receiver.telemetry.metrics import Metrics
from keyturn_receiver.web.connection_limiter import ConnectionLimiter
from keyturn_receiver.web.http_protocol import HttpConnection

pytestmark = pytest.mark.anyio
BODY = b"answer"
REQUEST = b"GET / HTTP/1.1\r\nHost: keyturn\r\n\r\n"


class Transport(asyncio.Transport):
    """A transport to a client. ``is_aborted`` tells whether the server has closed it. ``on_full`` is called when the
    buffer is full, which BODY makes it."""

    def __init__(self) -> None:
        super().__init__({"peername": ("127.0.0.1", 1), "sockname": ("127.0.0.1", 2)})
        self.is_aborted = False
        self.written = b""
        self.on_full: Callable[[], None] = lambda: None

    def write(self, data: Any) -> None:
        self.written += data
        if data == BODY:
            self.on_full()

    def is_closing(self) -> bool:
        return self.is_aborted

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0

    def abort(self) -> None:
        self.is_aborted = True

    def close(self) -> None:
        self.is_aborted = True


@pytest.mark.parametrize("is_answered", [True, False])
async def test_connection_whose_client_reads_late_may_be_closed_once_it_is_answered(is_answered: bool) -> None:
    """The client did not read for a while. Once it does, the server waits for its next request, unless a request is
    still unanswered."""
    may_answer = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await may_answer.wait()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"6")]})
        await send({"type": "http.response.body", "body": BODY})

    limiter, state = ConnectionLimiter(1, Metrics()), ServerState()
    config = uvicorn.Config(app, http=HttpConnection, lifespan="off", log_config=None)
    config.load()
    connection, transport = HttpConnection(limiter, config, state), Transport()
    connection.connection_made(transport)
    connection.data_received(REQUEST)
    if is_answered:
        transport.on_full = connection.pause_writing
        may_answer.set()
    else:
        connection.pause_writing()
    await asyncio.sleep(0.05)
    connection.resume_writing()
    await asyncio.sleep(0.05)
    assert (b"200 OK" in transport.written) is is_answered
    second, new = HttpConnection(limiter, config, state), Transport()
    second.connection_made(new)
    assert (transport.is_aborted, new.is_aborted) == (is_answered, not is_answered)
    may_answer.set()
    await asyncio.sleep(0.05)
    for each in (connection, second):
        each.connection_lost(None)
