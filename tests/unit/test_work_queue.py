"""The work queue runs one reconcile at a time for each binding, merges similar requests, and retries failures."""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from keyturn_receiver.core.binding import Source, Target
from keyturn_receiver.errors import InvalidValue, KeyturnError, Temporary, Unfinished
from keyturn_receiver.reconcile.request import Cause, ReconcileResult, Request
from keyturn_receiver.reconcile.work_queue import SETTLE_SECONDS, WorkQueue
from keyturn_receiver.telemetry.metrics import Metrics

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]
A, B = Target("team", "a"), Target("team", "b")
DONE = ReconcileResult(True)

Work = Callable[[Target, Request], Awaitable[ReconcileResult]]


def queue_of(work: Work, slots: int = 4) -> WorkQueue:
    return WorkQueue(work, slots, Metrics(), now=time.monotonic)


def failed(error: KeyturnError) -> ReconcileResult:
    return ReconcileResult(True, error=error, terminal_version="" if isinstance(error, Temporary) else "7")


async def test_requests_during_a_run_are_joined_into_the_next() -> None:
    requests: list[Request] = []
    begun, go = asyncio.Event(), asyncio.Event()

    async def work(target: Target, request: Request) -> ReconcileResult:
        requests.append(request)
        begun.set()
        await go.wait()
        return DONE

    queue = queue_of(work)
    first = queue.submit(A, Request.now(Cause.POLL))
    await begun.wait()
    others = [queue.submit(A, Request.now(Cause.NOTIFICATION, {f"v{n}"}, f"event-{n}")) for n in range(100)]
    go.set()
    assert await asyncio.gather(first, *others) == [DONE] * 101
    assert len(requests) == 2
    assert requests[1].expected == {f"v{n}" for n in range(100)}
    assert requests[1].event_ids == tuple(f"event-{n}" for n in range(10))


async def test_joined_request_has_the_time_of_the_last() -> None:
    first = Request.now(Cause.POLL)
    second = Request.now(Cause.NOTIFICATION)
    assert (first | second).since == second.since >= first.since
    assert (first | second).priority is Cause.NOTIFICATION


X, Y = Source("prod/x"), Source("prod/y")
NOTIFIED, POLLED = (Request.now(cause, {cause}, about={X}) for cause in (Cause.NOTIFICATION, Cause.POLL))


@pytest.mark.parametrize(
    ("first", "second", "about", "confined_to"),
    [
        (NOTIFIED, POLLED, {X: {Cause.NOTIFICATION, Cause.POLL}}, {X}),
        (NOTIFIED, Request.now(Cause.POLL, {"v"}, about={Y}), {X: {Cause.NOTIFICATION}, Y: {"v"}}, {X, Y}),
        (NOTIFIED, Request.now(Cause.DRIFT), {X: {Cause.NOTIFICATION}}, set()),  # the edit may concern all AWS secrets
        (Request.now(Cause.NEW), POLLED, {X: {Cause.POLL}}, set()),
        (NOTIFIED, Request.now(Cause.POLL), {}, set()),  # the poll was requested when the binding had one AWS secret
    ],
)
async def test_joined_request_is_confined_to_what_both_name(
    first: Request, second: Request, about: dict[Source, set[str]], confined_to: set[Source]
) -> None:
    for joined in (first | second, second | first):
        assert joined.about == about
        assert joined.confined_to == confined_to


async def test_run_learns_whether_a_delivery_waits_for_the_next_one_and_a_retry_is_not_awaited() -> None:
    seen: list[tuple[set[Source], list[bool]]] = []
    begun, go = asyncio.Event(), asyncio.Event()

    async def work(target: Target, request: Request) -> ReconcileResult:
        seen.append((set(request.awaited), [request.next_is_awaited()]))
        begun.set()
        await go.wait()
        seen[-1][1].append(request.next_is_awaited())
        return failed(Temporary("not now")) if len(seen) == 2 else DONE

    queue = queue_of(work)
    queue.submit(A, Request.now(Cause.POLL))
    await begun.wait()
    queue.submit(A, Request.now(Cause.DRIFT))
    last = queue.submit(A, replace(NOTIFIED, awaited=frozenset({X})))
    go.set()
    await last
    await asyncio.sleep(5)
    assert seen == [(set(), [False, True]), ({X}, [False, False]), (set(), [False, False])]


