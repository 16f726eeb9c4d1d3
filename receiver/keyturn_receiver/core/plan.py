"""From a Secret as it stands and the data as it should be, to the one write that makes them equal, or none."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from keyturn_receiver.core.binding import DATA, Binding, Source, Target
from keyturn_receiver.core.render import SecretVersion
from keyturn_receiver.core.revision import (
    OK,
    UNKNOWN,
    Record,
    data_hash,
    next_revision,
    revision_of,
    too_long,
    version_key,
)
from keyturn_receiver.errors import ClusterRefused, InvalidValue

Fingerprint = Callable[[bytes], bytes]
"""Makes of a value what tells it from others and tells nothing else of it."""


@dataclass(frozen=True, slots=True)
class LiveSecret:
    """A Secret as it stands in the cluster: of each value of its data only the fingerprint."""

    target: Target
    uid: str
    resource_version: str
    type: str
    immutable: bool
    record: Record
    fingerprints: Mapping[str, bytes] = field(repr=False)


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
    binding: Binding,
    binding_hash: str,
    live: LiveSecret,
    data: Mapping[str, bytes],
    versions: Mapping[Source, SecretVersion],
    fingerprint: Fingerprint,
) -> Plan:
    """Compare and decide. Raises ClusterRefused or InvalidValue where the write could only fail."""
    known = live.record.revisions
    made_from = _made_from(binding, data, versions)
    if binding.everything_of and known and not known.keys() & data.keys() and live.record.binding_hash == binding_hash:
        # Cut-off JSON is text, and text goes under one key: it would take from the pods all that they read.
        raise InvalidValue(
            f"AWS secret {versions[binding.everything_of].name}: it has none of the keys that the Secret holds:"
            f" correct it in AWS, or name the keys you need with {DATA}"
        )
    new_hash = data_hash(data)
    only_restores = new_hash == live.record.data_hash  # what Keyturn last wrote: a hand has edited the Secret since
    differing = {key for key, value in data.items() if live.fingerprints.get(key) != fingerprint(value)}
    before: dict[str, str] = dict(known)
    after: dict[str, str] = {}
    for key in data:
        if key not in differing:
            before[key] = after[key] = known.get(key, made_from[key])
        elif only_restores and key in known:
            after[key] = known[key]
        else:
            before[key] = known.get(key, UNKNOWN)
            after[key] = next_revision(known.get(key), made_from[key])
    version_ids = {version_key(v.arn, source.stage): v.version_id for source, v in versions.items()}
    record = Record(version_ids, after, new_hash, binding_hash, OK)
    changed = tuple(sorted(differing | (known.keys() - data.keys())))
    if changed and live.immutable:
        raise ClusterRefused("the Secret is immutable: delete it, and create it again without `immutable: true`")
    if too_long(record):
        raise InvalidValue(
            f"it has {len(data)} keys, and what Keyturn has to note of each does not fit into annotations:"
            f" name those you need with {DATA}"
        )
    return Plan(record, before, write=bool(changed) or record != live.record, changed_keys=changed, data=data)


def _made_from(binding: Binding, data: Mapping[str, bytes], versions: Mapping[Source, SecretVersion]) -> dict[str, str]:
    origin = {
        entry.key: revision_of(versions[entry.source].version_id, entry.key, entry.expression)
        for entry in binding.entries
    }
    if binding.everything_of:
        whole = versions[binding.everything_of].version_id
        origin = {key: origin.get(key, whole) for key in data}
    return origin
