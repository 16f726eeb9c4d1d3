"""Batch loader for current values. If there are only a few values to read, each value has a call of its own. Otherwise
one call reads up to twenty values."""

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from keyturn_receiver.core.binding import CURRENT, Source
from keyturn_receiver.core.render import SecretVersion
from keyturn_receiver.errors import ActionDenied, KeyturnError, SourceRefused, detached
from keyturn_receiver.resilience.bounded_map import ExpiringMap
from keyturn_receiver.sources.secrets_manager import MAX_BATCH, SecretsManager

MAX_UNBATCHED = 2  # if this number of calls is in flight, a read waits for other reads to join it
BATCH_WINDOW = 0.01  # seconds for which such a read waits, unless its batch is full earlier
BACKGROUND_BATCH_WINDOW = 0.1  # seconds for which a background read waits, even if few calls are in flight
BATCH_TIMEOUT = 1.5  # seconds; then each value gets a call of its own, because one hanging secret blocks its batch
# Seconds without batches. After AccessDenied, this applies to all secrets. After AWS has refused a batch for another
# reason, it applies to the secrets of the smallest refused part.
BATCH_DISABLED_SECONDS = 600.0
MAX_REFUSED = 1000  # number of secrets that are remembered because AWS refused their batch

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Read:
    """A read that waits for other reads to join it. Its call counts towards the share of ``namespace``. A batch that
    reads for several namespaces counts towards no share."""

    version: "asyncio.Future[SecretVersion]"
    namespace: str


class BatchReader:
    """Batch loader. It reads single values with GetSecretValue, and many values at once with BatchGetSecretValue.

    Only current versions can be read in a batch. A version with another staging label is read with a call of its own,
    and so is a secret whose last call hung, or a secret of another account. If a batch reports an error for a
    secret, the secret is read again with a call of its own, and only the error of that call counts.
    """

    def __init__(self, secrets_manager: SecretsManager) -> None:
        self._secrets_manager = secrets_manager
        self._pending: dict[str, _Read] = {}
        self._calls: set[asyncio.Task[None]] = set()
        self._flush_timer: asyncio.TimerHandle | None = None
        self._flush_at = 0.0
        self._batches_disabled_until = 0.0
        # The ids of secrets whose batch was refused.
        self._refused: ExpiringMap[str, bool] = ExpiringMap(MAX_REFUSED, BATCH_DISABLED_SECONDS, time.monotonic)

    async def read(self, source: Source, background: bool = False, namespace: str = "") -> SecretVersion:
        """Read the version that now holds the staging label of ``source``, for a binding in ``namespace``.

        A ``background`` read waits longer for other reads to join it. Raises the same errors as
        ``SecretsManager.value``.
        """
        if source.stage != CURRENT or not self._may_batch(source.secret_id):
            return await self._secrets_manager.value(source, namespace)
        loop = asyncio.get_running_loop()
        read = self._pending.setdefault(source.secret_id, _Read(loop.create_future(), namespace))
        read.namespace = namespace  # ``namespace`` is SEVERAL if another namespace also reads this secret
        if len(self._pending) >= MAX_BATCH:
            self._flush()
        else:
            # Even a window of 0 seconds uses a timer. So all reads that start in the same iteration of the event loop
            # can join.
            window = BATCH_WINDOW if len(self._calls) >= MAX_UNBATCHED else 0.0
            at = loop.time() + (BACKGROUND_BATCH_WINDOW if background else window)
            if self._flush_timer is None or self._flush_at > at:
                self._cancel_flush()
                self._flush_timer, self._flush_at = loop.call_at(at, self._flush), at
        return await asyncio.shield(read.version)

    def _flush(self) -> None:
        self._cancel_flush()
        while self._pending:
            batch = {secret_id: self._pending.pop(secret_id) for secret_id in list(self._pending)[:MAX_BATCH]}
            call = asyncio.ensure_future(self._fetch(batch))
            self._calls.add(call)
            call.add_done_callback(self._calls.discard)

    def _cancel_flush(self) -> None:
        if self._flush_timer:
            self._flush_timer.cancel()
            self._flush_timer = None

    def _may_batch(self, secret_id: str) -> bool:
        if time.monotonic() < self._batches_disabled_until or secret_id in self._refused:
            return False
        return self._secrets_manager.may_batch(secret_id)

    async def _fetch(self, batch: dict[str, _Read]) -> None:
        namespaces = {read.namespace for read in batch.values()}
        results = await self._read_batch(list(batch), namespaces.pop() if len(namespaces) == 1 else "")
        await asyncio.gather(
            *(self._resolve(secret_id, batch[secret_id], results.get(secret_id)) for secret_id in batch)
        )

    async def _read_batch(self, secret_ids: Sequence[str], namespace: str) -> Mapping[str, SecretVersion]:
        """Read a batch. If a secret is missing in the result, the caller has to read it with a call of its own.

        If AWS refuses the batch, the batch is split into two halves, because a single secret may be the reason.
        """
        if len(secret_ids) < 2:
            return {}
        try:
            async with asyncio.timeout(BATCH_TIMEOUT):
                return await self._secrets_manager.values(secret_ids, namespace)
        except ActionDenied as error:
            self._batches_disabled_until = time.monotonic() + BATCH_DISABLED_SECONDS
            _log.warning("reading values one by one for %.0f minutes: %s", BATCH_DISABLED_SECONDS / 60, error)
        except SourceRefused as error:
            _log.info("splitting a batch of %d values: %s", len(secret_ids), error)
            middle = len(secret_ids) // 2
            # Each of these two or three secrets may be the reason. So for BATCH_DISABLED_SECONDS, none of them is read
            # in a batch.
            if middle == 1:
                for secret_id in secret_ids:
                    self._refused.put(secret_id, True)
            else:
                halves = (secret_ids[:middle], secret_ids[middle:])
                first, second = await asyncio.gather(*(self._read_batch(half, namespace) for half in halves))
                return {**first, **second}
        except (KeyturnError, TimeoutError) as error:
            _log.info("reading these values one by one: %s", error or "BatchGetSecretValue timed out")
        return {}

    async def _resolve(self, secret_id: str, read: _Read, result: SecretVersion | None) -> None:
        try:
            read.version.set_result(result or await self._secrets_manager.value(Source(secret_id), read.namespace))
        except Exception as error:
            read.version.set_exception(detached(error))
            read.version.exception()  # this marks the error as retrieved, because every reader may have given up
