"""The controller layer: the parts that decide about writes and restarts, and make them."""

from dataclasses import dataclass

from keyturn_receiver.composition.aws import Aws
from keyturn_receiver.composition.bindings import Bindings, build_bindings
from keyturn_receiver.composition.kubernetes import Kubernetes, build_clients
from keyturn_receiver.composition.process import Process
from keyturn_receiver.composition.rollouts import Rollouts, build_rollouts
from keyturn_receiver.composition.watches import Watches, build_watches
from keyturn_receiver.status_page import Hooks
from keyturn_receiver.telemetry.legs import LegTimer


@dataclass(frozen=True, slots=True)
class Controller:
    """The parts that decide about writes and restarts, and make them."""

    rollouts: Rollouts
    bindings: Bindings
    watches: Watches


def build_controller(process: Process, kube: Kubernetes, aws: Aws, hooks: Hooks) -> Controller:
    """Build the parts for rollouts, for bindings and for watched Secrets."""
    clients = build_clients(process, kube)
    legs = LegTimer(process.metrics, hooks.span(process.span))
    rollouts = build_rollouts(process, kube, clients, legs)
    bindings = build_bindings(process, kube, aws, clients, rollouts, legs, hooks)
    return Controller(rollouts, bindings, build_watches(process, kube, clients, rollouts))
