"""Values that return while consumers wait for their restarts (core/unsettled.py)."""

from dataclasses import replace

import pytest

from keyturn_receiver.core.consumer import Consumer, Reads, WorkloadRef
from keyturn_receiver.core.mark import has_mark_of, present_mark
from keyturn_receiver.core.pod import Pod
from keyturn_receiver.core.revision import Record, digest, read_record, write_record
from keyturn_receiver.core.rollout import is_behind, is_waiting, next_unsettled, rollout
from keyturn_receiver.core.rollout_progress import RolloutProgress, RolloutState
from keyturn_receiver.core.rollout_switch import Switch
from keyturn_receiver.core.unsettled import MAX_MARKS, Unsettled, read_unsettled, without_suffix, write_unsettled
from keyturn_receiver.core.write_times import REMOVED, WriteTime

MARK = "revision.keyturn.dev/db"
OPTIONAL = Reads(keys=frozenset("a"), optional=True, optional_keys=frozenset("a"))
WHOLE = Reads(whole=True)
CREATED, LEFT, BETWEEN, RETURNED, LATER = 100, 1000, 1500, 2000, 3000  # seconds since 1970
NOW = 2001  # by the receiver's clock


def consumer(mark: str = "", on_template: str = "", reads: Reads = WHOLE, name: str = "web") -> Consumer:
    return Consumer(
        WorkloadRef("Deployment", "team", name),
        "1",
        {"db": reads},
        baseline={MARK: mark} if mark else {},
        marks={MARK: on_template} if on_template else {},
        switch=Switch.ENABLED,
        created=CREATED,
    )


def record(revision: str, at: int | None, before: Record | None = None, *waiting: Consumer, now: int = NOW) -> Record:
    """Return the record after a write of the revision at a time. ``waiting`` are all consumers that the writer sees."""
    made = Record(revisions={"a": revision}, write_times={"a": WriteTime(at)})
    if before is None:
        return made
    behind = [each for each in waiting if is_waiting(each, "db", before)]
    return replace(made, unsettled=next_unsettled(behind, "db", before, made, now))


A = digest({"a": "A"}, "a")
WAITS = consumer(A)
FIRST = record("A", CREATED - 50)
SECOND = record("B", LEFT, FIRST, WAITS)
THIRD = record("A", RETURNED, SECOND, WAITS)


def is_restarted(pod: Pod, record: Record, workload: Consumer = WAITS) -> bool:
    mark = rollout(workload, "db", record)
    return mark is not None and mark.undecided and is_behind(pod, "db", record, mark, False)


def test_change_for_which_nobody_waits_is_settled() -> None:
    assert SECOND.unsettled == {}
    up_to_date = consumer(digest({"a": "B"}, "a"))
    assert record("A", RETURNED, SECOND, up_to_date).unsettled == {}
    assert record("A", RETURNED, SECOND, consumer()).unsettled == {}  # without a mark, the ages of its pods decide


def test_value_that_returns_restarts_only_workloads_with_a_pod_of_the_time_in_between() -> None:
    assert rollout(WAITS, "db", FIRST) is None
    assert rollout(WAITS, "db", SECOND, FIRST)
    assert THIRD.unsettled == {A: Unsettled(LEFT, NOW)}
    assert present_mark(consumer(on_template=A), "db", THIRD) is None
    assert not has_mark_of(WAITS, "db", THIRD)
    pod = Pod({"db": WHOLE}, LEFT - 1, marks={MARK: A})
    assert not is_restarted(pod, THIRD)
    for created in (LEFT, BETWEEN, RETURNED):
        assert is_restarted(replace(pod, created=created), THIRD)
    assert not is_restarted(replace(pod, created=RETURNED + 1), THIRD)
    # The writer that has just made the change knows no more than the pods tell, although the workload has a mark.
    mark = rollout(WAITS, "db", THIRD, SECOND)
    assert mark
    assert (mark.restart, mark.undecided, mark.returned_since) == (False, True, LEFT)


