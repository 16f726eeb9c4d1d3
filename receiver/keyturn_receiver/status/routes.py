"""HTTP routes of the status page: the page, the JSON, and the stream of changes."""

import base64
import hashlib
from pathlib import Path
from urllib.parse import unquote

import msgspec
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.templating import Jinja2Templates
from starlette.types import ASGIApp

from keyturn_receiver.core.binding import Target
from keyturn_receiver.status.guard import Guard
from keyturn_receiver.status.page_data import MAX_PAGE, PageData
from keyturn_receiver.status.streams import TOO_MANY, StreamResponse, Streams
from keyturn_receiver.status.views import Replica

TEMPLATES = Path(__file__).parent / "templates"
PAGE_SIZE = 50
MAX_QUERY = 300  # at most this many characters of a search text
NOT_BOUND = (
    "no Secret of this name is bound: look at its label keyturn.dev/bind; if another controller fills it, run keyturn"
    " trace NAMESPACE/NAME"
)


def status_app(data: PageData, streams: Streams, replica: Replica) -> ASGIApp:
    """Build the ASGI application. ``replica`` is part of the page itself, so the page shows it even before the first
    snapshot arrives."""
    style, script = ((TEMPLATES / name).read_text() for name in ("page.css", "page.js"))
    policy = (
        f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(script)}'; connect-src 'self';"
        " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    environment = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined)
    templates = Jinja2Templates(env=environment)
    inlined = {"style": Markup(style), "script": Markup(script), "replica": replica}  # noqa: S704 - our own files

    async def page(request: Request) -> Response:
        return templates.TemplateResponse(request, "page.html", inlined)

    async def status(_: Request) -> Response:
        return _json(data.snapshot())

    async def bindings(request: Request) -> Response:
        query = request.query_params
        offset, limit = (
            _number(query.get("offset", "0"), "offset"),
            _number(query.get("limit", str(PAGE_SIZE)), "limit"),
        )
        text = query.get("q", "")
        if len(text) > MAX_QUERY:
            raise HTTPException(400, f"q has more than {MAX_QUERY} characters: search for a part of a name")
        found = await data.bindings(text.strip(), query.get("failing") == "1", offset, limit)
        return _json(msgspec.json.encode(found))

    async def binding(request: Request) -> Response:
        target = Target(unquote(request.path_params["namespace"]), unquote(request.path_params["name"]))
        found = await data.binding(target, request.query_params.get("history", "1") == "1")
        if found is None:
            raise HTTPException(404, NOT_BOUND)
        return _json(msgspec.json.encode(found))

    async def stream(_: Request) -> Response:
        opened = streams.open()
        if opened is None:
            raise HTTPException(503, TOO_MANY, {"Retry-After": "30"})
        return StreamResponse(opened)

    routes = [
        Route("/", page),
        Route("/v1/status", status),
        Route("/v1/bindings", bindings),
        Route("/v1/bindings/{namespace}/{name}", binding),
        Route("/v1/stream", stream),
    ]
    handlers = {HTTPException: _error}
    app = Starlette(routes=routes, exception_handlers=handlers, middleware=[Middleware(Guard, policy=policy)])
    app.router.redirect_slashes = False
    return app


async def _error(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - for the type checker
    sentence = "there is no such page: the paths are in docs/status-page.md" if error.status_code == 404 else ""
    detail = error.detail if error.detail != "Not Found" else sentence
    return Response(msgspec.json.encode({"error": detail}), error.status_code, error.headers, "application/json")


def _json(content: bytes) -> Response:
    return Response(content, media_type="application/json")


def _number(text: str, name: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= 6):
        raise HTTPException(400, f"{name} has to be a whole number, at most {MAX_PAGE if name == 'limit' else 999999}")
    return int(text)


def _hash(text: str) -> str:
    """Return the source expression for a Content-Security-Policy. The expression permits this inline text and no
    other."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
