"""A wall clock that a test can move while a program runs. Python imports this module before anything else of the
program.

KEYTURN_TEST_CLOCK names a file with the number of seconds by which the clock is off. The monotonic clock is not
changed.
"""

import datetime
import os
import time

_true_time, _TrueDatetime = time.time, datetime.datetime


def _offset() -> float:
    try:
        with open(os.environ["KEYTURN_TEST_CLOCK"]) as file:
            return float(file.read() or 0)
    except (KeyError, OSError, ValueError):
        return 0.0


class _Datetime(_TrueDatetime):
    @classmethod
    def now(cls, tz=None):
        return _TrueDatetime.fromtimestamp(_true_time() + _offset(), tz)


time.time = lambda: _true_time() + _offset()
datetime.datetime = _Datetime
