"""The receiver as a local process. It has the rights that the chart's RBAC grants to the receiver's ServiceAccount."""

import signal
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from keyturn_local.processes.environment import IMPORT_ROOTS, clean_environment
from keyturn_local.processes.ports import free_ports
from keyturn_local.processes.program import Program, answers
from keyturn_local.receiver.certificate import Certificate

SERVICE_ACCOUNT = "keyturn"


class LocalReceiver:
    """One replica. It has the same ports after a restart.

    ``aws`` are the environment variables that lead to AWS. ``python`` is the interpreter of an environment in which the
    receiver is installed as in the image. If it is given, the receiver sees neither this repository nor the environment
    variables of this process. If ``certificate`` is given, the receiver serves TLS. ``port`` is needed only if the URL
    has to be known before the receiver is created.
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
        certificate: Certificate | None = None,
        port: int | None = None,
    ) -> None:
        self._directory = directory
        self._python = python or Path(sys.executable)
        self.name = name
        free, operations_port, page_port = free_ports(3)
        port = port or free
        self.url = f"{'https' if certificate else 'http'}://127.0.0.1:{port}/v1/notifications"
        self.operations_url = f"http://127.0.0.1:{operations_port}"
        self.page_url = f"http://127.0.0.1:{page_port}"
        self._environment = {
            **({} if python else {**clean_environment(), "PYTHONPATH": IMPORT_ROOTS}),
            **aws,
            "KUBECONFIG": str(kubeconfig),
            "KEYTURN_HOST": "127.0.0.1",
            "KEYTURN_PORT": str(port),
            "KEYTURN_OPERATIONS_PORT": str(operations_port),
            "KEYTURN_STATUS_PAGE_PORT": str(page_port),
            "KEYTURN_SIGNING_KEY_SECRET_ID": signing_key_secret_id,
            "KEYTURN_LEASE_NAMESPACE": namespace,
            "KEYTURN_DRAIN_SECONDS": "0",  # there is no drain, because no Service routes deliveries to this process
            **(certificate.settings() if certificate else {}),
            **(settings or {}),
        }
        self._program: Program | None = None

    @property
    def log(self) -> str:
        """The log so far."""
        return (self._directory / f"{self.name}.log").read_text()

    @property
    def running(self) -> bool:
        """Whether the process is running."""
        return self._program is not None and self._program.running

    @property
    def status(self) -> int | None:
        """The exit status of the process. It is None while the process runs, and before its first start."""
        return self._program.status if self._program else None

    def start(self, seconds: float = 30) -> None:
        """Start the process, and wait until it is ready. Raises StartFailed."""
        self.launch().wait_for(answers(f"{self.operations_url}/readyz"), seconds)

    def launch(self) -> Program:
        """Start the process without waiting for it."""
        self._program = Program(self.name, [self._python, "-m", "keyturn_receiver"], self._directory, self._environment)
        return self._program

    def kill(self) -> None:
        """Kill the process with SIGKILL."""
        if self._program:
            self._program.kill()

    def pause(self) -> None:
        """Stop the process with SIGSTOP until ``resume``. Until then it seems to hang."""
        if self._program:
            self._program.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Resume a paused process."""
        if self._program:
            self._program.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """Stop the process gracefully."""
        if self._program:
            self._program.stop(40)

    def ready(self) -> tuple[int, str]:
        """Return the status and the text of the readiness probe. The status is 0 if there was no answer."""
        return self._probe("readyz")

    def alive(self) -> tuple[int, str]:
        """Return the status and the text of the liveness probe. The status is 0 if there was no answer."""
        return self._probe("livez")

    def _probe(self, name: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"{self.operations_url}/{name}", timeout=5) as reply:  # noqa: S310 - loopback
                return reply.status, reply.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()
        except OSError as error:
            return 0, type(error).__name__

    def metrics(self) -> str:
        """Return the metrics in Prometheus' text format."""
        with urllib.request.urlopen(f"{self.operations_url}/metrics", timeout=5) as reply:  # noqa: S310 - loopback
            return str(reply.read().decode())

    def metric(self, name: str, **labels: str) -> float:
        """Return the sum of the samples of a metric that have these labels."""
        return total(self.metrics(), name, **labels)


def total(metrics: str, name: str, **labels: str) -> float:
    """Return the sum of the samples with this name and these labels. ``metrics`` is a text in Prometheus' format."""
    return sum(
        sample.value
        for family in text_string_to_metric_families(metrics)
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )
