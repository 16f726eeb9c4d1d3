"""Builder of the parts that restart consumers and follow their rollouts."""

from dataclasses import dataclass
from functools import partial

from keyturn_receiver.cluster.record_reader import RecordReader
from keyturn_receiver.cluster.secret_lookup import SecretLookup
from keyturn_receiver.composition.kubernetes import Clients, Kubernetes
from keyturn_receiver.composition.process import Process
from keyturn_receiver.core.reloader import ReloaderMode
from keyturn_receiver.core.rollout_switch import Switch
from keyturn_receiver.reconcile.consumer_reporter import count_restart
from keyturn_receiver.reconcile.consumer_restarter import ConsumerRestarter, Restraints
from keyturn_receiver.reconcile.crash_loops import CrashLoops
from keyturn_receiver.reconcile.fight_reporter import FightReporter
from keyturn_receiver.reconcile.live_reporter import LiveReporter
from keyturn_receiver.reconcile.pod_evictor import PodEvictor
from keyturn_receiver.reconcile.rollout_debouncer import RolloutDebouncer
from keyturn_receiver.reconcile.rollout_fights import RolloutFights
from keyturn_receiver.reconcile.rollout_pacer import PaceLimits, RolloutPacer
from keyturn_receiver.reconcile.rollout_policy import RolloutPolicy
from keyturn_receiver.telemetry.legs import LegTimer


@dataclass(frozen=True, slots=True)
class Rollouts:
    """The parts that restart consumers and follow their rollouts.

    - ``policy``: decides whether a change may restart a workload at all.
    - ``restarter``: writes marks (Keyturn's annotations) on consumers.
    - ``fights``: counts the writes of other writers that revert a mark.
    - ``pacer``: limits how many rollouts run at once.
    - ``crashes``: finds rollouts whose new pods crash.
    - ``live``: reports rollouts that are complete or stuck.
    """

    policy: RolloutPolicy
    restarter: ConsumerRestarter
    fights: RolloutFights
    pacer: RolloutPacer
    crashes: CrashLoops
    live: LiveReporter


def build_rollouts(process: Process, kube: Kubernetes, clients: Clients, legs: LegTimer) -> Rollouts:
    """Build the restarter with the parts that limit it, and the reporter of rollouts."""
    settings, metrics, caches = process.settings, process.metrics, kube.caches
    is_leader = kube.elector.is_leader
    fights = RolloutFights()
    caches.consumers.add_mark_handler(fights.observe)
    lookup = SecretLookup(caches.secrets, caches.watched)
    fight_reporter = FightReporter(clients.workloads, lookup, kube.events, metrics, is_leader)
    fights.add_handler(fight_reporter.on_fight)
    records = RecordReader(clients.secrets, clients.watched, caches.watched, caches.secrets)
    evictor = PodEvictor(clients.workloads, records, kube.events, fights, is_leader)
    policy = RolloutPolicy(caches.namespaces, Switch(settings.rollout_default), ReloaderMode(settings.reloader))
    limits = PaceLimits(
        settings.max_unfinished_per_secret, settings.max_unfinished_per_namespace, settings.max_unfinished_per_cluster
    )
    pacer = RolloutPacer(caches.consumers, caches.namespaces, fights, evictor, limits, is_leader)
    crashes = CrashLoops(caches.consumers, clients.workloads, is_leader)
    pacer.set_crash_loops(crashes)
    # The pacer uses what the detector of crash loops has found. So the detector is told about progress first.
    caches.consumers.add_progress_handler(crashes.on_progress)
    kube.elector.add_handler(crashes.on_started_leading)
    caches.consumers.add_progress_handler(pacer.on_progress)
    caches.consumers.add_unread_handler(pacer.on_unread)
    kube.elector.add_handler(pacer.on_started_leading)
    debouncer = RolloutDebouncer(lookup, policy)
    pacer.set_debounce(debouncer.quiet_at)
    restraints = Restraints(policy, fights, evictor, pacer, debouncer)
    restarter = ConsumerRestarter(caches.consumers, clients.workloads, records, legs, restraints)
    restarter.add_owner_handler(fight_reporter.on_owner)
    live = LiveReporter(lookup, restarter, clients.workloads, kube.events, metrics, is_leader)
    evictor.add_begun_handler(partial(count_restart, metrics))
    evictor.add_done_handler(live.on_evicted)
    return Rollouts(policy, restarter, fights, pacer, crashes, live)
