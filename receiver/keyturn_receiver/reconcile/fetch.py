"""Reading the right version: by staging label, held against what the notification said (DESIGN section 2)."""

import asyncio
from collections.abc import Sequence, Set

from keyturn_receiver.core.binding import Source
from keyturn_receiver.core.render import SecretVersion
from keyturn_receiver.errors import StaleRead
from keyturn_receiver.sources.secrets_manager import SecretsManager

DELAYS = (
    0.1,
    0.2,
    0.4,
    0.8,
    1.6,
)  # seconds between reads that came out stale; together less than a delivery's deadline


async def fetch(
    secrets: SecretsManager, source: Source, expected: Set[str], delays: Sequence[float] = DELAYS
) -> SecretVersion:
    """Read the version that holds the source's staging label.

    ``expected`` names the versions that notifications told of. Another one may be the truth (the notification is late,
    AWS was rolled back) or a read from before the move: DescribeSecret tells which. Raises StaleRead when AWS goes on
    giving the older one after all ``delays``.
    """
    for delay in (*delays, None):
        version = await secrets.read(source)
        if not expected or expected == {version.version_id}:
            return version
        stages = await secrets.stages(source.secret_id)
        if source.stage in stages.get(version.version_id, ()):
            return version
        if delay is not None:
            await asyncio.sleep(delay)
    raise StaleRead(
        f"AWS secret {source.secret_id}: AWS still gives the version before the rotation: trying again", 2.0
    )
