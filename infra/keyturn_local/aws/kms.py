"""What moto lacks: a KMS key of the kind ECC_NIST_EDWARDS25519. Any key id is that one key.

https://docs.aws.amazon.com/kms/latest/APIReference/API_Sign.html
"""

import base64
import json
from collections.abc import Callable, Iterable
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

LIMIT = 4096  # bytes of a message that is signed as it is

Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


class Ed25519Kms:
    """Wraps moto's WSGI application: answers Sign and GetPublicKey, as KMS does for such a key."""

    def __init__(self, application: Application) -> None:
        self._application = application
        self._key = Ed25519PrivateKey.generate()

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        action = environ.get("HTTP_X_AMZ_TARGET", "")
        if action not in ("TrentService.Sign", "TrentService.GetPublicKey"):
            return self._application(environ, start_response)
        request = json.loads(environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"])))
        answer = self._sign(request) if action == "TrentService.Sign" else self._public_key(request)
        fault = "__type" in answer
        start_response("400 Bad Request" if fault else "200 OK", [("Content-Type", "application/x-amz-json-1.1")])
        return [json.dumps(answer).encode()]

    def _sign(self, request: dict[str, Any]) -> dict[str, str]:
        message = base64.b64decode(request["Message"])
        if request.get("SigningAlgorithm") != "ED25519_SHA_512" or request.get("MessageType") != "RAW":
            return {"__type": "InvalidKeyUsageException"}
        if not 1 <= len(message) <= LIMIT:
            return {"__type": "ValidationException"}
        return {"KeyId": request["KeyId"], "Signature": base64.b64encode(self._key.sign(message)).decode()}

    def _public_key(self, request: dict[str, Any]) -> dict[str, str]:
        der = self._key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return {"KeyId": request["KeyId"], "PublicKey": base64.b64encode(der).decode()}
