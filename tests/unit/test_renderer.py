"""Renderer: expensive work leaves the event loop, and the namespaces take turns in the thread."""

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor

import pytest

from keyturn_receiver.core.binding import DATA, SECRET_ID, BindingSpec, Target, read_spec
from keyturn_receiver.core.render import SecretVersion
from keyturn_receiver.errors import InvalidBinding, NamespaceBusy
from keyturn_receiver.reconcile.renderer import Renderer

pytestmark = pytest.mark.anyio

CHEAP = "PASSWORD: password\nURL: join('', ['postgres://', username, '@', host])"
DEAR = "\n".join(f"K{number}: \"[?a=='{number}'] | [0] || 'none'\"" for number in range(20))
VALUE = json.dumps({"username": "app", "password": "s3cret", "host": "db"})


class RecordingExecutor(Executor):
    """An executor with one thread. It counts the submitted work, which waits until ``go`` is set."""

    def __init__(self) -> None:
        self._inner = ThreadPoolExecutor(1)
        self.submitted = 0
        self.go = threading.Event()

    def submit(self, work: Callable, /, *args: object, **kwargs: object) -> Future:
        self.submitted += 1
        return self._inner.submit(lambda: (self.go.wait(10), work(*args, **kwargs))[1])

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self.go.set()
        self._inner.shutdown(wait, cancel_futures=cancel_futures)


@pytest.fixture
def executor() -> Iterator[RecordingExecutor]:
    made = RecordingExecutor()
    yield made
    made.shutdown()


def spec(data: str) -> BindingSpec:
    return read_spec({SECRET_ID: "shop/db", DATA: data})


async def filled(renderer: Renderer, namespace: str, data: str) -> dict[str, bytes]:
    binding = await renderer.read_binding(Target(namespace, "db"), spec(data))
    return await renderer.render(binding, {source: version() for source in binding.sources})


def version() -> SecretVersion:
    return SecretVersion("arn", "shop/db", "v1", VALUE)


async def test_common_binding_is_rendered_without_the_thread(executor: RecordingExecutor) -> None:
    data = await filled(Renderer(executor), "team", CHEAP)
    assert data == {"PASSWORD": b"s3cret", "URL": b"postgres://app@db"}
    assert executor.submitted == 0


async def test_expensive_binding_is_parsed_and_rendered_in_the_thread(executor: RecordingExecutor) -> None:
    executor.go.set()
    data = await filled(Renderer(executor), "team", DEAR)
    assert data["K0"] == b"none"
    assert executor.submitted == 2


@pytest.mark.parametrize("data", [None, "A: list"], ids=["every key", "a property"])
async def test_large_value_is_parsed_and_written_in_the_thread(executor: RecordingExecutor, data: str | None) -> None:
    """Parsing a tenant's JSON and writing it again can take some 50 ms."""
    executor.go.set()
    annotations = {SECRET_ID: "shop/db"} | ({} if data is None else {DATA: data})
    renderer, numbers = Renderer(executor), ",".join(["1.50"] * 13_000)
    binding = await renderer.read_binding(Target("team", "db"), read_spec(annotations))
    large = SecretVersion("arn", "shop/db", "v1", f'{{"list": [{numbers}]}}')
    rendered = await renderer.render(binding, {source: large for source in binding.sources})
    assert list(rendered.values()) == [f"[{numbers}]".encode()]
    assert executor.submitted == 1


async def test_error_of_an_expensive_binding_reaches_the_caller(executor: RecordingExecutor) -> None:
    executor.go.set()
    with pytest.raises(InvalidBinding, match="not a JMESPath expression"):
        await filled(Renderer(executor), "team", DEAR + "\nBROKEN: a[")


async def test_namespace_waits_for_one_piece_of_work_of_another_and_not_for_all(executor: RecordingExecutor) -> None:
    renderer, order = Renderer(executor), []

    async def fill(namespace: str) -> None:
        await renderer.read_binding(Target(namespace, "db"), spec(DEAR))
        order.append(namespace)

    work = [asyncio.create_task(fill(namespace)) for namespace in ["busy"] * 20 + ["quiet"]]
    await asyncio.sleep(0)
    executor.go.set()
    await asyncio.gather(*work)
    assert order.index("quiet") <= 1


async def test_cancelled_work_leaves_the_lane_free(executor: RecordingExecutor) -> None:
    renderer = Renderer(executor)
    work = [asyncio.create_task(filled(renderer, "team", DEAR)) for _ in range(3)]
    await asyncio.sleep(0)
    for task in work:
        task.cancel()
    await asyncio.gather(*work, return_exceptions=True)
    executor.go.set()
    assert (await filled(renderer, "team", DEAR))["K1"] == b"none"


async def test_work_that_waits_too_long_behind_its_own_namespace_is_given_up(executor: RecordingExecutor) -> None:
    renderer = Renderer(executor, max_wait=0.05)
    first = asyncio.create_task(filled(renderer, "busy", DEAR))
    await asyncio.sleep(0)
    with pytest.raises(NamespaceBusy, match="of namespace busy wait: trying again"):
        await filled(renderer, "busy", DEAR)
    executor.go.set()
    assert (await filled(renderer, "quiet", DEAR))["K1"] == b"none"
    assert (await first)["K1"] == b"none"
    assert (await filled(renderer, "busy", DEAR))["K1"] == b"none"
