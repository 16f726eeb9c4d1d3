"""What moto lacks: the event that AWS Secrets Manager sends whenever a staging label moves.

Derived from the labels as they stand before and after each request, not from what the request asked for.
https://docs.aws.amazon.com/secretsmanager/latest/userguide/monitoring-eventbridge.html
"""

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from moto.events import events_backends
from moto.events.utils import EventTemplateParser
from moto.secretsmanager import secretsmanager_backends

from keyturn_local.timeline import Timeline

ACCOUNT = "123456789012"
REGION = "us-east-1"
SILENT = frozenset({"AWSPENDING", "AWSPREVIOUS"})  # labels whose moves AWS does not tell of

# moto hands an event on without its `account`, and with its keys in another order than AWS's.
_AS_AWS_SENDS_IT = (
    '{"version": "0", "id": "<id>", "detail-type": "<detail-type>", "source": "<source>", "account": "<account>",'
    ' "time": <time>, "region": "<region>", "resources": <resources>, "detail": <detail>}'
)

Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


@dataclass(frozen=True)
class Move:
    """A label that now is on another version than before."""

    arn: str
    name: str
    label: str
    version_id: str


class LabelEvents:
    """Wraps moto's WSGI application: tells the event bus of label moves, and counts the calls of each AWS action."""

    def __init__(self, application: Application, timeline: Timeline) -> None:
        EventTemplateParser.DEFAULT_EVENT_INPUT_TEMPLATE = _AS_AWS_SENDS_IT
        self._application = application
        self._timeline = timeline
        self._lock = threading.Lock()
        self._calls: Counter[str] = Counter()

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
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
            _repair(moves)
        for move in moves:
            self._tell(move)
        return answer

    def _tell(self, move: Move) -> None:
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
    """The version that each label of each secret is on, by (ARN, name, label)."""
    store = secretsmanager_backends[ACCOUNT][REGION].secrets
    return {
        (secret.arn, secret.name, label): version_id
        for secret in store.values()
        for version_id, version in getattr(secret, "versions", {}).items()
        for label in version["version_stages"]
    }


def _moves(before: Mapping[tuple[str, str, str], str], after: Mapping[tuple[str, str, str], str]) -> list[Move]:
    return [
        Move(*whose, version_id)
        for whose, version_id in after.items()
        if before.get(whose) != version_id and whose[2] not in SILENT
    ]


def _repair(moves: list[Move]) -> None:
    """Correct what moto leaves as it was when a label moves: which version is given by default, and the date."""
    store = secretsmanager_backends[ACCOUNT][REGION].secrets
    for move in moves:
        store[move.arn].last_changed_date = int(time.time())
        if move.label == "AWSCURRENT":
            store[move.arn].set_default_version_id(move.version_id)
