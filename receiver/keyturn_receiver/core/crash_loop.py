"""Crash loops: the containers of a new pod fail to start again and again, so the rollout of its template has failed.

Kubernetes itself reports such a rollout only after its deadline, which is ten minutes by default. The status of the
pods shows the failure within half a minute.
https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/#how-pods-handle-problems-with-containers
"""

from collections.abc import Mapping
from dataclasses import replace

from keyturn_receiver.core.consumer import Consumer
from keyturn_receiver.core.json_access import as_object, as_objects
from keyturn_receiver.core.open_rollouts import is_open
from keyturn_receiver.core.pod import Pod
from keyturn_receiver.core.rollout_deadline import fails_at
from keyturn_receiver.core.rollout_progress import RolloutState, number
from keyturn_receiver.core.write_times import parse_time

CRASH_LOOP = "CrashLoopBackOff"  # the kubelet waits before it starts the container again
CONFIG_ERROR = "CreateContainerConfigError"  # for example, the Secret lacks a key that the container reads
# Other reasons do not count. ImagePullBackOff has nothing to do with the value: a registry that is down for a minute
# would halt many Secrets. A container that cannot run (RunContainerError) gets CrashLoopBackOff soon.
CRASH_REASONS = (CRASH_LOOP, CONFIG_ERROR)
MIN_RESTARTS = 2  # a single failure may only mean that the container started before something that it needs
STEADY_SECONDS = 60  # a container that runs for this long has recovered


def is_followed(consumer: Consumer) -> bool:
    """Return whether the pods of a workload are to be checked for crash loops. They are if the workload has an
    unfinished rollout that Keyturn has started."""
    return is_open(consumer) and consumer.progress is not None and consumer.progress.marked_at is not None


def is_of_rollout(pod: Pod, consumer: Consumer) -> bool:
    """Return whether a pod was created from the present template of its workload. The marks (Keyturn's annotations) of
    the template show it. If ``spec.restartAt`` restarts the pods, the template has no mark, and the time of the pod's
    creation shows it."""
    if consumer.by_time:
        marked_at = consumer.progress.marked_at if consumer.progress else None
        return marked_at is not None and pod.created >= marked_at
    return all(pod.marks.get(name) == value for name, value in consumer.marks.items())


def crash_reason(pod: Mapping[str, object], now: float, is_known: bool) -> str:
    """Return why a container of a pod fails to start (one of CRASH_REASONS), or an empty text. ``pod`` is a pod as the
    API server returns it. Init containers and sidecars count, because they read Secrets, too.

    A container in a crash loop also runs at times. ``is_known`` tells whether the workload was found to be in a crash
    loop before. If so, a container that has failed counts until it has run for STEADY_SECONDS. ``now`` is in seconds
    since 1970.
    """
    status = as_object(pod.get("status"))
    for container in (*as_objects(status.get("initContainerStatuses")), *as_objects(status.get("containerStatuses"))):
        state = as_object(container.get("state"))
        reason = as_object(state.get("waiting")).get("reason")
        if reason == CONFIG_ERROR:
            return CONFIG_ERROR
        has_failed = number(container, "restartCount") >= MIN_RESTARTS
        # A kubelet with a short crashLoopBackOff.maxContainerRestartPeriod does not say that it waits.
        is_down = reason == CRASH_LOOP or as_object(state.get("terminated")).get("exitCode", 0) != 0
        if has_failed and (is_down or (is_known and not _has_recovered(state, now))):
            return CRASH_LOOP
    return ""


def as_failed(consumer: Consumer, reason: str, now: float) -> Consumer:
    """Return a copy of a consumer whose rollout has failed for this reason. If the rollout has ended, or if its own
    deadline is over, return the consumer unchanged. ``now`` is in seconds since 1970."""
    progress = consumer.progress
    if progress is None or progress.state is not RolloutState.UNFINISHED:
        return consumer
    if now >= fails_at(consumer.ref.kind, progress):
        return consumer
    return replace(consumer, progress=replace(progress, state=RolloutState.FAILED, reason=reason))


def _has_recovered(state: Mapping[str, object], now: float) -> bool:
    started_at = parse_time(as_object(state.get("running")).get("startedAt"))
    ended = as_object(state.get("terminated"))
    return (started_at is not None and now - started_at >= STEADY_SECONDS) or ended.get("exitCode") == 0