def test_container_that_was_started_again_in_between_has_read_the_value_in_between() -> None:
    pod = Pod({"db": WHOLE}, CREATED)
    assert not is_restarted(replace(pod, last_started=LEFT - 61), THIRD)
    assert is_restarted(replace(pod, last_started=LEFT - 60), THIRD)  # the kubelet's clock may be slow
    assert is_restarted(replace(pod, last_started=BETWEEN), THIRD)
    started_after = replace(pod, last_started=RETURNED + 61, started={"db": RETURNED + 61})
    assert not is_restarted(started_after, THIRD)


def test_pods_of_a_workload_that_was_restarted_in_between_are_behind_whatever_their_age() -> None:
    """Its mark does not tell what its older pods have read."""
    restarted = consumer(on_template=digest({"a": "B"}, "a"))
    assert is_restarted(Pod({"db": WHOLE}, CREATED), THIRD, restarted)
    mark = rollout(restarted, "db", THIRD, SECOND)
    assert mark
    assert mark.restart


def test_restart_for_a_returned_value_changes_the_template_and_settles_it() -> None:
    mark = rollout(WAITS, "db", THIRD)
    assert mark
    assert mark.value == f"{A}~{NOW}"
    for settled in (consumer(mark.value), consumer(on_template=mark.value)):
        assert rollout(settled, "db", THIRD) is None
        assert has_mark_of(settled, "db", THIRD)
        assert rollout(settled, "db", record("B", LATER, THIRD, settled), THIRD)
    new = Pod({"db": WHOLE}, BETWEEN, marks={MARK: mark.value})
    assert not is_behind(new, "db", THIRD, mark, False)


def test_suffix_of_an_earlier_return_does_not_matter_later() -> None:
    """Once a change has reached every workload, or the Secret is made anew, no suffix is left in the record."""
    settled = consumer(f"{A}~{NOW}")
    assert rollout(settled, "db", FIRST) is None
    assert has_mark_of(settled, "db", FIRST)
    assert rollout(settled, "db", record("B", LATER, FIRST, settled))


def test_value_that_returns_twice_gets_two_marks() -> None:
    again = record("A", LATER + 10, record("B", LATER, THIRD, WAITS), WAITS, now=0)
    assert again.unsettled == {A: Unsettled(LEFT, NOW + 1)}
    assert rollout(consumer(f"{A}~{NOW}"), "db", again)
    assert is_restarted(Pod({"db": WHOLE}, BETWEEN), again)
    assert not is_restarted(Pod({"db": WHOLE}, CREATED), again)


def test_several_values_in_between_count_from_the_first() -> None:
    other = record("C", BETWEEN, SECOND, WAITS)
    assert other.unsettled == {A: Unsettled(LEFT)}
    assert rollout(WAITS, "db", other)
    back = record("A", RETURNED, other, WAITS)
    assert back.unsettled == {A: Unsettled(LEFT, NOW)}
    assert is_restarted(Pod({"db": WHOLE}, LEFT + 1), back)


def test_workload_that_was_not_looked_at_after_a_return_is_not_forgotten_by_the_next_change() -> None:
    """Another key changes meanwhile. Without the suffix, the mark of the workload would count as right."""
    key = Reads(keys=frozenset("a"))
    waits, other = consumer(A, reads=key), consumer(digest({"b": "1"}, "b"), reads=Reads(keys=frozenset("b")))

    def of(before: Record | None, a: tuple[str, int], b: tuple[str, int]) -> Record:
        pairs = {"a": a, "b": b}
        times = {key: WriteTime(at) for key, (_, at) in pairs.items()}
        made = Record(revisions={key: revision for key, (revision, _) in pairs.items()}, write_times=times)
        if before is None:
            return made
        waiting = [each for each in (waits, other) if is_waiting(each, "db", before)]
        return replace(made, unsettled=next_unsettled(waiting, "db", before, made, NOW))

    old_key = ("1", CREATED - 50)
    second = of(of(None, ("A", CREATED - 50), old_key), ("B", LEFT), old_key)
    third = of(second, ("A", RETURNED), old_key)
    fourth = of(third, ("A", RETURNED), ("2", LATER))
    assert is_restarted(Pod({"db": key}, BETWEEN), fourth, waits)
    assert not is_restarted(Pod({"db": key}, CREATED), fourth, waits)
    # The suffix is that of the first return, so a workload that was looked at then needs no new mark.
    assert fourth.unsettled == third.unsettled == {A: Unsettled(LEFT, NOW)}
    assert rollout(consumer(f"{A}~{NOW}", reads=key), "db", fourth) is None
    assert rollout(other, "db", third) is None  # the other workload has nothing to do with the return
    assert is_restarted(Pod({"db": other.reads["db"]}, BETWEEN), fourth, other)


