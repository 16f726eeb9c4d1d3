"""Scenarios of the demo: a rotation with the event path, a rotation without it, and a rotation of a key that no pod
reads."""

import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from keyturn_local.aws.rotation import rotate
from keyturn_local.demo import manifests
from keyturn_local.demo.manifests import API_TOKEN, DATABASE, NAMESPACE, database_secret, value_text
from keyturn_local.demo.observer import Observer, poll
from keyturn_local.demo.report import Claims, heading, say, step
from keyturn_local.stack import Stack

POLL_SECONDS = 5.0
TIMEOUT_SECONDS = 20.0  # seconds for a step that does not wait for pods
# Seconds for a step that waits for pods. A container runtime may have to pull an image first.
POD_TIMEOUT_SECONDS = 120.0
# Seconds within which the new value has to be in use, by two pods that are replaced one after the other, or by a
# StatefulSet's pod.
IN_USE_SECONDS = 15.0
RECOVERED = "keyturn_recovered_by_poll_total"

APPLIED = "Secret applied"
DELIVERED = "delivered (acknowledged after applying)"
MOVE = "UpdateSecretVersionStage"  # the call that moves a staging label
# Steps as they are printed, each with its name in ``NotifierLog.steps``.
ON_THE_WAY = {"queued": "queued", "taken by the notifier, delivery begins": "taken", DELIVERED: "delivered"}


@dataclass(frozen=True)
class Rotation:
    """Times at which a rotation had its effects, in seconds since the call that moves the staging label. None means
    that the effect was not seen before the timeout."""

    applied: float | None
    delivered: float | None
    replaced: Mapping[str, float | None]  # by workload
    in_use: Mapping[str, float | None]  # by workload; empty if pods have no containers


