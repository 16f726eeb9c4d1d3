"""Rollout windows: the annotation ``keyturn.dev/rollout-window``. Outside the windows, no pod is restarted.

A window is written as ``0 2 * * 1-5 for 2h in Europe/Berlin``. The five fields of cron say when the window opens. The
word "for" precedes the time for which the window stays open. The word "in" precedes the time zone of the cron fields,
which is UTC by default. Semicolons separate several windows. The annotation can be on the namespace, on the workload
and on its pod template. The innermost annotation counts.

Tenants write windows, so each text is parsed only once, and the cost is bounded. The cron library searches day by day
for the next opening. The search is cut off after YEARS years, so that it takes only a few milliseconds.
"""

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from importlib.resources import files
from itertools import islice, pairwise
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError
from cronsim.cronsim import Field

WINDOW = "keyturn.dev/rollout-window"
EXAMPLE = "0 2 * * 1-5 for 2h in Europe/Berlin"
MAX_TEXT = 300  # characters of the annotation
MAX_WINDOWS = 5  # windows in one annotation
# The duration is compared with the shortest time between two openings. Only this number of openings is looked at.
SAMPLE = 60
YEARS = 8  # if a window does not open within this number of years, it counts as a window that never opens
MAX_DURATION = timedelta(days=366)

_WINDOW = re.compile(r"(?P<cron>.+?)\s+for\s+(?P<duration>\S+)(?:\s+in\s+(?P<zone>\S+))?")
_DURATION = re.compile(r"(?:(?P<days>\d{1,3})d)?(?:(?P<hours>\d{1,4})h)?(?:(?P<minutes>\d{1,5})m)?", re.ASCII)
_SAMPLED_FROM = datetime(2024, 1, 1, tzinfo=UTC)  # the sample is the same on every replica


class InvalidWindow(ValueError):
    """A text is not a valid window. The message says what is wrong with it."""


class _Cron(CronSim):
    """Iterator over the times of a cron expression after ``dt``, by the rules of Debian's cron. It ends after YEARS
    years."""

    def __init__(self, expression: str, dt: datetime) -> None:
        super().__init__(expression, dt)
        self._last_year = dt.year + YEARS

    def advance_month(self) -> None:
        super().advance_month()
        if self.dt.year > self._last_year:
            raise StopIteration


@dataclass(frozen=True, slots=True)
class RolloutWindow:
    """One window. ``cron`` are its five fields."""

    cron: str
    duration: timedelta
    zone: ZoneInfo

    def opens_at(self, now: datetime) -> datetime:
        """Return ``now`` if the window is open now. Otherwise return the time at which it opens next. Raises
        InvalidWindow if it never opens."""
        closed = now - self.duration  # a window that opened at this time or earlier is closed now
        for local in _Cron(self.cron, closed.astimezone(self.zone)):
            # In the hour that the change to winter time repeats, cronsim returns the first of the two times.
            if (opened := local.astimezone(UTC)) > closed:
                return max(now, opened)
        raise InvalidWindow("it never opens")

    def shortest_period(self) -> timedelta:
        """Return the shortest time between two openings, among the first SAMPLE openings after a fixed day. Changes
        between summer time and winter time are ignored."""
        starts = islice(_Cron(self.cron, _SAMPLED_FROM.replace(tzinfo=None)), SAMPLE)
        return min((after - before for before, after in pairwise(starts)), default=timedelta.max)


def read_windows(text: str) -> tuple[RolloutWindow, ...]:
    """Parse the annotation. Raises InvalidWindow."""
    windows, fault = _parse(text[: MAX_TEXT + 1])
    if fault:
        raise InvalidWindow(fault)
    return windows


def window_faults(annotations: Mapping[str, object], place: str = "") -> tuple[str, ...]:
    """Return what is wrong with the window in the annotations of a namespace, a workload or a pod template. ``place``
    tells where it is, such as "on the pod template"."""
    if WINDOW not in annotations:
        return ()
    text = str(annotations[WINDOW])
    _, fault = _parse(text[: MAX_TEXT + 1])
    where = f"{WINDOW} {place}".strip()
    return (f'annotation {where} is "{text:.80}": {fault}: write it like "{EXAMPLE}"',) if fault else ()


