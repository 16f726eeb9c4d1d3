"""Legs (steps) of a rotation that the receipts in AWS show, for `keyturn trace --aws`: the answers of the receivers,
and the clusters in which the version is live. This module does no I/O.

docs/receipts.md describes the receipts. ``receipts.py`` reads them.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from keyturn_cli.advice import ANY_STACK, NOTHING_CHOSEN
from keyturn_cli.legs import BAD, GOOD, OPEN, READY, TAKEN, TOLD, Leg, Trace
from keyturn_cli.receipts import KIND_APPLIED, KIND_LIVE, KIND_STUCK, KIND_WAITING, Arrival
from keyturn_cli.times import seconds_of
from keyturn_contract.message import REASON_NO_LONGER_BOUND, REASON_NOT_BOUND

# Seconds. Receipts count from this long before the move of the staging label, because AWS gives the time of the move in
# whole seconds.
SLACK = 2.0
_GOOD = ("applied", "unchanged", "superseded", "taken")
_OPEN = ("retrying", "failed", "not taken")
Receipt = Mapping[str, Any]


def add_receipts(made: Trace, receipts: Sequence[Receipt]) -> None:
    """Add the legs that the receipts about one version show. Receipts may arrive twice, and in any order.

    After a rollback, a version may become current a second time, and then has receipts of both times. Only the receipts
    of the last move of the staging label count.
    """
    answers = [each for each in receipts if each["detail-type"] in (KIND_APPLIED, KIND_WAITING)]
    newest = max(answers, key=_time, default=None)
    if made.moved_at is None:
        made.moved_at = _moved_at(newest, receipts)
    if newest and not made.event:
        made.event, made.cause = str(newest["detail"].get("eventId", "")), "notification"
    since = (made.moved_at or 0.0) - SLACK
    told = {_identity(each): each for each in receipts if _time(each) >= since}
    arrival = Arrival()
    for each in told.values():
        arrival.take(each)
        made.legs += _legs(each, made.moved_at)
    made.legs.sort(key=lambda leg: leg.place)
    is_waiting = any(each["detail-type"] == KIND_WAITING for each in told.values()) and not arrival.applied
    unreached = (arrival.hosts - arrival.live) | arrival.stuck.keys() | arrival.problems.keys()
    made.open_clusters = len(unreached) or int(is_waiting)


def _legs(receipt: Receipt, moved_at: float | None) -> Iterator[Leg]:
    detail, kind = receipt["detail"], receipt["detail-type"]
    if kind in (KIND_APPLIED, KIND_WAITING):
        age = _number(detail.get("ageMs"))
        is_exact = age is not None and moved_at is not None
        at = moved_at + age / 1000 if age is not None and moved_at is not None else _time(receipt)
        for answer in detail["receivers"]:
            sign, text = _answer(answer)
            yield Leg(at, sign, f"{answer['host']}  {text}", TAKEN, is_exact)
        if detail.get("deadLettered") is True:
            shows = NOTHING_CHOSEN.command("redeliver", "--list", or_stack=ANY_STACK)  # no receipt names the stack
            yield Leg(at, BAD, f"the event is a dead letter: {shows}", TOLD)
    elif kind == KIND_LIVE:
        yield Leg(_time(receipt), GOOD, f"{detail['host']}  live: all pods run it", READY)
    elif kind == KIND_STUCK:
        names = ", ".join(map(str, detail.get("consumers", ())))
        told = f"{detail['host']}  the rollout goes no further" + (f": {names}" if names else "")
        yield Leg(_time(receipt), BAD, told, READY)


def _answer(answer: Mapping[str, Any]) -> tuple[str, str]:
    """Return the sign and the text of a receiver's answer."""
    outcome, reason = str(answer["outcome"]), str(answer.get("reason") or "")
    names = [str(name) for field in ("secrets", "consumers") for name in answer.get(field, ())]
    more = ", ..." if answer.get("cut") is True else ""
    text = outcome + (f": {', '.join(names)}{more}" if names else "")
    if answer.get("retrying"):
        text += f"; tries again: {', '.join(map(str, answer['retrying']))}"
    if reason:
        text += f"; {reason}" if names or answer.get("retrying") else f": {reason}"
    if outcome in _OPEN or answer.get("retrying"):
        return OPEN, text
    is_refused = bool(reason) and reason not in (REASON_NOT_BOUND, REASON_NO_LONGER_BOUND)
    if outcome == "refused" or is_refused:
        return BAD, text
    return (GOOD if outcome in _GOOD else ""), text


def _moved_at(newest: Receipt | None, receipts: Sequence[Receipt]) -> float | None:
    """Return the time at which the staging label moved, exact to two seconds. Return None if no receipt shows it."""
    if newest:
        age = _number(newest["detail"].get("ageMs"))
        return None if age is None else float(int(_time(newest) - age / 1000))
    live = [each for each in receipts if _number(each["detail"].get("seconds")) is not None]
    last = max(live, key=_time, default=None)
    return None if last is None else _time(last) - float(last["detail"]["seconds"])


def _time(receipt: Receipt) -> float:
    """Return the time that a receipt describes, in seconds since 1970. Return 0.0 if the receipt has no time."""
    return seconds_of(str(receipt["detail"].get("since") or receipt.get("time"))) or 0.0


def _identity(receipt: Receipt) -> str:
    return str(receipt["detail"].get("receiptId") or receipt.get("id"))


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and 0 <= value < 1e12 else None
