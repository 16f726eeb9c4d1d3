"""`keyturn explain`: predicts what a new version of an AWS secret would change. Nothing is written."""

import time
from base64 import b64decode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text
from rich.tree import Tree

from keyturn_cli.advice import not_looked_at
from keyturn_cli.aws_secrets import read_file, read_version
from keyturn_cli.bound_secrets import Bound
from keyturn_cli.cluster import Cluster, path
from keyturn_cli.completion import SecretSubject
from keyturn_cli.errors import ExitCode, UsageError, reported
from keyturn_cli.options import (
    DEFAULT_RELEASE,
    Context,
    Namespace,
    NoColor,
    OutputFormat,
    ReleaseName,
    read_release,
)
from keyturn_cli.output import Format, Output
from keyturn_cli.prediction import (
    Change,
    Fate,
    Outcome,
    Scene,
    check_access,
    fates,
    is_left_alone,
    needs_pods,
    planned_change,
    readers_left,
    supposed_change,
    why_unchecked,
)
from keyturn_cli.release import settings_of
from keyturn_cli.sight import Sight
from keyturn_cli.subjects import Subject, find_subject
from keyturn_cli.watched_secrets import supposed_change as supposed_change_of_watched
from keyturn_cli.words import counted
from keyturn_receiver.core.binding import CURRENT
from keyturn_receiver.core.field_owners import FIELD_MANAGER, managed_fields
from keyturn_receiver.core.integrity import holders
from keyturn_receiver.core.json_access import as_object
from keyturn_receiver.core.plan import LiveSecret
from keyturn_receiver.core.printable import printable
from keyturn_receiver.core.render import SecretVersion
from keyturn_receiver.core.unrestarted import Reader

STAGE = Annotated[
    str | None,
    typer.Option("--stage", metavar="LABEL", help="Rehearse with the value that has this label in AWS: AWSPENDING."),
]
NEW_VALUE = Annotated[
    Path | None,
    typer.Option("--new-value", metavar="FILE", help="Rehearse with the value in a file; it is compared in memory."),
]
_WORDS = {Outcome.RESTARTS: "restarts", Outcome.OFF: "not restarted", Outcome.WAITS: "restarts later"}
_STYLES = {Outcome.RESTARTS: "green", Outcome.WAITS: "green", Outcome.HELD: "yellow", Outcome.UNCONCERNED: "dim"}


@dataclass(slots=True)
class Explained:
    """Prediction for one Secret and its readers."""

    bound: Bound
    change: Change
    fates: Sequence[Fate] = ()
    left: Sequence[Reader] = ()


@reported
def explain(
    subject: SecretSubject,
    stage: STAGE = None,
    new_value: NEW_VALUE = None,
    context: Context = None,
    namespace: Namespace = None,
    release: ReleaseName = DEFAULT_RELEASE,
    output: OutputFormat = Format.TABLE,
    no_color: NoColor = False,
) -> ExitCode:
    """Predict what a rotation changes and restarts.

    Nothing is written. Every key counts as changed, unless --stage or --new-value gives the new value. The functions
    that predict are those that decide in the receiver.
    """
    out = Output(output, no_color)
    if stage and new_value:
        raise UsageError("--stage and --new-value exclude each other", "give one")
    cluster = Cluster.connect(context)
    named = read_release(release)
    found = find_subject(cluster, subject, namespace, with_watched=True)
    if found.is_watched and (stage or new_value):
        raise UsageError(
            f"{found.name} is not filled from AWS, so there is no new value to rehearse with",
            "leave out --stage and --new-value",
        )
    settings, note = settings_of(cluster, named)
    sight = Sight(cluster, settings, dict.fromkeys(filter(None, (found.note, note))))
    version = _new_version(found, stage, new_value)
    explained = [_explain(sight, found, bound, version) for bound in found.bound]
    if out.is_data:
        out.data(_data(found, explained, list(sight.notes)))
    else:
        _show(out, found, explained, stage or "", sight.hides_workloads)
        out.notes(sight.notes)
    return ExitCode.FINDING if any(each.change.error for each in explained) else ExitCode.FINE


def _new_version(found: Subject, stage: str | None, new_value: Path | None) -> SecretVersion | None:
    if not stage and not new_value:
        return None
    secret_id = found.only_secret_id("name the one that changes")
    return read_file(new_value, secret_id) if new_value else read_version(secret_id, stage or CURRENT, found.region)


def _explain(sight: Sight, found: Subject, bound: Bound, version: SecretVersion | None) -> Explained:
    if bound.is_watched:
        return _predict(sight, bound, supposed_change_of_watched(bound, sight.settings))
    sources = bound.sources_of(found.secret_id) if found.secret_id else bound.spec.sources
    sources = tuple(each for each in sources if each.stage == CURRENT) or sources
    in_namespace = sight.annotations(bound.target.namespace)
    for source in sources:
        if why := why_unchecked(in_namespace, sight.settings, bound.target.namespace):
            told = f"whether namespace {bound.target.namespace} may read {source.secret_id} is not checked"
            sight.notes[f"{told}, because {why}"] = None
        if refusal := check_access(bound, source, in_namespace, sight.settings):
            return Explained(bound, Change(error=refusal, present=bound.keys))
    if version:
        change = planned_change(bound, sources, *_live(sight.cluster, bound), version)
    else:
        change = supposed_change(bound, sources, not_looked_at())
    return _predict(sight, bound, change)


