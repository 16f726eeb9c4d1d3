"""Builder of the parts that restart the consumers of watched Secrets."""

from dataclasses import dataclass

from keyturn_receiver.composition.kubernetes import Clients, Kubernetes
from keyturn_receiver.composition.process import Process
from keyturn_receiver.composition.rollouts import Rollouts
from keyturn_receiver.reconcile.change_brake import ChangeBrake
from keyturn_receiver.reconcile.watch_detector import WatchDetector
from keyturn_receiver.reconcile.watch_reconciler import WatchReconciler
from keyturn_receiver.reconcile.watch_reporter import WatchReporter
from keyturn_receiver.reconcile.work_queue import WorkQueue


@dataclass(frozen=True, slots=True)
class Watches:
    """The work queue of watched Secrets, and the detector of their changes."""

    queue: WorkQueue
    detector: WatchDetector


def build_watches(process: Process, kube: Kubernetes, clients: Clients, rollouts: Rollouts) -> Watches:
    """Build the reconciler of watched Secrets, the work queue that feeds it, and the detector."""
    watched, restarter = kube.caches.watched, rollouts.restarter
    reporter = WatchReporter(kube.events, process.metrics)
    reconciler = WatchReconciler(watched, clients.watched, restarter, reporter, clients.namespaces, process.span)
    queue = WorkQueue(reconciler.reconcile, process.settings.concurrency, process.metrics)
    detector = WatchDetector(watched, restarter, queue, ChangeBrake(), kube.elector.is_leader)
    detector.add_handler(reporter.on_braked)
    return Watches(queue, detector)
