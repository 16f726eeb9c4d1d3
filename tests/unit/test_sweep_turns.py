"""Turns of namespaces in sweeps that end before all secrets are described."""

from dataclasses import dataclass
from itertools import islice
from typing import Any

from keyturn_receiver.core.binding import Source, Target
from keyturn_receiver.poller.turns import Turns
from keyturn_receiver.sources.stores import StoreKey

STORE = StoreKey("", "eu-west-1")


@dataclass(frozen=True)
class Bound:
    """The fields of a binding that turns need."""

    target: Target
    source: Source


def bindings(**secrets: int) -> list[Any]:
    """Return bindings. ``secrets`` maps each namespace to the number of its secrets."""
    return [
        Bound(Target(namespace, f"s{number}"), Source(f"{namespace}/{number}"))
        for namespace, count in secrets.items()
        for number in range(count)
    ]


def described(turns: Turns, all_bindings: list[Any], calls: int, limit: int | None = None) -> list[str]:
    """Take a turn in which there is time for this number of calls. Return the ids that were described."""
    turn = turns.next(STORE, all_bindings, limit)
    done = list(islice(turn.by_id, calls))
    turns.end(STORE, turn, set(done))
    return done


def test_every_namespace_gets_its_turn_if_there_is_time_for_a_few_calls() -> None:
    turns, many = Turns(), bindings(**{f"n{number}": 1 for number in range(10)})
    seen = [each for _ in range(3) for each in described(turns, many, 4)]
    assert len(set(seen)) == 10


def test_no_secret_is_left_out_whatever_the_sizes_of_the_namespaces() -> None:
    turns, many = Turns(), bindings(large=50, middle=7, small=1, other=1)
    seen = [each for _ in range(40) for each in described(turns, many, 5, limit=20)]
    assert len(set(seen)) == 59
    assert seen.count("small/0") >= 10


def test_namespace_that_goes_does_not_stop_the_turns() -> None:
    turns = Turns()
    described(turns, bindings(a=1, b=1, c=1), 1)
    assert described(turns, bindings(a=1, c=1), 2) == ["c/0", "a/0"]
