"""Missing keys: a workload reads a key that the Secret does not have. Its owner is told, without names that may be
secret."""

import pytest

from keyturn_receiver.core.consumer import Reads
from keyturn_receiver.core.missing_keys import (
    MAX_NAMES,
    by_spelling,
    missing_keys,
    missing_keys_message,
    named_keys,
)

KEYS = frozenset({"password", "hunter2"})


@pytest.mark.parametrize(
    ("reads", "missing"),
    [
        (Reads(keys=frozenset({"PASSWORD", "password", "A"})), ("A", "PASSWORD")),
        (Reads(whole=True, keys=frozenset({"A"})), ("A",)),
        (Reads(whole=True), ()),
        (Reads(keys=frozenset({"password"})), ()),
        (Reads(keys=frozenset({"PASSWORD"}), optional=True, optional_keys=frozenset({"PASSWORD"})), ()),
        (Reads(keys=frozenset({"A", "B"}), optional=True, optional_keys=frozenset({"B"})), ("A",)),
    ],
)
def test_keys_that_a_container_waits_for_are_missing(reads: Reads, missing: tuple[str, ...]) -> None:
    assert missing_keys(reads, KEYS) == missing


@pytest.mark.parametrize(
    ("data", "named"),
    [
        (None, ()),
        ("password: a\nother: b", ("password",)),
        ("'password': a", ("password",)),
        ('"password" : a', ("password",)),
        ("{password: a}", ()),  # the line does not begin with the key, so the key is only counted
        ("key: hunter2", ()),
    ],
)
def test_only_keys_that_the_binding_names_are_told(data: str | None, named: tuple[str, ...]) -> None:
    assert named_keys(KEYS, data) == named


@pytest.mark.parametrize(
    ("missing", "named", "count", "told"),
    [
        (
            ["PASSWORD"],
            ["password"],
            1,
            "it reads the key PASSWORD, which the Secret does not have; it has password: c",
        ),
        (
            ["PASSWORD"],
            [],
            3,
            "which the Secret does not have; it has 3 keys: correct the name in the pod template, or",
        ),
        (
            ["DB_HOST"],
            ["db-host", "port"],
            4,
            "it has db-host, port and 2 more keys: did you mean db-host? correct the",
        ),
        (["passwrd"], ["host", "password"], 2, "; it has host, password: did you mean password? correct the name"),
        (["A", "B"], ["x"], 1, "it reads the keys A, B, which the Secret does not have; it has x: correct"),
    ],
)
def test_message_tells_the_nearest_key_and_counts_the_others(
    missing: list[str], named: list[str], count: int, told: str
) -> None:
    assert told in missing_keys_message(missing, named, by_spelling(named), count)


def test_message_is_short_however_many_keys_there_are() -> None:
    names = [f"{number}".rjust(253, "x") for number in range(1000)]
    named = [f"k{number}" for number in range(500)]
    message = missing_keys_message(names, named, by_spelling(named), 700)
    assert f"and {1000 - MAX_NAMES} more, which the Secret" in message
    assert f"k9 and {700 - MAX_NAMES} more keys" in message
    assert len(message) < 1200
