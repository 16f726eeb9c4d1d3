"""The work queue: one at a time for each binding, alike requests joined, failures tried again."""

import asyncio
from collections import Counter

import pytest

from keyturn_receiver.core.binding import Target
from keyturn_receiver.errors import Conflict, InvalidValue, Temporary
from keyturn_receiver.reconcile.queue import Queue
from keyturn_receiver.reconcile.request import Cause, Reconciled, Request, because
from keyturn_receiver.telemetry import Metrics

pytestmark = pytest.mark.anyio
A, B = Target("team", "a"), Target("team", "b")
DONE = Reconciled(True)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def test_what_is_asked_for_during_a_run_joins_the_next_one() -> None:
    requests: list[Request] = []
    begun, go = asyncio.Event(), asyncio.Event()

    async def work(target: Target, request: Request) -> Reconciled:
        requests.append(request)
        begun.set()
        await go.wait()
        return DONE

    queue = Queue(work, 4, Metrics())
    first = asyncio.create_task(queue.submit(A, because(Cause.POLL)))
    await begun.wait()
    others = [asyncio.create_task(queue.submit(A, because(Cause.NOTIFICATION, {f"v{n}"}))) for n in range(100)]
    await asyncio.sleep(0)
    go.set()
    assert await asyncio.gather(first, *others) == [DONE] * 101
    assert len(requests) == 2
    assert requests[1].expected == {f"v{n}" for n in range(100)}


async def test_a_binding_is_never_worked_on_twice_at_once_but_others_beside_it() -> None:
    running: Counter[Target] = Counter()
    most: Counter[Target] = Counter()
    both = asyncio.Event()

    async def work(target: Target, request: Request) -> Reconciled:
        running[target] += 1
        most[target] = max(most[target], running[target])
        if running[A] and running[B]:
            both.set()
        await both.wait()
        running[target] -= 1
        return DONE

    queue = Queue(work, 4, Metrics())
    await asyncio.wait_for(asyncio.gather(*(queue.submit(t, because(Cause.POLL)) for t in (A, B, A, B))), 5)
    assert most == {A: 1, B: 1}


async def test_no_more_bindings_than_there_are_places_are_worked_on_at_once() -> None:
    running = 0
    most = 0

    async def work(target: Target, request: Request) -> Reconciled:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.001)
        running -= 1
        return DONE

    queue = Queue(work, 3, Metrics())
    await asyncio.gather(*(queue.submit(Target("t", str(n)), because(Cause.POLL)) for n in range(30)))
    assert most == 3


async def test_a_conflict_is_tried_again_at_once() -> None:
    tries = 0

    async def work(target: Target, request: Request) -> Reconciled:
        nonlocal tries
        tries += 1
        if tries < 3:
            raise Conflict("somebody else wrote first")
        return DONE

    assert await Queue(work, 1, Metrics()).submit(A, because(Cause.POLL)) == DONE
    assert tries == 3


async def test_who_waits_gets_the_error_and_the_queue_goes_on() -> None:
    async def work(target: Target, request: Request) -> Reconciled:
        if target == A:
            raise InvalidValue("no such property")
        return DONE

    queue = Queue(work, 1, Metrics())
    with pytest.raises(InvalidValue):
        await queue.submit(A, because(Cause.POLL))
    assert await queue.submit(B, because(Cause.POLL)) == DONE


async def test_a_bug_looks_like_a_temporary_failure_and_never_like_success() -> None:
    async def work(target: Target, request: Request) -> Reconciled:
        raise KeyError("the-secret-value")

    with pytest.raises(Temporary) as caught:
        await Queue(work, 1, Metrics()).submit(A, because(Cause.POLL))
    assert "the-secret-value" not in str(caught.value)


async def test_background_work_that_fails_for_now_is_tried_again_by_itself() -> None:
    tries = 0
    done = asyncio.Event()

    async def work(target: Target, request: Request) -> Reconciled:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise Temporary("not now", retry_after=0.01)
        done.set()
        return DONE

    queue = Queue(work, 1, Metrics())
    queue.add(A, because(Cause.SECRET))
    await asyncio.wait_for(done.wait(), 5)
    await queue.close(1)


async def test_giving_up_waiting_does_not_stop_the_work() -> None:
    go, done = asyncio.Event(), asyncio.Event()

    async def work(target: Target, request: Request) -> Reconciled:
        await go.wait()
        done.set()
        return DONE

    queue = Queue(work, 1, Metrics())
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(queue.submit(A, because(Cause.NOTIFICATION)), 0.01)
    go.set()
    await asyncio.wait_for(done.wait(), 5)
