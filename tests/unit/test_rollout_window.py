"""Rollout windows: when they are open, and what is told of those that are not understood."""

import time
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyturn_receiver.core.rollout_window import (
    MAX_TEXT,
    WINDOW,
    InvalidWindow,
    opens_at,
    own_window,
    own_window_faults,
    read_windows,
    window_faults,
)

NIGHTS = "0 2 * * 1-5 for 2h in Europe/Berlin"
BERLIN, UTC = ZoneInfo("Europe/Berlin"), ZoneInfo("UTC")


def at(*fields: int, zone: ZoneInfo = BERLIN) -> float:
    return datetime(*fields, tzinfo=zone).timestamp()  # type: ignore[arg-type, misc]


@pytest.mark.parametrize(
    ("text", "now", "opens"),
    [
        (NIGHTS, at(2026, 11, 30, 1, 59), at(2026, 11, 30, 2)),
        (NIGHTS, at(2026, 11, 30, 2), None),
        (NIGHTS, at(2026, 11, 30, 3, 59, 59), None),
        (NIGHTS, at(2026, 11, 30, 4), at(2026, 12, 1, 2)),
        (NIGHTS, at(2026, 11, 28, 3), at(2026, 11, 30, 2)),  # a Saturday
        ("0 2 * * * for 2h", at(2026, 11, 30, 3), None),  # 02:00 UTC
        ("0 2 * * * for 2h", at(2026, 11, 30, 2, 59), at(2026, 11, 30, 3)),
        ("30 2 * * * for 1h in Europe/Berlin", at(2026, 3, 29, 1, 50), at(2026, 3, 29, 3)),  # 02:30 does not exist
        # The hour from 02:00 to 03:00 comes twice, and the window opens in the first one: 00:30 to 02:30 UTC.
        ("30 2 * * * for 2h in Europe/Berlin", at(2026, 10, 25, 2, 29, zone=UTC), None),
        ("30 2 * * * for 2h in Europe/Berlin", at(2026, 10, 25, 3, 10, zone=UTC), at(2026, 10, 26, 2, 30)),
        ("30 1 * * * for 1h in America/New_York", at(2026, 11, 1, 6, 40, zone=UTC), at(2026, 11, 2, 6, 30, zone=UTC)),
        ("0 22 * * 5 for 3d", at(2026, 11, 29, 12, zone=UTC), None),  # since Friday evening
        (f"{NIGHTS}; 0 12 * * 6 for 1h in Europe/Berlin", at(2026, 11, 28, 3), at(2026, 11, 28, 12)),
        ("0 0 * * 0,1 for 24h in America/New_York", at(2024, 3, 10, 12), None),  # a day of 23 hours
        (None, 5.0, None),
        ("no window", 5.0, float("inf")),
    ],
)
def test_window_is_open_from_its_cron_time_for_its_duration(text: str | None, now: float, opens: float | None) -> None:
    assert opens_at(text, now) == (now if opens is None else opens)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("0 0 31 2 * for 1h", "it never opens"),
        ("0 0 30 2,4 1#1 for 1h in Nowhere/Land", 'the time zone "Nowhere/Land" is not known'),
        ("0 0 29 2 */7 for 1h", "it never opens"),  # it opens only every 28 years
        ("0 2 * * * for 2h in europe/berlin", "did you mean Europe/Berlin?"),
        ("0 2 * * * for 2h in Berlin", "did you mean Europe/Berlin?"),
        ("0 2 * * * for 0h", "its duration is 0"),
        ("0 2 * * * for 25h", "it stays open for longer than the time until it opens again"),
        ("0 2 * * * for 999d", "it is longer than 366 days"),
        ("0 2 * * * for long", '"long" is no duration'),
        ("0 2 * * for 2h", "it has not five fields of cron"),
        ("0 0 2 * * * for 2h", "it has not five fields of cron"),
        ("61 2 * * * for 2h", "cron says bad minute"),
        ("0 2 * * FUN for 2h", "cron says bad day-of-week"),
        ("0 2 32 * * for 2h", "cron says bad day-of-month"),
        ("0 2 * * *", "it is not understood"),
        ("", "it is not understood"),
        (";".join(["0 2 * * * for 1h"] * 6), "it has more than 5 windows"),
        ("0 2 * * * for 1h" + " " * MAX_TEXT, f"it is longer than {MAX_TEXT} characters"),
    ],
)
def test_fault_of_a_window_says_what_is_wrong_and_what_to_write(text: str, told: str) -> None:
    (fault,) = window_faults({WINDOW: text})
    assert told in fault
    assert fault.startswith(f"annotation {WINDOW} is ")
    assert fault.endswith(f'write it like "{NIGHTS}"')
    with pytest.raises(InvalidWindow):
        read_windows(text)


def test_window_on_the_pod_template_goes_first() -> None:
    assert own_window({WINDOW: "a"}, {WINDOW: "b"}) == "b"
    assert own_window({WINDOW: "a"}, {}) == "a"
    assert own_window({}, {}) is None
    (fault,) = own_window_faults({WINDOW: NIGHTS}, {WINDOW: "b"})
    assert f"{WINDOW} on the pod template" in fault


FIELDS = st.text("0123456789*/,-#LW", min_size=1, max_size=8)
ZONES = st.sampled_from(["", " in UTC", " in Asia/Kolkata", " in America/New_York", " in Mars"])


@given(
    st.lists(FIELDS, min_size=5, max_size=5), st.sampled_from(["1m", "90m", "2h", "7d"]), ZONES, st.integers(0, 2**32)
)
def test_any_text_is_a_window_that_opens_or_a_fault_and_costs_little(
    fields: list[str], duration: str, zone: str, now: int
) -> None:
    text = f"{' '.join(fields)} for {duration}{zone}"
    started = time.thread_time()
    faults = window_faults({WINDOW: text})
    opens = opens_at(text, now)
    assert time.thread_time() - started < 0.25  # a few milliseconds on an idle machine
    if faults:
        assert opens == float("inf")
    else:
        assert opens >= now
        window_end = max(each.duration for each in read_windows(text))
        assert opens == float("inf") or opens_at(text, opens) == opens
        assert window_end >= timedelta(minutes=1)


def test_opening_is_the_same_whichever_second_asks() -> None:
    now = datetime(2026, 11, 30, 1, 30, 17, tzinfo=UTC).timestamp()
    assert opens_at("0 2 * * * for 1h", now) == opens_at("0 2 * * * for 1h", now + 30) == now + 29 * 60 + 43
