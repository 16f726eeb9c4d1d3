"""`keyturn status`: shows one line for each bound Secret."""

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Annotated, Any

import typer
from msgspec import Struct
from msgspec.json import Decoder

from keyturn_cli.bound_secrets import not_bound
from keyturn_cli.cluster import METADATA, METADATA_LIST, Cluster, path
from keyturn_cli.errors import ExitCode, Forbidden, UsageError, reported
from keyturn_cli.options import AllNamespaces, Context, Namespace, NoColor, OutputFormat, read_target
from keyturn_cli.output import Format, Output
from keyturn_cli.times import ago, seconds_of
from keyturn_cli.words import counted
from keyturn_cli.workloads import Listing, list_consumers
from keyturn_receiver.core.aliases import SECRETS, read_aliases
from keyturn_receiver.core.binding import SECRET_ID, Target, is_bound
from keyturn_receiver.core.object_name import is_object_name
from keyturn_receiver.core.revision import APPLIED_AT, OK, STATUS, VERSION_IDS, read_record
from keyturn_receiver.core.vocabulary import BIND_LABEL

PLACE = Annotated[str | None, typer.Argument(metavar="NS[/NAME]", help="A namespace, or one Secret.")]
FAILING = Annotated[bool, typer.Option("--failing", help="Only Secrets that need a person to act.")]
WATCH = Annotated[bool, typer.Option("--watch", "-w", help="Go on, and print each Secret that changes.")]
COLUMNS = ("NAMESPACE", "SECRET", "AWS SECRET", "VERSION", "APPLIED", "CONSUMERS", "STATUS")
NEW = 60  # seconds within which a receiver handles a new Secret
SHOWN = 8  # characters of a version id
WAITING = "no receiver has looked at it yet"


class _Metadata(Struct):
    namespace: str
    name: str
    uid: str
    resourceVersion: str
    creationTimestamp: str = ""
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None
    ownerReferences: list[dict[str, Any]] | None = None


class _Secret(Struct):
    metadata: _Metadata


class _Event(Struct):
    type: str
    object: _Secret


_SECRET = Decoder(_Secret)
_EVENT = Decoder(_Event)


@dataclass(frozen=True, slots=True)
class Row:
    """One bound Secret. ``applied_at`` and ``created_at`` are RFC 3339 or empty."""

    target: Target
    secret_ids: tuple[str, ...]
    version_ids: tuple[str, ...]
    applied_at: str
    created_at: str
    status: str
    resource_version: str

    def needs_somebody(self, now: float) -> bool:
        """Return whether the Secret has a fault. A Secret without a status has a fault once it is older than NEW."""
        if self.status:
            return self.status != OK
        created_at = seconds_of(self.created_at)
        return created_at is None or now - created_at > NEW

    def cells(self, now: float, consumers: str) -> tuple[str, ...]:
        """Return the texts of the row."""
        versions = [version[:SHOWN] for version in self.version_ids]
        version = f"{versions[0]} +{len(versions) - 1}" if len(versions) > 1 else "".join(versions) or "-"
        name = ", ".join(self.secret_ids) or "-"
        applied = ago(self.applied_at, now)
        status = self.status or WAITING
        return (self.target.namespace, self.target.name, name, version, applied, consumers, status)


@dataclass(frozen=True, slots=True)
class Watched:
    """What ``--watch`` shows: one Secret, those of a namespace, or all if ``namespace`` is None."""

    namespace: str | None
    name: str | None
    failing: bool

    @property
    def query(self) -> Mapping[str, str]:
        """The query of the watch."""
        one = {"fieldSelector": f"metadata.name={self.name}"} if self.name else {}
        return {"labelSelector": BIND_LABEL, **one}


@reported
def status(
    place: PLACE = None,
    failing: FAILING = False,
    watch: WATCH = False,
    context: Context = None,
    namespace: Namespace = None,
    all_namespaces: AllNamespaces = False,
    output: OutputFormat = Format.TABLE,
    no_color: NoColor = False,
) -> ExitCode:
    """Show each bound Secret, and what is wrong.

    Without a namespace it shows all namespaces, or, without the right to that, the context's own. The exit code is 1
    if a shown Secret needs a person to act.
    """
    out = Output(output, no_color)
    if watch and out.is_data:
        raise UsageError("--watch prints a table alone", "leave out -o")
    cluster = Cluster.connect(context)
    where, name = _place(place, namespace, all_namespaces)
    where, rows, consumers, notes = _look(cluster, where, name, all_namespaces)
    now = time.time()
    shown = [row for row in rows if not failing or row.needs_somebody(now)]
    found = any(row.needs_somebody(now) for row in shown)
    if out.is_data:
        out.data({"items": [_data(row, consumers, now) for row in shown], "notes": notes})
    elif shown or watch:
        cells = [row.cells(now, consumers.get(row.target, "0") if consumers is not None else "?") for row in shown]
        out.table(COLUMNS, cells, ["red" if row.needs_somebody(now) else "" for row in shown])
    else:
        out.line(_nothing(rows, where, name))
    for note in notes:
        out.note(f"note: {note}")
    if watch:
        _watch(out, cluster, Watched(where, name, failing), rows, consumers or {})
    return ExitCode.FINDING if found else ExitCode.FINE


