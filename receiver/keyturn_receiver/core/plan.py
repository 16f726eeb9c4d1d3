"""Planning. Compares a Secret with the data that it should hold, and decides on the single write that makes them
equal."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from keyturn_receiver.core.binding import DATA, Binding, Source, Target
from keyturn_receiver.core.render import WHOLE_VALUE_KEY, SecretVersion
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
from keyturn_receiver.core.write_times import next_times
from keyturn_receiver.errors import ClusterRefused, InvalidValue

Fingerprint = Callable[[bytes], bytes]
"""Keyed digest of a value: equal values give equal digests; the digest reveals nothing about the value."""


@dataclass(frozen=True, slots=True)
class LiveSecret:
    """A Secret in the cluster, with the fingerprint of each value instead of the value itself."""

    target: Target
    uid: str
    resource_version: str
    type: str
    immutable: bool
    record: Record
    fingerprints: Mapping[str, bytes] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Plan:
    """The decision of a reconcile about one Secret.

    ``record`` is the record that the Secret will have. ``before`` has the revision of each key before the write. A key
    with the same revision in ``record`` and in ``before`` keeps its value. ``write`` is false if the Secret needs no
    write. ``changed_keys`` are the keys whose value is written or removed.
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
    request: str = "",
) -> Plan:
    """Compare the Secret with the data that it should hold, and plan the write.

    ``request`` is the request of the Secret's author to reconcile, which is recorded as served.

    Raises ClusterRefused if the Secret is immutable but its values have to change. Raises InvalidValue if the write
    would remove every key that pods read, or if the record would be too long.
    """
    recorded = live.record.revisions
    sourced = _revisions_by_source(binding, data, versions)
    if binding.everything_of and live.record.binding_hash == binding_hash:
        _check_keys_remain(versions[binding.everything_of].name, recorded, data)
    new_hash = data_hash(data)
    only_restores = new_hash == live.record.data_hash  # Keyturn last wrote this data, so any difference is an edit
    differing = {key for key, value in data.items() if live.fingerprints.get(key) != fingerprint(value)}
    before: dict[str, str] = dict(recorded)
    after: dict[str, str] = {}
    for key in data:
        if key not in differing:
            before[key] = after[key] = recorded.get(key, sourced[key])
        elif only_restores and key in recorded:
            after[key] = recorded[key]
        else:
            before[key] = recorded.get(key, UNKNOWN)
            after[key] = next_revision(recorded.get(key), sourced[key])
    version_ids = {version_key(v.arn, source.stage): v.version_id for source, v in versions.items()}
    removed = recorded.keys() - data.keys()
    changed = tuple(sorted(differing | removed))
    new_revisions = {key for key in differing if before[key] != after[key]}
    appeared = new_revisions - recorded.keys() - live.fingerprints.keys()
    times = next_times(live.record.write_times, data, new_revisions - appeared, appeared, bool(removed))
    record = Record(
        version_ids, after, new_hash, binding_hash, OK, request or live.record.reconciled, write_times=times
    )
    if changed and live.immutable:
        raise ClusterRefused("the Secret is immutable: delete it, and create it again without `immutable: true`")
    if too_long(record):
        raise InvalidValue(
            f"it has {len(data)} keys, and the revisions of so many do not fit into the Secret's annotations:"
            f" name those you need with {DATA}"
        )
    return Plan(record, before, write=bool(changed) or record != live.record, changed_keys=changed, data=data)


def _check_keys_remain(name: str, recorded: Mapping[str, str], data: Mapping[str, bytes]) -> None:
    """Refuse a value whose write would remove every key that pods read, unless it is a text in place of JSON or JSON in
    place of a text.

    JSON that is cut or misspelt never gets here, because rendering refuses it. But JSON without any of the known
    properties may be that of another secret, and a blank text is a slip.
    """
    if not recorded or recorded.keys() & data.keys():
        return
    if WHOLE_VALUE_KEY in data:
        fault = "" if data[WHOLE_VALUE_KEY].strip() else "it is blank, and the Secret holds keys"
    else:
        fault = "" if recorded.keys() == {WHOLE_VALUE_KEY} else "it has none of the keys that the Secret holds"
    if fault:
        raise InvalidValue(f"AWS secret {name}: {fault}: correct it in AWS, or name the keys you need with {DATA}")


def _revisions_by_source(
    binding: Binding, data: Mapping[str, bytes], versions: Mapping[Source, SecretVersion]
) -> dict[str, str]:
    """Return the revision of each key, derived from the version that the key comes from."""
    revisions = {
        entry.key: revision_of(versions[entry.source].version_id, entry.key, entry.expression)
        for entry in binding.entries
    }
    if binding.everything_of:
        version_id = versions[binding.everything_of].version_id
        revisions = {key: revisions.get(key, version_id) for key in data}
    return revisions
