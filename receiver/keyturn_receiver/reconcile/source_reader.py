"""Reads the AWS secrets of one binding. An AWS secret is read only after the access policy has allowed it."""

import asyncio
import math
import time
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, field

from keyturn_receiver.core.binding import Binding, Source
from keyturn_receiver.core.render import SecretVersion
from keyturn_receiver.core.revision import version_key
from keyturn_receiver.errors import KeyturnError, SourceUnavailable, StaleRead, detached
from keyturn_receiver.reconcile.access_policy import AccessPolicy
from keyturn_receiver.reconcile.arn_resolver import ArnResolver
from keyturn_receiver.reconcile.request import Cause, Request
from keyturn_receiver.reconcile.stale_reads import fetch
from keyturn_receiver.sources.stores import StoreKey, Stores
from keyturn_receiver.telemetry.legs import Leg, LegTimer

# Once the AWS secrets that were read suffice for a write, the reads of the other AWS secrets continue for this number
# of seconds. An AWS secret that a notification names gets twice this time, because a stale read is repeated
# (stale_reads.DELAYS).
PATIENCE = 2.0
CHECK_SECONDS = 0.25  # seconds between two checks whether a delivery waits for the next reconcile

Versions = Mapping[Source, SecretVersion]


@dataclass(frozen=True, slots=True)
class Reading:
    """The results of reading the sources of one binding: versions and errors. A source that is in neither map was not
    read."""

    versions: Versions = field(repr=False)
    errors: Mapping[Source, KeyturnError]


class SourceReader:
    """Source reader. Reads the sources of a binding concurrently. If one of them fails, the others are still read."""

    def __init__(self, stores: Stores, access: AccessPolicy, resolver: ArnResolver, legs: LegTimer) -> None:
        self._stores = stores
        self._access = access
        self._resolver = resolver
        self._legs = legs

    async def read(
        self,
        binding: Binding,
        request: Request,
        sources: Set[Source],
        recorded: Mapping[str, str],
        worth_writing: Callable[[Versions], bool] | None = None,
    ) -> Reading:
        """Read, for each of ``sources``, the version that holds the staging label. No read is older than
        ``request.since``. ``recorded`` are the versions from which the Secret was made (``Record.version_ids``).

        Each error in the result is InvalidBinding, NotAllowed, SourceRefused, SourceUnavailable, StaleRead, or an error
        of the Kubernetes API client. ``worth_writing`` returns whether something can be written from the given versions
        alone.

        A source that has not been read by a deadline gets the error SourceUnavailable. There are three deadlines, and
        the earliest one counts:

        - PATIENCE seconds after ``worth_writing`` has returned true.
        - Twice that time after all sources that a delivery waits for were read. This deadline is set only if no other
          deadline has been set by then.
        - PATIENCE seconds after the start of this reconcile's reads, if a delivery waits for the next reconcile of the
          binding.

        A source that a delivery waits for gets PATIENCE more seconds. The read of a single source has no deadline here.
        """
        if len(sources) > 1:
            return await self._read_all(binding, request, sources, recorded, worth_writing)
        versions: dict[Source, SecretVersion] = {}
        errors: dict[Source, KeyturnError] = {}
        for source in sources:
            try:
                await self._check(binding, source, request)
                with self._legs.time(Leg.FETCH):
                    versions[source] = await self._fetch(binding, source, request, recorded)
            except KeyturnError as error:
                errors[source] = detached(error)
        return Reading(versions, errors)

    def store_key(self, binding: Binding, secret_id: str) -> StoreKey:
        """Return the key of the store that reads an AWS secret for a binding."""
        return self._stores.key(secret_id, binding.target.namespace, binding.service_account)

    async def _read_all(
        self,
        binding: Binding,
        request: Request,
        sources: Set[Source],
        recorded: Mapping[str, str],
        worth_writing: Callable[[Versions], bool] | None,
    ) -> Reading:
        reads = {
            source: asyncio.create_task(self._check_and_fetch(binding, source, request, recorded))
            for source in sorted(sources)
        }
        try:
            with self._legs.time(Leg.FETCH):
                await _wait(reads, request, worth_writing)
            return consistent(_reading(reads))
        finally:
            for read in reads.values():
                read.cancel()  # this ends only the wait, because other readers may share the call to AWS

    async def _check_and_fetch(
        self, binding: Binding, source: Source, request: Request, recorded: Mapping[str, str]
    ) -> SecretVersion:
        await self._check(binding, source, request)
        return await self._fetch(binding, source, request, recorded)

    async def _check(self, binding: Binding, source: Source, request: Request) -> None:
        key = self.store_key(binding, source.secret_id)
        namespace, account = binding.target.namespace, binding.service_account
        await self._resolver.check(key, namespace, account, source.secret_id, request.since)

    async def _fetch(
        self, binding: Binding, source: Source, request: Request, recorded: Mapping[str, str]
    ) -> SecretVersion:
        expected = request.about.get(source, frozenset()) if request.about else request.expected
        background = Cause.NOTIFICATION not in request.causes
        key = self.store_key(binding, source.secret_id)
        namespace = binding.target.namespace
        version = await fetch(self._stores, key, source, expected, recorded, request.since, background, namespace)
        self._access.check_name(namespace, binding.service_account, version.name)
        return version


async def _wait(
    reads: "Mapping[Source, asyncio.Task[SecretVersion]]",
    request: Request,
    worth_writing: Callable[[Versions], bool] | None,
) -> None:
    """Wait until all reads are done, or until the time for the remaining reads is over (``SourceReader.read``)."""
    asked = [read for source, read in reads.items() if source in request.awaited]
    begin, deadline = time.monotonic(), math.inf
    has_news = False
    pending = set(reads.values())
    while pending:
        now = time.monotonic()
        if not has_news and worth_writing and worth_writing(_reading(reads).versions):
            has_news, deadline = True, min(deadline, now + PATIENCE)
        if deadline == math.inf and asked and all(read.done() for read in asked):
            deadline = now + 2 * PATIENCE
        if request.next_is_awaited():
            deadline = min(deadline, begin + PATIENCE)
        if now >= deadline:
            break
        timeout = min(deadline - now, CHECK_SECONDS)
        _, pending = await asyncio.wait(pending, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
    if asked:
        await asyncio.wait(asked, timeout=PATIENCE)


def _reading(reads: "Mapping[Source, asyncio.Task[SecretVersion]]") -> Reading:
    versions: dict[Source, SecretVersion] = {}
    errors: dict[Source, KeyturnError] = {}
    for source, read in reads.items():
        if not read.done():
            errors[source] = SourceUnavailable(f"AWS secret {source.secret_id}: AWS is slow to answer: trying again")
        elif isinstance(error := read.exception(), KeyturnError):
            errors[source] = detached(error)
        else:
            versions[source] = read.result()
    return Reading(versions, errors)


def consistent(reading: Reading) -> Reading:
    """Replace versions that contradict each other by StaleRead errors.

    Two ids, such as a name and an ARN, may refer to the same AWS secret. That secret may be rotated between the two
    reads.
    """
    version_ids: dict[str, set[str]] = {}
    for source, version in reading.versions.items():
        version_ids.setdefault(version_key(version.arn, source.stage), set()).add(version.version_id)
    errors = dict(reading.errors)
    for source, version in reading.versions.items():
        if len(version_ids[version_key(version.arn, source.stage)]) > 1:
            errors[source] = StaleRead(f"AWS secret {source.secret_id} has changed between two reads: trying again")
    return Reading({source: each for source, each in reading.versions.items() if source not in errors}, errors)