def _place(place: str | None, namespace: str | None, all_namespaces: bool) -> tuple[str | None, str | None]:
    """Return the namespace (None: all namespaces) and the name of one Secret (None: all Secrets)."""
    if place and (all_namespaces or namespace) and ("/" in place or all_namespaces):
        raise UsageError(f"{place} and an option name the namespace", "give one of them")
    if place and ("/" in place or namespace):
        target = read_target(place, namespace or "")
        return target.namespace, target.name
    where = place or namespace
    if where and not is_object_name(where):
        raise UsageError(f"{where} is not the name of a namespace", "write NAMESPACE, or NAMESPACE/NAME")
    return where, None


def _look(
    cluster: Cluster, where: str | None, name: str | None, all_namespaces: bool
) -> tuple[str | None, list[Row], Mapping[Target, str] | None, list[str]]:
    """Return the namespace that the caller may list, the rows, how many workloads read each Secret (None if that is not
    known), and notes."""
    notes: list[str] = []
    with ThreadPoolExecutor(2) as threads:
        listing = threads.submit(list_consumers, cluster, where)
        try:
            rows = list(_rows(cluster, where, name))
        except Forbidden:
            if where or all_namespaces:
                raise
            where = cluster.namespace
            notes.append(f"you may not list the Secrets of all namespaces: this is {where} alone")
            rows = list(_rows(cluster, where, name))
            listing = threads.submit(list_consumers, cluster, where)
        consumers = _counts(listing.result(), notes)
    return where, rows, consumers, notes


def _rows(cluster: Cluster, namespace: str | None, name: str | None) -> Iterator[Row]:
    if namespace and name:
        secret = cluster.get(path("v1", "secrets", namespace, name), decoder=_SECRET, accept=METADATA)
        row = _row(secret.metadata)
        if row is None:
            raise not_bound(Target(namespace, name))
        yield row
        return
    query = {"labelSelector": BIND_LABEL}
    for secret in cluster.list(path("v1", "secrets", namespace), query, _SECRET, METADATA_LIST):
        if row := _row(secret.metadata):
            yield row


def _row(metadata: _Metadata) -> Row | None:
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


def _secret_ids(annotations: Mapping[str, str]) -> tuple[str, ...]:
    if SECRETS in annotations:
        return tuple(dict.fromkeys(alias.secret_id for alias in read_aliases(annotations[SECRETS])[0]))
    secret_id = annotations.get(SECRET_ID, "").strip()
    return (secret_id,) if secret_id else ()


def _counts(listing: Listing, notes: list[str]) -> Mapping[Target, str] | None:
    if listing.denied:
        notes.append(f"you may not list {', '.join(listing.denied)}: CONSUMERS is not known")
        return None
    counts = Counter(Target(each.ref.namespace, name) for each in listing.consumers for name in each.reads)
    return {target: str(count) for target, count in counts.items()}


def _nothing(rows: Sequence[Row], where: str | None, name: str | None) -> str:
    if rows:
        return f"{counted(len(rows), 'bound Secret')}, all ok"
    place = f"in namespace {where}" if where else "in this cluster"
    return f"no Secret {place} is bound to AWS: bind one with the label {BIND_LABEL} (docs/bindings.md)"


def _data(row: Row, consumers: Mapping[Target, str] | None, now: float) -> dict[str, Any]:
    return {
        "namespace": row.target.namespace,
        "name": row.target.name,
        "secretIds": list(row.secret_ids),
        "versionIds": list(row.version_ids),
        "appliedAt": row.applied_at or None,
        "consumers": None if consumers is None else int(consumers.get(row.target, "0")),
        "status": row.status or None,
        "needsSomebody": row.needs_somebody(now),
    }


def _watch(
    out: Output, cluster: Cluster, watched: Watched, rows: Sequence[Row], consumers: Mapping[Target, str]
) -> None:
    """Print a row whenever a Secret changes, until the user presses Ctrl-C."""
    seen = {row.target: row for row in rows}
    out.flush()
    while True:
        for event in cluster.watch(path("v1", "secrets", watched.namespace), watched.query, _EVENT, METADATA):
            target = Target(event.object.metadata.namespace, event.object.metadata.name)
            row = _row(event.object.metadata)
            if row is None or event.type == "DELETED":
                seen.pop(target, None)
                continue
            before = seen.get(target)
            if before and (before.resource_version == row.resource_version or _same(before, row)):
                continue
            seen[target] = row
            now = time.time()
            if not watched.failing or row.needs_somebody(now):
                cells = row.cells(now, consumers.get(target, "0"))
                out.row(cells, "red" if row.needs_somebody(now) else "")


def _same(before: Row, after: Row) -> bool:
    shown = (before.status, before.version_ids, before.applied_at, before.secret_ids)
    return shown == (after.status, after.version_ids, after.applied_at, after.secret_ids)
