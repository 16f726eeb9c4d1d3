"""RotateSecret, which moto serves only where it can run the rotation function in Docker.

Here it does the part of Secrets Manager before the function's first step; ``rotation.rotate_by_function`` runs the
steps. https://docs.aws.amazon.com/secretsmanager/latest/apireference/API_RotateSecret.html
"""

import io
import json
import time
from collections.abc import Iterable
from typing import Any
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from moto.secretsmanager import secretsmanager_backends

from keyturn_local.aws.sdk import ACCOUNT, REGION


class RotationRequests:
    """WSGI middleware around moto: a rotation starts with an empty version that is labelled AWSPENDING."""

    def __init__(self, application: WSGIApplication) -> None:
        self._application = application

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if environ.get("HTTP_X_AMZ_TARGET") != "secretsmanager.RotateSecret":
            return self._application(environ, start_response)
        content = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
        environ["wsgi.input"] = io.BytesIO(content)
        status, answer = _rotate(json.loads(content))
        start_response(status, [("Content-Type", "application/x-amz-json-1.1")])
        return [json.dumps(answer).encode()]


def _rotate(request: dict[str, Any]) -> tuple[str, dict[str, str]]:
    secret: Any = secretsmanager_backends[ACCOUNT][REGION].secrets[request["SecretId"]]
    version_id = request["ClientRequestToken"]
    for other, version in secret.versions.items():
        labels = version["version_stages"]
        if "AWSPENDING" in labels and "AWSCURRENT" not in labels and other != version_id:
            text = "A previous rotation isn't complete."
            return "400 Bad Request", {"__type": "InvalidRequestException", "message": text}
    secret.remove_version_stages_from_old_versions(["AWSPENDING"])
    secret.versions[version_id] = {
        "createdate": int(time.time()),
        "version_id": version_id,
        "version_stages": ["AWSPENDING"],
    }
    secret.rotation_requested = secret.rotation_enabled = True
    secret.rotation_lambda_arn = request.get("RotationLambdaARN", secret.rotation_lambda_arn)
    return "200 OK", {"ARN": secret.arn, "Name": secret.name, "VersionId": version_id}