def test_optional_key_that_goes_and_returns_restarts_pods_that_started_without_it() -> None:
    waits = consumer(A, reads=OPTIONAL)
    gone = Record(revisions={"b": "1"}, write_times={REMOVED: WriteTime(LEFT)})
    assert is_waiting(waits, "db", gone)
    back = Record(revisions={"a": "A", "b": "1"}, write_times={"a": WriteTime(RETURNED, appeared=True)})
    back = replace(back, unsettled=next_unsettled([waits], "db", gone, back, NOW))
    assert back.unsettled == {A: Unsettled(LEFT, NOW)}
    assert is_restarted(Pod({"db": OPTIONAL}, BETWEEN), back, waits)
    assert not is_restarted(Pod({"db": OPTIONAL}, CREATED), back, waits)


def test_unknown_time_of_the_change_makes_every_pod_uncertain() -> None:
    """An older release may have written the value in between without its time."""
    unknown = Record(revisions={"a": "B"})
    back = record("A", RETURNED, unknown, WAITS)
    assert back.unsettled == {A: Unsettled(0, NOW)}
    assert is_restarted(Pod({"db": WHOLE}, CREATED), back)


def test_workload_that_waits_for_ever_makes_no_pod_of_another_uncertain() -> None:
    """One workload has waited since the first change, and has the mark of the oldest value. The others have followed,
    and wait only for the last change, which is rolled back."""
    b = consumer(digest({"a": "B"}, "a"), name="other")
    third = record("C", BETWEEN, record("B", LEFT, FIRST, WAITS), WAITS, b)
    back = record("B", RETURNED, third, WAITS, b)
    assert back.unsettled == {A: Unsettled(LEFT), without_suffix(b.baseline[MARK]): Unsettled(BETWEEN, NOW)}
    assert not is_restarted(Pod({"db": WHOLE}, LEFT + 20), back, b)
    assert is_restarted(Pod({"db": WHOLE}, BETWEEN), back, b)
    assert is_restarted(Pod({"db": WHOLE}, LEFT + 20), back, WAITS)


def test_workload_in_the_middle_of_a_rollout_restarts_whatever_the_age_of_its_pods() -> None:
    """Its older pods have the template before the mark, so they may have read anything. A settled mark says what all
    pods have read, so an unfinished rollout of somebody else does not matter."""
    unfinished = RolloutProgress(RolloutState.UNFINISHED, 2, 1, 1)
    for workload, restarts in (
        (consumer(on_template=A), True),
        (replace(consumer(A), by_time=True), True),
        (consumer(A), False),
        (consumer(A, on_template="of-an-older-value"), False),
    ):
        for progress in (unfinished, RolloutProgress(RolloutState.COMPLETE, 2, 2, 2, is_uniform=True), None):
            for evicts in (False, True):  # evictions are always decided by the pods
                mark = rollout(replace(workload, progress=progress, evicts=evicts), "db", THIRD)
                assert mark
                assert mark.restart is (restarts and progress is unfinished and not evicts)
                assert mark.undecided is not mark.restart


def test_workload_that_waits_for_ever_makes_no_pod_uncertain_when_the_same_value_returns_twice() -> None:
    settled = consumer(f"{A}~{NOW}", name="other")
    again = record("B", 50_000, THIRD, WAITS, settled)
    back = record("A", 60_000, again, WAITS, settled, now=60_001)
    assert back.unsettled == {A: Unsettled(LEFT, 60_001), f"{A}~{NOW}": Unsettled(50_000, 60_001)}
    assert not is_restarted(Pod({"db": WHOLE}, 49_000), back, settled)
    assert is_restarted(Pod({"db": WHOLE}, 50_000), back, settled)
    assert is_restarted(Pod({"db": WHOLE}, 49_000), back, WAITS)
    mark = rollout(settled, "db", back)
    assert mark
    assert mark.value == f"{A}~60001"


