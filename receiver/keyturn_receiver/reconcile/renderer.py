"""Renders the data of a Secret. A cheap rendering runs on the event loop, an expensive one in a thread."""

import asyncio
from collections.abc import Mapping
from concurrent.futures import Executor

from keyturn_receiver.core.binding import Binding, Source
from keyturn_receiver.core.render import SecretVersion, estimated_cost, render

OFFLOAD_THRESHOLD = 100_000  # units of ``expression.cost``, or at most a hundredth of a second of the event loop


class Renderer:
    """Renderer. It renders on the event loop or in ``executor``, depending on the estimated cost."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor

    async def render(self, binding: Binding, versions: Mapping[Source, SecretVersion]) -> dict[str, bytes]:
        """Return the Secret's data. Raises InvalidValue."""
        if estimated_cost(binding, versions) <= OFFLOAD_THRESHOLD:
            return render(binding, versions)
        return await asyncio.get_running_loop().run_in_executor(self._executor, render, binding, versions)
