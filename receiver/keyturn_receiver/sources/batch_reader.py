"""Batch loader for current values. A few values are read with one call each, and many with one call for up to
twenty."""

import asyncio
import logging
import time

from keyturn_receiver.core.binding import CURRENT, Source
from keyturn_receiver.core.render import SecretVersion
from keyturn_receiver.errors import KeyturnError, SourceRefused
from keyturn_receiver.sources.secrets_manager import MAX_BATCH, SecretsManager

MAX_UNBATCHED = 2  # the most calls in flight; if there are more, a read waits for others to join it
BATCH_WINDOW = 0.01  # seconds that a read waits, unless its batch fills up earlier
BACKGROUND_BATCH_WINDOW = 0.1  # seconds that a background read waits, even if few calls are in flight
BATCH_TIMEOUT = 1.5  # seconds; then each value is read alone, because one hanging secret blocks the whole batch
BATCH_DISABLED_SECONDS = 600.0  # seconds without batches after AWS has refused BatchGetSecretValue

_log = logging.getLogger(__name__)


class BatchReader:
    """Batch loader. Reads single values with GetSecretValue, and many at once with BatchGetSecretValue.

    Only the current version can be read in a batch. Other staging labels and quarantined secrets are read alone.
    """

    def __init__(self, secrets_manager: SecretsManager) -> None:
        self._secrets_manager = secrets_manager
        self._pending: dict[str, asyncio.Future[SecretVersion]] = {}
        self._calls: set[asyncio.Task[None]] = set()
        self._flush_timer: asyncio.TimerHandle | None = None
        self._flush_at = 0.0
        self._batches_disabled_until = 0.0

    async def read(self, source: Source, background: bool = False) -> SecretVersion:
        """Read the version that holds the staging label now.

        A ``background`` read waits longer for others to join it. Raises the same errors as ``SecretsManager.value``.
        """
        alone = source.stage != CURRENT or self._secrets_manager.is_quarantined(source.secret_id)
        if alone or time.monotonic() < self._batches_disabled_until:
            return await self._secrets_manager.value(source)
        loop = asyncio.get_running_loop()
        version = self._pending.setdefault(source.secret_id, loop.create_future())
        if len(self._pending) >= MAX_BATCH:
            self._flush()
        else:
            # Even a window of 0 seconds uses a timer, so that all reads in one turn of the event loop can join.
            window = BATCH_WINDOW if len(self._calls) >= MAX_UNBATCHED else 0.0
            at = loop.time() + (BACKGROUND_BATCH_WINDOW if background else window)
            if self._flush_timer is None or self._flush_at > at:
                self._cancel_flush()
                self._flush_timer, self._flush_at = loop.call_at(at, self._flush), at
        return await asyncio.shield(version)

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

    async def _fetch(self, batch: dict[str, "asyncio.Future[SecretVersion]"]) -> None:
        results: dict[str, SecretVersion | KeyturnError] = {}
        if len(batch) > 1:
            try:
                async with asyncio.timeout(BATCH_TIMEOUT):
                    results = await self._secrets_manager.values(list(batch))
            except SourceRefused as error:
                self._batches_disabled_until = time.monotonic() + BATCH_DISABLED_SECONDS
                _log.warning("reading values one by one for %.0f minutes: %s", BATCH_DISABLED_SECONDS / 60, error)
            except (KeyturnError, TimeoutError) as error:
                _log.info("reading these values one by one: %s", error or "BatchGetSecretValue timed out")
        await asyncio.gather(
            *(self._resolve(secret_id, batch[secret_id], results.get(secret_id)) for secret_id in batch)
        )

    async def _resolve(
        self, secret_id: str, version: "asyncio.Future[SecretVersion]", result: SecretVersion | KeyturnError | None
    ) -> None:
        try:
            if isinstance(result, KeyturnError):
                raise result
            version.set_result(result or await self._secrets_manager.value(Source(secret_id)))
        except Exception as error:
            version.set_exception(error)
            version.exception()  # this marks the error as retrieved, because every reader may have given up
