"""The acts: rotations on the event path, one without it, and one that concerns nobody."""

import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from keyturn_local.aws.rotation import rotate
from keyturn_local.demo import scene
from keyturn_local.demo.observer import Observer
from keyturn_local.demo.report import Verdict, heading, say, step
from keyturn_local.stack import Stack

POLL_SECONDS = 5.0
PATIENCE = 20.0  # seconds for anything to come true
POD_PATIENCE = 120.0  # a cluster with a container runtime may have to pull an image first
IN_USE_SECONDS = 15.0  # for two pods one after the other, or a StatefulSet's, to end and to start
RECOVERED = "keyturn_recovered_by_poll_total"

APPLIED = "Secret applied"
DELIVERED = "delivered (acknowledged after applying)"
# What the demo says, and what the notifier's side notes in the timeline.
ON_THE_WAY = {"queued": "queued", "taken by the notifier, delivery begins": "taken", DELIVERED: "delivered"}


@dataclass(frozen=True)
class Rotation:
    """What one rotation led to: seconds since the label moved; None for what did not come."""

    applied: float | None
    delivered: float | None
    replaced: Mapping[str, float | None]
    in_use: Mapping[str, float | None]  # empty where no processes run


class Acts:
    """Plays on a running stack; every claim goes into ``verdict``."""

    def __init__(self, stack: Stack, observer: Observer, verdict: Verdict, image: str) -> None:
        self._image = image
        self._stack = stack
        self._observer = observer
        self._verdict = verdict
        self._secrets_manager = stack.aws.secrets_manager()
        self._database = scene.database("team-a")

    def prepare(self) -> None:
        """Create the AWS secrets, the Secrets and the workloads; wait until all is filled and running."""
        token = secrets.token_urlsafe(12)
        self._secrets_manager.create_secret(Name=scene.DATABASE, SecretString=scene.value_text(self._database))
        self._secrets_manager.create_secret(Name=scene.API_TOKEN, SecretString=token)
        self._stack.cluster.create(scene.bindings())
        filled = self._observer.wait(
            lambda: (
                self._observer.secret_holds("database", scene.database_secret(self._database))
                and self._observer.secret_holds("api-token", {"value": token})
            ),
            PATIENCE,
        )
        self._verdict.claim(bool(filled), "two new Secrets, labelled and empty, are filled from AWS")
        self._stack.cluster.kubectl(
            "patch", "secret", "database", "-n", scene.NAMESPACE, "-p", '{"stringData": {"BY_HAND": "mine"}}'
        )
        self._stack.cluster.create(scene.workloads(self._image))
        for kind, name in (("deploy", "web"), ("sts", "queue"), ("ds", "agent"), ("deploy", "bystander")):
            self._stack.cluster.kubectl(
                "rollout", "status", f"{kind}/{name}", "-n", scene.NAMESPACE, f"--timeout={POD_PATIENCE:.0f}s"
            )

    def event_path(self) -> None:
        """Act one: rotations as the console makes them, live within a second."""
        heading("Act 1: the event path")
        self._database = scene.database("team-a")
        bystander = self._observer.pods("bystander")
        say(f"\n  rotating {scene.DATABASE}: read by Deployment web (env) and StatefulSet queue (volume)")
        expected = scene.database_secret(self._database)
        first = self._rotate(scene.DATABASE, scene.value_text(self._database), "database", expected, ("web", "queue"))
        token = secrets.token_urlsafe(12)
        say(f"\n  rotating {scene.API_TOKEN}, plain text: read by DaemonSet agent (envFrom)")
        second = self._rotate(scene.API_TOKEN, token, "api-token", {"value": token}, ("agent",))
        say()
        for rotation in (first, second):
            self._verdict.claim(
                rotation.applied is not None and rotation.applied < 1 and rotation.delivered is not None,
                "label moved -> the Secret holds the new value: under 1 s",
            )
            self._claim_pods(rotation)
        self._verdict.claim(self._observer.pods("bystander") == bystander, "the workload that reads nothing ran on")
        self._verdict.claim(
            "BY_HAND" in self._observer.secret_keys("database"), "a key that was added by hand is still there"
        )

    def without_event_path(self) -> None:
        """Act two: the events reach nobody, and the poller carries the change."""
        heading(f"Act 2: the event path is cut; the poller looks every {POLL_SECONDS:.0f} s")
        before = self._stack.receiver.metric(RECOVERED)
        self._stack.aws.cut_event_path()
        try:
            self._database = scene.database("team-a")
            expected = scene.database_secret(self._database)
            value = scene.value_text(self._database)
            rotation = self._rotate(scene.DATABASE, value, "database", expected, ("web", "queue"), queued=False)
        finally:
            self._stack.aws.restore_event_path()
        found = self._observer.wait(lambda: self._stack.receiver.metric(RECOVERED) - before, 5)
        say()
        bound = POLL_SECONDS * 1.1 + 1
        self._verdict.claim(
            rotation.applied is not None and rotation.applied <= bound, f"the poller carried it within {bound:.1f} s"
        )
        self._claim_pods(rotation, after=bound)
        self._verdict.claim(found == 1, f"{RECOVERED} rose by {found:.0f}: the event path's loss is counted")

    def nobody_reads_it(self) -> None:
        """Act three: a key changes that no pod reads: the Secret is written, nothing restarts."""
        heading("Act 3: a key that no workload reads")
        pods = {app: self._observer.pods(app) for app in ("web", "queue", "agent", "bystander")}
        generations = self._generations()
        self._database = scene.database("team-b", self._database["password"])
        expected = scene.database_secret(self._database)
        rotation = self._rotate(scene.DATABASE, scene.value_text(self._database), "database", expected, ())
        # The answer comes after the rollouts: once it is there, nothing more is on its way.
        say()
        self._verdict.claim(rotation.applied is not None, "the Secret holds the new OWNER")
        same = {app: self._observer.pods(app) for app in pods} == pods and self._generations() == generations
        self._verdict.claim(same and rotation.delivered is not None, "no workload was touched, no pod restarted")

    def _claim_pods(self, rotation: Rotation, after: float = 0) -> None:
        """Claim what must have become of the pods; ``after``: how late the Secret may have been."""
        self._verdict.claim(all(rotation.replaced.values()), "every pod that reads it was replaced")
        if self._observer.hears:
            bound = after + IN_USE_SECONDS
            in_time = [at is not None and at <= bound for at in rotation.in_use.values()]
            self._verdict.claim(all(in_time), f"every process that reads it uses the new value: within {bound:g} s")

    def _rotate(
        self,
        secret_id: str,
        value: str,
        secret: str,
        expected: Mapping[str, str],
        apps: Sequence[str],
        queued: bool = True,
    ) -> Rotation:
        old = {app: self._observer.pods(app) for app in apps}
        version_id = rotate(self._secrets_manager, secret_id, value)
        timeline = self._stack.timeline
        moved = timeline.find("label moved", version_id=version_id, label="AWSCURRENT")
        zero = moved["at"] if moved else time.time()
        step("label moved", 0, f"version {version_id}")
        steps: dict[str, Callable[[], float | None]] = {APPLIED: partial(self._observer.secret_holds, secret, expected)}
        if queued:
            steps |= {words: partial(self._noted, name, version_id) for words, name in ON_THE_WAY.items()}
        steps |= {_replaced(app): partial(self._observer.replaced, app, old[app]) for app in apps}
        if self._observer.hears:
            steps |= {_in_use(app): partial(self._observer.uses, app, scene.digest(app, expected)) for app in apps}
        came: dict[str, float | None] = {}
        for words, at in self._observer.follow(steps, POD_PATIENCE if apps else PATIENCE):
            came[words] = None if at is None else at - zero
            step(words, None if at is None else (at - zero) * 1000)
        replaced = {app: came[_replaced(app)] for app in apps}
        in_use = {app: came[_in_use(app)] for app in apps if self._observer.hears}
        return Rotation(came[APPLIED], came.get(DELIVERED), replaced, in_use)

    def _noted(self, name: str, version_id: str) -> float | None:
        found = self._stack.timeline.find(name, version_id=version_id)
        return float(found["at"]) if found else None

    def _generations(self) -> dict[str, int]:
        return {
            f"{kind}/{found['metadata']['name']}": found["metadata"]["generation"]
            for kind in ("deployments", "statefulsets", "daemonsets")
            for found in self._stack.cluster.list(kind, scene.NAMESPACE)
        }


def _replaced(app: str) -> str:
    return f"pods replaced: {app}"


def _in_use(app: str) -> str:
    return f"new value in use: {app}"
