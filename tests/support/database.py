"""Stand-in for a database: users with passwords, over HTTP on loopback."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Database:
    """A server that checks logins, and changes a password for a user that logs in. Each user has one password."""

    def __init__(self, **passwords: str) -> None:
        self.passwords = passwords
        database = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                self.send_response(200 if database.accepts(self.path, body) else 403)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def accepts(self, path: str, body: dict) -> bool:
        """Return whether a request is allowed, and execute it."""
        if path == "/login":
            return self.logs_in(body)
        if not self.logs_in(body["by"]):
            return False
        self.passwords[body["username"]] = body["password"]
        return True

    def logs_in(self, credentials: dict) -> bool:
        """Return whether the database takes a user's name and password now."""
        return self.passwords.get(credentials["username"]) == credentials["password"]

    def close(self) -> None:
        """Stop the server."""
        self._server.shutdown()
        self._server.server_close()
