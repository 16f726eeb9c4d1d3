"""The conditions that must hold at the end of a fault test and throughout its history.

At the end, the state equals that of a run without the fault, and no version is lost. Each consumer has been restarted
at most once for each revision, and at least once if the keys that it reads have changed (docs/faults.md).
"""

from collections.abc import Callable

from keyturn_receiver.core.revision import digest, read_record
from support.object_history import HistoryWatcher
from support.wait import eventually


class Convergence:
    """Checks bound Secrets and their consumers. ``aws_value`` returns the value that AWS currently has for a Secret."""

    def __init__(self, history: HistoryWatcher, aws_value: Callable[[str], str]) -> None:
        self.secrets: set[str] = set()  # the names of the bound Secrets
        self.consumers: dict[str, str] = {}  # maps each workload to its Secret
        self._history = history
        self._aws_value = aws_value

    def is_current(self, name: str) -> bool:
        """Return whether a Secret holds the value that AWS currently has, and has the status "ok"."""
        data, annotations = self._history.current(name)
        return data == {"value": self._aws_value(name).encode()} and annotations.get("keyturn.dev/status") == "ok"

    def wait(self, seconds: float) -> None:
        """Wait until every Secret is current, and every consumer has the mark of the current revisions of its
        Secret."""
        for name in self.secrets:
            eventually(lambda name=name: self.is_current(name), seconds)
            latest = read_record(self._history.current(name)[1]).revisions
            # The watch that records the history may lag behind.
            eventually(lambda name=name, latest=latest: self._history.revisions(name)[-1:] == [latest])
        for consumer, name in self.consumers.items():
            eventually(lambda consumer=consumer, name=name: self.has_latest(consumer, name), seconds)

    def assert_history_consistent(self) -> None:
        """Check the restarts of each consumer against the recorded states of the consumer's Secret."""
        for consumer, name in self.consumers.items():
            marks = [mark for mark in self._history.marks(consumer, name) if mark]
            states = [digest(revisions, revisions) for revisions in self._history.revisions(name)]
            assert all(mark in states for mark in marks), f"{consumer} bears marks of revisions that never were"
            # The marks are a subsequence of the Secret's states, so each state causes at most one restart.
            remaining = iter(states)
            assert all(mark in remaining for mark in marks), (
                f"{consumer} was restarted twice for a revision, or backwards"
            )
            assert self.has_latest(consumer, name), f"{consumer} was not restarted for the last revision"

    def has_latest(self, consumer: str, name: str) -> bool:
        """Return whether a consumer has the mark of the Secret's present revisions."""
        revisions = self._history.revisions(name)
        mark = self._history.mark(consumer, name)
        return bool(revisions) and mark == digest(revisions[-1], revisions[-1])
