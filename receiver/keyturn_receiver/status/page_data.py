"""Read model of the status page. It combines the caches, the last rotations, and the health of the parts that the
receiver depends on.

All data comes from memory, with one exception: the history of a binding is read from the API server when a viewer opens
the details of the binding.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice

import msgspec

from keyturn_receiver.cluster.consumer_cache import ConsumerIndex
from keyturn_receiver.cluster.history_client import HistoryClient
from keyturn_receiver.cluster.secret_cache import BoundSecret, SecretCache
from keyturn_receiver.core.binding import Target
from keyturn_receiver.core.history import Change
from keyturn_receiver.errors import KeyturnError, NotFound
from keyturn_receiver.reconcile.consumer_restarter import ConsumerRestarter
from keyturn_receiver.reconcile.live_reporter import LiveReporter
from keyturn_receiver.resilience.time_slice import TimeSlice
from keyturn_receiver.status import views
from keyturn_receiver.status.binding_states import BindingStates
from keyturn_receiver.status.binding_view import BindingView, binding_view, consumer_views, row
from keyturn_receiver.status.health import Parts, health
from keyturn_receiver.status.rotation import Rotation
from keyturn_receiver.status.rotation_ring import RotationRing

MAX_PAGE = 200  # bindings in one page of the list


@dataclass(frozen=True, slots=True)
class Cluster:
    """The sources of the page's data about Kubernetes: the caches, the restarter of consumers, the tracker of their
    rollouts, and the client that reads histories."""

    secrets: SecretCache
    consumers: ConsumerIndex
    restarter: ConsumerRestarter
    live: LiveReporter
    histories: HistoryClient


class PageData:
    """Read model of the page. ``wall`` returns the time in seconds since 1970."""

    def __init__(
        self,
        replica: views.Replica,
        cluster: Cluster,
        states: BindingStates,
        ring: RotationRing,
        parts: Parts,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._replica = replica
        self._cluster = cluster
        self._states = states
        self._ring = ring
        self._parts = parts
        self._wall = wall

    def status(self) -> views.Status:
        """Return the data of the first screen."""
        shown = list(islice(self._states.needing_somebody(), views.MAX_ATTENTION))
        stuck = len(self._cluster.live.stuck_rollouts())
        counts = views.counts(len(self._cluster.secrets), self._states.counts(), stuck, self._ring.total)
        rotations = list(self._ring.newest_first())
        return views.Status(
            self._replica,
            self._wall(),
            health(self._parts),
            counts,
            views.propagation(rotations),
            (*self._stuck(), *map(views.attention_view, shown)),
            counts.need_somebody - len(shown),
            tuple(map(views.snapshot_view, rotations[: views.MAX_SHOWN])),
        )

    def snapshot(self) -> bytes:
        """Return the data of the first screen as JSON."""
        return msgspec.json.encode(self.status())

    def rotation(self, rotation: Rotation) -> bytes:
        """Return a rotation as JSON."""
        return msgspec.json.encode(views.rotation_view(rotation))

    async def bindings(self, text: str, is_failing: bool, offset: int, limit: int) -> views.BindingPage:
        """Return a page of the list of bindings, in the order of their names.

        If ``text`` is not empty, it has to be a part of "namespace/name" or of the name of an AWS secret. If
        ``is_failing`` is true, the bindings without trouble are left out.
        """
        time_slice, found = TimeSlice(), list[BoundSecret]()
        for bound in self._cluster.secrets.all():
            if is_failing and self._states.of(bound.target) is None:
                continue
            if not text or text in str(bound.target) or any(text in name for name in bound.names):
                found.append(bound)
            await time_slice.pause_if_over()
        found.sort(key=lambda bound: (bound.target.namespace, bound.target.name))
        shown = found[offset : offset + min(limit, MAX_PAGE)]
        rows = [row(each, self._states.of(each.target), self._cluster.consumers.count(each.target)) for each in shown]
        return views.BindingPage(len(found), offset, tuple(rows))

    async def binding(self, target: Target, with_history: bool) -> BindingView | None:
        """Return one binding, or None if no bound Secret has this name. If ``with_history`` is true, its history is
        read from the API server."""
        bound = self._cluster.secrets.get(target)
        if bound is None:
            return None
        history: Sequence[Change] | None = None
        history_error = ""
        if with_history:
            try:
                history = await self._cluster.histories.read(target)
            except NotFound:
                return None
            except KeyturnError as error:
                history_error = str(error)
        permitted = {each.ref for each in self._cluster.restarter.restartable(target, bound.spec)}
        stuck = {ref for ref, name in self._cluster.live.stuck_rollouts() if name == target.name}
        consumers = consumer_views(bound, self._cluster.consumers.of(target), permitted, stuck)
        return binding_view(bound, self._states.of(target), consumers, self._ring.of(target), history, history_error)

    def _stuck(self) -> list[views.Attention]:
        """Return the stuck rollouts, each in the form of a binding that needs a person."""
        found = []
        for ref, name in islice(self._cluster.live.stuck_rollouts(), views.MAX_ATTENTION):
            target = Target(ref.namespace, name)
            consumer = self._cluster.consumers.get(ref, target)
            progress = consumer.progress if consumer else None
            if not progress:
                continue
            reason = f": {progress.reason}" if progress.reason else ""
            text = (
                f"{ref.kind} {ref.name} goes no further: {progress.updated} of {progress.wanted} pods updated{reason}"
            )
            since = float(progress.changed_at or progress.marked_at or self._wall())
            found.append(views.Attention(ref.namespace, name, "stuck", "RolloutStuck", text, since))
        return found
