"""A scene for fault tests: receivers between proxies that can be made to fail, AWS and Kubernetes behind, a witness.

The oracle (docs/faults.md): in the end the state equals that of a run without the fault; no version is lost; each
consumer was restarted at most once for each revision, and at least once if what it reads has changed; no byte of a
value is in anything that was said.
"""

import asyncio
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any
from uuid import uuid4

import boto3
import httpx

from keyturn_contract.message import EventType, Notification, Result, decode_reply, encode
from keyturn_contract.signature import parse_key
from keyturn_local.aws.rotation import rotate
from keyturn_local.aws.server import LocalAws
from keyturn_local.bench.stub_aws import CANARY
from keyturn_local.kubernetes.chart import chart_rights
from keyturn_local.kubernetes.control_plane import ControlPlane
from keyturn_local.receiver.process import SERVICE_ACCOUNT, LocalReceiver
from keyturn_receiver.core.revision import digest, read_record
from support.deliveries import notification, signed
from support.fault_proxy import FaultProxy
from support.manifests import annotations_of, env_from, eventually, secret, workload
from support.object_history import Witness

CREDENTIALS = {"aws_access_key_id": "testing", "aws_secret_access_key": "testing"}


@dataclass
class Answered:
    """What a delivery was answered: status 0 when there was no answer."""

    status: int
    results: Sequence[Result] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    body: str = ""

    @property
    def outcome(self) -> str:
        """The outcome of the one notification that was sent."""
        return self.results[0].outcome.value if self.results else ""


