"""Checks bindings and renders the data of Secrets. Cheap work runs on the event loop. Expensive work runs in a thread.

The authors of bindings decide how expensive that work is. So each namespace has at most one piece of work in the
thread, and the namespaces take turns: a namespace waits for at most one piece of work of each other namespace.
"""

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import TypeVar

from keyturn_receiver.core.binding import Binding, BindingSpec, Source, Target, read_binding
from keyturn_receiver.core.partial import Rendering, render_groups
from keyturn_receiver.core.render import SecretVersion, costs, render
from keyturn_receiver.errors import KeyturnError, NamespaceBusy

MAX_WAIT = 3.0  # seconds that work may wait behind other work of its namespace; after that, the work queue retries it
# Characters of a binding's `data` and `secrets` annotations together, or of its expressions. Longer texts are parsed in
# the thread. To parse a text of this length takes 2 ms at most.
CHEAP_TEXT = 256
CHEAP_COST = 20_000  # units of ``expression.cost``; such work takes at most 2 ms of the event loop
CHEAP_VALUES = 4 * 1024  # characters or bytes of all values; they are parsed and written in 3 ms at most

T = TypeVar("T")


@dataclass(slots=True)
class _Lane:
    """The expensive work of one namespace. ``users`` counts the work that runs or waits."""

    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    users: int = 0


class Renderer:
    """Renderer. Expensive work runs in ``executor``, one piece at a time for each namespace.

    Work that waits for more than ``max_wait`` seconds behind other work of its namespace is given up.
    """

    def __init__(self, executor: Executor, max_wait: float = MAX_WAIT) -> None:
        self._executor = executor
        self._max_wait = max_wait
        self._lanes: dict[str, _Lane] = {}

    async def read_binding(self, target: Target, spec: BindingSpec) -> Binding:
        """Check a binding, and return it. Raises InvalidBinding or NamespaceBusy."""
        if len(spec.data or "") + len(spec.secrets or "") <= CHEAP_TEXT:
            return read_binding(target, spec)
        return await self._in_thread(target.namespace, lambda: read_binding(target, spec))

    async def render(self, binding: Binding, versions: Mapping[Source, SecretVersion]) -> dict[str, bytes]:
        """Return the Secret's data. Raises InvalidValue or NamespaceBusy."""
        length = sum(len(entry.expression) for entry in binding.entries)
        size = sum(len(version.value) for version in versions.values())
        if length <= CHEAP_TEXT and size <= CHEAP_VALUES and sum(known := list(costs(binding, versions))) <= CHEAP_COST:
            return render(binding, versions, known)
        return await self._in_thread(binding.target.namespace, lambda: render(binding, versions))

    async def render_available(
        self,
        binding: Binding,
        versions: Mapping[Source, SecretVersion],
        errors: Mapping[Source, KeyturnError],
        secret_type: str = "",
    ) -> Rendering:
        """Return what can be rendered from these versions, for a Secret of this type. ``errors`` say why other versions
        are missing.

        Raises InvalidValue if the values prevent any rendering. Raises NamespaceBusy.
        """
        groups = binding.groups
        if len(groups) == 1 and not errors:
            return Rendering(await self.render(binding, versions), met=binding.sources)
        available = [group for group in groups if group.sources <= versions.keys()]
        length = sum(len(entry.expression) for group in available for entry in group.entries)
        is_short = length <= CHEAP_TEXT and sum(len(version.value) for version in versions.values()) <= CHEAP_VALUES
        if is_short and sum(sum(costs(group, versions)) for group in available) <= CHEAP_COST:
            return render_groups(groups, versions, errors, secret_type)
        return await self._in_thread(
            binding.target.namespace, lambda: render_groups(groups, versions, errors, secret_type)
        )

    async def _in_thread(self, namespace: str, work: Callable[[], T]) -> T:
        lane = self._lanes.setdefault(namespace, _Lane())
        lane.users += 1
        try:
            await self._take_turn(namespace, lane)
            try:
                return await asyncio.get_running_loop().run_in_executor(self._executor, work)
            finally:
                lane.turn.release()
        finally:
            lane.users -= 1
            if not lane.users:
                del self._lanes[namespace]

    async def _take_turn(self, namespace: str, lane: _Lane) -> None:
        try:
            async with asyncio.timeout(self._max_wait):
                await lane.turn.acquire()
        except TimeoutError:
            raise NamespaceBusy(
                f"too many expensive expressions or large values of namespace {namespace} wait: trying again"
            ) from None
