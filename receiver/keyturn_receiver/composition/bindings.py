"""Builder of the parts that make bindings true: each bound Secret gets the values that its binding asks for."""

from dataclasses import dataclass

from keyturn_receiver.cluster.reader_client import ReaderClient
from keyturn_receiver.composition.aws import Aws
from keyturn_receiver.composition.kubernetes import Clients, Kubernetes
from keyturn_receiver.composition.process import Process
from keyturn_receiver.composition.rollouts import Rollouts
from keyturn_receiver.poller.poller import Poller
from keyturn_receiver.poller.sweep import Sweeper
from keyturn_receiver.reconcile.access_policy import AccessPolicy
from keyturn_receiver.reconcile.arn_resolver import ArnResolver
from keyturn_receiver.reconcile.deletion import SecretDeleter
from keyturn_receiver.reconcile.drift import DriftDetector
from keyturn_receiver.reconcile.reader_reporter import ReaderReporter
from keyturn_receiver.reconcile.reconciler import Reconciler
from keyturn_receiver.reconcile.release_reporter import ReleaseReporter
from keyturn_receiver.reconcile.renderer import Renderer
from keyturn_receiver.reconcile.reverted_restarts import RevertedRestarts
from keyturn_receiver.reconcile.secret_filler import SecretFiller
from keyturn_receiver.reconcile.source_reader import SourceReader
from keyturn_receiver.reconcile.status_reporter import StatusReporter
from keyturn_receiver.reconcile.version_states import VersionStates
from keyturn_receiver.reconcile.work_queue import WorkQueue
from keyturn_receiver.sources import clients as clients_of_aws
from keyturn_receiver.status_page import Hooks
from keyturn_receiver.telemetry.legs import LegTimer


@dataclass(frozen=True, slots=True)
class Bindings:
    """The parts that make bindings true.

    - ``access``: the access policy.
    - ``queue``: the work queue, which runs the reconciler.
    - ``drift`` and ``poller``: like the webhook, they submit work to the queue.
    - ``releases``: the reporter of Secrets that are no longer bound.
    - ``versions``: the index of AWS versions that have reached every pod, or are stuck. It is None if rollouts are off,
      because the receiver then watches no workload.
    - ``readers``: the reporter of readers that are not restarted. It is None if rollouts or such reports are off.
    """

    access: AccessPolicy
    queue: WorkQueue
    drift: DriftDetector
    poller: Poller
    releases: ReleaseReporter
    versions: VersionStates | None
    readers: ReaderReporter | None


def build_bindings(
    process: Process, kube: Kubernetes, aws: Aws, clients: Clients, rollouts: Rollouts, legs: LegTimer, hooks: Hooks
) -> Bindings:
    """Build the reconciler with its parts, the work queue that feeds it, drift detection, the poller, and the
    reporters."""
    settings, metrics, caches = process.settings, process.metrics, kube.caches
    is_leader = kube.elector.is_leader
    access = AccessPolicy(
        caches.namespaces,
        settings.policy_default,
        settings.tenant_roles,
        clients_of_aws.regions(settings.regions),
        settings.signing_key_secret_id,
    )
    resolver = ArnResolver(aws.stores, access)
    filler = SecretFiller(
        SourceReader(aws.stores, access, resolver, legs),
        Renderer(process.rendering),
        clients.secrets,
        caches.secrets,
        rollouts.restarter,
        SecretDeleter(aws.stores, clients.secrets, resolver, settings.deletions),
        legs,
    )
    readers = build_readers(kube, rollouts) if settings.rollouts and settings.report_readers else None
    reverted = RevertedRestarts(caches.secrets, rollouts.pacer, rollouts.fights, caches.consumers.notify, is_leader)
    caches.consumers.add_progress_handler(reverted.on_progress)
    caches.consumers.add_unread_handler(reverted.on_unread)
    kube.elector.add_handler(reverted.on_started_leading)
    reporter = StatusReporter(clients.secrets, kube.events, metrics, reverted, readers.on_written if readers else None)
    reconciler = Reconciler(
        caches.secrets, clients.secrets, filler, rollouts.restarter, reporter, clients.namespaces, process.span
    )
    queue = WorkQueue(hooks.reconcile(reconciler.reconcile), settings.concurrency, metrics)
    drift = DriftDetector(caches.secrets, rollouts.restarter, queue, access, reverted, is_leader)
    poller = Poller(
        Sweeper(aws.stores, caches.secrets, access, settings.poll_mode, settings.poll_interval),
        queue,
        is_leader,
        kube.event_path.healthy,
        metrics,
        notifications=settings.deliveries,
    )
    releases = ReleaseReporter(caches.released, clients.secrets, kube.events, is_leader)
    versions = None
    if settings.rollouts:
        versions = VersionStates(caches.secrets, rollouts.restarter, rollouts.live, access.may_concern)
    return Bindings(access, queue, drift, poller, releases, versions, readers)


def build_readers(kube: Kubernetes, rollouts: Rollouts) -> ReaderReporter:
    """Build the reporter of readers that are not restarted."""
    caches = kube.caches
    return ReaderReporter(
        ReaderClient(kube.api),
        caches.secrets,
        caches.consumers,
        rollouts.policy,
        kube.events,
        borrowers=caches.borrowers,
    )
