"""Partial rendering of a Secret that is made from several AWS secrets.

The keys that depend on exactly the same AWS secrets form a group. A group is rendered whole or not at all, like the
Secret of a binding with a single AWS secret. If an AWS secret cannot be read, only the groups that depend on it wait.
"""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field

from keyturn_receiver.core.binding import DATA, AliasedSources, Binding, Source, versions_of
from keyturn_receiver.core.render import MAX_DATA, MAX_TOTAL_COST, SecretVersion, costs, render
from keyturn_receiver.core.revision import OK, Record
from keyturn_receiver.core.secret_types import check_values
from keyturn_receiver.errors import InvalidValue, KeyturnError, NotAllowed, first_retryable, with_message

MAX_KEYS = 10  # one message names at most this many keys


@dataclass(frozen=True, slots=True)
class Rendering:
    """The ``data`` that could be rendered.

    ``failed`` has the keys that could not be rendered, and ``error`` says why. ``skipped`` has the keys that did not
    have to be rendered. ``met`` has the AWS secrets that were read and on which no failed key depends.
    """

    data: Mapping[str, bytes] = field(repr=False)
    failed: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()
    error: KeyturnError | None = None
    met: frozenset[Source] = frozenset()


def render_groups(
    groups: Sequence[Binding],
    versions: Mapping[Source, SecretVersion],
    errors: Mapping[Source, KeyturnError],
    secret_type: str = "",
) -> Rendering:
    """Render each group whose AWS secrets were all read. ``errors`` say why other AWS secrets were not read.
    ``secret_type`` is the type of the Secret. A group fails if it has a value that this type does not allow.

    Raises InvalidValue if all groups together exceed a limit.
    """
    data: dict[str, bytes] = {}
    failed: list[str] = []
    skipped: list[str] = []
    failures: list[KeyturnError] = []
    unmet: set[Source] = set()
    _check_costs(groups, versions)
    named_errors = _with_aliases(groups, errors)
    for group in groups:
        faults = [named_errors[source] for source in sorted(group.sources) if source in named_errors]
        if group.sources <= versions.keys():
            try:
                ours = {source: versions[source] for source in group.sources}
                rendered = render(group, ours)
                check_values(secret_type, rendered, ours)
                data |= rendered
                continue
            except InvalidValue as error:
                faults.append(error)
        keys = [entry.key for entry in group.entries]
        if not faults:
            skipped += keys
            continue
        failed += keys
        failures += faults
        unmet |= group.sources
    check_size(data)
    met = frozenset(versions.keys() - unmet)
    return Rendering(data, tuple(failed), tuple(skipped), _all_of(failures), met)


def check_size(data: Mapping[str, bytes]) -> None:
    """Raise InvalidValue if all values in ``data`` together are too large for a Secret. Keys that keep their values
    count, too, once the caller has added them to ``data``."""
    if sum(map(len, data.values())) > MAX_DATA:
        raise InvalidValue(
            f"its keys hold more than {MAX_DATA} bytes, a Secret's limit: take fewer of them with {DATA}"
        )


def _check_costs(groups: Sequence[Binding], versions: Mapping[Source, SecretVersion]) -> None:
    spent = [
        (cost, entry.key)
        for group in groups
        if group.sources <= versions.keys()
        for entry, cost in zip(group.entries, costs(group, versions), strict=True)
    ]
    if sum(cost for cost, _ in spent) > MAX_TOTAL_COST:
        raise InvalidValue(
            "its expressions together could produce far more than a Secret can hold: simplify them, first of all that"
            f" of key {max(spent)[1]}"
        )


def sources_to_read(binding: Binding, record: Record, binding_hash: str, about: Set[Source]) -> frozenset[Source]:
    """Return the AWS secrets that have to be read. If one AWS secret of a group may have changed, all AWS secrets of
    the group have to be read.

    ``about`` has the AWS secrets that may have changed. It is empty if any of them may have changed. All AWS secrets of
    the binding have to be read if the record shows an error, or if the binding has changed since the record was
    written.
    """
    if record.status != OK or record.binding_hash != binding_hash:
        return binding.sources
    needed = [group.sources for group in binding.groups if group.sources & about]
    return frozenset().union(*needed) or binding.sources


def has_news(binding: Binding, record: Record, versions: Mapping[Source, SecretVersion]) -> bool:
    """Return whether a group can be rendered from ``versions``, and the record lacks one of the versions of this
    group."""
    return any(
        versions[source].version_id not in versions_of(source, record.version_ids).values()
        for group in binding.groups
        if group.sources <= versions.keys()
        for source in group.sources
    )


def with_keys(error: KeyturnError, rendering: Rendering, recorded: Set[str]) -> KeyturnError:
    """Return the error with a longer message. The message also says which keys wait until the error is gone, what these
    keys hold until then, and which keys are removed after that.

    ``recorded`` are the keys that Keyturn has written before.
    """
    kept = [key for key in rendering.failed if key in recorded]
    absent = [key for key in rendering.failed if key not in recorded]
    removed = sorted(recorded - {*rendering.data, *rendering.failed, *rendering.skipped})
    text = str(error)
    if kept:
        text += f"; {_names(kept)} {'keeps its last value' if len(kept) == 1 else 'keep their last values'}"
        if isinstance(error, NotAllowed):
            text += f": remove {'it' if len(kept) == 1 else 'them'} from {DATA} to take the value away"
    if absent:
        text += f"; {_names(absent)} {'has' if len(absent) == 1 else 'have'} no value yet"
    if removed:
        text += f"; {_names(removed)} {'goes' if len(removed) == 1 else 'go'} once this is mended"
    return with_message(error, text)


def _with_aliases(groups: Sequence[Binding], errors: Mapping[Source, KeyturnError]) -> Mapping[Source, KeyturnError]:
    """Return the errors. If an AWS secret has aliases, the message of its error begins with them."""
    aliases: dict[Source, dict[str, None]] = {}
    for entry in (entry for group in groups for entry in group.entries):
        for alias, source in entry.source.by_alias if isinstance(entry.source, AliasedSources) else ():
            aliases.setdefault(source, {})[alias] = None
    return {
        source: with_message(error, f"alias {', '.join(aliases[source])}: {error}") if source in aliases else error
        for source, error in errors.items()
    }


def _all_of(failures: Sequence[KeyturnError]) -> KeyturnError | None:
    """Return the failure that decides whether and when the reconcile is retried, with the messages of all failures.
    Return None if there is no failure."""
    decisive = first_retryable(*failures)
    return with_message(decisive, "; ".join(dict.fromkeys(map(str, failures)))) if decisive else None


def _names(keys: Sequence[str]) -> str:
    more = len(keys) - MAX_KEYS
    return ", ".join(keys[:MAX_KEYS]) + (f" and {more} more" if more > 0 else "")
