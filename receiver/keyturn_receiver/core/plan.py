"""From a Secret as it stands and the data as it should be, to the one write that makes them equal, or none."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from keyturn_receiver.core.binding import Binding, Source, Target
from keyturn_receiver.core.render import SecretVersion
from keyturn_receiver.core.revision import UNKNOWN, Record, data_hash, next_revision, version_key
from keyturn_receiver.errors import ClusterRefused


@dataclass(frozen=True, slots=True)
class LiveSecret:
    """A Secret as it stands in the cluster; ``data`` is decoded, and never printed."""

    target: Target
    uid: str
    resource_version: str
    type: str
    immutable: bool
    record: Record
    data: Mapping[str, bytes] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Plan:
    """What a reconcile of one Secret comes to.

    ``before`` holds the revision of each key up to now, in terms that compare with those of ``record``, which is what
    the Secret will say of itself: a key with the same revision on both sides keeps its value. ``write`` is false when
    nothing differs; ``changed_keys`` are those whose value is written or taken away.
    """

    record: Record
    before: Mapping[str, str]
    write: bool
    changed_keys: tuple[str, ...]
    data: Mapping[str, bytes] = field(repr=False)


def plan(
    binding: Binding, live: LiveSecret, data: Mapping[str, bytes], versions: Mapping[Source, SecretVersion]
) -> Plan:
    """Compare and decide. Raises ClusterRefused where the write could only fail."""
    known = live.record.revisions
    made_from = _made_from(binding, data, versions)
    new_hash = data_hash(data)
    only_restores = new_hash == live.record.data_hash  # what Keyturn last wrote: a hand has edited the Secret since
    before: dict[str, str] = dict(known)
    after: dict[str, str] = {}
    for key, value in data.items():
        if live.data.get(key) == value:
            before[key] = after[key] = known.get(key, made_from[key])
        elif only_restores and key in known:
            after[key] = known[key]
        else:
            before[key] = known.get(key, UNKNOWN)
            after[key] = next_revision(known.get(key), made_from[key])
    version_ids = {version_key(v.arn, source.stage): v.version_id for source, v in versions.items()}
    record = Record(version_ids, after, new_hash)
    gone = known.keys() - data.keys()
    changed = tuple(sorted({key for key, value in data.items() if live.data.get(key) != value} | gone))
    if changed and live.immutable:
        raise ClusterRefused("the Secret is immutable: delete it, and create it again without `immutable: true`")
    return Plan(record, before, write=bool(changed) or record != live.record, changed_keys=changed, data=data)


def _made_from(binding: Binding, data: Mapping[str, bytes], versions: Mapping[Source, SecretVersion]) -> dict[str, str]:
    origin = {entry.key: versions[entry.source].version_id for entry in binding.entries}
    if binding.everything_of:
        whole = versions[binding.everything_of].version_id
        origin = {key: origin.get(key, whole) for key in data}
    return origin
