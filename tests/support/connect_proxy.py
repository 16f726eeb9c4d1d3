"""A forward proxy on loopback, as companies have them. It tunnels connections that clients request with CONNECT, and
records each request.
"""

import asyncio
import ssl
import threading
from collections.abc import Coroutine, Mapping
from typing import Any, Self
from urllib.parse import urlsplit


class ConnectProxy:
    """A forward proxy, and the servers that it reaches.

    ``servers`` maps the name of each server to the URL of the server that answers in its place. The class ends TLS with
    the context ``tls`` in front of this URL. No other name can be reached.
    """

    def __init__(self, servers: Mapping[str, str], tls: ssl.SSLContext) -> None:
        self.asked: list[str] = []  # method and target of each request
        self.url = ""
        self._servers = servers
        self._tls = tls
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._front = self._run(asyncio.start_server(self._serve_tls, "127.0.0.1", 0, ssl=self._tls))
        self._proxy = self._run(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._proxy.sockets[0].getsockname()[1]}"
        return self

    def __exit__(self, *_: object) -> None:
        self._run(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def _run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _stop(self) -> None:
        for server in (self._proxy, self._front):
            server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        method, target, _ = head.splitlines()[0].split()
        self.asked.append(f"{method} {target}")
        if method != "CONNECT" or target.removesuffix(":443") not in self._servers:
            writer.write(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            writer.close()
            return
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        await self._join(reader, writer, self._front.sockets[0].getsockname()[1])

    async def _serve_tls(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        (url,) = set(self._servers.values())
        await self._join(reader, writer, urlsplit(url).port or 80)

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int) -> None:
        upstream_reader, upstream_writer = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(_copy(reader, upstream_writer), _copy(upstream_reader, writer), return_exceptions=True)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while piece := await reader.read(65536):
            writer.write(piece)
            await writer.drain()
    finally:
        writer.close()
