"""Guard middleware of the status page. It refuses requests that a browser sends on behalf of another site.

The page has no login: everybody with the right to forward a port of the pod may see the page. But every other site in
the viewer's browser can also send requests to localhost.
"""

import json
import re

from starlette.types import ASGIApp, Message, Receive, Scope, Send

# The check of the host name prevents DNS rebinding. In that attack, the attacker's own host name resolves to 127.0.0.1.
_HOST = re.compile(rb"(localhost|127\.0\.0\.1|\[::1\])(:[0-9]{1,5})?", re.IGNORECASE)
_METHODS = ("GET", "HEAD")
_SITES = (b"same-origin", b"none")  # https://www.w3.org/TR/fetch-metadata/#sec-fetch-site-header

WRONG_HOST = "this page answers to localhost, 127.0.0.1 and [::1] only: open it under one of these names"
CROSS_SITE = "another site's page sent this request: open the status page by its address"
NOT_GET = "the status page only shows: use GET"


class Guard:
    """ASGI middleware. It refuses other hosts, requests of other sites, and methods that change something. It adds
    headers to each answer. With these headers, other sites cannot read or frame the answer, and the browser does not
    store it. ``policy`` is the Content-Security-Policy."""

    def __init__(self, app: ASGIApp, policy: str) -> None:
        self._app = app
        self._headers = [
            (b"content-security-policy", policy.encode()),
            (b"x-content-type-options", b"nosniff"),
            (b"x-frame-options", b"DENY"),
            (b"referrer-policy", b"no-referrer"),
            (b"cross-origin-resource-policy", b"same-origin"),
            (b"cross-origin-opener-policy", b"same-origin"),
            (b"cache-control", b"no-store"),
        ]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                names = {name for name, _ in self._headers}
                kept = [each for each in message.get("headers", ()) if each[0].lower() not in names]
                message = {**message, "headers": [*kept, *self._headers]}
            await send(message)

        refusal = self._refusal(scope)
        if refusal:
            await _refuse(send_guarded, *refusal)
        else:
            await self._app(scope, receive, send_guarded)

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        headers = scope["headers"]
        hosts = [value for name, value in headers if name == b"host"]
        if len(hosts) != 1 or not _HOST.fullmatch(hosts[0]):
            return 403, WRONG_HOST
        if any(name == b"sec-fetch-site" and value not in _SITES for name, value in headers):
            return 403, CROSS_SITE
        if scope["method"] not in _METHODS:
            return 405, NOT_GET
        return None


async def _refuse(send: Send, status: int, sentence: str) -> None:
    body = json.dumps({"error": sentence}).encode()
    allow = [(b"allow", b"GET, HEAD")] if status == 405 else []
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), *allow]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
