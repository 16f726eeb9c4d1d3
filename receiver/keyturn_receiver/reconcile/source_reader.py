"""Reads the AWS secrets of one binding. Each is read only after the access policy has allowed it."""

import asyncio
from collections.abc import Mapping

from keyturn_receiver.core.binding import Binding, Source
from keyturn_receiver.core.render import SecretVersion
from keyturn_receiver.reconcile.access_policy import AccessPolicy
from keyturn_receiver.reconcile.arn_resolver import ArnResolver
from keyturn_receiver.reconcile.fetch import fetch
from keyturn_receiver.reconcile.request import Cause, Request
from keyturn_receiver.sources.stores import StoreKey, Stores
from keyturn_receiver.telemetry.legs import Leg, LegTimer


class SourceReader:
    """Reads all sources of a binding or none of them, because the Secret is filled from all of them together."""

    def __init__(self, stores: Stores, access: AccessPolicy, resolver: ArnResolver, legs: LegTimer) -> None:
        self._stores = stores
        self._access = access
        self._resolver = resolver
        self._legs = legs

    async def read(self, binding: Binding, request: Request) -> Mapping[Source, SecretVersion]:
        """Read, for each source, the version that holds the staging label. No read is older than ``request.since``.

        Raises NotAllowed, SourceRefused, SourceUnavailable or StaleRead.
        """
        sources = sorted(binding.sources)
        namespace, account = binding.target.namespace, binding.service_account
        for source in sources:
            key = self.store_key(binding, source)
            await self._resolver.check(key, namespace, account, source.secret_id, request.since)
        # A notification names one version of one secret. If there are several sources, it is not known which one that
        # is.
        expected = request.expected if len(sources) == 1 else frozenset()
        background = Cause.NOTIFICATION not in request.causes
        with self._legs.time(Leg.FETCH):
            versions = await asyncio.gather(
                *(
                    fetch(self._stores, self.store_key(binding, source), source, expected, request.since, background)
                    for source in sources
                )
            )
        for version in versions:
            self._access.check_name(namespace, account, version.name)
        return dict(zip(sources, versions, strict=True))

    def store_key(self, binding: Binding, source: Source) -> StoreKey:
        """Return the key of the store that reads ``source`` for a binding."""
        return self._stores.key(source.secret_id, binding.target.namespace, binding.service_account)
