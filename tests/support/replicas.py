"""Replicas of the receiver behind fault-injecting proxies, and deliveries to them."""

from functools import cached_property
from pathlib import Path

from keyturn_contract.message import Notification
from keyturn_contract.signature import parse_key
from keyturn_local.aws.server import LocalAws
from keyturn_local.kubernetes.control_plane import ControlPlane
from keyturn_local.receiver.process import SERVICE_ACCOUNT, LocalReceiver
from support.delivery_client import DeliveryClient, DeliveryReply
from support.fault_proxy import FaultProxy

# With these settings, a receiver sweeps once when it becomes the leader. After that, it reacts to notifications and
# watches, and polls only once an hour.
QUIET = {
    "KEYTURN_POLL_INTERVAL_SECONDS": "3600",
    "KEYTURN_HEARTBEAT_SILENCE_SECONDS": "0",
    "KEYTURN_SIGNING_KEY_INTERVAL_SECONDS": "3600",
    "KEYTURN_REPORT_READERS": "false",  # reports list pods and CronJobs some seconds after a change
}


class Replicas:
    """The receivers of one namespace. By default, they share one proxy for their calls to AWS and one for those to
    Kubernetes.

    ``signing_key`` is the text of the AWS secret called ``signing_key_id``.
    """

    def __init__(
        self,
        control_plane: ControlPlane,
        aws: LocalAws,
        signing_key_id: str,
        signing_key: str,
        receiver_namespace: str,
        directory: Path,
    ) -> None:
        self.cluster = control_plane
        self.aws = aws
        self.signing_key_id = signing_key_id
        self.signing_key = signing_key
        self.key = parse_key(signing_key)
        self.receiver_namespace = receiver_namespace
        self.directory = directory
        self.kubernetes_proxy = FaultProxy(control_plane.url, control_plane.ca_file)
        self.aws_proxy = FaultProxy(aws.endpoint_url)
        self.receivers: list[LocalReceiver] = []
        self.deliveries = DeliveryClient(self.key)

    def stop_receivers(self) -> None:
        """Kill the receivers."""
        self.kubernetes_proxy.heal()
        self.aws_proxy.heal()
        for receiver in self.receivers:
            receiver.kill()

    def close_proxies(self) -> None:
        """Close the proxies. No receiver may be running any more."""
        self.kubernetes_proxy.close()
        self.aws_proxy.close()

    @cached_property
    def _kubeconfig(self) -> Path:
        return self.cluster.kubeconfig_for(self.receiver_namespace, SERVICE_ACCOUNT, self.directory)

    def receiver(
        self,
        via_proxy: bool = True,
        start: bool = True,
        proxies: tuple[FaultProxy, FaultProxy] | None = None,
        python: Path | None = None,
        **settings: str,
    ) -> LocalReceiver:
        """Start a replica. It uses the proxies of the environment, or the pair in ``proxies`` (Kubernetes, AWS).

        ``python`` is the interpreter of another virtual environment. Unless ``settings`` shorten the poll interval, the
        replica sweeps when it becomes the leader, and then only once an hour.
        """
        kubernetes_proxy, aws_proxy = proxies or (self.kubernetes_proxy, self.aws_proxy)
        name = f"receiver-{len(self.receivers)}"
        kubeconfig, aws = self._kubeconfig, self.aws.environment()
        if via_proxy:
            kubeconfig = kubernetes_proxy.kubeconfig(kubeconfig, self.directory / f"kubeconfig-{name}")
            aws = {**aws, "AWS_ENDPOINT_URL": aws_proxy.url}
        made = LocalReceiver(
            self.directory,
            kubeconfig,
            aws,
            self.signing_key_id,
            self.receiver_namespace,
            {**QUIET, **settings},
            name,
            python,
        )
        self.receivers.append(made)
        if start:
            made.start()
        return made

    # Deliveries go to the most recently created receiver unless ``to`` names another.

    def send(self, *notifications: Notification, to: LocalReceiver | None = None, seconds: float = 20) -> DeliveryReply:
        """Deliver once."""
        return self.deliveries.send((to or self.receivers[-1]).url, notifications, seconds)

    def send_until_accepted(
        self, *notifications: Notification, to: LocalReceiver | None = None, seconds: float = 60
    ) -> DeliveryReply:
        """Deliver until the receiver accepts, as SQS does."""
        return self.deliveries.send_until_accepted(lambda: (to or self.receivers[-1]).url, notifications, seconds)
