"""The environment of fault tests: receivers whose calls to AWS and Kubernetes go through fault-injecting proxies.

The environment also records the history of its namespace. Most tests end with ``wait_converged``. It checks that the
state equals that of a run without the fault (convergence.py), and that no output contains CANARY, with which every
secret value begins (docs/faults.md).
"""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self
from uuid import uuid4

from keyturn_local.aws.server import LocalAws
from keyturn_local.bench.stub_aws import CANARY
from keyturn_local.kubernetes.chart import chart_rights
from keyturn_local.kubernetes.control_plane import ControlPlane
from support.aws_secrets import AwsSecrets
from support.cluster_state import annotations_of
from support.convergence import Convergence
from support.manifests import env_from, secret, workload
from support.object_history import HistoryWatcher
from support.replicas import Replicas
from support.wait import eventually


class FaultEnv(AwsSecrets, Replicas):
    """A namespace of the cluster, and the receivers that a test starts for it. Create an environment with ``start``."""

    def __init__(
        self,
        control_plane: ControlPlane,
        aws: LocalAws,
        signing_key_id: str,
        directory: Path,
        values: Mapping[str, Any],
    ) -> None:
        AwsSecrets.__init__(self, aws, f"team-{uuid4().hex[:6]}")
        signing_key = self.client.get_secret_value(SecretId=signing_key_id)["SecretString"]
        receiver_namespace = f"keyturn-{uuid4().hex[:6]}"
        Replicas.__init__(self, control_plane, aws, signing_key_id, signing_key, receiver_namespace, directory)
        annotations = {"keyturn.dev/allow-secrets": f"{self.namespace}/*"}
        namespaces = [{"name": self.namespace, "annotations": annotations}, {"name": self.receiver_namespace}]
        self._objects = [{"apiVersion": "v1", "kind": "Namespace", "metadata": each} for each in namespaces]
        # A namespace in ``values`` may contain the placeholder {namespace}, because its name is generated only here.
        served = [each.format(namespace=self.namespace) for each in values.get("namespaces", [])]
        self.chart_objects = chart_rights(self.receiver_namespace, {**values, "namespaces": served})
        self._objects += self.chart_objects
        self.cluster.create(self._objects)
        self.history = HistoryWatcher(control_plane, self.namespace)
        self._convergence = Convergence(self.history, self.aws_value)

    @classmethod
    @contextmanager
    def start(
        cls,
        control_plane: ControlPlane,
        aws: LocalAws,
        signing_key_id: str,
        directory: Path,
        values: Mapping[str, Any] | None = None,
    ) -> Iterator[Self]:
        """Start an environment. ``values`` are values for the chart."""
        env = cls(control_plane, aws, signing_key_id, directory, values or {})
        try:
            yield env
        finally:
            env.close()

    def close(self) -> None:
        """Kill the receivers and delete all objects."""
        self.stop_receivers()
        self.history.close()
        self.close_proxies()
        self.cluster.delete_all("secret", self.namespace)
        self.cluster.delete(self._objects, wait=False)

    # --- Kubernetes

    def create_objects(self, *objects: Any) -> None:
        """Create objects that the environment deletes when it closes."""
        self._objects += objects
        self.cluster.create(objects)

    def create_bound_secret(self, name: str = "db", consumers: Sequence[str] = ("web",), **annotations: str) -> str:
        """Create an AWS secret, a Secret that is filled from it, and the Secret's consumers. Return the AWS secret's
        ARN."""
        arn = self.create_aws_secret(name)
        self.bind_secret(name, **annotations)
        eventually(lambda: self.is_current(name), 60)
        if consumers:
            self.create_consumers(name, *consumers)
        return arn

    def bind_secret(self, name: str, to: str = "", **annotations: str) -> None:
        """Create a Secret that is bound to the AWS secret called ``to``, or by default to the one of its own name."""
        self.secret_ids[name] = f"{self.namespace}/{to or name}"
        self._convergence.secrets.add(name)
        self.cluster.create([secret(self.namespace, name, self.secret_ids[name], **annotations)])

    def delete_bound_secret(self, name: str = "db") -> None:
        """Delete a bound Secret, and stop checking it for convergence."""
        del self.secret_ids[name]
        self._convergence.secrets.remove(name)
        self.cluster.kubectl("delete", "secret", name, "-n", self.namespace)

    def create_consumers(self, secret_name: str, *workloads: str, seen: bool = True) -> None:
        """Create Deployments that read the Secret. If ``seen``, wait until the receiver has given each a baseline, and
        otherwise until each has a pod."""
        self.cluster.create(workload(self.namespace, each, env_from(secret_name)) for each in workloads)
        for each in workloads:
            self._convergence.consumers[each] = secret_name
            if seen:
                eventually(lambda each=each: self.history.baseline(each, secret_name))
            else:
                eventually(lambda each=each: self.cluster.list("pods", self.namespace, f"app={each}"))

    def status(self, name: str, namespace: str = "") -> str:
        """Wait until a Secret has a status annotation, and return it as one line."""
        where = namespace or self.namespace
        status = eventually(lambda: annotations_of(self.cluster, "secret", where, name).get("keyturn.dev/status"))
        return " ".join(status.split())

    def expire_lease(self) -> None:
        """End the leader's lease at once by deleting the Lease."""
        self.cluster.kubectl("delete", "lease", "keyturn-poller", "-n", self.receiver_namespace, "--ignore-not-found")

    # --- Expectations

    def is_current(self, name: str = "db") -> bool:
        """Return whether a Secret holds the value that AWS currently has, and has the status "ok"."""
        return self._convergence.is_current(name)

    def has_latest(self, consumer: str, name: str = "db") -> bool:
        """Return whether a consumer has the mark of the Secret's present revisions."""
        return self._convergence.has_latest(consumer, name)

    def let_settle(self, seconds: float = 1.0) -> None:
        """Wait long enough for an unwanted effect to show."""
        time.sleep(seconds)

    def wait_converged(self, seconds: float = 30) -> None:
        """Wait until the state equals that of a run without the fault. Then check the history and search the output for
        secret values."""
        self._convergence.wait(seconds)
        self.assert_history_consistent()

    def assert_history_consistent(self) -> None:
        """Check the history of the consumers, and search the output for secret values."""
        self._convergence.assert_history_consistent()
        self.assert_no_value_leaked()

    def assert_no_value_leaked(self) -> None:
        """Fail if any output contains a secret value."""
        for place, text in self.observed_output().items():
            assert CANARY not in text, f"a value in {place}"

    def observed_output(self) -> dict[str, str]:
        """Return the texts in which no secret value may appear: the receivers' logs, replies and metrics, and the
        Events, Deployments and metadata of Secrets in the namespace."""
        output = {receiver.name: receiver.log for receiver in self.receivers}
        output["replies"] = "\n".join(self.deliveries.bodies)
        output["metrics"] = "\n".join(receiver.metrics() for receiver in self.receivers if receiver.running)
        for kind in ("events", "deployments"):
            output[kind] = json.dumps(self.cluster.list(kind, self.namespace))
        secrets = self.cluster.list("secrets", self.namespace)
        output["annotations"] = json.dumps([each["metadata"] for each in secrets])
        return output
