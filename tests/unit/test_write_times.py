"""Write times of keys: what the annotation says, who tells the time, and what becomes of malformed ones."""

import json
from typing import Any

import pytest

from keyturn_receiver.core.write_times import (
    MAX_TEXT,
    REMOVED,
    WriteTime,
    WriteTimes,
    next_times,
    parse_time,
    read_times,
    resolve,
    write_times,
)

T0, T1, T2 = 1_000, 2_000, 3_000


def applied(seconds: int, manager: str = "keyturn", operation: str = "Apply", **more: str) -> dict[str, Any]:
    minutes, rest = divmod(seconds, 60)
    return {"manager": manager, "operation": operation, "time": f"1970-01-01T00:{minutes:02}:{rest:02}Z", **more}


def reread(times: WriteTimes, keys: str, at: int) -> WriteTimes:
    """Write the times, and read them from a Secret whose last write was at ``at``."""
    return read_times(resolve(write_times(times, keys), "keyturn", [applied(at)]), keys)


def test_time_of_the_last_write_comes_from_kubernetes_and_older_times_stay() -> None:
    first = next_times({}, "ab", (), "ab", removed=False)
    read = reread(first, "ab", T0)
    assert read == {"a": WriteTime(T0, True), "b": WriteTime(T0, True)}
    second = next_times(read, "ab", "a", (), removed=False)
    assert second == {"a": WriteTime(None), "b": WriteTime(T0, True)}
    assert reread(second, "ab", T1) == {"a": WriteTime(T1), "b": WriteTime(T0, True)}


def test_removal_of_a_key_is_remembered() -> None:
    read = reread(next_times({"a": WriteTime(T0), "b": WriteTime(T0)}, "a", (), (), removed=True), "a", T1)
    assert read == {"a": WriteTime(T0), REMOVED: WriteTime(T1)}
    assert reread(next_times(read, "a", "a", (), removed=False), "a", T2) == {
        "a": WriteTime(T2),
        REMOVED: WriteTime(T1),
    }


def test_two_writes_within_one_second_are_both_read() -> None:
    times = {"a": WriteTime(T0), "b": WriteTime(None), "c": WriteTime(None)}
    assert reread(times, "abc", T0) == dict.fromkeys("abc", WriteTime(T0))


def test_key_whose_time_is_not_known_stays_unknown() -> None:
    """An older release has written the Secret without times."""
    assert write_times({}, "ab") == ""
    assert reread({"a": WriteTime(None)}, "ab", T0) == {"a": WriteTime(T0)}
    many = {key: WriteTime(T1) for key in "bcdef"}
    assert reread(many, "abcdef", T2) == many


@pytest.mark.parametrize(
    "managed_fields",
    [
        [],
        [applied(T0, manager="kubectl")],
        [applied(T0, operation="Update")],
        [applied(T0, subresource="status")],
        [{"manager": "keyturn", "operation": "Apply"}],
        [{"manager": "keyturn", "operation": "Apply", "time": "yesterday"}],
    ],
)
def test_write_whose_time_kubernetes_does_not_tell_is_unknown(managed_fields: list[dict[str, Any]]) -> None:
    text = write_times({"a": WriteTime(None), "b": WriteTime(T0)}, "ab")
    assert read_times(resolve(text, "keyturn", managed_fields), "ab") == {"b": WriteTime(T0)}


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "{",
        "[]",
        "null",
        "[" * 9999,
        '{"1970-01-01T00:16:40Z": "a"}',
        '{"1970-01-01T00:16:40Z": [1, null]}',
        '{"a": ["a"]}',
        '{"": ["a"]}',
        '{"+": ["a"]}',
        '{"9999-99-99T00:00:00Z": ["a"]}',
        '[["1970-01-01T00:16:40Z"]]',
        '["ab"]',
        "1",
    ],
)
def test_malformed_annotation_counts_as_missing(text: str | None) -> None:
    assert read_times(resolve(text, "keyturn", [applied(T0)]), "a") == {}


def test_annotation_is_bounded_and_then_takes_all_keys_as_written_now() -> None:
    keys = [f"key-{number:05}" for number in range(4_000)]
    halves = {key: WriteTime(T0 + number % 2) for number, key in enumerate(keys)}
    text = write_times(halves, keys)
    assert len(text) <= MAX_TEXT
    read = read_times(resolve(text, "keyturn", [applied(T2)]), keys)
    assert read == {key: WriteTime(T2) for key in (*keys, REMOVED)}
    assert len(write_times(dict.fromkeys(keys, WriteTime(T0)), keys)) < 100  # usually, all keys have the same time


def test_annotation_that_is_too_long_is_not_read() -> None:
    assert resolve(json.dumps({"@": ["a" * 3 * MAX_TEXT]}), "keyturn", [applied(T0)]) is None


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1970-01-01T00:16:40Z", 1_000),
        ("1970-01-01T01:16:40+01:00", 1_000),
        ("1970-01-01T00:16:40.999Z", 1_000),
        (None, None),
        ("", None),
        ("now", None),
        ("0001-01-01T00:00:00+23:59", None),
    ],
)
def test_times_are_read_as_kubernetes_writes_them(text: str | None, seconds: int | None) -> None:
    assert parse_time(text) == seconds