async def test_binding_runs_once_at_a_time_beside_others() -> None:
    running: Counter[Target] = Counter()
    most: Counter[Target] = Counter()
    both = asyncio.Event()

    async def work(target: Target, request: Request) -> ReconcileResult:
        running[target] += 1
        most[target] = max(most[target], running[target])
        if running[A] and running[B]:
            both.set()
        await both.wait()
        running[target] -= 1
        return DONE

    queue = queue_of(work)
    await asyncio.wait_for(asyncio.gather(*(queue.submit(t, Request.now(Cause.POLL)) for t in (A, B, A, B))), 5)
    assert most == {A: 1, B: 1}


async def test_notification_goes_first_and_takes_waiting_requests_along() -> None:
    order: list[str] = []
    go = asyncio.Event()

    async def work(target: Target, request: Request) -> ReconcileResult:
        await go.wait()
        order.append(target.name)
        return DONE

    queue = queue_of(work, slots=1)
    done = [queue.submit(Target("t", "first"), Request.now(Cause.POLL))]
    done += [queue.submit(Target("t", name), Request.now(Cause.POLL)) for name in ("poll", "late")]
    done += [
        queue.submit(Target("t", "drift"), Request.now(Cause.DRIFT)),
        queue.submit(Target("t", "new"), Request.now(Cause.NEW)),
    ]
    done += [queue.submit(Target("t", "late"), Request.now(Cause.NOTIFICATION))]
    assert queue.depth(Cause.NOTIFICATION) == 1
    go.set()
    await asyncio.gather(*done)
    assert order == ["first", "late", "new", "drift", "poll"]


async def test_waiter_gets_the_error_and_the_queue_goes_on() -> None:
    async def work(target: Target, request: Request) -> ReconcileResult:
        if target == A:
            return failed(InvalidValue("no such property"))
        return DONE

    queue = queue_of(work)
    assert isinstance((await queue.submit(A, Request.now(Cause.POLL))).error, InvalidValue)
    assert await queue.submit(B, Request.now(Cause.POLL)) == DONE
    assert queue.failing() == 1
    assert queue.oldest_unmet() == 0  # only a person can fix this error


async def test_bug_counts_as_a_temporary_failure() -> None:
    async def work(target: Target, request: Request) -> ReconcileResult:
        raise KeyError("the-secret-value")

    queue = queue_of(work)
    error = (await queue.submit(A, Request.now(Cause.POLL))).error
    assert isinstance(error, Temporary)
    assert "the-secret-value" not in str(error)
    await queue.close(0)


async def test_temporary_failure_is_retried_whatever_the_cause() -> None:
    requests: list[Request] = []
    done = asyncio.Event()

    async def work(target: Target, request: Request) -> ReconcileResult:
        requests.append(request)
        if len(requests) == 1:
            return failed(Temporary("not now", retry_after=0.01))
        done.set()
        return DONE

    queue = queue_of(work)
    assert isinstance((await queue.submit(A, Request.now(Cause.NOTIFICATION, {"v2"}))).error, Temporary)
    assert (queue.failing(), queue.oldest_unmet() > 0) == (1, True)
    await asyncio.wait_for(done.wait(), 5)
    await asyncio.sleep(0)
    assert requests[1].expected == {"v2"}
    assert requests[1].since > requests[0].since  # the value that the first attempt read may be outdated by now
    assert (queue.failing(), queue.oldest_unmet()) == (0, 0)


@pytest.mark.parametrize(
    ("error", "left"), [(InvalidValue("no such property"), 0), (Temporary("not now", retry_after=60), 1)]
)
async def test_binding_repaired_by_another_replica_is_no_longer_failing(error: Exception, left: int) -> None:
    async def work(target: Target, request: Request) -> ReconcileResult:
        return failed(error)

    queue = queue_of(work)
    assert isinstance((await queue.submit(A, Request.now(Cause.POLL))).error, type(error))
    queue.mark_recovered(A)
    assert queue.failing() == left
    await queue.close(0)


