"""To make room for a new connection, the limiter aborts the connection that has been pending longest, and counts it."""

from unittest.mock import Mock

import pytest

from keyturn_receiver.telemetry.metrics import Metrics
from keyturn_receiver.web.connection_limiter import ConnectionLimiter


class Connection:
    """A connection whose transport records whether it was aborted."""

    def __init__(self) -> None:
        self.transport = Mock()

    @property
    def aborted(self) -> bool:
        return bool(self.transport.abort.called)


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


def full(metrics: Metrics) -> tuple[ConnectionLimiter, list[Connection]]:
    """Return a limiter that has reached its limit of three connections, all of them pending, and the connections."""
    limiter, connections = ConnectionLimiter(3, metrics), [Connection() for _ in range(3)]
    for each in connections:
        limiter.add(each)
    return limiter, connections


def test_connection_pending_longest_is_closed_for_a_new_one(metrics: Metrics) -> None:
    limiter, (first, second, third) = full(metrics)
    limiter.mark_idle(first)
    limiter.mark_pending(first)
    new = Connection()
    limiter.add(new)
    assert [each.aborted for each in (first, second, third, new)] == [False, True, False, False]


def test_idle_connection_is_kept(metrics: Metrics) -> None:
    limiter, connections = full(metrics)
    for each in connections:
        limiter.mark_idle(each)
    new = Connection()
    limiter.add(new)
    assert [each.aborted for each in (*connections, new)] == [False, False, False, True]


def test_removed_connection_frees_its_place(metrics: Metrics) -> None:
    limiter, (first, second, third) = full(metrics)
    limiter.remove(second)
    new = Connection()
    limiter.add(new)
    assert not any(each.aborted for each in (first, third, new))


def test_closed_connections_are_counted_under_the_new_and_old_name(metrics: Metrics) -> None:
    limiter, _ = full(metrics)
    limiter.add(Connection())
    limiter.count_closed("malformed")
    for name in ("keyturn_connections_closed_total", "keyturn_connections_cut_total"):
        for reason in ("no room", "malformed"):
            assert metrics.registry.get_sample_value(name, {"reason": reason}) == 1, name


def test_help_of_the_deprecated_name_says_so(metrics: Metrics) -> None:
    (help_text,) = [each.documentation for each in metrics.registry.collect() if each.name == "keyturn_connections_cut"]
    assert help_text.startswith("Deprecated: use keyturn_connections_closed_total")
