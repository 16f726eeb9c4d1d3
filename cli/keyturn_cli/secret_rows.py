"""Rows of Secrets. A row has the few fields of a Secret's metadata that a list shows. Ten thousand rows take about a
second."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from msgspec import Raw, Struct
from msgspec.json import Decoder, decode
from msgspec.structs import asdict

from keyturn_cli.bound_secrets import not_bound
from keyturn_cli.cluster import METADATA, METADATA_LIST, Cluster, path
from keyturn_cli.times import ago, seconds_of
from keyturn_cli.watched_secrets import fault_of, is_watched
from keyturn_receiver.core.aliases import SECRETS, read_aliases
from keyturn_receiver.core.binding import SECRET_ID, Target, is_bound
from keyturn_receiver.core.revision import APPLIED_AT, OK, STATUS, VERSION_IDS, read_record
from keyturn_receiver.core.vocabulary import BIND_LABEL, WATCH_LABEL

NEW = 60  # seconds in which a receiver should have handled a new Secret
SHOWN = 8  # the number of characters of a version id that are shown
WAITING = "no receiver has looked at it yet"


class Metadata(Struct):
    """Metadata of a Secret, as the API server names its fields."""

    namespace: str
    name: str
    uid: str
    resourceVersion: str
    creationTimestamp: str = ""
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None
    ownerReferences: list[dict[str, Any]] | None = None
    managedFields: Raw = Raw(b"[]")


class Secret(Struct):
    """A Secret without its data."""

    metadata: Metadata


class Event(Struct):
    """An event of a watch."""

    type: str
    object: Secret


_SECRET = Decoder(Secret)
EVENT = Decoder(Event)


@dataclass(frozen=True, slots=True)
class Row:
    """One bound or watched Secret. ``applied_at`` and ``created_at`` are RFC 3339 or empty.

    The receiver writes no status on a watched Secret. So for a watched Secret, ``status`` is the reason why its
    consumers are not restarted, or an empty text.
    """

    target: Target
    secret_ids: tuple[str, ...]
    version_ids: tuple[str, ...]
    applied_at: str
    created_at: str
    status: str
    resource_version: str
    is_watched: bool = False

    def needs_somebody(self, now: float) -> bool:
        """Return whether the Secret has a fault. A bound Secret without a status counts as faulty once it is older than
        NEW seconds."""
        if self.status or self.is_watched:
            return self.status not in ("", OK)
        created_at = seconds_of(self.created_at)
        return created_at is None or now - created_at > NEW

    def cells(self, now: float, consumers: str, unseen: str = WAITING) -> tuple[str, ...]:
        """Return the texts of the row. ``unseen`` is the status of a Secret that no receiver has handled."""
        versions = [version[:SHOWN] for version in self.version_ids]
        version = f"{versions[0]} +{len(versions) - 1}" if len(versions) > 1 else "".join(versions) or "-"
        name = ", ".join(self.secret_ids) or "-"
        if self.is_watched:
            return (self.target.namespace, self.target.name, "watched", "-", "-", consumers, self.status or "-")
        applied = ago(self.applied_at, now)
        status = self.status or unseen
        return (self.target.namespace, self.target.name, name, version, applied, consumers, status)


def list_rows(cluster: Cluster, namespace: str | None) -> Iterator[Row]:
    """Return the rows of the bound Secrets of a namespace, or of all namespaces. Raises the errors of ``Cluster``."""
    return _list(cluster, namespace, BIND_LABEL, row_of)


def row_of(metadata: Metadata) -> Row | None:
    """Return the row of a Secret, or None if it is not bound."""
    annotations = metadata.annotations or {}
    owners = metadata.ownerReferences or []
    if not is_bound({"labels": metadata.labels or {}, "annotations": annotations, "ownerReferences": owners}):
        return None
    record = read_record({VERSION_IDS: annotations.get(VERSION_IDS, "")})
    return Row(
        Target(metadata.namespace, metadata.name),
        _secret_ids(annotations),
        tuple(dict.fromkeys(record.version_ids.values())),
        annotations.get(APPLIED_AT, ""),
        metadata.creationTimestamp,
        annotations.get(STATUS, ""),
        metadata.resourceVersion,
    )


def list_watched(cluster: Cluster, namespace: str | None) -> Iterator[Row]:
    """Return the rows of the watched Secrets of a namespace, or of all namespaces. Raises the errors of ``Cluster``."""
    return _list(cluster, namespace, WATCH_LABEL, _watched_row)


def _list(cluster: Cluster, namespace: str | None, label: str, make: Callable[[Metadata], Row | None]) -> Iterator[Row]:
    for secret in cluster.list(path("v1", "secrets", namespace), {"labelSelector": label}, _SECRET, METADATA_LIST):
        if row := make(secret.metadata):
            yield row


def get_row(cluster: Cluster, target: Target) -> Row:
    """Return the row of one Secret. Raises CliError if it is neither bound nor watched, and the errors of
    ``Cluster``."""
    resource = path("v1", "secrets", target.namespace, target.name)
    metadata = cluster.get(resource, decoder=_SECRET, accept=METADATA).metadata
    if row := row_of(metadata) or _watched_row(metadata):
        return row
    raise not_bound(target)


def _watched_row(metadata: Metadata) -> Row | None:
    found = {**asdict(metadata), "managedFields": decode(metadata.managedFields)}
    if not is_watched(found):
        return None
    target, created_at = Target(metadata.namespace, metadata.name), metadata.creationTimestamp
    return Row(target, (), (), "", created_at, fault_of(found), metadata.resourceVersion, is_watched=True)


def _secret_ids(annotations: Mapping[str, str]) -> tuple[str, ...]:
    if SECRETS in annotations:
        return tuple(dict.fromkeys(alias.secret_id for alias in read_aliases(annotations[SECRETS])[0]))
    secret_id = annotations.get(SECRET_ID, "").strip()
    return (secret_id,) if secret_id else ()
