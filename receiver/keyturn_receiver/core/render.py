"""Rendering: turns the values in AWS into the data of a Secret. It renders every key, or raises an error."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from keyturn_receiver.core.binding import DATA, SECRET_KEY, AliasedSources, Binding, Entry, Source, tell_all
from keyturn_receiver.core.document import Document, QuotedJson, extent, read_document
from keyturn_receiver.core.expression import MAX_COST, Extent, cost, evaluate
from keyturn_receiver.core.expression_advice import constant_advice, text_advice
from keyturn_receiver.core.functions import EvaluationError, NothingSelected, to_bytes
from keyturn_receiver.core.json_text import UnusableValue
from keyturn_receiver.errors import InvalidValue

WHOLE_VALUE_KEY = "value"  # the key for a value that is not a JSON object
MAX_DATA = 1024 * 1024  # bytes, https://kubernetes.io/docs/concepts/configuration/secret/#restriction-data-size
# The limit for all expressions of a binding together, in units of ``expression.cost``. Without it, the cost of a
# thousand cheap expressions would add up.
MAX_TOTAL_COST = MAX_COST


@dataclass(frozen=True, slots=True)
class SecretVersion:
    """One version of an AWS secret. ``value`` is text (SecretString) or bytes (SecretBinary), as AWS returned it."""

    arn: str
    name: str
    version_id: str
    value: str | bytes = field(repr=False)


def names_of(versions: Mapping[Source, SecretVersion]) -> str:
    """Return the names of the AWS secrets, for messages."""
    return ", ".join(sorted({version.name for version in versions.values()}))


def costs(binding: Binding, versions: Mapping[Source, SecretVersion]) -> Iterator[int]:
    """Yield an upper bound of the cost of each entry, in units of ``expression.cost``.

    If the sum of the costs is large, the caller should render in a thread, and not on the event loop.
    """
    extents = {source: extent(versions[source].value) for source in binding.sources}
    for entry in binding.entries:
        yield cost(entry.expression, _entry_extent(entry.source, extents))


def _entry_extent(source: Source | AliasedSources, extents: Mapping[Source, Extent]) -> Extent:
    if isinstance(source, Source):
        return extents[source]
    return sum((extents[each] + Extent(len(alias) + 4, 1) for alias, each in source.by_alias), Extent(2, 1))


def render(
    binding: Binding, versions: Mapping[Source, SecretVersion], known_costs: Iterable[int] | None = None
) -> dict[str, bytes]:
    """Render every key of the binding. ``known_costs`` is the result of ``costs``, if the caller has it already.

    Raises InvalidValue. Its message lists up to MAX_FAULTS errors. It names keys and expressions, but never a value.
    """
    documents = {source: read_document(versions[source].value) for source in binding.sources}
    data: dict[str, bytes] = {}
    errors: list[str] = []
    budget = MAX_TOTAL_COST
    if binding.everything_of:
        _render_everything(documents[binding.everything_of], data, errors)
    spending = costs(binding, versions) if known_costs is None else known_costs
    for entry, spent in zip(binding.entries, spending, strict=True):
        budget -= spent
        try:
            data[entry.key] = _as_bytes(_select(entry, documents, spent))
        except _FaultyDocument as error:
            errors += [str(error)] * (str(error) not in errors)
        except EvaluationError as error:
            advice = _advice(entry, documents) if isinstance(error, NothingSelected) else ""
            errors.append(f"key {entry.key} (expression {entry.expression!r:.120}): {error}{advice}")
        if budget < 0:
            if not errors:
                errors.append("its expressions together could produce far more than a Secret can hold: simplify them")
            break
    if not errors and sum(map(len, data.values())) > MAX_DATA:
        errors.append(f"its keys hold more than {MAX_DATA} bytes, a Secret's limit: take fewer of them with {DATA}")
    if errors:
        names = names_of(versions)
        raise InvalidValue((f"AWS secret {names}: " if names else "") + tell_all(errors))
    return data


def _render_everything(document: Document, data: dict[str, bytes], errors: list[str]) -> None:
    if document.fault:
        errors.append(document.fault)
    elif isinstance(document.content, QuotedJson):
        errors.append(f"{document.content.fault}, or take it as it is with the expression @")
    elif not isinstance(document.content, dict):
        try:
            data[WHOLE_VALUE_KEY] = _as_bytes(document.raw)
        except EvaluationError as error:
            errors.append(str(error))
    elif not document.content:
        errors.append("it is a JSON object that has no properties: add one in AWS")
    elif all(value is None for value in document.content.values()):
        errors.append("it is a JSON object whose properties are all null: give one a value in AWS")
    else:
        _render_properties(document.content, data, errors)


def _render_properties(properties: Mapping[str, object], data: dict[str, bytes], errors: list[str]) -> None:
    # Errors give a property's number, because its name is part of the value and may itself be secret.
    for number, (key, value) in enumerate(properties.items(), 1):
        if value is None:
            continue  # null is no error here, because the binding does not name this property
        if not SECRET_KEY.fullmatch(key):
            errors.append(
                f"its property number {number} has a name that cannot be a key of a Secret:"
                f" name the keys you need with {DATA}"
            )
            continue
        try:
            data[key] = _as_bytes(value)
        except EvaluationError as error:
            errors.append(f"its property number {number}: {error}")


class _FaultyDocument(EvaluationError):
    """A value was meant to be JSON, but is not JSON. This fault concerns every key that needs the value."""


def _select(entry: Entry, documents: Mapping[Source, Document], spent: int) -> object:
    if isinstance(entry.source, Source):
        return _evaluate(entry.expression, documents[entry.source], spent)
    named = {alias: documents[source] for alias, source in entry.source.by_alias}
    if alone := named.get(entry.expression.strip()):
        return alone.raw
    for alias, document in named.items():
        if document.fault:
            raise _FaultyDocument(f"alias {alias}: {document.fault_for(alias)}")
    try:
        return evaluate(
            entry.expression, {alias: document.content_for(alias) for alias, document in named.items()}, spent
        )
    except NothingSelected as error:
        for alias, document in named.items():
            if isinstance(content := document.content_for(alias), QuotedJson):
                raise EvaluationError(content.fault) from None
        texts = ", ".join(alias for alias, document in named.items() if not document.is_json)
        if not texts:
            raise
        raise EvaluationError(
            f"{error}; the value of {texts} in AWS is not JSON and has no properties: write the alias alone for the"
            " whole value"
        ) from None


def _advice(entry: Entry, documents: Mapping[Source, Document]) -> str:
    """Return advice on how to write the expression as a text, if its author may have meant a text."""
    expression, key = entry.expression, entry.key
    if not isinstance(entry.source, Source):
        return constant_advice(expression, key) or text_advice(expression, key, dict(entry.source.by_alias))
    content = documents[entry.source].content
    return constant_advice(expression, key) or text_advice(
        expression, key, content if isinstance(content, dict) else {}
    )


def _evaluate(expression: str, document: Document, spent: int) -> object:
    if expression.strip() == "@":
        return document.raw
    if document.fault:
        raise _FaultyDocument(document.fault)
    try:
        return evaluate(expression, document.content, spent)
    except NothingSelected:
        if isinstance(document.content, QuotedJson):
            raise EvaluationError(document.content.fault) from None
        if document.is_json or ("(" in expression and text_advice(expression, "", {})):
            raise
        raise EvaluationError(
            "the value in AWS is not JSON: use the expression @, which takes the whole value, and which YAML needs in"
            ' quotes: "@"'
        ) from None


def _as_bytes(value: object) -> bytes:
    """Return bytes unchanged. Encode a text as UTF-8. Encode a number, boolean, object or list as compact JSON
    (docs/design.md#bindings)."""
    try:
        return to_bytes(value)
    except UnusableValue as error:
        raise EvaluationError(str(error)) from None
