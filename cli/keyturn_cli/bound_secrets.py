"""Metadata of bound Secrets. This module never reads the values of the Secrets."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from msgspec import Raw
from msgspec.json import Decoder

from keyturn_cli.advice import advised
from keyturn_cli.cluster import METADATA, METADATA_LIST, OBJECT, Cluster, path
from keyturn_cli.errors import CliError
from keyturn_receiver.core.arn import candidate_names, may_share_account
from keyturn_receiver.core.binding import BindingSpec, Source, Target, is_bound, read_spec, versions_of
from keyturn_receiver.core.field_owners import FIELD_MANAGER, managed_fields, owned
from keyturn_receiver.core.json_access import as_object
from keyturn_receiver.core.revision import APPLIED_AT, STATE, Record, read_record
from keyturn_receiver.core.vocabulary import BIND_LABEL, secret_faults
from keyturn_receiver.core.write_times import CHANGED_AT, resolve

_RAW = Decoder(Raw)


@dataclass(frozen=True, slots=True)
class Bound:
    """A Secret whose consumers Keyturn restarts. ``is_watched`` is true if the Secret is watched, and false if it is
    bound.

    ``keys`` are the keys in Keyturn's record, and the keys in the Secret's managed fields.
    """

    target: Target
    uid: str
    annotations: Mapping[str, str]
    spec: BindingSpec
    record: Record
    keys: frozenset[str]
    is_watched: bool = False

    @property
    def status(self) -> str:
        """The status: "ok", or a reason with advice. It is empty if no receiver has handled the Secret yet, or if a
        watched Secret has no fault."""
        return self.record.notice or self.record.status

    @property
    def applied_at(self) -> str:
        """The time of the last write (RFC 3339), or an empty text."""
        return self.annotations.get(APPLIED_AT, "")

    @property
    def secret_ids(self) -> tuple[str, ...]:
        """The names or ARNs of the AWS secrets, as the author of the binding wrote them."""
        return tuple(dict.fromkeys(source.secret_id for source in self.spec.sources))

    @property
    def version_ids(self) -> tuple[str, ...]:
        """The ids of the AWS versions from which the Secret's values come."""
        return tuple(dict.fromkeys(self.record.version_ids.values()))

    def sources_of(self, secret_id: str) -> tuple[Source, ...]:
        """Return those sources of the binding whose AWS secret may have the name or ARN ``secret_id``."""
        return tuple(source for source in self.spec.sources if may_be_same(source.secret_id, secret_id))

    def versions_of(self, secret_id: str) -> frozenset[str]:
        """Return the version ids of one AWS secret from which values of this Secret come."""
        found = (versions_of(source, self.record.version_ids) for source in self.sources_of(secret_id))
        return frozenset(version for versions in found for version in versions.values())


class NotBound(CliError):
    """A Secret exists and is not bound."""


def not_bound(target: Target, is_watched: bool = False) -> NotBound:
    """Return the error for a Secret that is not bound."""
    if is_watched:
        return NotBound(
            f"Secret {target} is watched, not bound to AWS",
            f"see its last change by {advised('trace', target)}, and what a change restarts by"
            f" {advised('explain', target)}",
        )
    return NotBound(f"Secret {target} is not bound to AWS", f'set its label {BIND_LABEL} to "true" (docs/bindings.md)')


def may_be_same(secret_id: str, other: str) -> bool:
    """Return whether two names or ARNs may refer to the same AWS secret."""
    names = set(candidate_names(secret_id)) & set(candidate_names(other))
    return bool(names) and may_share_account(secret_id, other)


def read_bound(obj: Mapping[str, Any]) -> Bound:
    """Parse a Secret's metadata as the API server returns it."""
    metadata = as_object(obj.get("metadata"))
    annotations = {name: str(text) for name, text in as_object(metadata.get("annotations")).items()}
    changed_at = resolve(annotations.pop(CHANGED_AT, None), FIELD_MANAGER, managed_fields(metadata))
    if changed_at is not None:
        annotations[CHANGED_AT] = changed_at
    state = str(as_object(metadata.get("labels")).get(STATE, ""))
    record = read_record(annotations, state)
    held = (owned(as_object(each.get("fieldsV1")), "data") for each in managed_fields(metadata))
    keys = frozenset(record.revisions).union(*held)
    return Bound(
        target=Target(str(metadata.get("namespace")), str(metadata.get("name"))),
        uid=str(metadata.get("uid")),
        annotations=annotations,
        spec=read_spec(annotations, secret_faults(metadata)),
        record=replace(record, other_keys=keys - record.revisions.keys()),
        keys=keys,
    )


def get_bound(cluster: Cluster, target: Target) -> Bound | None:
    """Return a bound Secret, or None if the Secret is not bound. Raises NotFound, and the other errors of
    ``Cluster``."""
    obj = cluster.get(path("v1", "secrets", target.namespace, target.name), accept=METADATA)
    return read_bound(obj) if is_bound(as_object(obj.get("metadata"))) else None


def list_bound(cluster: Cluster, namespace: str | None = None, secret_id: str | None = None) -> Iterator[Bound]:
    """Yield the bound Secrets of a namespace, or of all namespaces. If ``secret_id`` is given, yield only the Secrets
    that may be bound to this AWS secret."""
    names = [name.encode() for name in candidate_names(secret_id)] if secret_id else []
    query = {"labelSelector": BIND_LABEL}
    for raw in cluster.list(path("v1", "secrets", namespace), query, _RAW, METADATA_LIST):
        text = memoryview(raw).tobytes()
        if names and not any(name in text for name in names):
            continue  # a Secret without the name is not parsed: parsing all would take ten times as long
        obj = OBJECT.decode(text)
        if is_bound(as_object(obj.get("metadata"))):
            bound = read_bound(obj)
            if secret_id is None or bound.sources_of(secret_id):
                yield bound
