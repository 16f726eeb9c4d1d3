"""Turn: a decision about the consumers of one Secret, with the text about a halt."""

from collections.abc import Sequence
from dataclasses import dataclass

from keyturn_receiver.core.consumer import Consumer
from keyturn_receiver.core.rollout_schedule import Wait


@dataclass(frozen=True, slots=True)
class Turn:
    """A decision of the pacer about the consumers of one Secret. ``start`` has the consumers that may be restarted now,
    in order. ``waits`` has the other consumers that are due for a restart, and the reasons why they wait.

    ``unpaced`` are consumers that need a new mark, but whose pods do not restart when the mark is written. They get
    their marks without waiting. ``halted_by`` is the consumer whose failed rollout keeps the others from being
    restarted, or None. ``halt`` is the text about this failure for the Secret's status. It is empty if ``halted_by`` is
    None. ``is_left_to_leader`` is true if consumers are due, but only the leader may restart them, and this
    replica does not lead.
    """

    start: Sequence[Consumer] = ()
    unpaced: Sequence[Consumer] = ()
    waits: Sequence[tuple[Consumer, Wait]] = ()
    halted_by: Consumer | None = None
    halt: str = ""
    is_left_to_leader: bool = False
