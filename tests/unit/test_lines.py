"""Whose turn it is: by priority, in turns among AWS secrets, with places kept free."""

from keyturn_receiver.core.binding import Target
from keyturn_receiver.reconcile.fair_queue import PriorityQueues
from keyturn_receiver.reconcile.request import Cause


def target(name: str) -> Target:
    return Target("team", name)


def lines(places: int) -> PriorityQueues:
    """Lines whose groups are the names' first letters."""
    return PriorityQueues(places, lambda each: each.name[0])


def begun(waiting: PriorityQueues) -> list[str]:
    """Begin all that can be begun now."""
    found = []
    while each := waiting.begin():
        found.append(each.name)
    return found


def test_a_secret_of_many_bindings_lets_the_others_have_their_turns() -> None:
    waiting = lines(places=16)
    for name in ("a1", "a2", "a3", "a4", "b1", "c1"):
        waiting.wait(target(name), Cause.NOTIFICATION)
    assert begun(waiting)[:3] == ["a1", "b1", "c1"]


def test_one_secret_that_hangs_takes_a_quarter_of_the_places_and_no_more() -> None:
    waiting = lines(places=8)
    for number in range(100):
        waiting.wait(target(f"hung{number}"), Cause.NOTIFICATION)
    assert len(begun(waiting)) == 2
    waiting.wait(target("other"), Cause.NOTIFICATION)
    assert begun(waiting) == ["other"]
    waiting.end(target("hung0"))
    assert begun(waiting) == ["hung2"]


def test_background_work_leaves_half_of_the_places_to_notifications() -> None:
    waiting = lines(places=8)
    for letter in "abcdefgh":
        waiting.wait(target(letter), Cause.POLL)
    assert len(begun(waiting)) == 4
    for letter in "ijklm":
        waiting.wait(target(letter), Cause.NOTIFICATION)
    assert begun(waiting) == ["i", "j", "k", "l"]
    assert waiting.depth(Cause.NOTIFICATION) == 1
    assert waiting.depth(Cause.POLL) == 4


def test_who_is_at_work_is_not_promoted_into_a_line() -> None:
    waiting = lines(places=4)
    waiting.wait(target("a"), Cause.POLL)
    assert begun(waiting) == ["a"]
    waiting.promote(target("a"), Cause.POLL, Cause.NOTIFICATION)
    assert waiting.depth(Cause.NOTIFICATION) == 0
    assert waiting.is_at_work(target("a"))
