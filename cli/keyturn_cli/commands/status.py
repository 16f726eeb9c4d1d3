"""`keyturn status`: shows one line for each bound or watched Secret."""

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from keyturn_cli.advice import advised
from keyturn_cli.cluster import METADATA, Cluster, path
from keyturn_cli.completion import complete_secrets
from keyturn_cli.errors import ExitCode, Forbidden, Unreachable, UsageError, reported
from keyturn_cli.options import AllNamespaces, Context, Namespace, NoColor, OutputFormat, read_target
from keyturn_cli.outage import Outage
from keyturn_cli.output import Format, Output
from keyturn_cli.secret_rows import EVENT, WAITING, Event, Row, get_row, list_rows, list_watched, row_of
from keyturn_cli.subjects import lists_nothing
from keyturn_cli.words import counted
from keyturn_cli.workloads import Listing, list_consumers
from keyturn_receiver.core.binding import Target
from keyturn_receiver.core.object_name import is_object_name
from keyturn_receiver.core.vocabulary import BIND_LABEL

PLACE = Annotated[
    str | None,
    typer.Argument(metavar="NS[/NAME]", help="A namespace, or one Secret.", autocompletion=complete_secrets),
]
FAILING = Annotated[bool, typer.Option("--failing", help="Only Secrets that need a person to act.")]
WATCH = Annotated[bool, typer.Option("--watch", "-w", help="Go on, and print each Secret that changes.")]
COLUMNS = ("NAMESPACE", "SECRET", "AWS SECRET", "VERSION", "APPLIED", "CONSUMERS", "STATUS")


@dataclass(frozen=True, slots=True)
class WatchQuery:
    """The bound Secrets that ``--watch`` shows: one Secret, those of a namespace, or all if ``namespace`` is None. If
    ``failing`` is true, only those that need a person to act."""

    namespace: str | None
    name: str | None
    failing: bool

    @property
    def parameters(self) -> Mapping[str, str]:
        """The parameters of the request."""
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
    """Show each bound or watched Secret, and what is wrong.

    Without a namespace it shows all namespaces, or, without the right to that, the context's own. The exit code is 1
    if a shown Secret needs a person to act.
    """
    out = Output(output, no_color)
    if watch and out.is_data:
        raise UsageError("--watch prints a table alone", "leave out -o")
    cluster = Cluster.connect(context)
    where, name = _place(place, namespace, all_namespaces)
    where, rows, consumers, notes = _look(cluster, where, name, all_namespaces)
    now, unseen = time.time(), f"{WAITING}: {advised('doctor')}"
    shown = [row for row in rows if not failing or row.needs_somebody(now)]
    found = any(row.needs_somebody(now) for row in shown)
    if out.is_data:
        out.data({"items": [_data(row, consumers, now) for row in shown], "notes": notes})
    elif shown or watch:
        cells = [row.cells(now, _count(consumers, row.target), unseen) for row in shown]
        out.table(COLUMNS, cells, ["red" if row.needs_somebody(now) else "" for row in shown])
    else:
        out.line(_nothing(rows, where, name))
    for note in notes:
        out.note(f"note: {note}")
    if watch:
        _watch(out, cluster, WatchQuery(where, name, failing), rows, consumers, unseen)
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
    """Return the namespace whose Secrets were listed (None: all namespaces), the rows, the number of workloads that
    read each Secret (None: not known), and notes."""
    notes: list[str] = []
    with ThreadPoolExecutor(2) as threads:
        listing = threads.submit(list_consumers, cluster, where)
        try:
            rows = _rows(cluster, where, name)
        except Forbidden:
            if where or all_namespaces:
                raise
            where = cluster.namespace
            notes.append(f"you may not list the Secrets of all namespaces: this is {where} alone")
            try:
                rows = _rows(cluster, where, name)
            except Forbidden:
                raise lists_nothing(cluster, where) from None
            listing = threads.submit(list_consumers, cluster, where)
        consumers = _counts(listing.result(), notes)
    return where, rows, consumers, notes


def _rows(cluster: Cluster, namespace: str | None, name: str | None) -> list[Row]:
    if namespace and name:
        return [get_row(cluster, Target(namespace, name))]
    rows = list(list_rows(cluster, namespace))
    if watched := list(list_watched(cluster, namespace)):
        rows = sorted([*rows, *watched], key=lambda row: row.target)
    return rows


def _counts(listing: Listing, notes: list[str]) -> Mapping[Target, str] | None:
    if listing.denied:
        notes.append(f"you may not list {', '.join(listing.denied)}: CONSUMERS is not known")
        return None
    counts = Counter(Target(each.ref.namespace, name) for each in listing.consumers for name in each.reads)
    return {target: str(count) for target, count in counts.items()}


def _count(consumers: Mapping[Target, str] | None, target: Target) -> str:
    """Return the number of workloads that read a Secret, as the table shows it."""
    return "?" if consumers is None else consumers.get(target, "0")


def _nothing(rows: Sequence[Row], where: str | None, name: str | None) -> str:
    if rows:
        watched = sum(row.is_watched for row in rows)
        numbers = {"bound Secret": len(rows) - watched, "watched Secret": watched}
        return f"{', '.join(counted(number, noun) for noun, number in numbers.items() if number)}, all ok"
    place = f"in namespace {where}" if where else "in this cluster"
    return f"no Secret {place} is bound to AWS: bind one with the label {BIND_LABEL} (docs/bindings.md)"


def _data(row: Row, consumers: Mapping[Target, str] | None, now: float) -> dict[str, Any]:
    return {
        "namespace": row.target.namespace,
        "name": row.target.name,
        "watched": row.is_watched,
        "secretIds": list(row.secret_ids),
        "versionIds": list(row.version_ids),
        "appliedAt": row.applied_at or None,
        "consumers": None if consumers is None else int(consumers.get(row.target, "0")),
        "status": row.status or None,
        "needsSomebody": row.needs_somebody(now),
    }


def _watch(
    out: Output,
    cluster: Cluster,
    query: WatchQuery,
    rows: Sequence[Row],
    consumers: Mapping[Target, str] | None,
    unseen: str,
) -> None:
    """Print a row whenever a shown field of a Secret changes, until the user presses Ctrl-C."""
    seen = {row.target: row for row in rows}
    out.flush()
    for event in _events(cluster, query):
        target = Target(event.object.metadata.namespace, event.object.metadata.name)
        row = row_of(event.object.metadata)
        if row is None or event.type == "DELETED":
            seen.pop(target, None)
            continue
        before = seen.get(target)
        if before and (before.resource_version == row.resource_version or _same(before, row)):
            continue
        seen[target] = row
        now = time.time()
        if not query.failing or row.needs_somebody(now):
            cells = row.cells(now, _count(consumers, target), unseen)
            out.row(cells, "red" if row.needs_somebody(now) else "")


def _events(cluster: Cluster, query: WatchQuery) -> Iterator[Event]:
    """Yield the events of one watch after the other."""
    outage = Outage()
    while True:
        try:
            for event in cluster.watch(path("v1", "secrets", query.namespace), query.parameters, EVENT, METADATA):
                outage.end()
                yield event
            outage.end()
        except Unreachable as error:
            outage.endure(error)


def _same(before: Row, after: Row) -> bool:
    shown = (before.status, before.version_ids, before.applied_at, before.secret_ids)
    return shown == (after.status, after.version_ids, after.applied_at, after.secret_ids)
