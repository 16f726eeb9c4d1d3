"""Streams of server-sent events to open pages: https://html.spec.whatwg.org/multipage/server-sent-events.html"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress

from sse_starlette import EventSourceResponse, ServerSentEvent
from sse_starlette.sse import SendTimeoutError
from starlette.types import Receive, Scope, Send

from keyturn_receiver.status.rotation import Rotation

MAX_STREAMS = 8
INTERVAL = 0.5  # seconds; a page gets at most one snapshot in this time
QUIET = 15.0  # seconds without a change; after them, a page gets a snapshot, which shows that the receiver still runs
MAX_PENDING = 200  # at most this many changed rotations wait in a stream; the snapshot shows the other ones
SEND_TIMEOUT = 15.0  # seconds; if a page does not read an event within this time, its stream ends
RETRY = 2000  # milliseconds after which a browser connects again
TOO_MANY = f"{MAX_STREAMS} pages are open already: close one of them, or reload this page to refresh it"

_Pending = dict[str, tuple[str, Rotation]]  # the last change of each rotation, by the rotation's id


class Streams:
    """Publisher. It sends changes to every open stream. Changes within INTERVAL seconds are sent together.

    ``snapshot`` returns the data of the first screen as JSON. ``encode`` returns one rotation as JSON.
    """

    def __init__(self, snapshot: Callable[[], bytes], encode: Callable[[Rotation], bytes]) -> None:
        self._snapshot = snapshot
        self._encode = encode
        self._open: set[Stream] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._told_at = 0.0
        self._shared: tuple[float, bytes] | None = None  # a snapshot, and the time at which it was made
        self.ended = False

    def __len__(self) -> int:
        return len(self._open)

    def open(self) -> "Stream | None":
        """Return a new stream, or None if MAX_STREAMS streams are already open."""
        if len(self._open) >= MAX_STREAMS:
            return None
        stream = Stream(self)
        self._open.add(stream)
        return stream

    def close(self, stream: "Stream") -> None:
        """Remove a stream from the open streams."""
        self._open.discard(stream)

    def on_rotation(self, rotation: Rotation, kind: str) -> None:
        """Send a changed rotation to the streams. ``kind`` is the type of the server-sent event."""
        for stream in self._open:
            stream.add(rotation, kind)
        self.on_change()

    def on_change(self) -> None:
        """Send a snapshot to the streams within INTERVAL seconds."""
        if self._open and self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_at(max(loop.time(), self._told_at + INTERVAL), self._tell)

    def _tell(self) -> None:
        self._timer, self._shared = None, None
        self._told_at = asyncio.get_running_loop().time()
        for stream in self._open:
            stream.due.set()

    def end(self) -> None:
        """End all streams, because the process ends. The pages then connect to another process."""
        self.ended = True
        for stream in self._open:
            stream.due.set()

    def snapshot(self) -> bytes:
        """Return the data of the first screen as JSON. All streams share one snapshot. It is made again after a change,
        and when it is INTERVAL seconds old."""
        now = asyncio.get_running_loop().time()
        if self._shared is None or now - self._shared[0] >= INTERVAL:
            self._shared = (now, self._snapshot())
        return self._shared[1]

    def encode(self, rotation: Rotation) -> bytes:
        """Return one rotation as JSON."""
        return self._encode(rotation)


class Stream:
    """Stream of events to one open page."""

    def __init__(self, streams: Streams) -> None:
        self._streams = streams
        self.pending: _Pending = {}
        self.due = asyncio.Event()

    def add(self, rotation: Rotation, kind: str) -> None:
        """Keep the last change of a rotation until the next events are sent. If MAX_PENDING rotations already wait,
        drop the oldest one."""
        if len(self.pending) >= MAX_PENDING and rotation.id not in self.pending:
            del self.pending[next(iter(self.pending))]
        self.pending[rotation.id] = (kind, rotation)

    def close(self) -> None:
        """Close the stream, so that another page can be opened."""
        self._streams.close(self)

    async def events(self) -> AsyncIterator[ServerSentEvent]:
        """Yield the events of the stream. The first event is a snapshot. After a change, the changed rotations come
        first, and then a new snapshot."""
        while not self._streams.ended:
            pending, self.pending = self.pending, {}
            for kind, rotation in pending.values():
                yield _event(kind, self._streams.encode(rotation))
            yield _event("snapshot", self._streams.snapshot())
            with suppress(TimeoutError):
                async with asyncio.timeout(QUIET):
                    await self.due.wait()
            self.due.clear()


class StreamResponse(EventSourceResponse):
    """HTTP response with the events of a stream. When the response ends, the stream is closed, even if the end is an
    error."""

    def __init__(self, stream: Stream) -> None:
        # The stream's own snapshots keep the connection alive, so the response hardly needs pings.
        super().__init__(stream.events(), ping=3600, send_timeout=SEND_TIMEOUT)
        self._stream = stream

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            with suppress(SendTimeoutError):
                await super().__call__(scope, receive, send)
        finally:
            self._stream.close()


def _event(kind: str, content: bytes) -> ServerSentEvent:
    return ServerSentEvent(content.decode(), event=kind, retry=RETRY)
