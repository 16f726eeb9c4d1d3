"""Stand-in for a database: users with passwords, over HTTP on loopback."""

import json
from http.server import BaseHTTPRequestHandler

from support.http_server import HttpServer, body_of, reply


class Database(HttpServer):
    """A server that checks logins, and changes a user's password for anybody who sends a valid login. Each user has one
    password."""

    def __init__(self, **passwords: str) -> None:
        self.passwords = passwords
        super().__init__(self._answer)

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        reply(request, 200 if self.accepts(request.path, json.loads(body_of(request))) else 403)

    def accepts(self, path: str, body: dict) -> bool:
        """Return whether a request is allowed. If it is, execute it."""
        if path == "/login":
            return self.logs_in(body)
        if not self.logs_in(body["by"]):
            return False
        self.passwords[body["username"]] = body["password"]
        return True

    def logs_in(self, credentials: dict) -> bool:
        """Return whether the database accepts a user's name and password now."""
        return self.passwords.get(credentials["username"]) == credentials["password"]
