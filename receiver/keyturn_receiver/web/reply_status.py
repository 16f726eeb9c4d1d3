"""The HTTP statuses of the webhook's replies: for the results of a delivery, and for each refusal.

``keyturn_notifier.disposition`` decides what the notifier does after each status.
"""

from collections.abc import Mapping, Sequence

from starlette.exceptions import HTTPException
from starlette.responses import Response

from keyturn_contract.message import MAX_BODY, Outcome, Result, encode_reply

STATUS: Mapping[Outcome, int] = {  # the status of a reply is the highest status among its results
    Outcome.APPLIED: 200,
    Outcome.UNCHANGED: 200,
    Outcome.SUPERSEDED: 200,
    Outcome.IGNORED: 200,
    Outcome.RETRYING: 200,
    Outcome.FAILED: 503,
}
_RETRY = {"Retry-After": "2"}  # seconds
_CLOSE = {"Connection": "close"}  # without this header, the unread part of the body would be parsed as the next request


def results_reply(results: Sequence[Result]) -> Response:
    """Return the reply with the results of a delivery. If a result has failed, the status is 503, and the sender then
    sends the notification again."""
    status = max(STATUS[result.outcome] for result in results)
    headers = _RETRY if status == 503 else None
    return Response(encode_reply(results), status, headers, media_type="application/json")


def not_ready() -> HTTPException:
    return HTTPException(503, "not ready: send it again", _RETRY)


def busy() -> HTTPException:
    return HTTPException(503, "busy: send it again", _RETRY)


def body_too_large() -> HTTPException:
    return HTTPException(413, f"the body is over {MAX_BODY} bytes: send fewer notifications at once", _CLOSE)


def body_too_slow(seconds: float) -> HTTPException:
    return HTTPException(408, f"the body did not come within {seconds:g} s", _CLOSE)


def body_cut_off() -> HTTPException:
    return HTTPException(400, "the body was cut off")


def not_verified() -> HTTPException:
    """Return a refusal without a reason, because the sender may be an attacker."""
    return HTTPException(401, "not verified")


def unsupported_media_type(reason: str) -> HTTPException:
    return HTTPException(415, reason)


def malformed(reason: str) -> HTTPException:
    return HTTPException(400, reason)
