"""Resolves ARNs that can refer to two names, so that the access policy can decide before a value is read.

For example, ``...:secret:team/db-master`` names the secret team/db if "master" is the random suffix. It names the
secret team/db-master if the ARN has no suffix. A namespace that may read only team/db must not even learn whether
team/db-master exists.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

from keyturn_receiver.errors import NotAllowed, Permanent, SourceNotFound
from keyturn_receiver.reconcile.access_policy import AccessPolicy
from keyturn_receiver.resilience.bounded_map import ExpiringMap
from keyturn_receiver.sources.stores import Identity, StoreKey, Stores

MAX_ANSWERS = 10_000
ANSWER_TTL = 300.0  # seconds


@dataclass(frozen=True, slots=True)
class _Answer:
    """The answer of AWS about an ARN: the ``name`` of the secret, or an error."""

    name: str
    error: Permanent | None


class ArnResolver:
    """Resolver of ARNs. Checks the AWS secrets that bindings name. If an ARN has two possible readings, and the access
    policy does not allow both, it asks AWS for the name.

    Every answer is remembered for ANSWER_TTL, even the answer that there is no such secret. Otherwise the calls to AWS
    and the duration of a check would reveal whether the secret exists. ``now`` returns monotonic seconds.
    """

    def __init__(self, stores: Stores, access: AccessPolicy, now: Callable[[], float] = time.monotonic) -> None:
        self._stores = stores
        self._access = access
        self._answers: ExpiringMap[tuple[StoreKey, Identity, str, str], _Answer] = ExpiringMap(
            MAX_ANSWERS, ANSWER_TTL, now
        )

    async def check(
        self,
        key: StoreKey,
        namespace: str,
        service_account: str,
        secret_id: str,
        since: float,
        remembered: bool = True,
    ) -> None:
        """Raise NotAllowed if a binding may not name this AWS secret.

        If the access policy allows every reading of the id, AWS is not asked. Otherwise raises SourceNotFound if the
        secret does not exist, and also if it exists under a forbidden name. If ``remembered`` is false, remembered
        answers are not used. Also raises the errors of ``Stores.describe``.
        """
        self._access.check_id(namespace, service_account, secret_id)
        if self._access.allows_every_reading(namespace, service_account, secret_id):
            return
        store = await self._stores.get(key, since)
        asked = (key, store.identity, namespace, secret_id)
        answer = self._answers.get(asked)
        if answer is None or not remembered:
            answer = await self._ask(key, namespace, secret_id, since)
            self._answers.put(asked, answer)
        if isinstance(answer.error, SourceNotFound):
            # The message is the same as for a forbidden name below. It names the AWS account only if the account is
            # known by now.
            raise store.secrets_manager.not_found(secret_id)
        if answer.error:
            raise answer.error.with_traceback(None)  # otherwise the traceback would grow with each raise
        try:
            self._access.check_name(namespace, service_account, answer.name)
        except NotAllowed:
            raise store.secrets_manager.not_found(secret_id) from None

    async def _ask(self, key: StoreKey, namespace: str, secret_id: str, since: float) -> _Answer:
        try:
            return _Answer((await self._stores.describe(key, secret_id, since, namespace)).name, None)
        except Permanent as error:
            error.__context__ = None  # the context would keep the frames of the call in memory, with all values
            return _Answer("", error.with_traceback(None))
