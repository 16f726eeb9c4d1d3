"""Times of the command line."""

import pytest

from keyturn_cli.times import ago, duration, read_duration, seconds_of


def test_time_has_its_fraction() -> None:
    assert seconds_of("1970-01-01T00:01:00.250Z") == 60.25
    assert seconds_of("1970-01-01T01:00:00+01:00") == 0


@pytest.mark.parametrize("text", ["", "soon", "2026-13-01T00:00:00Z", "9" * 40])
def test_text_that_is_no_time_is_none(text: str) -> None:
    assert seconds_of(text) is None
    assert ago(text, 0) == "never"


@pytest.mark.parametrize(
    ("seconds", "told"), [(-5, "0s"), (0, "0s"), (96, "96s"), (119, "119s"), (120, "2m"), (7200, "2h"), (200_000, "2d")]
)
def test_duration_has_one_unit(seconds: float, told: str) -> None:
    assert duration(seconds) == told


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("5m", 300), ("1h", 3600), ("0s", 0)])
def test_duration_is_read(text: str, seconds: float) -> None:
    assert read_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "5", "m", "-1s", "1d", "5 m", "1.5h", "9999999s", "٣m "])
def test_odd_duration_is_none(text: str) -> None:
    assert read_duration(text) is None