def _predict(sight: Sight, bound: Bound, change: Change) -> Explained:
    name, in_namespace = bound.target.name, sight.annotations(bound.target.namespace)
    consumers = [each for each in sight.consumers(bound.target.namespace) if name in each.reads]
    scene = partial(Scene, bound, consumers, in_namespace, sight.settings, time.time())
    pods = {each.ref: sight.pods(each) for each in needs_pods(scene(), change)}
    if change.error:
        return Explained(bound, change, [Fate(each.ref, Outcome.UNCONCERNED, each.reads[name]) for each in consumers])
    left = readers_left(
        sight.readers(bound.target.namespace), bound.target, change, {each.ref.name for each in consumers}
    )
    return Explained(bound, change, fates(scene(pods), change), left)


def _live(cluster: Cluster, bound: Bound) -> tuple[LiveSecret, Mapping[str, bytes]]:
    """Read the Secret with its values. The values are only compared. No other function of the command line reads the
    values of a Secret."""
    target = bound.target
    obj = cluster.get(path("v1", "secrets", target.namespace, target.name))
    metadata = as_object(obj.get("metadata"))
    values = {key: b64decode(str(text)) for key, text in as_object(obj.get("data")).items()}
    live = LiveSecret(
        target=target,
        uid=str(metadata.get("uid")),
        resource_version=str(metadata.get("resourceVersion")),
        type=str(obj.get("type") or "Opaque"),
        immutable=obj.get("immutable") is True,
        record=bound.record,
        fingerprints=values,
        holders=holders(FIELD_MANAGER, managed_fields(metadata), values),
    )
    return live, values


def _show(out: Output, found: Subject, explained: Sequence[Explained], stage: str, hides_workloads: bool) -> None:
    moved = f"if {CURRENT} moved to {stage} now" if stage else f"if its {CURRENT} moved now"
    if found.is_watched:
        moved = "if each of its values changed now"
    tree = Tree(Text.assemble((printable(found.name), "bold"), f"  {moved}"), guide_style="dim")
    for each in sorted(explained, key=lambda one: one.bound.target):
        branch = tree.add(_secret_line(each))
        for fate in each.fates:
            branch.add(_fate_line(fate))
        for reader in each.left:
            why = "its next run reads the new value" if is_left_alone(reader) else "never restarted by Keyturn"
            branch.add(Text(printable(f"{reader.name}  {why}"), "dim" if is_left_alone(reader) else "yellow"))
    out.show(tree)
    out.line()
    out.line(_summary(explained, hides_workloads))


def _secret_line(each: Explained) -> Text:
    name = f"Secret {each.bound.target}"
    if each.change.error:
        word = "watched, restarts nobody" if each.bound.is_watched else "not filled"
        return Text.assemble(printable(name), (printable(f"  {word}: {each.change.error}"), "red"))
    if not each.change.keys:
        return Text.assemble(printable(name), ("  no key changes", "dim"))
    keys = f"  {'key' if len(each.change.keys) == 1 else 'keys'} {', '.join(each.change.keys)}"
    unknown = f"  ({', '.join(each.change.unknown)}: may change)" if each.change.unknown else ""
    watched = "  watched" if each.bound.is_watched else ""
    return Text(printable(name + watched + keys + unknown))


def _fate_line(fate: Fate) -> Text:
    reads = "reads every key" if fate.reads.whole else f"reads {', '.join(sorted(fate.reads.keys))}"
    word = _WORDS.get(fate.outcome, "")
    told = f"{word}: {fate.why}" if word and fate.why else word or fate.why
    line = Text.assemble(
        printable(f"{fate.ref.kind} {fate.ref.name}  {reads}: "), (printable(told), _STYLES.get(fate.outcome, ""))
    )
    if fate.missing:
        line.append(printable(f"; waits for {', '.join(fate.missing)}, which the Secret does not have"), "red")
    return line


def _summary(explained: Sequence[Explained], hides_workloads: bool) -> str:
    failing = sum(bool(each.change.error) for each in explained)
    every = {fate.ref for each in explained for fate in each.fates}
    restarting = {
        fate.ref for each in explained for fate in each.fates if fate.outcome in (Outcome.RESTARTS, Outcome.WAITS)
    }
    told = "" if any(each.bound.is_watched for each in explained) else f", {failing} not filled"
    least = "at least " if hides_workloads else ""
    return (
        f"{counted(len(explained), 'Secret')}{told}; {least}{counted(len(every), 'workload')} read"
        f"{'s' if len(every) == 1 else ''} {'it' if len(explained) == 1 else 'them'}, {len(restarting)} would restart"
    )


def _data(found: Subject, explained: Sequence[Explained], notes: Sequence[str]) -> dict[str, Any]:
    return {
        "subject": found.name,
        "secrets": [
            {
                "namespace": each.bound.target.namespace,
                "name": each.bound.target.name,
                "watched": each.bound.is_watched,
                "keys": list(each.change.keys),
                "error": each.change.error or None,
                "workloads": [
                    {
                        "kind": fate.ref.kind,
                        "name": fate.ref.name,
                        "outcome": str(fate.outcome),
                        "why": fate.why or None,
                        "marked": fate.is_marked,
                        "missing": list(fate.missing),
                    }
                    for fate in each.fates
                ],
                "notRestarted": [reader.name for reader in each.left],
            }
            for each in explained
        ],
        "notes": list(notes),
    }
