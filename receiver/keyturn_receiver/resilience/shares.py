"""Shares: one semaphore per owner. No owner can take all places of a shared resource."""

import asyncio
from collections.abc import Hashable, Mapping
from dataclasses import dataclass


@dataclass(slots=True)
class _Owner:
    """One owner of places. ``users`` counts the callers that hold a place, and the callers that wait for a place."""

    places: asyncio.Semaphore
    users: int = 0


class Shares:
    """Bulkhead. Each owner holds at most ``limit`` places at once. Callers that want more places wait in order.

    ``limits`` maps an owner to a limit that replaces ``limit`` for this owner. An owner that nobody uses takes no
    memory.
    """

    def __init__(self, limit: int, limits: Mapping[Hashable, int] | None = None) -> None:
        self._limit = limit
        self._limits = limits or {}
        self._owners: dict[Hashable, _Owner] = {}

    def __len__(self) -> int:
        return len(self._owners)

    def __contains__(self, owner: Hashable) -> bool:
        return owner in self._owners

    async def acquire(self, *owners: Hashable) -> None:
        """Take one place of each owner, one owner after the other. Wait while an owner has no free place.

        All callers must name the owners in the same order, for example small limits first. Otherwise two callers could
        deadlock.
        """
        held: list[Hashable] = []
        try:
            for owner in owners:
                await self._acquire(owner)
                held.append(owner)
        except BaseException:
            self.release(*held)
            raise

    def release(self, *owners: Hashable) -> None:
        """Give back one place of each owner."""
        for owner in owners:
            self._owners[owner].places.release()
            self._leave(owner)

    async def _acquire(self, owner: Hashable) -> None:
        state = self._owners.get(owner)
        if state is None:
            state = self._owners[owner] = _Owner(asyncio.Semaphore(self._limits.get(owner, self._limit)))
        state.users += 1
        try:
            await state.places.acquire()
        except BaseException:
            self._leave(owner)
            raise

    def _leave(self, owner: Hashable) -> None:
        self._owners[owner].users -= 1
        if not self._owners[owner].users:
            del self._owners[owner]
