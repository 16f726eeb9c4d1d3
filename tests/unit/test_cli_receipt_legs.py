"""Legs of a trace that come from receipts."""

from typing import Any

import pytest

from keyturn_cli.legs import MOVED, Leg, Trace
from keyturn_cli.receipt_legs import add_receipts

MOVED_AT = 1_800_000_000.0  # 2027-01-15T08:00:00Z
BLUE, GREEN = "blue.example.com", "green.example.com"


def answers(kind: str, *receivers: dict[str, Any], time: str = "08:00:02", **detail: Any) -> dict[str, Any]:
    content = {"receiptId": f"{kind}/an-event", "eventId": "an-event", "ageMs": 649, "receivers": receivers, **detail}
    return {"detail-type": f"Keyturn Secret {kind}", "time": f"2027-01-15T{time}Z", "detail": content}


def applied(*receivers: dict[str, Any], **detail: Any) -> dict[str, Any]:
    return answers("Applied", *receivers, **{"complete": True, "healthy": True, **detail})


def of_host(kind: str, host: str, since: str = "08:00:09", **detail: Any) -> dict[str, Any]:
    content = {"receiptId": f"{kind}/{host}/{since}", "host": host, "since": f"2027-01-15T{since}Z", "seconds": 9}
    return {"detail-type": kind, "time": "2027-01-15T08:01:00Z", "detail": {**content, **detail}}


def live(host: str, since: str = "08:00:09") -> dict[str, Any]:
    return of_host("Keyturn Secret Live", host, since)


def traced(*receipts: dict[str, Any], **fields: Any) -> Trace:
    made = Trace("d0cf8060", **fields)
    add_receipts(made, receipts)
    return made


def shown(made: Trace) -> list[tuple[float | None, str, str]]:
    return [(None if leg.at is None else round(leg.at - MOVED_AT, 3), leg.sign, leg.text) for leg in made.legs]


def test_answers_and_live_are_legs_in_their_order() -> None:
    names = {"secrets": ["shop/db"], "consumers": ["Deployment/shop/web"]}
    nobody = {"host": GREEN, "outcome": "ignored", "reason": "no Secret is bound to it"}
    made = traced(live(BLUE), applied({"host": BLUE, "outcome": "applied", **names}, nobody), moved_at=MOVED_AT)
    assert shown(made) == [
        (0.649, "✔", f"{BLUE}  applied: shop/db, Deployment/shop/web"),
        (0.649, "", f"{GREEN}  ignored: no Secret is bound to it"),
        (9.0, "✔", f"{BLUE}  live: all pods run it"),
    ]
    assert [leg.exact for leg in made.legs] == [True, True, False]
    assert (made.event, made.cause, made.is_open) == ("an-event", "notification", False)


def test_without_a_cluster_the_age_tells_when_the_label_moved() -> None:
    assert traced(applied({"host": BLUE, "outcome": "taken"})).moved_at == MOVED_AT + 1
    assert traced(live(BLUE)).moved_at == MOVED_AT
    assert traced(applied({"host": BLUE, "outcome": "taken"}, ageMs="soon")).moved_at is None


def test_event_that_the_cluster_tells_stays() -> None:
    made = traced(applied({"host": BLUE, "outcome": "taken"}), event="of the Secret", cause="poll")
    assert (made.event, made.cause) == ("of the Secret", "poll")


def test_cluster_that_is_not_live_is_open() -> None:
    both = applied({"host": BLUE, "outcome": "applied"}, {"host": GREEN, "outcome": "unchanged"})
    assert traced(both).open_clusters == 2
    assert traced(both, live(BLUE)).open_clusters == 1
    assert traced(both, live(BLUE), live(GREEN)).open_clusters == 0


@pytest.mark.parametrize(
    ("answer", "sign", "text"),
    [
        ({"outcome": "applied", "reason": "shop/x: no property"}, "✗", "applied: shop/x: no property"),
        ({"outcome": "applied", "secrets": ["shop/a"], "cut": True}, "✔", "applied: shop/a, ..."),
        ({"outcome": "applied", "retrying": ["shop/b"]}, "…", "applied; tries again: shop/b"),
        ({"outcome": "refused", "reason": "status 404"}, "✗", "refused: status 404"),
    ],
)
def test_answer_shows_what_is_wrong(answer: dict[str, Any], sign: str, text: str) -> None:
    made = traced(applied({"host": BLUE, **answer}), moved_at=MOVED_AT)
    assert shown(made) == [(0.649, sign, f"{BLUE}  {text}")]
    assert made.is_open


def test_waiting_is_open_until_it_is_applied() -> None:
    waiting = answers("Waiting", {"host": BLUE, "outcome": "not taken", "reason": "no answer"}, ageMs=300_000)
    made = traced(waiting, moved_at=MOVED_AT)
    assert shown(made) == [(300.0, "…", f"{BLUE}  not taken: no answer")]
    assert made.open_clusters == 1
    made = traced(waiting, applied({"host": BLUE, "outcome": "applied"}, ageMs=400_000), live(BLUE), moved_at=MOVED_AT)
    assert made.open_clusters == 0


def test_dead_letter_names_the_remedy() -> None:
    dead = answers("Waiting", {"host": BLUE, "outcome": "refused"}, deadLettered=True)
    made = traced(dead, moved_at=MOVED_AT)
    assert made.legs[-1].text == "the event is a dead letter: keyturn redeliver --list --stack NAME"
    assert made.is_open


def test_stuck_rollout_is_open_until_it_is_live() -> None:
    stuck = of_host("Keyturn Rollout Stuck", BLUE, "08:00:08", consumers=["Deployment/shop/web"])
    made = traced(stuck, moved_at=MOVED_AT)
    assert shown(made) == [(8.0, "✗", f"{BLUE}  the rollout goes no further: Deployment/shop/web")]
    assert made.open_clusters == 1
    assert not traced(stuck, live(BLUE), moved_at=MOVED_AT).is_open


def test_receipts_of_an_earlier_move_and_copies_do_not_count() -> None:
    early = live(BLUE, "07:00:00")
    answer = applied({"host": BLUE, "outcome": "applied"})
    made = traced(early, answer, answer, moved_at=MOVED_AT)
    assert [leg.text for leg in made.legs] == [f"{BLUE}  applied"]
    assert made.open_clusters == 1


def test_legs_of_the_cluster_stay() -> None:
    made = traced(live(BLUE), moved_at=MOVED_AT, legs=[Leg(MOVED_AT, "", "label moved", MOVED)])
    assert [leg.text for leg in made.legs] == ["label moved", f"{BLUE}  live: all pods run it"]
