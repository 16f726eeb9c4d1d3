"""Current values, many with one call where many are wanted at once, and each by itself where that matters."""

import asyncio
import logging
import time

from keyturn_receiver.core.binding import CURRENT, Source
from keyturn_receiver.core.render import SecretVersion
from keyturn_receiver.errors import KeyturnError, SourceRefused
from keyturn_receiver.sources.secrets_manager import BATCH, SecretsManager

RUSH = 2  # calls under way
GATHER_SECONDS = 0.01  # that a read then waits for others, or until there are as many as one call takes
PATIENT_SECONDS = 0.1  # the same for work in the background
BATCH_SECONDS = 1.5  # then each is asked for by itself: one that hangs hangs all twenty
WITHOUT_BATCHES = 600.0  # seconds, where the role may not read many at once

_log = logging.getLogger(__name__)


class BatchReader:
    """Reads values one by one while they are asked for one by one, and up to twenty with one call in a rush."""

    def __init__(self, secrets_manager: SecretsManager) -> None:
        self._secrets_manager = secrets_manager
        self._waiting: dict[str, asyncio.Future[SecretVersion]] = {}
        self._calls: set[asyncio.Task[None]] = set()
        self._flush: asyncio.TimerHandle | None = None
        self._flush_at = 0.0
        self._no_batches_until = 0.0

    async def read(self, source: Source, patient: bool = False) -> SecretVersion:
        """Read the value that holds the staging label now; ``patient``: somewhat later will do.

        Raises as ``SecretsManager.value``.
        """
        alone = source.stage != CURRENT or self._secrets_manager.suspects(source.secret_id)
        if alone or time.monotonic() < self._no_batches_until:
            return await self._secrets_manager.value(source)
        loop = asyncio.get_running_loop()
        found = self._waiting.setdefault(source.secret_id, loop.create_future())
        if len(self._waiting) >= BATCH:
            self._depart()
        else:
            # Not at once: who asks in the same turn of the loop joins.
            rush = GATHER_SECONDS if len(self._calls) >= RUSH else 0.0
            at = loop.time() + (PATIENT_SECONDS if patient else rush)
            if self._flush is None or self._flush_at > at:
                self._cancel_flush()
                self._flush, self._flush_at = loop.call_at(at, self._depart), at
        return await asyncio.shield(found)

    def _depart(self) -> None:
        self._cancel_flush()
        while self._waiting:
            batch = {secret_id: self._waiting.pop(secret_id) for secret_id in list(self._waiting)[:BATCH]}
            call = asyncio.ensure_future(self._fetch(batch))
            self._calls.add(call)
            call.add_done_callback(self._calls.discard)

    def _cancel_flush(self) -> None:
        if self._flush:
            self._flush.cancel()
            self._flush = None

    async def _fetch(self, batch: dict[str, "asyncio.Future[SecretVersion]"]) -> None:
        answers: dict[str, SecretVersion | KeyturnError] = {}
        if len(batch) > 1:
            try:
                async with asyncio.timeout(BATCH_SECONDS):
                    answers = await self._secrets_manager.values(list(batch))
            except SourceRefused as error:
                self._no_batches_until = time.monotonic() + WITHOUT_BATCHES
                _log.warning(
                    "values are read one by one for a while: allow secretsmanager:BatchGetSecretValue: %s", error
                )
            except (KeyturnError, TimeoutError) as error:
                _log.info("values are read one by one this time: %s", error or "the call for many takes too long")
        await asyncio.gather(
            *(self._settle(secret_id, batch[secret_id], answers.get(secret_id)) for secret_id in batch)
        )

    async def _settle(
        self, secret_id: str, waiting: "asyncio.Future[SecretVersion]", answer: SecretVersion | KeyturnError | None
    ) -> None:
        try:
            if isinstance(answer, KeyturnError):
                raise answer
            waiting.set_result(answer or await self._secrets_manager.value(Source(secret_id)))
        except Exception as error:
            waiting.set_exception(error)
            waiting.exception()  # should nobody wait any more
