"""Stale reads: reads a secret until AWS returns the right version.

The version that has the staging label is compared with the one that a notification names, or else with the one in the
Secret. The rule is in
docs/design.md#reading-the-right-version.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence, Set

from keyturn_receiver.core.binding import Source
from keyturn_receiver.core.render import SecretVersion
from keyturn_receiver.core.revision import version_key
from keyturn_receiver.errors import StaleRead
from keyturn_receiver.sources.stores import StoreKey, Stores

# The seconds to wait after each stale read. Their sum is shorter than the deadline of a delivery.
DELAYS = (0.1, 0.2, 0.4, 0.8, 1.6)


async def fetch(
    stores: Stores,
    store: StoreKey,
    source: Source,
    expected: Set[str],
    recorded: Mapping[str, str],
    since: float,
    background: bool = False,
    namespace: str = "",
    delays: Sequence[float] = DELAYS,
) -> SecretVersion:
    """Read the version that held the source's staging label at the time ``since`` (monotonic seconds) or later.

    ``expected`` has the version ids that notifications or the poller have reported. If nobody has reported any, the
    version in the Secret is expected. ``recorded`` are the versions from which the Secret was made
    (``Record.version_ids``). If AWS returns another version, there are two possibilities. That version is right if the
    notification is late or missing, or if the secret was rolled back. It is wrong if the read is older than the move of
    the staging label. DescribeSecret shows which is the case. Raises
    StaleRead if AWS still returns an older version after all ``delays``. ``background`` is true if no delivery waits
    for the value. The calls to AWS count for ``namespace``, which is the namespace of the binding.
    """
    for delay in (*delays, None):
        version = await stores.read(store, source, since, background, namespace)
        in_secret = recorded.get(version_key(version.arn, source.stage), version.version_id)
        if (expected or {in_secret}) == {version.version_id}:
            return version
        described = await stores.describe(store, source.secret_id, since, namespace)
        if described.current(source.stage) == version.version_id:
            return version
        if delay is not None:
            await asyncio.sleep(delay)
            since = time.monotonic()
    raise StaleRead(
        f"AWS secret {source.secret_id}: AWS still gives the version before the rotation: trying again", 2.0
    )
