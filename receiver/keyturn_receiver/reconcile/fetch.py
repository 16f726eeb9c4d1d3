"""Reading the right version: by staging label, held against the version that a notification names.

The rule: docs/design.md#reading-the-right-version.
"""

import asyncio
import time
from collections.abc import Sequence, Set

from keyturn_receiver.core.binding import Source
from keyturn_receiver.core.render import SecretVersion
from keyturn_receiver.errors import StaleRead
from keyturn_receiver.sources.stores import StoreKey, Stores

# Seconds between reads that came out stale; together less than a delivery's deadline.
DELAYS = (0.1, 0.2, 0.4, 0.8, 1.6)


async def fetch(
    stores: Stores,
    store: StoreKey,
    source: Source,
    expected: Set[str],
    since: float,
    background: bool = False,
    delays: Sequence[float] = DELAYS,
) -> SecretVersion:
    """Read the version that holds the source's staging label, as of ``since`` (monotonic seconds) or later.

    ``expected`` names the versions that notifications or the poller told of. Another one may be the truth (the
    notification is late, AWS was rolled back) or a read from before the move: DescribeSecret tells which. Raises
    StaleRead when AWS goes on giving the older one after all ``delays``. ``background``: nobody waits for it.
    """
    for delay in (*delays, None):
        version = await stores.read(store, source, since, background)
        if not expected or expected == {version.version_id}:
            return version
        described = await stores.describe(store, source.secret_id, since)
        if described.current(source.stage) == version.version_id:
            return version
        if delay is not None:
            await asyncio.sleep(delay)
            since = time.monotonic()
    raise StaleRead(
        f"AWS secret {source.secret_id}: AWS still gives the version before the rotation: trying again", 2.0
    )
