"""Label events, which moto lacks. AWS Secrets Manager sends such an event whenever a staging label moves.

The events follow from the labels before and after each request, whatever the request's parameters are.
https://docs.aws.amazon.com/secretsmanager/latest/userguide/monitoring-eventbridge.html
"""

import json
import threading
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from moto.events import events_backends
from moto.events.utils import EventTemplateParser
from moto.secretsmanager import secretsmanager_backends

from keyturn_local.aws.sdk import ACCOUNT, REGION
from keyturn_local.timeline import Timeline

UNREPORTED = frozenset({"AWSPENDING", "AWSPREVIOUS"})  # moves of these labels send no event

# moto's own template lacks `account`, and its keys are not in AWS's order.
_EVENT_TEMPLATE = (
    '{"version": "0", "id": "<id>", "detail-type": "<detail-type>", "source": "<source>", "account": "<account>",'
    ' "time": <time>, "region": "<region>", "resources": <resources>, "detail": <detail>}'
)


@dataclass(frozen=True)
class Move:
    """The move of a staging label to a version of a secret."""

    arn: str
    name: str
    label: str
    version_id: str


class LabelEvents:
    """WSGI middleware around moto. It puts label moves on the event bus, and counts calls by AWS action."""

    def __init__(self, application: WSGIApplication, timeline: Timeline) -> None:
        EventTemplateParser.DEFAULT_EVENT_INPUT_TEMPLATE = _EVENT_TEMPLATE
        self._application = application
        self._timeline = timeline
        self._lock = threading.Lock()
        self._calls: Counter[str] = Counter()

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/keyturn/calls":
            start_response("200 OK", [("Content-Type", "application/json")])
            return [json.dumps(self._calls).encode()]
        action = environ.get("HTTP_X_AMZ_TARGET", "")
        self._calls[action] += 1
        if not action.startswith("secretsmanager."):
            return self._application(environ, start_response)
        with self._lock:
            before = _labels()
            answer = self._application(environ, start_response)
            moves = _moves(before, _labels())
            _complete(moves)
        for move in moves:
            self._publish(move)
        return answer

    def _publish(self, move: Move) -> None:
        self._timeline.add(
            "label moved", label=move.label, secret_arn=move.arn, secret_name=move.name, version_id=move.version_id
        )
        entry = {
            "Source": "aws.secretsmanager",
            "DetailType": "Secret Label Updated",
            "Time": time.time(),
            "Resources": [move.arn],
            "Detail": json.dumps({"name": move.name, "labelUpdated": move.label, "versionId": move.version_id}),
        }
        events_backends[ACCOUNT][REGION].put_events([entry])


def _labels() -> dict[tuple[str, str, str], str]:
    """Return the version id of each label, by the secret's ARN, its name, and the label."""
    store = secretsmanager_backends[ACCOUNT][REGION].secrets
    return {
        (secret.arn, secret.name, label): version_id
        for secret in store.values()
        for version_id, version in getattr(secret, "versions", {}).items()
        for label in version["version_stages"]
    }


def _moves(before: Mapping[tuple[str, str, str], str], after: Mapping[tuple[str, str, str], str]) -> list[Move]:
    return [
        Move(arn, name, label, version_id)
        for (arn, name, label), version_id in after.items()
        if before.get((arn, name, label)) != version_id and label not in UNREPORTED
    ]


def _complete(moves: list[Move]) -> None:
    """Update each secret's default version and date of the last change. moto does not do so when a label moves."""
    store = secretsmanager_backends[ACCOUNT][REGION].secrets
    for move in moves:
        store[move.arn].last_changed_date = int(time.time())
        if move.label == "AWSCURRENT":
            store[move.arn].set_default_version_id(move.version_id)
