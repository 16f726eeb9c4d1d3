"""Connection of the gauges and the watchdog to the functions that return their values."""

from functools import partial

from prometheus_client import ProcessCollector

from keyturn_receiver.composition.aws import Aws
from keyturn_receiver.composition.controller import Controller
from keyturn_receiver.composition.kubernetes import Kubernetes
from keyturn_receiver.composition.process import Process
from keyturn_receiver.core.rollout_schedule import WaitReason
from keyturn_receiver.reconcile.request import PRIORITIES


def observe(process: Process, kube: Kubernetes, aws: Aws, controller: Controller) -> None:
    """Connect the gauges and the watchdog to the functions that return their values."""
    metrics, queue = process.metrics, controller.bindings.queue
    ProcessCollector(registry=metrics.registry)
    process.watchdog.register_duration("reconcile", queue.longest_running)
    process.watchdog.register_duration("reconcile of a watched Secret", controller.watches.queue.longest_running)
    process.watchdog.register_duration("AWS calls", process.pools.saturated_for)
    metrics.bindings.set_function(lambda: len(kube.caches.secrets))
    metrics.watched_secrets.set_function(lambda: len(kube.caches.watched))
    metrics.failing_bindings.set_function(lambda: queue.failing() + controller.watches.queue.failing())
    metrics.staleness_seconds.set_function(queue.oldest_unmet)
    metrics.rollouts_halted.set_function(controller.rollouts.pacer.halted)
    for reason in WaitReason:
        metrics.rollouts_waiting.labels(reason).set_function(partial(controller.rollouts.pacer.waiting, reason))
    metrics.rollouts_stuck.set_function(controller.rollouts.live.stuck)
    metrics.poller_leader.set_function(kube.elector.is_leader)
    metrics.sweep_age_seconds.set_function(controller.bindings.poller.sweep_age)
    if process.settings.deliveries:
        metrics.event_path_up.set_function(kube.event_path.healthy)
        public_keys = len(process.settings.signing_public_keys)
        metrics.signing_keys.set_function(lambda: len(aws.signing_keys.current()) + public_keys)
    else:  # both gauges are removed, because 0 would fire an alert, and 1 would be wrong
        metrics.registry.unregister(metrics.event_path_up)
        metrics.registry.unregister(metrics.signing_keys)
    for priority in PRIORITIES:
        metrics.queue_depth.labels(priority).set_function(partial(queue.depth, priority))