async def test_new_request_does_not_wait_for_the_next_retry() -> None:
    tries = 0

    async def work(target: Target, request: Request) -> ReconcileResult:
        nonlocal tries
        tries += 1
        if tries == 1:
            return failed(Temporary("not now", retry_after=60))
        return DONE

    queue = queue_of(work)
    assert isinstance((await queue.submit(A, Request.now(Cause.POLL))).error, Temporary)
    assert await asyncio.wait_for(queue.submit(A, Request.now(Cause.NOTIFICATION)), 5) == DONE
    assert tries == 2


async def test_new_request_carries_the_causes_of_the_pending_retry() -> None:
    requests: list[Request] = []

    async def work(target: Target, request: Request) -> ReconcileResult:
        requests.append(request)
        if len(requests) == 1:
            return failed(Temporary("not now", retry_after=60))
        return DONE

    queue = queue_of(work)
    assert isinstance((await queue.submit(A, Request.now(Cause.POLL, {"v3"}))).error, Temporary)
    await asyncio.wait_for(queue.submit(A, Request.now(Cause.CONSUMER)), 5)
    assert requests[1].causes == {Cause.POLL, Cause.CONSUMER}
    assert requests[1].expected == {"v3"}
    assert queue.oldest_unmet() == 0


async def test_failed_request_is_joined_into_the_waiting_one() -> None:
    requests: list[Request] = []
    begun, go = asyncio.Event(), asyncio.Event()

    async def work(target: Target, request: Request) -> ReconcileResult:
        requests.append(request)
        if len(requests) == 1:
            begun.set()
            await go.wait()
            return failed(Temporary("not now", retry_after=60))
        return DONE

    queue = queue_of(work)
    first = queue.submit(A, Request.now(Cause.NOTIFICATION, {"v3"}))
    await begun.wait()
    second = queue.submit(A, Request.now(Cause.CONSUMER))
    go.set()
    assert isinstance((await first).error, Temporary)
    assert await asyncio.wait_for(second, 5) == DONE
    assert requests[1].causes == {Cause.NOTIFICATION, Cause.CONSUMER}
    assert requests[1].expected == {"v3"}


async def test_removed_binding_is_not_retried() -> None:
    async def work(target: Target, request: Request) -> ReconcileResult:
        return failed(Temporary("not now", retry_after=0.01))

    queue = queue_of(work)
    assert isinstance((await queue.submit(A, Request.now(Cause.POLL))).error, Temporary)
    queue.drop(A)
    await asyncio.sleep(0.05)
    assert (queue.failing(), queue.oldest_unmet()) == (0, 0)


async def test_close_waits_for_accepted_requests_up_to_its_timeout() -> None:
    ended: list[Target] = []

    async def work(target: Target, request: Request) -> ReconcileResult:
        await asyncio.sleep(60 if target.name == "hung" else 0.01)
        ended.append(target)
        return DONE

    queue = queue_of(work, slots=4)
    targets = [Target("t", str(number)) for number in range(10)]
    for target in targets:
        queue.submit(target, Request.now(Cause.NOTIFICATION))
    await queue.close(5)
    assert sorted(ended) == sorted(targets)
    queue.submit(Target("t", "hung"), Request.now(Cause.NOTIFICATION))
    await queue.close(0.05)
    assert queue.longest_running() > 0


async def test_later_check_gives_way_to_a_sooner_one_and_not_the_other_way_round() -> None:
    async def work(target: Target, request: Request) -> ReconcileResult:
        return DONE

    queue = queue_of(work)
    checked: list[str] = []
    queue.check_later(A, 60, lambda target: checked.append("later"))
    queue.check_later(A, 0.01, lambda target: checked.append("sooner"))
    queue.check_later(A, 60, lambda target: checked.append("later"))
    await asyncio.sleep(0.1)
    assert checked == ["sooner"]


