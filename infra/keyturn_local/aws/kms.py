"""KMS key with the spec ECC_NIST_EDWARDS25519, which moto lacks. Every key id refers to this one key.

https://docs.aws.amazon.com/kms/latest/APIReference/API_Sign.html
"""

import base64
import json
from collections.abc import Iterable
from typing import Any
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

MAX_MESSAGE = 4096  # bytes in a message of the type RAW


class Ed25519Kms:
    """WSGI middleware around moto. It answers Sign and GetPublicKey as KMS does for such a key."""

    def __init__(self, application: WSGIApplication) -> None:
        self._application = application
        self._key = Ed25519PrivateKey.generate()

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        action = environ.get("HTTP_X_AMZ_TARGET", "")
        if action not in ("TrentService.Sign", "TrentService.GetPublicKey"):
            return self._application(environ, start_response)
        request = json.loads(environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"])))
        answer = self._sign(request) if action == "TrentService.Sign" else self._public_key(request)
        failed = "__type" in answer
        start_response("400 Bad Request" if failed else "200 OK", [("Content-Type", "application/x-amz-json-1.1")])
        return [json.dumps(answer).encode()]

    def _sign(self, request: dict[str, Any]) -> dict[str, str]:
        message = base64.b64decode(request["Message"])
        if request.get("SigningAlgorithm") != "ED25519_SHA_512" or request.get("MessageType") != "RAW":
            return {"__type": "InvalidKeyUsageException"}
        if not 1 <= len(message) <= MAX_MESSAGE:
            return {"__type": "ValidationException"}
        return {"KeyId": request["KeyId"], "Signature": base64.b64encode(self._key.sign(message)).decode()}

    def _public_key(self, request: dict[str, Any]) -> dict[str, str]:
        der = self._key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return {"KeyId": request["KeyId"], "PublicKey": base64.b64encode(der).decode()}
