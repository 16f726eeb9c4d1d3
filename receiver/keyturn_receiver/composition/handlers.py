"""Connection of the caches and the leader election to the parts that react to their changes."""

from keyturn_receiver.cluster.secret_lookup import SecretLookup
from keyturn_receiver.composition.controller import Controller
from keyturn_receiver.composition.kubernetes import Kubernetes
from keyturn_receiver.reconcile.missing_key_reporter import MissingKeyReporter
from keyturn_receiver.reconcile.notices import Notices


def connect_handlers(kube: Kubernetes, controller: Controller) -> None:
    """Connect the caches and the leader election to the controller's parts, and to the Events that report faults.

    Handlers are called in the order in which they are added.
    """
    caches, rollouts, bindings = kube.caches, controller.rollouts, controller.bindings
    drift, watches = bindings.drift, controller.watches.detector

    # A check for drift follows every change of bound Secrets, consumers and namespaces, and the start of leadership.
    caches.secrets.add_handler(drift.check)
    secrets = SecretLookup(caches.secrets, caches.watched)
    for cache in (caches.secrets, caches.watched):
        cache.add_handler(lambda target: None if secrets.get(target) else rollouts.pacer.forget(target))
    caches.consumers.add_handler(drift.check)
    caches.namespaces.add_handler(drift.check_namespace)
    kube.elector.add_handler(drift.on_started_leading)
    caches.namespaces.add_end_handler(caches.secrets.forget_former)
    caches.watched.add_handler(watches.check)
    caches.watched.add_kept_handler(watches.on_kept)
    caches.consumers.add_handler(watches.check)
    caches.namespaces.add_handler(watches.check_namespace)
    kube.elector.add_handler(watches.on_started_leading)

    notices = Notices(kube.events, kube.elector.is_leader)
    caches.secrets.add_copy_handler(notices.on_copy)
    caches.watched.add_fault_handler(notices.on_watched)
    caches.consumers.add_fault_handler(notices.on_consumer)
    caches.namespaces.add_fault_handler(notices.on_namespace)
    kube.elector.add_handler(notices.on_started_leading)
    missing_keys = MissingKeyReporter(caches.consumers, caches.secrets, notices)
    drift.add_handler(missing_keys.check)
    caches.secrets.add_handler(missing_keys.on_secret)
    caches.consumers.add_unread_handler(notices.on_no_missing_keys)

    caches.consumers.add_progress_handler(rollouts.live.on_progress)
    caches.consumers.add_unread_handler(rollouts.live.on_unread)
    caches.secrets.add_handler(rollouts.live.on_secret)
    caches.watched.add_handler(rollouts.live.on_secret)
    kube.elector.add_handler(rollouts.live.on_started_leading)
    if bindings.versions:
        caches.secrets.add_handler(bindings.versions.on_secret)
