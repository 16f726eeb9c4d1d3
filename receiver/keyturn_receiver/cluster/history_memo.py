"""Memo of histories. A write of a Secret has to repeat the annotation ``keyturn.dev/history``, which no cache keeps.

The memo holds the annotations that this replica has recently read or written, so that a rotation needs no read of the
Secret. The memo is bounded, because the histories of 10,000 Secrets would take 12 MB.
"""

from keyturn_receiver.core.plan import LiveSecret
from keyturn_receiver.resilience.fair_map import FairMap

MAX_HISTORIES = 2000  # Secrets; each history takes up to MAX_BYTES of ``core/history.py``


class HistoryMemo:
    """Bounded memo. It has at most one history per Secret: that of the version that was last read or written."""

    def __init__(self) -> None:
        self._histories: FairMap[str, str, tuple[str, str]] = FairMap(MAX_HISTORIES)

    def get(self, live: LiveSecret) -> str | None:
        """Return the history of this version of a Secret, or None if the memo does not have it."""
        resource_version, history = self._histories.get(live.target.namespace, live.uid) or ("", "")
        return history if resource_version == live.resource_version else None

    def keep(self, live: LiveSecret, resource_version: str, history: str) -> None:
        """Remember the history of one version of a Secret."""
        self._histories.put(live.target.namespace, live.uid, (resource_version, history))
