"""History of a Secret: what is kept of its last changes, in which order and size, and what is not believed."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyturn_receiver.core.history import MAX_BYTES, MAX_CHANGES, Change, add, kept_history, read_history, stamp

ROTATED = Change(
    at="2026-11-28T08:38:06.174Z",
    version="b6fe5c7e-2d4c-4f53-9d0a-111111111111",
    was="e6222cdb-2d4c-4f53-9d0a-000000000000",
    moved_at="2026-11-28T08:38:05Z",
    cause="notification",
    event="d47862ed-2d4c-4f53-9d0a-222222222222",
    keys=1,
    due=3,
)


def rotations(count: int) -> list[Change]:
    """Return rotations in the order in which they happen. Each replaces the version of the one before."""
    ids = [f"{number:08x}-2d4c-4f53-9d0a-111111111111" for number in range(count + 1)]
    return [replace(ROTATED, version=ids[n + 1], was=ids[n], event=f"{n:08x}-{ids[n]}"[:36]) for n in range(count)]


def after(changes: list[Change], text: str = "") -> str:
    for change in changes:
        text = add(text, change)
    return text


def test_last_five_changes_are_read_as_they_were_added_with_the_newest_first() -> None:
    changes = rotations(100)
    text = after(changes)
    assert read_history(text) == tuple(reversed(changes[-MAX_CHANGES:]))
    assert len(text.encode()) <= MAX_BYTES
    assert kept_history(text) == text


def test_annotation_is_readable_without_keyturn() -> None:
    first = Change("2026-11-01T00:00:00.000Z", "v1", cause="new", keys=2)
    assert after([first, replace(ROTATED, was="v1")]) == (
        '[{"at":"2026-11-28T08:38:06.174Z","version":"b6fe5c7e-2d4c-4f53-9d0a-111111111111",'
        '"moved":"2026-11-28T08:38:05Z","cause":"notification","event":"d47862ed-2d4c-4f53-9d0a-222222222222",'
        '"keys":1,"due":3},{"at":"2026-11-01T00:00:00.000Z","version":"v1","cause":"new","keys":2,"due":0}]'
    )


def test_version_before_is_written_only_if_the_next_entry_does_not_tell_it() -> None:
    """A version that changed no value has no entry. So the entry of the next change has to name the version that it
    replaced."""
    first, skipped = Change(ROTATED.at, "v1"), Change(ROTATED.at, "v3", was="v2")
    text = after([first, skipped, Change(ROTATED.at, "v4", was="v3")])
    assert ["was" in entry for entry in json.loads(text)] == [False, True, False]
    assert [change.was for change in read_history(text)] == ["v3", "v2", ""]
    lost = after([first, Change(ROTATED.at, "v9")])  # somebody has removed the record, but not the history
    assert [change.was for change in read_history(lost)] == ["", ""]


def test_oldest_change_goes_if_five_do_not_fit() -> None:
    long = [replace(each, version=each.version.ljust(64, "x"), was=each.was.ljust(64, "y")) for each in rotations(9)]
    text = after([replace(each, event="e" * 64) for each in long])
    assert len(text.encode()) <= MAX_BYTES
    assert 1 < len(read_history(text)) < MAX_CHANGES
    assert read_history(text)[0].version == long[-1].version


def test_edits_that_are_reverted_again_and_again_take_one_entry() -> None:
    (rotated,) = rotations(1)
    reverts = [
        Change(f"2026-11-28T09:00:{second:02}.000Z", rotated.version, rotated.version, cause="drift", keys=1)
        for second in range(20)
    ]
    assert read_history(after([rotated, *reverts])) == (reverts[-1], rotated)


@pytest.mark.parametrize(
    "garbled",
    [
        "",
        "[",
        "[" * 1000,
        "{}",
        "null",
        "1e400",
        '"text"',
        "[1]",
        "[{}]",
        '[{"at":"yesterday","version":"v1","keys":1,"due":0}]',
        '[{"at":"2026-13-28T08:38:06.174Z","version":"v1","keys":1,"due":0}]',
        '[{"at":"2026-11-28T08:38:06.174Z","version":"a b","keys":1,"due":0}]',
        '[{"at":"2026-11-28T08:38:06.174Z","version":"\\ud800","keys":1,"due":0}]',
        '[{"at":"2026-11-28T08:38:06.174Z","version":"' + "v" * 65 + '","keys":1,"due":0}]',
        '[{"at":"2026-11-28T08:38:06.174Z","version":"v1","was":null,"keys":1,"due":0}]',
        '[{"at":"2026-11-28T08:38:06.174Z","version":"v1","moved":"","keys":1,"due":0}]',
        '[{"at":"2026-11-28T08:38:06.174Z","version":"v1","cause":"<b>","keys":1,"due":0}]',
        '[{"at":"2026-11-28T08:38:06.174Z","version":"v1","keys":true,"due":0}]',
        '[{"at":"2026-11-28T08:38:06.174Z","version":"v1","keys":-1,"due":0}]',
        '[{"at":"2026-11-28T08:38:06.174Z","version":"v1","keys":1,"due":1e3}]',
        '[{"at":"2026-11-28T08:38:06.174Z","version":"v1","keys":1}]',
        "[" + " " * MAX_BYTES + "]",
    ],
)
def test_history_that_keyturn_did_not_write_is_empty_and_begins_again(garbled: str) -> None:
    assert read_history(garbled) == ()
    assert kept_history(garbled) == ""
    assert read_history(add(garbled, ROTATED)) == (ROTATED,)


def test_history_of_a_newer_release_is_read_as_far_as_it_is_known() -> None:
    entry = {"at": "2026-11-28T08:38:06.174Z", "version": "v2", "was": "v1", "keys": 1, "due": 0, "new": {"a": [1]}}
    known = Change("2026-11-28T08:38:06.174Z", "v2", "v1", keys=1)
    assert read_history(json.dumps([entry])) == (known,)
    assert len(read_history(json.dumps([entry] * 8))) == MAX_CHANGES


def test_id_that_the_annotation_cannot_hold_is_left_out_and_costs_no_other() -> None:
    odd = replace(ROTATED, event="line\nbreak", version="x" * 65, keys=10**9)
    assert read_history(add(after(rotations(2)), odd))[0] == replace(odd, event="", version="", keys=1_000_000)
    assert len(read_history(add(after(rotations(2)), odd))) == 3


def test_time_of_a_change_is_in_utc_with_milliseconds() -> None:
    at = datetime(2026, 11, 28, 9, 38, 6, 174999, timezone(timedelta(hours=1)))
    assert stamp(at) == "2026-11-28T08:38:06.174Z"
    assert read_history(add("", replace(ROTATED, at=stamp(datetime(2026, 1, 1, tzinfo=UTC)))))


@given(st.text() | st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists).map(json.dumps))
def test_no_text_makes_a_history_that_is_too_long_or_raises(text: str) -> None:
    assert len(add(text, ROTATED).encode()) <= MAX_BYTES
    assert read_history(add(text, ROTATED))[0] == ROTATED
