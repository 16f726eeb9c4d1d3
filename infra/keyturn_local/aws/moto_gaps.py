"""Features that moto does not have: two effects of a move of a staging label, RotateSecret without Docker, and a count
of calls."""

import io
import json
import time
from collections import Counter
from collections.abc import Iterable
from typing import Any
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from moto.secretsmanager import secretsmanager_backends

from keyturn_local.aws.sdk import ACCOUNT, REGION

MOVE = "secretsmanager.UpdateSecretVersionStage"
ROTATE = "secretsmanager.RotateSecret"
CALLS = "/keyturn/calls"


class MotoGaps:
    """WSGI middleware that adds the features of this module to moto."""

    def __init__(self, application: WSGIApplication) -> None:
        self._application = application
        self._calls: Counter[str] = Counter()

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if environ["PATH_INFO"] == CALLS:
            start_response("200 OK", [("Content-Type", "application/json")])
            return [json.dumps(self._calls).encode()]
        action = environ.get("HTTP_X_AMZ_TARGET", "")
        self._calls[action] += 1
        if action not in (MOVE, ROTATE):
            return self._application(environ, start_response)
        content = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
        environ["wsgi.input"] = io.BytesIO(content)
        request = json.loads(content)
        secret: Any = secretsmanager_backends[ACCOUNT][REGION].secrets.get(request["SecretId"])
        if action == ROTATE and secret:
            status, reply = _rotate(secret, request)
            start_response(status, [("Content-Type", "application/x-amz-json-1.1")])
            return [json.dumps(reply).encode()]
        body = self._application(environ, start_response)
        if action == MOVE and secret:
            _complete(secret)
        return body


def _complete(secret: Any) -> None:
    """Add the effects that moto leaves out when a staging label moves: set the date of the last change to now, and make
    the current version the default version."""
    secret.last_changed_date = int(time.time())
    for version_id, version in secret.versions.items():
        if "AWSCURRENT" in version["version_stages"]:
            secret.set_default_version_id(version_id)


def _rotate(secret: Any, request: dict[str, Any]) -> tuple[str, dict[str, str]]:
    """Start a rotation: create an empty version with the staging label AWSPENDING. The steps of the rotation function
    are not run here, but in rotation.py.

    https://docs.aws.amazon.com/secretsmanager/latest/apireference/API_RotateSecret.html
    """
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
