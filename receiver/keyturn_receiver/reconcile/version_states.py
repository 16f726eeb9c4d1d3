"""Version states: the versions of AWS secrets that have recently reached every pod of this cluster, or are stuck.

The replies to heartbeats carry the states to AWS (docs/receipts.md). The states are derived from the caches, so any
replica can answer, even after a restart. A version is live when every Secret that reads the label AWSCURRENT of its AWS
secret has the version, and every workload that reads such a Secret runs it. Workloads that may not be restarted also
count. Secrets that read only other labels, such as AWSPREVIOUS, have another version on purpose, and do not count. If
no Secret reads AWSCURRENT, the Secrets of all labels count.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from keyturn_contract.message import State, VersionState
from keyturn_receiver.cluster.secret_cache import BoundSecret, SecretCache
from keyturn_receiver.core.arn import candidate_names
from keyturn_receiver.core.binding import CURRENT, Target
from keyturn_receiver.core.consumer import Consumer, mark_name
from keyturn_receiver.core.revision import Record, split_version_key, version_key
from keyturn_receiver.core.rollout import lacks_keys, rollout
from keyturn_receiver.reconcile.consumer_restarter import ConsumerRestarter
from keyturn_receiver.reconcile.live_reporter import LiveReporter
from keyturn_receiver.resilience.fair_map import FairMap
from keyturn_receiver.resilience.turns import take_turns

WINDOW = 900  # seconds for which a state is reported
MAX_AGE = 86_400  # seconds for which a changed Secret is followed
MAX_TARGETS = 5000  # followed Secrets; beyond that, the namespace with the most loses its oldest one
# Characters of one answer. The answer and ten results have to fit into the reply that the notifier reads.
MAX_LENGTH = 24 * 1024
MAX_CONSUMERS = 3  # names of stuck workloads in one state
MAX_SECRETS = 200  # Secrets made from one AWS secret; if there are more, the AWS secret's versions are not reported
MAX_CHECKED = 2000  # versions of AWS secrets that one answer looks at


@dataclass(slots=True)
class _Version:
    """A version of an AWS secret that a followed Secret has.

    ``looked_at`` is the number of the last answer that looked at the version. ``told`` counts how often answers have
    reported a state of it. ``stuck_since`` is the time at which a rollout was found to be stuck, in seconds since 1970.
    A version is settled if it has been live for WINDOW seconds, so that no answer reports it any more.
    """

    arn: str
    version_id: str
    looked_at: int = 0
    told: int = 0
    stuck_since: float | None = None
    is_settled: bool = False


@dataclass(slots=True)
class _Followed:
    """A Secret that has changed.

    ``version_ids`` maps ARN and staging label to the version id in the Secret's record. ``since`` is the time of the
    change, in seconds since 1970. ``versions`` has each version of each AWS secret once.
    """

    version_ids: Mapping[str, str]
    since: float
    versions: Sequence[_Version]

    @classmethod
    def of(cls, version_ids: Mapping[str, str], since: float) -> "_Followed":
        pairs = {(split_version_key(key)[0], version_id): None for key, version_id in version_ids.items()}
        return cls(version_ids, since, tuple(_Version(*pair) for pair in pairs))

    def version(self, arn: str, version_id: str) -> _Version | None:
        return next((each for each in self.versions if (each.arn, each.version_id) == (arn, version_id)), None)


@dataclass(slots=True)
class _Found:
    """A state that an answer may report. ``namespace`` is that of the Secret through which the state was found.
    ``versions`` are the versions of all followed Secrets that the state is about."""

    namespace: str
    state: VersionState
    versions: Sequence[_Version]

    @property
    def told(self) -> int:
        """How often answers have reported the state to a Secret that has changed last."""
        return min(each.told for each in self.versions)


class VersionStates:
    """Version states. ``may_read`` is ``AccessPolicy.may_concern``. A Secret counts only if its namespace may read the
    AWS secret, because any tenant can name any AWS secret in a binding. ``wall`` returns the time in seconds since
    1970."""

    def __init__(
        self,
        secrets: SecretCache,
        restarter: ConsumerRestarter,
        live: LiveReporter,
        may_read: Callable[[str, bool, Iterable[str]], bool],
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._secrets = secrets
        self._restarter = restarter
        self._live = live
        self._may_read = may_read
        self._wall = wall
        self._followed: FairMap[str, Target, _Followed] = FairMap(MAX_TARGETS)  # by namespace
        self._answers = 0  # the number of answers so far

    def on_secret(self, target: Target) -> None:
        """Follow a Secret whose AWS versions have changed."""
        bound = self._secrets.get(target)
        if bound is None or not bound.is_intact or not bound.record.version_ids:
            self._followed.pop(target.namespace, target)
            return
        known, now = self._followed.get(target.namespace, target), self._wall()
        if known and known.version_ids == bound.record.version_ids:
            for each in known.versions:
                each.is_settled = False  # the values may have changed although the versions have not
            return
        since = now if known else _changed_at(bound)
        if now - since < MAX_AGE:
            self._followed.put(target.namespace, target, _Followed.of(bound.record.version_ids, since))

    def recent(self) -> Sequence[VersionState]:
        """Return the states that began in the last WINDOW seconds. The answer may not have room for all. Then the
        namespaces take turns, and of each namespace, the states that were reported least often come first."""
        now = self._wall()
        found = [each for each in self._look(now) if now - each.state.since < WINDOW]
        chosen, room = [], MAX_LENGTH
        for each in _in_turn(found):
            room -= each.state.length
            if room < 0:
                break
            for version in each.versions:
                version.told += 1
            chosen.append(each.state)
        return chosen

    def _look(self, now: float) -> Iterator[_Found]:
        """Yield the states of at most MAX_CHECKED versions."""
        self._answers += 1
        checked = set[tuple[str, str]]()
        for target, version in self._due(now):
            pair = (version.arn, version.version_id)
            if pair not in checked and self._is_permitted(target, version.arn):
                if len(checked) >= MAX_CHECKED:
                    return
                checked.add(pair)
                state, versions = self._state(version, now)
                is_settled = state is not None and state.state is State.LIVE and now - state.since >= WINDOW
                for each in versions:
                    each.looked_at, each.is_settled = self._answers, is_settled
                if state:
                    yield _Found(target.namespace, state, versions)
            version.looked_at = self._answers

    def _due(self, now: float) -> Sequence[tuple[Target, _Version]]:
        """Return the versions that have a state to report, or may get one. Namespaces take turns. Of each namespace,
        the versions that no answer has looked at for the longest time come first, and of these the newest. Settled
        versions are left out, unless a rollout of their Secret is stuck."""
        stuck = {Target(ref.namespace, name) for ref, name in self._live.stuck_rollouts()}
        due: list[tuple[int, float, Target, _Version]] = []
        for namespace in list(self._followed):
            for target in self._followed.of(namespace):
                followed = self._followed.get(namespace, target)
                if followed is None or now - followed.since >= MAX_AGE:
                    self._followed.pop(namespace, target)
                    continue
                due += [
                    (each.looked_at, -followed.since, target, each)
                    for each in followed.versions
                    if not each.is_settled or target in stuck
                ]
        due.sort(key=lambda each: each[:2])
        return [(target, version) for *_, target, version in take_turns(due, lambda each: each[2].namespace)]

    def _is_permitted(self, target: Target, arn: str) -> bool:
        bound = self._secrets.get(target)
        return bound is not None and self._may_read(target.namespace, bound.has_account, candidate_names(arn))

    def _state(self, version: _Version, now: float) -> tuple[VersionState | None, Sequence[_Version]]:
        """Return the state of a version, and this version of all followed Secrets that the state is about.

        The state is None if there is nothing to report, for example while rollouts of this version are unfinished, or
        if a Secret that counts has another version. A stuck rollout of this version is reported even then.
        """
        arn, version_id, same = version.arn, version.version_id, [version]
        secrets = self._made_from(arn)
        if secrets is None:
            return None, same
        current = version_key(arn, CURRENT)
        is_current = any(bound.record.version_ids.get(current) == version_id for bound in secrets)
        is_live = is_current or not any(current in bound.record.version_ids for bound in secrets)
        since = changed = 0.0
        moves: list[int] = []
        stuck: list[str] = []
        for bound in secrets:
            versions = _versions(bound.record, arn)
            if not versions or (is_current and current not in bound.record.version_ids):
                continue  # the Secret was never filled from the AWS secret, or reads only other labels
            is_live = is_live and versions == {version_id} and bound.is_intact
            if version_id not in versions or not bound.is_intact:
                continue
            if followed := self._followed.get(bound.target.namespace, bound.target):
                since = max(since, followed.since)
                known = followed.version(arn, version_id)
                same += [known] if known and known is not version else []
            changed = max(changed, _changed_at(bound))
            moves += [bound.record.moved_at] if bound.record.moved_at is not None else []
            for consumer in self._restarter.consumers(bound.target):
                if self._live.is_stuck(consumer.ref, bound.target.name):
                    stuck.append(str(consumer.ref))
                    continue
                ended_at = _ended_at(consumer, bound)
                is_live = is_live and ended_at is not None
                since = max(since, ended_at or 0)
        stuck_since = min((each.stuck_since for each in same if each.stuck_since is not None), default=now)
        for each in same:
            each.stuck_since = stuck_since if stuck else None
        if stuck:
            consumers = tuple(stuck[:MAX_CONSUMERS])
            return VersionState(arn, version_id, State.STUCK, int(stuck_since), None, consumers, int(changed)), same
        if not is_live:
            return None, same
        since = max(since, changed)
        seconds = max(0, int(since) - max(moves)) if moves else None
        return VersionState(arn, version_id, State.LIVE, int(since), seconds, changed=int(changed)), same

    def _made_from(self, arn: str) -> Sequence[BoundSecret] | None:
        """Return the Secrets that may be made from the AWS secret ``arn``, or None if they are more than
        MAX_SECRETS."""
        names = frozenset(candidate_names(arn))
        targets = self._secrets.by_secret_id(
            arn, may_read=lambda namespace, has_account: self._may_read(namespace, has_account, names)
        )
        return None if len(targets) > MAX_SECRETS else list(filter(None, map(self._secrets.get, targets)))


def _in_turn(found: Iterable[_Found]) -> Sequence[_Found]:
    """Sort states for an answer. A state comes later the more often it was reported, and the more states of its
    namespace come before it. So the states of one namespace never keep those of another out of many answers."""
    before: Counter[str] = Counter()
    turns: list[tuple[int, int, _Found]] = []
    for each in sorted(found, key=lambda each: (each.told, each.state.since)):
        turns.append((each.told + before[each.namespace], each.state.since, each))
        before[each.namespace] += 1
    return [each for *_, each in sorted(turns, key=lambda turn: turn[:2])]


def _versions(record: Record, arn: str) -> frozenset[str]:
    """Return the version of the AWS secret ``arn`` that has the label AWSCURRENT, according to the record of a Secret.
    If the record does not have this label, return the versions of the other labels. The result is empty if the Secret
    was never filled from the AWS secret."""
    version_ids, current = record.version_ids, version_key(arn, CURRENT)
    if current in version_ids:
        return frozenset({version_ids[current]})
    return frozenset(each for key, each in version_ids.items() if split_version_key(key)[0] == arn)


def _changed_at(bound: BoundSecret) -> float:
    """Return the time at which the values of a Secret last changed, in seconds since 1970, or 0 if the time is not
    known."""
    return max(bound.record.changed_at or 0, bound.record.moved_at or 0)


def _ended_at(consumer: Consumer, bound: BoundSecret) -> int | None:
    """Return the time at which the last pod of a consumer began to run the present values, in seconds since 1970.
    Return 0 if all pods run the present values, but the time is not known. Return None if a pod may not run them
    yet."""
    name = bound.target.name
    if lacks_keys(consumer, name, bound.record) or rollout(consumer, name, bound.record):
        return None
    if mark_name(name) in consumer.baseline and not consumer.by_time:
        return 0  # a settled mark: the pods were found to run the values
    progress = consumer.progress
    if progress is None or not progress.is_complete:
        return None
    if consumer.hold and consumer.hold.keeps_old_pods and progress.updated < progress.wanted:
        return None
    return progress.finished_at or 0
