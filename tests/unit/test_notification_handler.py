"""A reply tells of the work that is done. Work that a namespace holds up by itself is left to the work queue."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from keyturn_contract.message import MAX_EVENTS, Outcome, Result, encode_reply
from keyturn_notifier.delivery import MAX_REPLY
from keyturn_receiver.cluster.namespace_cache import NamespaceCache, NamespaceView
from keyturn_receiver.cluster.secret_cache import BoundSecret, SecretCache
from keyturn_receiver.core.binding import SECRET_ID, Source, Target
from keyturn_receiver.core.consumer import WorkloadRef
from keyturn_receiver.core.policy import Default
from keyturn_receiver.core.regions import Regions
from keyturn_receiver.errors import (
    ClusterUnavailable,
    Conflict,
    Contended,
    InvalidValue,
    KeyturnError,
    NamespaceBusy,
    NoCredentials,
    SourceUnavailable,
    StaleRead,
    Temporary,
)
from keyturn_receiver.reconcile.access_policy import AccessPolicy
from keyturn_receiver.reconcile.request import ReconcileResult, Request
from keyturn_receiver.telemetry.metrics import Metrics
from keyturn_receiver.web.notification_handler import NotificationHandler
from support.bindings import KEYED, bound_object
from support.deliveries import notification

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]

DONE = ReconcileResult(True, changed=True, version_ids=frozenset({"v1"}))
SAME = ReconcileResult(True, version_ids=frozenset({"v1"}))
GONE = ReconcileResult(False)


DB, HOST = Source("prod/db"), Source("prod/host")


class Spec:
    def __init__(self, account: str, several: bool) -> None:
        self.sources, self.account = (DB, HOST) if several else (DB,), account


class Bound:
    def __init__(self, account: str, several: bool) -> None:
        self.spec = Spec(account, several)


class Receiver:
    """The cache, the queue and the access policy. ``completions`` has, for each target ("namespace/name"), the result
    or the error of its reconcile, or None if it does not end.

    ``held_up`` has the targets that wait for their namespace's share, ``roles`` those with a role of their own, and
    ``several`` those of several AWS secrets.
    """

    def __init__(
        self,
        completions: dict[str, ReconcileResult | KeyturnError | None],
        held_up: str = "",
        roles: str = "",
        several: str = "",
    ) -> None:
        self._completions = {Target(*name.split("/")): completion for name, completion in completions.items()}
        self._held_up, self._roles, self._several = held_up.split(), roles.split(), several.split()

    def by_secret_id(self, secret_id: str, name: str | None, may_read: object) -> list[Target]:
        return list(self._completions)

    def get(self, target: Target) -> Bound:
        return Bound("app" if str(target) in self._roles else "", str(target) in self._several)

    def could_apply(self, bound: Bound, source: Source, names: object) -> bool:
        return True

    def is_held_up(self, target: Target) -> bool:
        return str(target) in self._held_up

    def submit(self, target: Target, request: Request, group: str) -> "asyncio.Future[ReconcileResult]":
        future: asyncio.Future[ReconcileResult] = asyncio.get_running_loop().create_future()
        completion = self._completions[target]
        if completion is not None:
            is_error = isinstance(completion, KeyturnError)
            future.set_result(ReconcileResult(True, error=completion) if is_error else completion)
        return future


async def handle(receiver: Any, keeps_running: Callable[[], bool] = lambda: True) -> Result:
    now = datetime(2026, 11, 25, tzinfo=UTC)
    handler = NotificationHandler(receiver, receiver, receiver, lambda sent: None, Metrics(), lambda: now)
    end = time.monotonic() + 8
    return await handler.handle(notification("prod/db"), lambda: end, keeps_running)


LOSES = Contended("Secret b/db keeps changing: trying again")


@pytest.mark.parametrize("error", [LOSES, NamespaceBusy("too many requests for namespace b")])
@pytest.mark.parametrize(
    ("other", "outcome"), [(DONE, Outcome.APPLIED), (SAME, Outcome.RETRYING), (GONE, Outcome.RETRYING)]
)
async def test_binding_that_loses_by_its_own_namespace_does_not_fail_the_delivery(
    error: KeyturnError, other: ReconcileResult, outcome: Outcome
) -> None:
    result = await handle(Receiver({"a/db": other, "b/db": error}))
    assert (result.outcome, result.retrying) == (outcome, ("b/db",))
    assert result.reason == f"b/db: {error}"


async def test_binding_that_loses_by_its_own_namespace_is_retried_even_if_it_is_the_only_one() -> None:
    result = await handle(Receiver({"b/db": LOSES}))
    assert (result.outcome, result.retrying) == (Outcome.RETRYING, ("b/db",))


@pytest.mark.parametrize(
    "error",
    [
        ClusterUnavailable("the API server is gone"),
        SourceUnavailable("AWS is gone"),
        StaleRead("AWS gives the version before"),
        NoCredentials("prod/db", "no credentials"),
        Conflict("the API server says so again and again"),
        Temporary("a bug"),
        None,
    ],
    ids=str,
)
async def test_what_concerns_everybody_fails_the_delivery(error: KeyturnError | None) -> None:
    result = await handle(Receiver({"a/db": DONE, "b/db": error, "c/db": LOSES}, held_up="c/db"))
    assert (result.outcome, result.secrets, result.retrying) == (Outcome.FAILED, ("a/db",), ("c/db",))


async def test_bindings_behind_their_own_namespaces_share_do_not_fail_a_delivery_that_is_done_elsewhere() -> None:
    crowd: dict[str, ReconcileResult | KeyturnError | None] = {f"b/{number}": None for number in range(100)}
    result = await handle(Receiver({"a/db": DONE, "b/first": DONE, **crowd}, held_up=" ".join(crowd)))
    assert (result.outcome, result.secrets) == (Outcome.APPLIED, ("a/db", "b/first"))
    assert result.retrying == tuple(crowd)
    alone = await handle(Receiver({"b/first": DONE, **crowd}, held_up=" ".join(crowd)))
    assert (alone.outcome, alone.retrying) == (Outcome.FAILED, ())


@pytest.mark.parametrize("error", [SourceUnavailable("STS is silent"), NoCredentials("x", "no trust"), None], ids=str)
async def test_role_of_a_tenant_that_fails_does_not_fail_a_delivery_that_is_done_elsewhere(
    error: KeyturnError | None,
) -> None:
    result = await handle(Receiver({"a/db": SAME, "b/db": error}, roles="b/db"))
    assert (result.outcome, result.retrying) == (Outcome.RETRYING, ("b/db",))
    assert (await handle(Receiver({"b/db": error}, roles="b/db"))).outcome is Outcome.FAILED
    unavailable = await handle(Receiver({"a/db": SAME, "b/db": ClusterUnavailable("gone")}, roles="b/db"))
    assert unavailable.outcome is Outcome.FAILED


@pytest.mark.parametrize("error", [SourceUnavailable("slow"), None], ids=str)
async def test_binding_of_several_secrets_does_not_fail_a_delivery_that_is_done_elsewhere(
    error: KeyturnError | None,
) -> None:
    result = await handle(Receiver({"a/db": SAME, "b/db": error}, several="b/db"))
    assert (result.outcome, result.retrying) == (Outcome.RETRYING, ("b/db",))
    assert (await handle(Receiver({"b/db": error}, several="b/db"))).outcome is Outcome.FAILED


@pytest.mark.parametrize(
    ("unavailable", "outcome"),
    [({HOST}, Outcome.RETRYING), ({DB}, Outcome.FAILED), ({DB, HOST}, Outcome.FAILED), (set(), Outcome.FAILED)],
)
async def test_delivery_does_not_fail_for_another_secret_of_the_binding(
    unavailable: set[Source], outcome: Outcome
) -> None:
    result = ReconcileResult(True, error=SourceUnavailable("slow"), unavailable=frozenset(unavailable))
    assert (await handle(Receiver({"b/db": result}, several="b/db"))).outcome is outcome
    down = await handle(Receiver({"b/db": result}, several="b/db"), keeps_running=lambda: False)
    assert down.outcome is Outcome.FAILED


async def test_process_that_shuts_down_promises_no_retry() -> None:
    result = await handle(Receiver({"a/db": DONE, "b/db": LOSES}), keeps_running=lambda: False)
    assert (result.outcome, result.retrying) == (Outcome.FAILED, ())


async def test_refusal_beside_a_retry_is_told_too() -> None:
    result = await handle(Receiver({"a/db": InvalidValue("no such property"), "b/db": LOSES}))
    assert result.outcome is Outcome.RETRYING
    assert result.reason == f"a/db: no such property; b/db: {LOSES}"


async def test_reply_to_a_full_delivery_fits_into_what_the_notifier_reads() -> None:
    completions: dict[str, ReconcileResult | KeyturnError | None] = {}
    for number in range(1000):
        name = f"{number:04}" + "n" * 240
        refs = tuple(WorkloadRef("Deployment", "b" * 63, f"{name}-{each}") for each in range(3))
        completions[f"{'b' * 63}/{name}"] = ReconcileResult(True, changed=True, restarted=refs)
        completions[f"{'c' * 63}/{name}"] = Contended(f"{name} keeps changing")
    result = await handle(Receiver(completions))
    assert len(result.secrets) > 20
    assert len(result.retrying) > 20
    assert len(encode_reply([result] * MAX_EVENTS)) < MAX_REPLY


class CountedText(str):
    """The text of an annotation. ``looks`` counts how often such texts are hashed, as a look-up of the parsed
    annotations does."""

    looks = 0
    __slots__ = ()

    def __hash__(self) -> int:
        CountedText.looks += 1
        return super().__hash__()


class Queue:
    def __init__(self) -> None:
        self.submitted: list[Target] = []

    def is_held_up(self, target: Target) -> bool:
        return False

    def submit(self, target: Target, request: Request, group: str) -> "asyncio.Future[ReconcileResult]":
        self.submitted.append(target)
        future: asyncio.Future[ReconcileResult] = asyncio.get_running_loop().create_future()
        future.set_result(SAME)
        return future


@pytest.mark.parametrize("role", [{}, {"keyturn.dev/service-account": "app"}], ids=["no role", "role"])
@pytest.mark.parametrize("allowed", [None, "theirs/*"], ids=["no annotation", "other secrets"])
async def test_bindings_that_may_not_read_the_secret_are_not_parsed(role: dict[str, str], allowed: str | None) -> None:
    """Any tenant can name the secret in thousands of bindings, and the event loop must not wait for them."""
    secrets, namespaces, queue = SecretCache(KEYED), NamespaceCache(), Queue()
    namespaces.update(NamespaceView("victim", {"keyturn.dev/allow-secrets": "prod/*"}))
    if allowed:
        namespaces.update(NamespaceView("team", {"keyturn.dev/allow-secrets": allowed}))
    for number in range(300):
        bound = secrets.transform(bound_object(f"copy-{number}", **{SECRET_ID: "prod/db", **role}))
        assert isinstance(bound, BoundSecret)
        secrets.update(replace(bound, texts=tuple(text and CountedText(text) for text in bound.texts)))
        if number < 2:
            target = Target("victim", bound.target.name)
            secrets.update(
                replace(bound, target=target, texts=tuple(text and CountedText(text) for text in bound.texts))
            )
    access = AccessPolicy(namespaces, Default.DENY, False, Regions("aws", frozenset({"eu-west-1"})))
    handler = NotificationHandler(
        secrets, queue, access, lambda sent: None, Metrics(), lambda: datetime(2026, 11, 25, tzinfo=UTC)
    )
    CountedText.looks = 0
    end = time.monotonic() + 8
    result = await handler.handle(notification("prod/db"), lambda: end)
    expected = [] if role else [Target("victim", "copy-0"), Target("victim", "copy-1")]
    assert queue.submitted == expected
    assert result.outcome is (Outcome.IGNORED if role else Outcome.UNCHANGED)
    assert CountedText.looks < 200  # each look-up of a binding hashes a dozen texts
