"""The receiver as a process of its own, under its own ServiceAccount and the chart's RBAC."""

import os
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from keyturn_local.processes.environment import IMPORT_ROOTS
from keyturn_local.processes.ports import free_ports
from keyturn_local.processes.program import Program, answers

SERVICE_ACCOUNT = "keyturn"


class LocalReceiver:
    """One replica; it keeps its ports over restarts. ``aws``: the variables that say where AWS is.

    ``python``: of an environment that holds the receiver, as the image does; then it sees nothing of ours.
    """

    def __init__(
        self,
        directory: Path,
        kubeconfig: Path,
        aws: Mapping[str, str],
        signing_key_secret_id: str,
        namespace: str,
        settings: Mapping[str, str] | None = None,
        name: str = "receiver",
        python: Path | None = None,
    ) -> None:
        self._directory = directory
        self._python = python or Path(sys.executable)
        self.name = name
        port, operations_port = free_ports(2)
        self.url = f"http://127.0.0.1:{port}/v1/notifications"
        self.operations_url = f"http://127.0.0.1:{operations_port}"
        ours = {key: value for key, value in os.environ.items() if not key.startswith(("KEYTURN_", "AWS_"))}
        self._environment = {
            **({} if python else {**ours, "PYTHONPATH": IMPORT_ROOTS}),
            **aws,
            "KUBECONFIG": str(kubeconfig),
            "KEYTURN_HOST": "127.0.0.1",
            "KEYTURN_PORT": str(port),
            "KEYTURN_OPERATIONS_PORT": str(operations_port),
            "KEYTURN_SIGNING_KEY_SECRET_ID": signing_key_secret_id,
            "KEYTURN_LEASE_NAMESPACE": namespace,
            "KEYTURN_DRAIN_SECONDS": "0",  # no Service here that would have to learn of its end
            **(settings or {}),
        }
        self._program: Program | None = None

    @property
    def log(self) -> str:
        """All that it has logged."""
        return (self._directory / f"{self.name}.log").read_text()

    @property
    def running(self) -> bool:
        """Whether its process is there."""
        return self._program is not None and self._program.running

    @property
    def status(self) -> int | None:
        """The exit status of its process, once it has ended."""
        return self._program.status if self._program else None

    def start(self, seconds: float = 30) -> None:
        """Start it, and wait until it is ready. Raises StartFailed."""
        self._program = Program(self.name, [self._python, "-m", "keyturn_receiver"], self._directory, self._environment)
        self._program.wait_for(answers(f"{self.operations_url}/readyz"), seconds)

    def kill(self) -> None:
        """Kill it with -9."""
        if self._program:
            self._program.kill()

    def stop(self) -> None:
        """End it in good order."""
        if self._program:
            self._program.stop(40)

    def ready(self) -> tuple[int, str]:
        """Ask its readiness probe: status and text."""
        return self._probe("readyz")

    def alive(self) -> tuple[int, str]:
        """Ask its liveness probe: status and text."""
        return self._probe("livez")

    def _probe(self, name: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"{self.operations_url}/{name}", timeout=5) as reply:  # noqa: S310 - loopback
                return reply.status, reply.read().decode()
        except urllib.error.HTTPError as refused:
            with refused:
                return refused.code, refused.read().decode()
        except OSError as error:
            return 0, type(error).__name__

    def metrics(self) -> str:
        """Read its metrics, as Prometheus does."""
        with urllib.request.urlopen(f"{self.operations_url}/metrics", timeout=5) as reply:  # noqa: S310 - loopback
            return str(reply.read().decode())

    def metric(self, name: str, **labels: str) -> float:
        """Read one sample of its metrics: the sum of those that have these labels."""
        return total(self.metrics(), name, **labels)


def total(metrics: str, name: str, **labels: str) -> float:
    """The sum of the samples of this name, in what a receiver's metrics say, that have these labels."""
    return sum(
        sample.value
        for family in text_string_to_metric_families(metrics)
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )
