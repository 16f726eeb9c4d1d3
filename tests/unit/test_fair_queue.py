"""Fair queue: priorities, turns among namespaces and among AWS secrets, and reserved slots."""

from keyturn_receiver.core.binding import Target
from keyturn_receiver.reconcile.fair_queue import PriorityQueues
from keyturn_receiver.reconcile.request import Cause


def target(name: str, namespace: str = "team") -> Target:
    return Target(namespace, name)


def enqueue(queues: PriorityQueues, name: str, priority: Cause, namespace: str = "team") -> None:
    """Enqueue a target. Its group is the first letter of its name."""
    queues.enqueue(target(name, namespace), name[0], priority)


def take_all(queues: PriorityQueues) -> list[str]:
    """Take targets until no slot or target is left. Return their names."""
    names = []
    while taken := queues.take():
        names.append(taken[0].name)
    return names


def test_secret_with_many_bindings_does_not_starve_the_others() -> None:
    queues = PriorityQueues(slots=16)
    for name in ("a1", "a2", "a3", "a4", "b1", "c1"):
        enqueue(queues, name, Cause.NOTIFICATION)
    assert take_all(queues)[:3] == ["a1", "b1", "c1"]


def test_hanging_secret_takes_at_most_a_quarter_of_the_slots() -> None:
    queues = PriorityQueues(slots=8)
    for number in range(100):
        enqueue(queues, f"hung{number}", Cause.NOTIFICATION)
    assert len(take_all(queues)) == 2
    enqueue(queues, "other", Cause.NOTIFICATION)
    assert take_all(queues) == ["other"]
    queues.release(target("hung0"), "h", Cause.NOTIFICATION)
    assert take_all(queues) == ["hung2"]


def test_background_work_leaves_half_of_the_places_to_notifications() -> None:
    queues = PriorityQueues(slots=8)
    for letter in "abcdefgh":
        enqueue(queues, letter, Cause.POLL, namespace=letter)
    assert len(take_all(queues)) == 4
    for letter in "ijklm":
        enqueue(queues, letter, Cause.NOTIFICATION, namespace=letter)
    assert take_all(queues) == ["i", "j", "k", "l"]
    assert queues.depth(Cause.NOTIFICATION) == 1
    assert queues.depth(Cause.POLL) == 4


def test_target_with_raised_priority_moves_to_the_better_queue() -> None:
    queues = PriorityQueues(slots=4)
    enqueue(queues, "a", Cause.POLL)
    queues.raise_priority(target("a"), "a", Cause.POLL, Cause.NOTIFICATION)
    assert (queues.depth(Cause.POLL), queues.depth(Cause.NOTIFICATION)) == (0, 1)
    assert queues.take() == (target("a"), Cause.NOTIFICATION)


def test_namespace_with_many_secrets_does_not_starve_another_namespace() -> None:
    queues = PriorityQueues(slots=16)
    for letter in "abcdefgh":
        enqueue(queues, letter, Cause.NEW, namespace="busy")
    enqueue(queues, "z1", Cause.NEW, namespace="quiet")
    enqueue(queues, "z2", Cause.NEW, namespace="quiet")
    assert take_all(queues)[:4] == ["a", "z1", "b", "z2"]


def test_namespace_takes_at_most_half_of_the_slots_and_at_most_half_of_those_for_background_work() -> None:
    queues = PriorityQueues(slots=8)
    for letter in "abcdefgh":
        enqueue(queues, letter, Cause.POLL, namespace="busy")
    assert take_all(queues) == ["a", "b"]
    for letter in "stuvwxyz":
        enqueue(queues, letter, Cause.NOTIFICATION, namespace="busy")
    assert take_all(queues) == ["s", "t", "u", "v"]
    enqueue(queues, "other", Cause.NOTIFICATION, namespace="quiet")
    assert take_all(queues) == ["other"]
    queues.release(target("s", "busy"), "s", Cause.NOTIFICATION)
    queues.release(target("a", "busy"), "a", Cause.POLL)
    assert take_all(queues) == ["w", "c"]


def test_namespace_takes_at_most_three_quarters_of_the_slots_of_a_shared_secret() -> None:
    queues = PriorityQueues(slots=32)
    for number in range(50):
        enqueue(queues, f"shared{number}", Cause.NOTIFICATION, namespace="busy")
    assert len(take_all(queues)) == 6
    assert queues.share_is_full("busy", "s")
    assert not queues.share_is_full("quiet", "s")
    enqueue(queues, "shared-too", Cause.NOTIFICATION, namespace="quiet")
    assert take_all(queues) == ["shared-too"]
    queues.release(target("shared0", "busy"), "s", Cause.NOTIFICATION)
    assert not queues.share_is_full("busy", "s")
    assert take_all(queues) == ["shared6"]


def test_share_is_full_once_a_namespace_has_half_of_all_slots() -> None:
    queues = PriorityQueues(slots=8)
    for letter in "abcdefgh":
        assert not queues.share_is_full("busy", "z")
        enqueue(queues, letter, Cause.NOTIFICATION, namespace="busy")
    assert len(take_all(queues)) == 4
    assert queues.share_is_full("busy", "z")