async def test_run_for_consumers_alone_leaves_a_failed_binding_failed() -> None:
    async def work(target: Target, request: Request) -> ReconcileResult:
        return DONE if request.causes == {Cause.CONSUMER} else failed(InvalidValue("no such property"))

    queue = queue_of(work)
    await queue.submit(A, Request.now(Cause.POLL))
    await queue.submit(A, Request.now(Cause.CONSUMER))
    assert (queue.failing(), queue.gave_up_on(A, "7")) == (1, True)


async def test_filled_binding_is_no_longer_given_up() -> None:
    results = iter([failed(InvalidValue("no such property")), ReconcileResult(True, filled=True)])

    async def work(target: Target, request: Request) -> ReconcileResult:
        return next(results)

    queue = queue_of(work)
    await queue.submit(A, Request.now(Cause.POLL))
    assert queue.gave_up_on(A, "7")
    await queue.submit(A, Request.now(Cause.NOTIFICATION))
    assert (queue.failing(), queue.gave_up_on(A, "7")) == (0, False)


async def test_binding_settles_for_a_while_after_its_run() -> None:
    go = asyncio.Event()

    async def work(target: Target, request: Request) -> ReconcileResult:
        await go.wait()
        return DONE

    queue = queue_of(work)
    assert queue.settles_in(A) == 0
    done = queue.submit(A, Request.now(Cause.POLL))
    assert queue.settles_in(A) == SETTLE_SECONDS
    go.set()
    await done
    assert 0 < queue.settles_in(A) <= SETTLE_SECONDS


async def test_binding_behind_its_own_namespace_is_held_up_and_another_is_not() -> None:
    go = asyncio.Event()

    async def work(target: Target, request: Request) -> ReconcileResult:
        await go.wait()
        return DONE

    queue = queue_of(work, slots=8)
    busy = [Target("busy", str(number)) for number in range(12)]
    for target in busy:
        queue.submit(target, Request.now(Cause.NOTIFICATION))
    queue.submit(Target("quiet", "db"), Request.now(Cause.NOTIFICATION))
    await asyncio.sleep(1)
    assert [queue.is_held_up(target) for target in busy] == [True] * 12  # busy has half of the slots, and wants more
    assert not queue.is_held_up(Target("quiet", "db"))
    assert not queue.is_held_up(Target("gone", "db"))
    go.set()
    go = asyncio.Event()
    await asyncio.sleep(0.1)
    queue.submit(busy[0], Request.now(Cause.NOTIFICATION))
    assert [queue.is_held_up(target) for target in busy] == [True] + [False] * 3 + [True] * 8
    go.set()
    await queue.close(5)


async def test_work_that_makes_progress_goes_on_without_back_off_behind_the_work_of_others() -> None:
    order: list[Target] = []

    async def work(target: Target, request: Request) -> ReconcileResult:
        order.append(target)
        await asyncio.sleep(0.1)
        return failed(Unfinished("more is left")) if order.count(target) < 10 else DONE

    queue = queue_of(work, slots=1)
    results = [queue.submit(target, Request.now(Cause.NOTIFICATION)) for target in (A, B)]
    await asyncio.gather(*results)
    await asyncio.sleep(3)
    assert order == [A, B] * 10
    assert queue.failing() == 0


async def test_close_tries_once_more_what_a_notification_has_asked_for() -> None:
    requests: list[tuple[Target, Request]] = []

    async def work(target: Target, request: Request) -> ReconcileResult:
        requests.append((target, request))
        return failed(Temporary("not now", retry_after=60))

    queue = queue_of(work)
    await queue.submit(A, Request.now(Cause.NOTIFICATION, {"v2"}))
    await queue.submit(B, Request.now(Cause.POLL))
    await queue.close(5)
    assert [target for target, _ in requests] == [A, B, A]
    assert requests[-1][1].expected == {"v2"}
    await asyncio.sleep(120)
    assert len(requests) == 3  # and no further attempts
