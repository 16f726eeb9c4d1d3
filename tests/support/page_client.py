"""A client of the status page's JSON and of its stream."""

import http.client
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit


class PageClient:
    """Sends requests to the page of one receiver, with any headers. ``seen`` has the bytes of every answer."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.seen = bytearray()

    def request(self, path: str, method: str = "GET", headers: Mapping[str, str] | None = None) -> tuple[int, Any]:
        """Return the status and the body: parsed, if it is JSON."""
        connection = self._connect(path, method, headers)
        try:
            reply = connection.getresponse()
            body = reply.read()
        finally:
            connection.close()
        self.seen += str(reply.headers).encode() + body
        is_json = (reply.headers.get("content-type") or "").startswith("application/json")
        return reply.status, json.loads(body) if is_json else body.decode()

    def get(self, path: str) -> Any:
        """Return the body of an answer with the status 200."""
        status, body = self.request(path)
        assert status == 200, body
        return body

    @contextmanager
    def stream(self) -> Iterator[http.client.HTTPResponse]:
        """Open a stream."""
        connection = self._connect("/v1/stream", "GET", None)
        reply = connection.getresponse()
        try:
            yield reply
        finally:
            reply.close()
            connection.close()

    def events(self, reply: http.client.HTTPResponse, seconds: float) -> Iterator[tuple[str, Any]]:
        """Yield the events of a stream that come within some seconds."""
        end, kind = time.monotonic() + seconds, ""
        while time.monotonic() < end:
            line = reply.readline()
            self.seen += line
            name, _, text = line.decode().rstrip("\r\n").partition(": ")
            if name == "event":
                kind = text
            elif name == "data":
                yield kind, json.loads(text)

    def _connect(self, path: str, method: str, headers: Mapping[str, str] | None) -> http.client.HTTPConnection:
        place = urlsplit(self.url)
        connection = http.client.HTTPConnection(str(place.hostname), place.port, timeout=20)
        host = {"Host": f"localhost:{place.port}"}
        connection.putrequest(method, path, skip_host=True)
        for name, value in {**host, **(headers or {})}.items():
            connection.putheader(name, value)
        connection.endheaders()
        return connection