class Scenarios:
    """Scenarios on a running stack. They add every claim to ``claims``. They must run in the order of the methods."""

    def __init__(self, stack: Stack, observer: Observer, claims: Claims, image: str) -> None:
        self._image = image
        self._stack = stack
        self._observer = observer
        self._claims = claims
        self._secrets_manager = stack.aws.secrets_manager()
        self._moves: dict[str, float] = {}  # the time of the call that moves the staging label, by version id
        self._on_the_way: dict[str, Mapping[str, float]] = {}  # the times of the notifier's steps, by version id
        self._secrets_manager.meta.events.register(f"provide-client-params.secrets-manager.{MOVE}", self._on_move)
        self._database = manifests.database("team-a")

    def create_objects(self) -> None:
        """Create the AWS secrets, the Secrets and the workloads. Wait until the Secrets are filled and the pods run.
        Also add a key to one Secret by hand.

        At the same time, a heartbeat takes the event path. The heartbeat also starts the notifier's function. In AWS,
        the function is always warm because of the heartbeats.
        """
        heartbeat = self._stack.aws.heartbeat()
        token = secrets.token_urlsafe(12)
        self._secrets_manager.create_secret(Name=DATABASE, SecretString=value_text(self._database))
        self._secrets_manager.create_secret(Name=API_TOKEN, SecretString=token)
        self._stack.cluster.create(manifests.bindings())
        filled = self._observer.wait(
            lambda: (
                self._observer.secret_holds("database", database_secret(self._database))
                and self._observer.secret_holds("api-token", {"value": token})
            ),
            TIMEOUT_SECONDS,
        )
        self._claims.check(bool(filled), "two new Secrets, labelled and empty, are filled from AWS")
        self._stack.cluster.kubectl(
            "patch", "secret", "database", "-n", NAMESPACE, "-p", '{"stringData": {"BY_HAND": "mine"}}'
        )
        self._stack.cluster.create(manifests.workloads(self._image))
        for kind, name in (("deploy", "web"), ("sts", "queue"), ("ds", "agent"), ("deploy", "bystander")):
            self._stack.cluster.kubectl(
                "rollout", "status", f"{kind}/{name}", "-n", NAMESPACE, f"--timeout={POD_TIMEOUT_SECONDS:.0f}s"
            )
        beat = poll(lambda: self._stack.aws.notifier_log.is_accepted(heartbeat), TIMEOUT_SECONDS)
        self._claims.check(beat, "a heartbeat took the deployed path: rule, queue, function, receiver")

    def event_path(self) -> None:
        """Rotate as the AWS console does. Check that each rotation is applied within a second and replaces the pods
        that read the Secret. Check that another workload's pods and a key that was added by hand stay."""
        heading("Act 1: the event path")
        self._database = manifests.database("team-a")
        bystander = self._observer.pods("bystander")
        say(f"\n  rotating {DATABASE}: read by Deployment web (env) and StatefulSet queue (volume)")
        expected = database_secret(self._database)
        first = self._rotate(DATABASE, value_text(self._database), "database", expected, ("web", "queue"))
        token = secrets.token_urlsafe(12)
        say(f"\n  rotating {API_TOKEN}, plain text: read by DaemonSet agent (envFrom)")
        second = self._rotate(API_TOKEN, token, "api-token", {"value": token}, ("agent",))
        say()
        for rotation in (first, second):
            self._claims.check(
                rotation.applied is not None and rotation.applied < 1 and rotation.delivered is not None,
                "label moved -> the Secret holds the new value: under 1 s",
            )
            self._check_pods(rotation)
        self._claims.check(self._observer.pods("bystander") == bystander, "the workload that reads nothing ran on")
        self._claims.check(
            "BY_HAND" in self._observer.secret_keys("database"), "a key that was added by hand is still there"
        )

    def without_event_path(self) -> None:
        """Rotate while no event reaches the queue. Check that the poller finds the rotation, that the pods are
        replaced, and that a metric counts the rotation."""
        heading(f"Act 2: the event path is cut; the poller looks every {POLL_SECONDS:.0f} s")
        before = self._stack.receiver.metric(RECOVERED)
        self._stack.aws.cut_event_path()
        try:
            self._database = manifests.database("team-a")
            expected, value = database_secret(self._database), value_text(self._database)
            rotation = self._rotate(DATABASE, value, "database", expected, ("web", "queue"), queued=False)
        finally:
            self._stack.aws.restore_event_path()
        recovered = self._observer.wait(lambda: self._stack.receiver.metric(RECOVERED) - before, 5)
        say()
        limit = POLL_SECONDS * 1.1 + 1
        self._claims.check(
            rotation.applied is not None and rotation.applied <= limit, f"the poller carried it within {limit:.1f} s"
        )
        self._check_pods(rotation, limit)
        self._claims.check(recovered == 1, f"{RECOVERED} rose by {recovered:.0f}: the event path's loss is counted")

    def unread_key(self) -> None:
        """Change only a key that no pod reads. Check that the Secret is written, and that no workload restarts."""
        heading("Act 3: a key that no workload reads")
        pods = {app: self._observer.pods(app) for app in ("web", "queue", "agent", "bystander")}
        generations = self._generations()
        self._database = manifests.database("team-b", self._database["password"])
        expected = database_secret(self._database)
        rotation = self._rotate(DATABASE, value_text(self._database), "database", expected, ())
        # The receiver acknowledges after it has started the rollouts, so no write is still to come.
        say()
        self._claims.check(rotation.applied is not None, "the Secret holds the new OWNER")
        same = {app: self._observer.pods(app) for app in pods} == pods and self._generations() == generations
        self._claims.check(same and rotation.delivered is not None, "no workload was touched, no pod restarted")

    def _check_pods(self, rotation: Rotation, applied_within: float = 0) -> None:
        """Check after one rotation that every pod that reads the Secret was replaced. If the pods' logs are read, also
        check that every process uses the new value in time: within IN_USE_SECONDS, and ``applied_within`` seconds more
        for the write of the Secret."""
        self._claims.check(all(rotation.replaced.values()), "every pod that reads it was replaced")
        if self._observer.reads_logs:
            limit = applied_within + IN_USE_SECONDS
            in_time = [at is not None and at <= limit for at in rotation.in_use.values()]
            self._claims.check(all(in_time), f"every process that reads it uses the new value: within {limit:g} s")

    def _rotate(
        self,
        secret_id: str,
        value: str,
        secret: str,
        expected: Mapping[str, str],
        apps: Sequence[str],
        queued: bool = True,
    ) -> Rotation:
        """Rotate an AWS secret, print the effects, and return their times.

        ``expected`` is the data that the Secret ``secret`` should have afterwards. ``apps`` are the workloads that
        should restart. ``queued`` tells whether events reach the queue.
        """
        old_pods = {app: self._observer.pods(app) for app in apps}
        version_id = rotate(self._secrets_manager, secret_id, value)
        zero = self._moves[version_id]
        step("label moved", 0, f"version {version_id}")
        steps: dict[str, Callable[[], float | None]] = {APPLIED: partial(self._observer.secret_holds, secret, expected)}
        if queued:
            steps |= {text: partial(self._step_time, name, version_id) for text, name in ON_THE_WAY.items()}
        steps |= {_replaced(app): partial(self._observer.replaced, app, old_pods[app]) for app in apps}
        if self._observer.reads_logs:
            steps |= {
                _in_use(app): partial(self._observer.in_use, app, manifests.digest(app, expected)) for app in apps
            }
        times: dict[str, float | None] = {}
        # The notifier's log shows the notifier's steps only after the last of them. So nothing is printed before that,
        # and the steps are then printed in the order of their times.
        hold = {APPLIED, *ON_THE_WAY} & steps.keys()
        for text, at in self._observer.follow(steps, POD_TIMEOUT_SECONDS if apps else TIMEOUT_SECONDS, hold):
            times[text] = None if at is None else at - zero
            step(text, None if at is None else (at - zero) * 1000)
        replaced = {app: times[_replaced(app)] for app in apps}
        in_use = {app: times[_in_use(app)] for app in apps if self._observer.reads_logs}
        return Rotation(times[APPLIED], times.get(DELIVERED), replaced, in_use)

    def _step_time(self, name: str, version_id: str) -> float | None:
        if not self._on_the_way.get(version_id):
            self._on_the_way[version_id] = self._stack.aws.notifier_log.steps(version_id)
        return self._on_the_way[version_id].get(name)

    def _on_move(self, params: Mapping[str, str], **_: object) -> None:
        if version_id := params.get("MoveToVersionId"):
            self._moves[version_id] = time.time()

    def _generations(self) -> dict[str, int]:
        return {
            f"{kind}/{workload['metadata']['name']}": workload["metadata"]["generation"]
            for kind in ("deployments", "statefulsets", "daemonsets")
            for workload in self._stack.cluster.list(kind, NAMESPACE)
        }


def _replaced(app: str) -> str:
    return f"pods replaced: {app}"


def _in_use(app: str) -> str:
    return f"new value in use: {app}"
