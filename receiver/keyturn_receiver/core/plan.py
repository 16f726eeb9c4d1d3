"""Planning. Compares a Secret with the data that it should hold, and decides on the single write that makes them
equal."""

from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, field, replace

from keyturn_receiver.core.binding import DATA, AliasedSources, Binding, Source, Target, versions_of
from keyturn_receiver.core.blank import is_void
from keyturn_receiver.core.integrity import Integrity
from keyturn_receiver.core.printable import printable
from keyturn_receiver.core.render import WHOLE_VALUE_KEY, SecretVersion, names_of
from keyturn_receiver.core.revision import (
    OK,
    UNKNOWN,
    KeyedHash,
    Record,
    compound_version,
    data_hash,
    next_revision,
    revision_of,
    too_long,
    unkeyed_data_hash,
    version_key,
)
from keyturn_receiver.core.write_times import next_times
from keyturn_receiver.errors import ClusterRefused, InvalidValue

MAX_HELD = 5  # at most this many keys of other writers in one message

Fingerprint = Callable[[bytes], bytes]
"""Keyed digest of a value. Equal values have equal digests, and a digest reveals nothing about its value."""


@dataclass(frozen=True, slots=True)
class LiveSecret:
    """A Secret in the cluster. It has the fingerprints of the values, and not the values.

    ``holders`` has the keys that Keyturn has not applied. It maps each of these keys to the name of the field manager
    that holds the key.
    """

    target: Target
    uid: str
    resource_version: str
    type: str
    immutable: bool
    record: Record
    fingerprints: Mapping[str, bytes] = field(repr=False)
    integrity: Integrity = Integrity.INTACT
    holders: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Plan:
    """The decision of a reconcile about one Secret.

    ``record`` is the record that the Secret will have. ``before`` has the revision of each key before the write. A key
    with the same revision in ``record`` and in ``before`` keeps its value, or gets back the value that Keyturn wrote
    last. ``write`` is false if the Secret needs no write. ``changed_keys`` are the keys whose value is written or
    removed.
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
    fingerprints: Mapping[str, bytes],
    keyed: KeyedHash,
    request: str = "",
    status: str = OK,
    former: Mapping[str, str] | None = None,
) -> Plan:
    """Compare the Secret with the data that it should hold, and plan the write.

    ``fingerprints`` has the fingerprint of each value in ``data``.

    ``request`` is the text with which the Secret's author asks for a reconcile (``BindingSpec.reconcile``). The planned
    record says that this request has been served. ``request`` is empty if nobody has asked.

    ``versions`` has the AWS secrets that this reconcile has read. If the binding names several AWS secrets, some of
    them can be missing here, because reading them was unnecessary or failed. A key that depends on a missing AWS secret
    keeps its present value, if it has one, and ``data`` has this value. ``status`` is OK, or the error that keeps some
    keys from being filled.

    ``former`` is about an earlier Secret that had the name of this Secret. It has the keys whose value in ``data``
    equals their value in the earlier Secret. The mapping gives the revision of each of these keys in the earlier
    Secret.

    Raises ClusterRefused if the Secret is immutable but its values have to change. Raises InvalidValue if the write
    would remove every key that Keyturn has filled (``_check_keys_remain``), if it would take over a key of another
    writer, or if the record would be too long.
    """
    recorded = live.record.revisions
    sourced = _revisions_by_source(binding, data, versions)
    if binding.everything_of and live.record.binding_hash == binding_hash:
        _check_keys_remain(versions[binding.everything_of].name, recorded, data)
    if binding.everything_of and recorded:
        _check_holders(live, data.keys() - recorded.keys() - {entry.key for entry in binding.entries}, versions)
    new_hash = data_hash(keyed, live.uid, data)
    # If Keyturn last wrote exactly this data, any difference is an edit by somebody else.
    only_restores = live.record.data_hash in (new_hash, unkeyed_data_hash(data))
    differing = {key for key in data if live.fingerprints.get(key) != fingerprints[key]}
    # The pods that read the former Secret have the right value if the new Secret gets the former value. But if the new
    # Secret was created with another value, pods may have read that other value since then.
    sourced |= {k: v for k, v in (former or {}).items() if k not in differing or k not in live.fingerprints}
    before: dict[str, str] = dict(recorded)
    after: dict[str, str] = {}
    for key in data:
        if key not in differing:
            before[key] = after[key] = recorded[key] if key in recorded else sourced[key]
        elif only_restores and key in recorded:
            after[key] = recorded[key]
        else:
            before[key] = recorded.get(key, UNKNOWN)
            after[key] = next_revision(recorded.get(key), sourced[key])
    version_ids = _version_ids(binding, versions, live.record.version_ids)
    if status != OK:  # some keys may still come from an AWS secret that the binding no longer names
        version_ids = {**live.record.version_ids, **version_ids}
    removed = recorded.keys() - data.keys()
    changed = tuple(sorted(differing | removed))
    new_revisions = {key for key in differing if before[key] != after[key]}
    appeared = new_revisions - recorded.keys() - live.fingerprints.keys()
    times = next_times(live.record.write_times, data, new_revisions - appeared, appeared, bool(removed))
    record = Record(
        version_ids,
        after,
        new_hash,
        binding_hash,
        status,
        request or live.record.reconciled,
        write_times=times,
        unsettled=live.record.unsettled,
        other_keys=live.fingerprints.keys() - after.keys() - removed,
    )
    if changed and live.immutable:
        raise ClusterRefused("the Secret is immutable: delete it, and create it again without `immutable: true`")
    if too_long(record):
        raise InvalidValue(
            f"it has {len(data)} keys, and the revisions of so many do not fit into the Secret's annotations:"
            f" name those you need with {DATA}"
        )
    # A new error in the status is no reason for a write here, because such a status is written elsewhere. But an old
    # error that has to be removed from the status is a reason.
    as_it_is = live.record if status == OK else replace(live.record, status=status)
    write = bool(changed) or record != as_it_is or live.integrity is not Integrity.INTACT
    return Plan(record, before, write=write, changed_keys=changed, data=data)


def _check_holders(live: LiveSecret, keys: Set[str], versions: Mapping[Source, SecretVersion]) -> None:
    """Raise InvalidValue if another writer holds one of ``keys``. Keyturn has not filled these keys before.

    Keyturn does not take over such a key, because the AWS secret and the key may have different authors.
    """
    held = sorted(keys & live.holders.keys())
    if not held:
        return
    shown = ", ".join(f"{key} (held by {live.holders[key] or 'an unknown field manager'})" for key in held[:MAX_HELD])
    more = f" and {len(held) - MAX_HELD} more" if len(held) > MAX_HELD else ""
    raise InvalidValue(
        printable(
            f"AWS secret {names_of(versions)} now names keys that another writer has put into the Secret: {shown}{more}"
            f": remove them from the Secret or from the AWS secret, or name the keys you need with {DATA}"
        )
    )


def _version_ids(
    binding: Binding, versions: Mapping[Source, SecretVersion], recorded: Mapping[str, str]
) -> dict[str, str]:
    """Return the version id of each AWS secret. An AWS secret that was not read has the version id from the record."""
    version_ids: dict[str, str] = {}
    for source in binding.sources - versions.keys():
        version_ids |= versions_of(source, recorded)
    return version_ids | {version_key(v.arn, source.stage): v.version_id for source, v in versions.items()}


def _version_id(source: Source | AliasedSources, versions: Mapping[Source, SecretVersion]) -> str:
    if isinstance(source, Source):
        return versions[source].version_id
    return compound_version({alias: versions[each].version_id for alias, each in source.by_alias})


def _check_keys_remain(name: str, recorded: Mapping[str, str], data: Mapping[str, bytes]) -> None:
    """Raise InvalidValue if the write would remove every key that Keyturn has filled. There is an exception: a text may
    replace JSON, and JSON may replace a text.

    JSON that is cut or misspelt never gets here, because rendering refuses it. But JSON without any of the known
    properties may be the value of another secret, and a blank text is a mistake. JSON that holds nothing is a mistake,
    too, such as the `null` that Terraform's jsonencode(null) writes.
    """
    if not recorded or recorded.keys() & data.keys():
        return
    if WHOLE_VALUE_KEY in data:
        fault = "it is blank, and the Secret holds keys" if is_void(data[WHOLE_VALUE_KEY]) else ""
    else:
        fault = "" if recorded.keys() == {WHOLE_VALUE_KEY} else "it has none of the keys that the Secret holds"
    if fault:
        raise InvalidValue(f"AWS secret {name}: {fault}: correct it in AWS, or name the keys you need with {DATA}")


def _revisions_by_source(
    binding: Binding, data: Mapping[str, bytes], versions: Mapping[Source, SecretVersion]
) -> dict[str, str]:
    """Return the revision of each key, derived from the version or versions that the key comes from, and from its
    expression.

    A key that keeps its value because one of its AWS secrets was not read has no revision here.
    """
    revisions = {
        entry.key: revision_of(_version_id(entry.source, versions), entry.key, entry.expression)
        for entry in binding.entries
        if entry.sources <= versions.keys()
    }
    if binding.everything_of:
        version_id = versions[binding.everything_of].version_id
        revisions = {key: revisions.get(key, version_id) for key in data}
    return revisions
