"""Imitates EKS's agent for Pod Identity: it exchanges the token in a file for credentials that expire.

https://docs.aws.amazon.com/eks/latest/userguide/pod-id-how-it-works.html
"""

import base64
import json
import threading
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler
from pathlib import Path

from keyturn_local.processes.ports import free_ports
from support.http_server import HttpServer, reply

ACCOUNT = "123456789012"


def token_for(namespace: str, name: str) -> str:
    """Return a ServiceAccount's token in the form in which the kubelet writes it into a file. Its signature is not
    valid."""
    claims = {"sub": f"system:serviceaccount:{namespace}:{name}", "aud": ["pods.eks.amazonaws.com"]}
    parts = ({"alg": "RS256"}, claims, "signature")
    return ".".join(base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts)


class PodIdentityAgent:
    """The agent on loopback. It listens from ``start`` until ``stop``.

    ``status`` is the status of its replies to requests with the right token. The credentials are valid for
    ``lifetime``. After ``hang``, the agent accepts requests but does not answer them.
    """

    def __init__(self, directory: Path, lifetime: timedelta = timedelta(hours=6)) -> None:
        (self._port,) = free_ports(1)
        self.uri = f"http://127.0.0.1:{self._port}/v1/credentials"
        self.token_file = directory / "eks-pod-identity-token"
        self.token_file.write_text(token_for("keyturn", "keyturn"))
        self.lifetime = lifetime
        self.status = 200
        self.requests = 0
        self._hanging = threading.Event()
        self._released = threading.Event()
        self._server: HttpServer | None = None

    def variables(self) -> dict[str, str]:
        """Return the variables that EKS sets in a pod, and clear the variables of static keys."""
        return {
            "AWS_CONTAINER_CREDENTIALS_FULL_URI": self.uri,
            "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": str(self.token_file),
            "AWS_ACCESS_KEY_ID": "",
            "AWS_SECRET_ACCESS_KEY": "",
        }

    def start(self) -> None:
        """Start listening."""
        self._server = HttpServer(self._answer, self._port)

    def stop(self) -> None:
        """Stop listening."""
        self.hang(False)
        if self._server:
            self._server.close()
            self._server = None

    def hang(self, hanging: bool = True) -> None:
        """Stop answering requests, or answer them again if ``hanging`` is false."""
        if hanging:
            self._released.clear()
            self._hanging.set()
        else:
            self._hanging.clear()
            self._released.set()

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        self.requests += 1
        if self._hanging.is_set():
            self._released.wait(60)
            return
        body: dict[str, str] = {}
        if request.headers.get("Authorization") != self.token_file.read_text():
            status = 401
        elif self.status == 200:
            status = 200
            expiration = (datetime.now(UTC) + self.lifetime).strftime("%Y-%m-%dT%H:%M:%SZ")
            body = {
                "AccessKeyId": "testing",
                "SecretAccessKey": "testing",
                "Token": "testing",
                "AccountId": ACCOUNT,
                "Expiration": expiration,
            }
        else:
            status = self.status
        reply(request, status, json.dumps(body).encode())
