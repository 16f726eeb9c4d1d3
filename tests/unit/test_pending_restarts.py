"""Pending restarts: what the next reconcile may decide without a look at the pods."""

from dataclasses import replace

from keyturn_receiver.core.binding import Target
from keyturn_receiver.core.consumer import Consumer, Reads, WorkloadRef
from keyturn_receiver.core.revision import Record, digest
from keyturn_receiver.core.rollout import rollout
from keyturn_receiver.core.rollout_switch import Switch
from keyturn_receiver.reconcile.pending_restarts import MAX_TARGETS, SECONDS, PendingRestarts, Write, write_of
from support.clock import FakeClock

DB = Target("team", "db")
MARK = "revision.keyturn.dev/db"
BEFORE, AFTER = (Record(revisions={"a": version}) for version in ("v1", "v2"))
REF, OTHER = (WorkloadRef("Deployment", "team", name) for name in ("web", "other"))


def consumer(mark: str, specified: int | None = 1) -> Consumer:
    return Consumer(REF, "1", {"db": Reads(whole=True)}, {}, {MARK: mark}, Switch.UNSET, specified=specified)


OLD, ODD = consumer(digest({"a": "v1"}, "a")), consumer("odd")
WRITE = Write(AFTER, BEFORE, {REF: 1, OTHER: 1})


def test_reconcile_that_has_written_knows_of_all_whom_it_knew_before() -> None:
    assert WRITE.before_of(ODD, "db", AFTER, unchanged=True) is BEFORE
    # If a consumer has changed meanwhile, only an old mark tells that it is still to be restarted.
    assert WRITE.before_of(ODD, "db", AFTER, unchanged=False) is None
    assert WRITE.before_of(OLD, "db", AFTER, unchanged=False) is BEFORE
    # Somebody else has written another record since.
    assert WRITE.before_of(OLD, "db", Record(revisions={"a": "v3"}), unchanged=True) is None


def test_reader_that_was_restarted_without_its_optional_key_is_still_to_do_when_the_key_returns() -> None:
    gone, back = Record(revisions={"b": "v1"}), Record(revisions={"a": "v2", "b": "v1"})
    reads = {"db": Reads(keys=frozenset({"a"}), optional=True, optional_keys=frozenset({"a"}))}
    reader = Consumer(REF, "1", reads, {}, {MARK: digest({}, ())}, Switch.UNSET)
    assert write_of(back, gone, [reader]).before_of(reader, "db", back, unchanged=False) is gone
    mark = rollout(reader, "db", back, gone)
    assert mark is not None
    assert mark.restart  # its pods are not looked at, however young they are


def test_next_reconcile_knows_of_those_who_are_left_and_have_their_old_mark() -> None:
    left = replace(WRITE, left={REF: 1}, is_kept=True)
    assert left.before_of(OLD, "db", AFTER, unchanged=True) is BEFORE
    assert left.before_of(ODD, "db", AFTER, unchanged=True) is None
    # A consumer that is not in ``left`` was marked. Somebody may have reverted the mark since, after its pods were
    # replaced.
    assert replace(WRITE, left={OTHER: 1}, is_kept=True).before_of(OLD, "db", AFTER, unchanged=True) is None


def test_consumer_whose_pods_somebody_else_may_have_replaced_is_decided_by_its_pods() -> None:
    """A deploy, or `kubectl rollout restart`, does not change the mark, but the generation."""
    left = replace(WRITE, left={REF: 1}, is_kept=True)
    for unchanged in (True, False):
        assert left.before_of(replace(OLD, resource_version="2"), "db", AFTER, unchanged) is BEFORE
        assert left.before_of(replace(OLD, specified=2), "db", AFTER, unchanged) is None
        assert left.before_of(replace(OLD, specified=None), "db", AFTER, unchanged) is None
    # In the reconcile that writes, a consumer without a change was not replaced either.
    assert WRITE.before_of(replace(OLD, specified=2), "db", AFTER, unchanged=False) is None
    assert WRITE.before_of(replace(OLD, specified=2), "db", AFTER, unchanged=True) is BEFORE


def test_annotation_that_keyturn_writes_replaces_no_pods() -> None:
    """A Deployment has a new generation after it."""
    pending = PendingRestarts(FakeClock())
    pending.keep(DB, WRITE, {REF})
    annotated = replace(OLD, specified=2)
    pending.note_annotated(OLD, annotated)
    write = pending.get(DB)
    assert write
    assert write.before_of(annotated, "db", AFTER, unchanged=True) is BEFORE
    assert WRITE.left[REF] == 1
    # Somebody else has changed it before.
    pending.note_annotated(replace(OLD, specified=3), replace(OLD, specified=4))
    assert write.before_of(replace(OLD, specified=4), "db", AFTER, unchanged=True) is None
    # No restart of the other consumer is left.
    pending.note_annotated(replace(OLD, ref=OTHER), replace(OLD, ref=OTHER, specified=2))
    assert write.left == {REF: 2}


def test_reconciles_that_go_on_do_not_extend_the_minute() -> None:
    """A consumer that waits for its slot for minutes may have new pods by then, so the ages of the pods decide."""
    clock = FakeClock()
    pending = PendingRestarts(clock)
    pending.keep(DB, WRITE, frozenset({REF, OTHER}))
    for _ in range(3):
        clock.advance(SECONDS / 4)
        write = pending.get(DB)
        assert write is not None
        pending.keep(DB, write, frozenset({REF}))
    clock.advance(SECONDS / 4)
    assert pending.get(DB) is None
    pending.keep(DB, write, frozenset({REF}))  # by a reconcile that began before the minute was over
    assert pending.get(DB) is None


def test_what_is_left_is_forgotten_when_it_is_done_or_after_a_minute() -> None:
    clock = FakeClock()
    pending = PendingRestarts(clock)
    pending.keep(DB, WRITE, frozenset({REF}))
    assert pending.get(DB) == Write(AFTER, BEFORE, {REF: 1}, is_kept=True)
    pending.keep(DB, WRITE, frozenset())
    assert pending.get(DB) is None
    pending.keep(DB, WRITE, frozenset({REF}))
    clock.advance(SECONDS + 1)
    assert pending.get(DB) is None


def test_number_of_secrets_is_bounded() -> None:
    pending = PendingRestarts(FakeClock())
    for number in range(MAX_TARGETS + 1):
        pending.keep(Target("team", str(number)), WRITE, frozenset({REF}))
    assert pending.get(Target("team", "0")) is None
    assert pending.get(Target("team", str(MAX_TARGETS)))
