"""The common parts of all imitations of AWS: a small HTTP server, a client for its actions, and an STS reply.

Each imitation has a function of its own that answers requests. An imitation is faster than moto, and it can give wrong
answers on purpose.
"""

import asyncio
import json
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import httptools

JSON = "application/x-amz-json-1.1"
ASSUME_ROLE = "AssumeRoleWithWebIdentity"
_ACTION, _AUTHORIZATION = b"x-amz-target", b"authorization"  # the headers that an imitation reads


@dataclass(frozen=True, slots=True)
class Reply:
    """A reply, which is sent after ``delay`` seconds."""

    content: bytes
    content_type: str = JSON
    status: int = 200
    delay: float = 0.0


Answer = Callable[[str, bytes, str], Reply | None]
"""Function ``answer(action, body, authorization)`` that answers a request. The action is empty for a call to STS and
for a readiness check. The last argument is the header Authorization. If the function returns None, no reply is sent."""


class Connection(asyncio.Protocol):
    """One HTTP/1.1 connection, which is kept alive."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._parser = httptools.HttpRequestParser(self)
        self._headers: dict[bytes, str] = {}
        self._body = b""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_begin(self) -> None:
        self._headers, self._body = {}, b""

    def on_header(self, name: bytes, value: bytes) -> None:
        if (name := name.lower()) in (_ACTION, _AUTHORIZATION):
            self._headers[name] = value.decode("latin-1")

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        reply = self._answer(self._headers.get(_ACTION, ""), self._body, self._headers.get(_AUTHORIZATION, ""))
        if reply:
            head = f"HTTP/1.1 {reply.status} OK\r\nContent-Type: {reply.content_type}\r\n"
            head += f"Content-Length: {len(reply.content)}\r\n\r\n"
            asyncio.get_running_loop().call_later(reply.delay, self._transport.write, head.encode() + reply.content)


async def serve(host: str, port: int, answer: Answer) -> None:
    """Serve HTTP on ``host`` and ``port`` until the task is cancelled."""
    server = await asyncio.get_running_loop().create_server(lambda: Connection(answer), host, port)
    await server.serve_forever()


def ask(endpoint_url: str, action: str, body: Any) -> Any:
    """Call an action of an imitation, and return the parsed reply. The action may also be one that controls the
    imitation."""
    content, headers = json.dumps(body).encode(), {"X-Amz-Target": action}
    request = urllib.request.Request(endpoint_url, content, headers)  # noqa: S310 - loopback
    with urllib.request.urlopen(request, timeout=30) as reply:  # noqa: S310 - loopback
        return json.load(reply)


def assumed_role(access_key: str, secret_key: str, session_token: str, expiration: datetime) -> str:
    """Return STS's reply to AssumeRoleWithWebIdentity, as XML with these credentials."""
    keys = f"<AccessKeyId>{access_key}</AccessKeyId><SecretAccessKey>{secret_key}</SecretAccessKey>"
    session = f"<SessionToken>{session_token}</SessionToken><Expiration>{expiration:%Y-%m-%dT%H:%M:%SZ}</Expiration>"
    result = f"<{ASSUME_ROLE}Result><Credentials>{keys}{session}</Credentials></{ASSUME_ROLE}Result>"
    namespace = "https://sts.amazonaws.com/doc/2011-06-15/"
    return f'<{ASSUME_ROLE}Response xmlns="{namespace}">{result}</{ASSUME_ROLE}Response>'