def test_pod_of_the_present_template_is_new_although_its_owner_restores_an_older_settled_mark() -> None:
    """The owner has exported a manifest before the rotation, and applies it in the second of the restart or later."""
    restarted = consumer(A, on_template=digest({"a": "B"}, "a"))
    mark = rollout(restarted, "db", SECOND)
    assert mark
    assert (mark.undecided, mark.may_be_former) == (True, True)
    made = Pod({"db": WHOLE}, LEFT, marks={MARK: mark.value})
    assert not is_behind(made, "db", SECOND, mark, False)
    assert is_behind(replace(made, created=LEFT - 1), "db", SECOND, mark, False)
    assert is_behind(replace(made, marks={}), "db", SECOND, mark, False)


@pytest.mark.parametrize("suffix", ["", "~7"])
def test_mark_that_the_template_has_from_an_earlier_time_proves_nothing(suffix: str) -> None:
    """The pods were made anew by somebody while the workload waited, so they run the value in between. The settled mark
    says so, and the template still has the mark of the value that returns."""
    workload = consumer(digest({"a": "B"}, "a"), on_template=A + suffix)
    later = record("A", RETURNED, SECOND, workload)
    assert later.unsettled == {}
    assert present_mark(workload, "db", later) is None  # so nobody is told that the value is live
    assert present_mark(replace(workload, baseline={}), "db", later) == A + suffix
    mark = rollout(workload, "db", later, SECOND)
    assert mark
    assert (mark.restart, mark.may_be_former) == (True, True)
    mark = rollout(workload, "db", later)
    assert mark
    assert (mark.undecided, mark.may_be_former) == (True, True)
    made = Pod({"db": WHOLE}, BETWEEN, marks={MARK: A + suffix})
    assert is_behind(made, "db", later, mark, False)
    assert not is_behind(replace(made, created=RETURNED + 1), "db", later, mark, False)
    assert not is_behind(made, "db", later, replace(mark, may_be_former=False), False)


def test_marks_beyond_the_limit_are_not_remembered() -> None:
    count = MAX_MARKS + 5
    revisions = {f"k{number}": "1" for number in range(count)}
    before = Record(revisions=dict.fromkeys(revisions, "2"), write_times=dict.fromkeys(revisions, WriteTime(LEFT)))
    waiting = [
        consumer(digest(revisions, [key]), reads=Reads(keys=frozenset([key])), name=key) for key in sorted(revisions)
    ]
    made = next_unsettled(waiting, "db", before, replace(before, revisions=revisions), NOW)
    assert len(made) == MAX_MARKS
    assert set(made.values()) == {Unsettled(LEFT, NOW)}
    text = write_unsettled(made)
    assert read_unsettled(text) == made
    assert read_unsettled(text + " " * 20_000) == {}


@pytest.mark.parametrize("marks", [{}, {A: Unsettled(LEFT)}, {A: Unsettled(LEFT, NOW), "w1.2": Unsettled(0)}])
def test_record_keeps_the_unsettled_marks(marks: dict[str, Unsettled]) -> None:
    made = Record({"arn#s": "v"}, {"a": "A"}, unsettled=marks)
    annotations = write_record(made, "now")
    assert read_record(annotations).unsettled == marks
    assert ("keyturn.dev/unsettled" in annotations) == bool(marks)
    assert read_record(annotations) == made


TIME = "1970-01-01T00:16:40Z"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "~1",
        "[]",
        "1",
        '{"m":1}',
        '{"m":"now~1"}',
        f'{{"m":"{TIME}~x"}}',
        f'{{"m":"{TIME}~{"9" * 30}"}}',
        "[" * 9000,
    ],
)
def test_annotation_of_somebody_else_counts_as_none(text: str) -> None:
    assert read_unsettled(text) == {}
    assert read_unsettled(f'{{"m":"{TIME}~0","n":2}}') == {"m": Unsettled(1000)}