class Scene:
    """One namespace of the cluster, and the receivers that a test starts; made by ``play``."""

    def __init__(
        self,
        control_plane: ControlPlane,
        aws: LocalAws,
        signing_key_id: str,
        directory: Path,
        values: Mapping[str, Any],
    ) -> None:
        self.cluster = control_plane
        self.aws = aws
        self.namespace = f"team-{uuid4().hex[:6]}"
        self.home = f"keyturn-{uuid4().hex[:6]}"
        self.directory = directory
        self.kubernetes = FaultProxy(control_plane.url, control_plane.ca_file)
        self.aws_proxy = FaultProxy(aws.endpoint_url)
        self.receivers: list[LocalReceiver] = []
        self.said: list[str] = []
        self._bound: dict[str, str] = {}  # the AWS secret's name by the Secret's
        self._consumers: dict[str, str] = {}  # the Secret by the workload's name
        self._signing_key_id = signing_key_id
        self.signing_key = self.client.get_secret_value(SecretId=signing_key_id)["SecretString"]
        self.key = parse_key(self.signing_key)
        annotations = {"keyturn.dev/allow-secrets": f"{self.namespace}/*"}
        namespaces = [{"name": self.namespace, "annotations": annotations}, {"name": self.home}]
        self._made = [{"apiVersion": "v1", "kind": "Namespace", "metadata": each} for each in namespaces]
        # Namespaces to serve may be named after this one, which nobody knows before.
        served = [each.format(namespace=self.namespace) for each in values.get("namespaces", [])]
        self.chart = chart_rights(self.home, {**values, "namespaces": served})
        self._made += self.chart
        self.cluster.create(self._made)
        self.witness = Witness(control_plane, self.namespace)
        self._kubeconfig = self.cluster.kubeconfig_for(self.home, SERVICE_ACCOUNT, directory)

    def close(self) -> None:
        """End the receivers and take everything away."""
        self.kubernetes.heal()
        self.aws_proxy.heal()
        for receiver in self.receivers:
            receiver.kill()
        self.witness.close()
        self.kubernetes.close()
        self.aws_proxy.close()
        self.cluster.kubectl("delete", "secret", "--all", "-n", self.namespace, "--wait=false")
        self.cluster.delete(self._made, wait=False)

    @cached_property
    def client(self) -> Any:
        """AWS itself, past the proxy. One for all: each costs a botocore session."""
        return self.aws.secrets_manager()

    def client_of(self, region: str) -> Any:
        """The same AWS in another region."""
        return boto3.client("secretsmanager", region, endpoint_url=self.aws.endpoint_url, **CREDENTIALS)

    def make(self, *objects: Any) -> None:
        """Create objects that are taken away in the end."""
        self._made += objects
        self.cluster.create(objects)

    def receiver(
        self,
        straight: bool = False,
        start: bool = True,
        behind: tuple[FaultProxy, FaultProxy] | None = None,
        python: Path | None = None,
        **settings: str,
    ) -> LocalReceiver:
        """A replica behind the proxies or such of its own, or ``straight``, of an environment's ``python`` or ours; its
        poller sleeps unless the settings say otherwise."""
        kubernetes, aws_proxy = behind or (self.kubernetes, self.aws_proxy)
        name = f"receiver-{len(self.receivers)}"
        file = self.directory / f"kubeconfig-{name}"
        kubeconfig = self._kubeconfig if straight else kubernetes.kubeconfig(self._kubeconfig, file)
        aws = self.aws.environment()
        defaults = {
            "KEYTURN_POLL_INTERVAL_SECONDS": "3600",
            "KEYTURN_HEARTBEAT_SILENCE_SECONDS": "0",
            "KEYTURN_SIGNING_KEY_INTERVAL_SECONDS": "3600",
        }
        made = LocalReceiver(
            self.directory,
            kubeconfig,
            aws if straight else {**aws, "AWS_ENDPOINT_URL": aws_proxy.url},
            self._signing_key_id,
            self.home,
            {**defaults, **settings},
            name,
            python,
        )
        self.receivers.append(made)
        if start:
            made.start()
        return made

    def end_lease(self) -> None:
        """Let the poller's Lease run out now."""
        self.cluster.kubectl("delete", "lease", "keyturn-poller", "-n", self.home, "--ignore-not-found")

    def value(self, text: str) -> str:
        """A value that would be recognized wherever it turned up."""
        return f"{CANARY}-{text}-{uuid4().hex[:8]}"

    def given(self, name: str = "db", consumers: Sequence[str] = ("web",), **annotations: str) -> str:
        """Create an AWS secret, a Secret that is filled from it, and consumers; returns the AWS secret's ARN."""
        arn = str(self.create(name))
        self.bind(name, **annotations)
        eventually(lambda: self.in_order(name), 60)
        if consumers:
            self.consume(name, *consumers)
        return arn

    def create(self, name: str) -> str:
        """Create an AWS secret; return its ARN."""
        return str(self.client.create_secret(Name=f"{self.namespace}/{name}", SecretString=self.value("first"))["ARN"])

    def bind(self, name: str, to: str = "", **annotations: str) -> None:
        """Create a Secret bound to the AWS secret of the same name, or to another."""
        self._bound[name] = f"{self.namespace}/{to or name}"
        self.cluster.create([secret(self.namespace, name, self._bound[name], **annotations)])

    def unbind(self, name: str = "db") -> None:
        """Delete a bound Secret: nothing more is expected of it."""
        del self._bound[name]
        self.cluster.kubectl("delete", "secret", name, "-n", self.namespace)

    def consume(self, secret_name: str, *workloads: str) -> None:
        """Create Deployments that read the Secret, and wait until each has its baseline."""
        self.cluster.create(workload(self.namespace, each, env_from(secret_name)) for each in workloads)
        for each in workloads:
            self._consumers[each] = secret_name
            eventually(lambda each=each: self.witness.baseline(each, secret_name))

    def rotate(self, name: str = "db", text: str = "next") -> Notification:
        """Rotate an AWS secret; return the notification that comes of it."""
        secret_id = f"{self.namespace}/{name}"
        version_id = rotate(self.client, secret_id, self.value(text))
        return self.changed(name, version_id)

    def changed(self, name: str, version_id: str, kind: EventType = EventType.CHANGED) -> Notification:
        """A notification about an AWS secret, under an id of its own."""
        arn = self.client.describe_secret(SecretId=f"{self.namespace}/{name}")["ARN"]
        return notification(arn, version_id, kind)

    def about(self, arn: str, kind: EventType) -> Notification:
        """A notification that tells of no version."""
        told = notification(arn, "none", kind)
        return replace(told, data=replace(told.data, version_id=None, label=None))

    def current(self, name: str = "db") -> str:
        """The value that AWS has for the Secret now."""
        return str(
            self.client.get_secret_value(SecretId=self._bound.get(name, f"{self.namespace}/{name}"))["SecretString"]
        )

    async def send_at_once(
        self, deliveries: Sequence[Sequence[Notification]], to: Sequence[LocalReceiver], beside: int = 200
    ) -> list[Answered]:
        """Send many deliveries, by turns to several receivers, ``beside`` each other at most."""
        places = asyncio.Semaphore(beside)
        limits = httpx.Limits(max_connections=beside, max_keepalive_connections=beside)
        async with httpx.AsyncClient(timeout=30, limits=limits) as http:

            async def post(number: int, notifications: Sequence[Notification]) -> Answered:
                body = encode(notifications)
                async with places:
                    try:
                        url = to[number % len(to)].url
                        return self.heard(await http.post(url, content=body, headers=signed(self.key, body)))
                    except httpx.TransportError:
                        return Answered(0)

            return list(await asyncio.gather(*(post(*each) for each in enumerate(deliveries))))

    def send(self, *notifications: Notification, to: LocalReceiver | None = None, seconds: float = 20) -> Answered:
        """Deliver as the notifier does; no answer at all is an answer, too."""
        body = encode(notifications)
        try:
            reply = httpx.post(
                (to or self.receivers[-1]).url, content=body, headers=signed(self.key, body), timeout=seconds
            )
        except httpx.TransportError:
            return Answered(0)
        return self.heard(reply)

    def heard(self, reply: httpx.Response) -> Answered:
        """Take note of a reply."""
        self.said.append(reply.text)
        results = (
            decode_reply(reply.content)
            if reply.headers.get("content-type") == "application/json" and (b'"results"' in reply.content)
            else ()
        )
        return Answered(reply.status_code, results, reply.headers, reply.text)

    def deliver(self, *notifications: Notification, to: LocalReceiver | None = None, seconds: float = 60) -> Answered:
        """Deliver until it is taken, as SQS does."""
        found: list[Answered] = []

        def taken() -> bool:
            found.append(self.send(*notifications, to=to))
            return found[-1].status == 200

        eventually(taken, seconds)
        return found[-1]

    def in_order(self, name: str = "db") -> bool:
        """Whether a Secret holds what AWS has now, and says so."""
        data, annotations = self.witness.now(name)
        return data == {"value": self.current(name).encode()} and annotations.get("keyturn.dev/status") == "ok"

    def status(self, name: str, namespace: str = "") -> str:
        """What a Secret says of itself, in one line; waited for."""
        where = namespace or self.namespace
        told = eventually(lambda: annotations_of(self.cluster, "secret", where, name).get("keyturn.dev/status"))
        return " ".join(told.split())

    def converge(self, seconds: float = 30) -> None:
        """Wait until everything is as in a run without the fault, then hold the past against the oracle."""
        for name in self._bound:
            eventually(lambda name=name: self.in_order(name), seconds)
            told = read_record(self.witness.now(name)[1]).revisions
            eventually(lambda name=name, told=told: self.witness.revisions(name)[-1:] == [told])  # its watch may lag
        for each, secret_name in self._consumers.items():
            eventually(lambda each=each, name=secret_name: self._knows(each, name), seconds)
        self.oracle()

    def oracle(self) -> None:
        """Hold what has happened against what may happen."""
        for each, secret_name in self._consumers.items():
            marks = [mark for mark in self.witness.marks(each, secret_name) if mark]
            states = [digest(told, told) for told in self.witness.revisions(secret_name)]
            assert all(mark in states for mark in marks), f"{each} bears marks of revisions that never were"
            # At most once for each: the marks follow the Secret's states, and none comes twice unless the state did.
            remaining = iter(states)
            assert all(mark in remaining for mark in marks), f"{each} was restarted twice for a revision, or backwards"
            assert self._knows(each, secret_name), f"{each} was not restarted for the last revision"
        self.oracle_of_words()

    def oracle_of_words(self) -> None:
        """Look for values in all that was said."""
        for place, text in self.everything_said().items():
            assert CANARY not in text, f"a value in {place}"

    def everything_said(self) -> dict[str, str]:
        """All that anybody could read who may not read Secrets, and what the receivers have told."""
        said = {receiver.name: receiver.log for receiver in self.receivers}
        said["replies"] = "\n".join(self.said)
        said["metrics"] = "\n".join(receiver.metrics() for receiver in self.receivers if receiver.running)
        for kind in ("events", "deployments"):
            said[kind] = self.cluster.kubectl("get", kind, "-n", self.namespace, "-o", "yaml")
        secrets = json.loads(self.cluster.kubectl("get", "secrets", "-n", self.namespace, "-o", "json"))["items"]
        said["annotations"] = json.dumps([each["metadata"] for each in secrets])
        return said

    def settled(self, seconds: float = 1.0) -> None:
        """Give what should not happen the time to happen."""
        time.sleep(seconds)

    def _knows(self, workload_name: str, secret_name: str) -> bool:
        told = self.witness.revisions(secret_name)
        marks = self.witness.marks(workload_name, secret_name)
        mark = (marks and marks[-1]) or self.witness.baseline(workload_name, secret_name)
        return bool(told) and mark == digest(told[-1], told[-1])


@contextmanager
def play(
    control_plane: ControlPlane, aws: LocalAws, signing_key_id: str, directory: Path, values: Mapping[str, Any]
) -> Iterator[Scene]:
    """Set a scene; ``values`` are the chart's."""
    scene = Scene(control_plane, aws, signing_key_id, directory, values)
    try:
        yield scene
    finally:
        scene.close()
