"""Messages of the Kubernetes Events about successful reconciles and about rollouts. An error has its own message."""

from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import islice

from keyturn_receiver.core.binding import Binding
from keyturn_receiver.core.consumer import Consumer
from keyturn_receiver.core.revision import Record
from keyturn_receiver.core.rollout_progress import RolloutProgress
from keyturn_receiver.core.rollout_schedule import Wait, WaitReason

RELOADER_ADVICE = (
    "Reloader's annotations select Secrets here, too: if it runs, this restart is made twice; say so in the chart's"
    " rollouts.reloader (docs/rollouts.md)"
)


WAITING = "RolloutWaiting"  # the reason of Events about workloads that wait to be restarted
RESUMED = "RolloutResumed"  # the reason of the Event at the end of a halt
GOES_ON = "no failed restart halts the other workloads any more: they are restarted in turn"
HALTS_OTHERS = (
    "the restart of this workload has failed, so no other workload that reads the Secret is restarted: mend it; the"
    " Event RolloutHalted on the Secret says how to go on without it"
)
MAX_TIMES = 5  # a message names at most this many groups of waiting workloads


def applied(record: Record, changed_keys: str, restarted: Sequence[Consumer]) -> str:
    """Return a message about a reconcile. It names the written keys, their versions, and the consumers that restart. If
    pods of a consumer do not restart, it gives the reason.

    ``changed_keys`` is the text that ``keys`` returns.
    """
    parts = []
    if changed_keys:
        versions = ", ".join(sorted(record.version_ids.values()))
        parts.append(f"wrote {changed_keys} from version {versions}")
    return "; ".join([*parts, *_outcomes(restarted)])


def outcome(restarted: Sequence[Consumer]) -> str:
    """Return a message that names the consumers that restart. If pods of a consumer do not restart, it gives the
    reason."""
    return "; ".join(_outcomes(restarted))


def _outcomes(restarted: Sequence[Consumer]) -> list[str]:
    parts = []
    going = [consumer for consumer in restarted if not is_held(consumer)]
    if pods := [_name(consumer) for consumer in going if not consumer.evicts]:
        parts.append(f"restarting {_first(pods)}")
    if pods := [_name(consumer) for consumer in going if consumer.evicts]:
        parts.append(f"evicting pods one by one: {_first(pods)}")
    held: dict[str, list[str]] = defaultdict(list)
    for consumer in restarted:
        if consumer.hold:
            held[consumer.hold.text].append(_name(consumer))
    return parts + [f"{_first(names)} {text}" for text, names in held.items()]


def is_held(consumer: Consumer) -> bool:
    """Return whether a changed template restarts no pod of a consumer."""
    return consumer.hold is not None and consumer.hold.every_pod


def restarted(record: Record, changed_keys: str, consumer: Consumer) -> str:
    """Return a message for one consumer that restarts. It names the versions of the Secret even if an earlier reconcile
    has written the keys."""
    message = applied(record, changed_keys, [consumer])
    if consumer.may_restart_twice:
        message += f"; {RELOADER_ADVICE}"
    return message if changed_keys else f"version {', '.join(sorted(record.version_ids.values()))}; {message}"


def waiting(waits: Sequence[tuple[Consumer, Wait]]) -> str:
    """Return a message that names waiting consumers. Some of them wait for a rollout window, and the others wait for a
    consumer with a lower rollout order.

    The message is empty if there are no such consumers. Consumers that wait for another reason are left out. Those that
    wait for a slot, for example, change all the time.
    """
    groups: dict[str, list[str]] = defaultdict(list)
    for consumer, wait in waits:
        if wait.reason is WaitReason.WINDOW:
            groups[f"until {_utc(wait)}, when the rollout window opens"].append(_name(consumer))
        elif wait.reason is WaitReason.ORDER and wait.behind:
            groups[f"for {wait.behind.kind} {wait.behind.name}, whose rollout order is lower"].append(_name(consumer))
    told = [f"{_first(names)} wait {why}" for why, names in islice(groups.items(), MAX_TIMES)]
    return "; ".join(told)


def waits_for_window(wait: Wait) -> str:
    """Return a message for a consumer that waits for its rollout window."""
    return f"its restart waits until {_utc(wait)}, when the rollout window opens"


def _utc(wait: Wait) -> str:
    return datetime.fromtimestamp(wait.until, UTC).strftime("%Y-%m-%d %H:%M UTC")


def live(record: Record, seconds: int | None, moved: bool) -> str:
    """Return a text with the version that pods run, and the ``seconds`` until all of them ran it. If ``seconds`` is
    None, the text has only the version.

    If ``moved`` is true, the seconds count from the move of the staging label, and otherwise from the write of the
    Secret.
    """
    took = "" if seconds is None else f", {seconds} s after the {'label moved' if moved else 'Secret was written'}"
    return f"{versions(record)}{took}"


def stuck(record: Record, progress: RolloutProgress, trouble: str) -> str:
    """Return a message about a stuck rollout. ``trouble`` says why a pod is not ready, or is empty."""
    reached = (
        f"{progress.updated if progress.observed else 0} of {progress.wanted} pods are new, {progress.ready} ready"
    )
    reasons = "; ".join(filter(None, (progress.reason, trouble)))
    old = "pods of the old template go on with what they have read" if progress.ready else "no pod is ready"
    return (
        f"the rollout for {versions(record)} goes no further: {reached}{f' ({reasons})' if reasons else ''}; {old};"
        " see docs/runbook.md#keyturnrolloutstuck"
    )


def pods(count: int) -> str:
    """Return the subject and the verb of a sentence about all pods of a workload."""
    return "its pod runs" if count == 1 else f"all {count} pods run"


def versions(record: Record) -> str:
    """Return a text with the AWS versions that a Secret is made from.

    A watched Secret is not made from AWS. Its text has the beginning of a keyed hash, which reveals nothing about the
    values.
    """
    if not record.version_ids:
        return f"change {record.digest[:8]}"
    return f"version {', '.join(sorted(record.version_ids.values()))}"


def workloads(consumers: Sequence[Consumer]) -> str:
    """Return a text with the kinds and names of the first consumers, and the number of the others."""
    return _first([_name(consumer) for consumer in consumers])


def keys(binding: Binding, changed: Sequence[str]) -> str:
    """Return a text that lists the changed keys that the binding names, and counts the other changed keys. The names of
    the other keys may come from the JSON in AWS, and may be secret."""
    entries = {entry.key for entry in binding.entries}
    named = [key for key in changed if key in entries]
    others = len(changed) - len(named)
    counted = f"{others} {'more ' if named else ''}{'key' if others == 1 else 'keys'}"
    return " and ".join(([_first(named)] if named else []) + ([counted] if others else []))


def _name(consumer: Consumer) -> str:
    return f"{consumer.ref.kind} {consumer.ref.name}"


def _first(names: Sequence[str]) -> str:
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