def own_window(on_workload: Mapping[str, object], on_template: Mapping[str, object]) -> str | None:
    """Return the text of a workload's annotation, or None if there is none. The annotation on the pod template takes
    precedence."""
    text = on_template.get(WINDOW, on_workload.get(WINDOW))
    return None if text is None else sys.intern(str(text)[: MAX_TEXT + 1])


def own_window_faults(on_workload: Mapping[str, object], on_template: Mapping[str, object]) -> tuple[str, ...]:
    """Return what is wrong with the windows in the annotations of a workload and of its pod template."""
    return (*window_faults(on_workload), *window_faults(on_template, "on the pod template"))


def opens_at(text: str | None, now: float) -> float:
    """Return ``now`` if one of the windows in an annotation is open now. Otherwise return the time at which one of them
    opens next. Both times are in seconds since 1970. Returns infinity if the annotation is not understood. Returns
    ``now`` if there is no annotation."""
    if text is None:
        return now
    at = _opens_at(text[: MAX_TEXT + 1], int(now) // 60)
    return now if at <= now else at


@lru_cache(maxsize=4096)
def _opens_at(text: str, minute: int) -> float:
    windows, fault = _parse(text)
    if fault:
        return float("inf")
    now = datetime.fromtimestamp(60 * minute, UTC)
    try:
        return min(each.opens_at(now).timestamp() for each in windows)
    except InvalidWindow:
        return float("inf")


@lru_cache(maxsize=4096)
def _parse(text: str) -> tuple[tuple[RolloutWindow, ...], str]:
    """Return the windows in the annotation, and what is wrong with the annotation (an empty text if nothing is)."""
    if len(text) > MAX_TEXT:
        return (), f"it is longer than {MAX_TEXT} characters"
    parts = text.split(";")
    if len(parts) > MAX_WINDOWS:
        return (), f"it has more than {MAX_WINDOWS} windows"
    try:
        return tuple(_parse_one(part.strip()) for part in parts), ""
    except InvalidWindow as fault:
        return (), str(fault)


def _parse_one(text: str) -> RolloutWindow:
    parts = _WINDOW.fullmatch(text)
    if parts is None:
        raise InvalidWindow("it is not understood")
    if len(parts["cron"].split()) != 5:
        raise InvalidWindow("it has not five fields of cron")
    window = RolloutWindow(parts["cron"], _read_duration(parts["duration"]), _read_zone(parts["zone"] or "UTC"))
    try:
        window.opens_at(_SAMPLED_FROM)
        period = window.shortest_period()
    except CronSimError as error:
        is_bad_day = str(error) == Field.DAY.msg() and _is_known_day(window.cron.split()[2])
        raise InvalidWindow("it never opens" if is_bad_day else f"cron says {str(error).lower()}") from None
    except InvalidWindow:
        raise
    except (ArithmeticError, AssertionError, ValueError):
        raise InvalidWindow("its cron fields are not understood") from None
    if window.duration > period:
        raise InvalidWindow("it stays open for longer than the time until it opens again")
    return window


def _is_known_day(day: str) -> bool:
    """Return whether a day of the month is valid in January. A valid day can be missing in other months, as in 31
    February."""
    try:
        CronSim(f"0 0 {day} 1 *", _SAMPLED_FROM)
    except CronSimError:
        return False
    return True


def _read_duration(text: str) -> timedelta:
    parts = _DURATION.fullmatch(text)
    if parts is None or not text:
        raise InvalidWindow(f'"{text:.20}" is no duration, such as 90m, 2h or 1d')
    duration = timedelta(**{unit: int(number) for unit, number in parts.groupdict(default="0").items()})
    if not timedelta() < duration <= MAX_DURATION:
        raise InvalidWindow("its duration is 0" if not duration else f"it is longer than {MAX_DURATION.days} days")
    return duration


def _read_zone(name: str) -> ZoneInfo:
    known = _zones()
    if name in known.values():
        return ZoneInfo(name)
    meant = known.get(name.lower())
    raise InvalidWindow(f'the time zone "{name:.40}" is not known' + (f": did you mean {meant}?" if meant else ""))


@lru_cache(maxsize=1)
def _zones() -> Mapping[str, str]:
    """Return the names of all time zones. The result maps two keys to each name: the whole name and its city, both in
    lower case."""
    names = files("tzdata").joinpath("zones").read_text().split()
    return {name.rpartition("/")[2].lower(): name for name in names} | {name.lower(): name for name in names}
