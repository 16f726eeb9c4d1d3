"""Logs: a repeated warning is logged once, and then again at intervals."""

import logging

import pytest

from keyturn_receiver.telemetry.logs import RepeatedWarnings
from support.clock import FakeClock


def test_repeated_warning_is_logged_once_and_then_at_intervals(caplog: pytest.LogCaptureFixture) -> None:
    clock = FakeClock()
    warnings = RepeatedWarnings(logging.getLogger("test"), 60, clock)
    for _ in range(30):
        warnings.warning("keys", "gone")
        warnings.warning("credentials", "gone")
        clock.advance(1)
    assert [record.getMessage() for record in caplog.records] == ["gone", "gone"]
    clock.advance(30)
    warnings.warning("keys", "gone")
    warnings.warning("keys", "refused")
    warnings.over("keys")
    warnings.warning("keys", "refused")
    assert [record.getMessage() for record in caplog.records[2:]] == ["gone", "refused", "refused"]
