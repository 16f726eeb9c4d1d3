"""Rendering: turns the values in AWS into the data of a Secret. It renders every key, or raises an error."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from keyturn_receiver.core.binding import DATA, SECRET_KEY, Binding, Source, tell_all
from keyturn_receiver.core.expression import MAX_COST, EvaluationError, Extent, cost, evaluate, extent_of
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


def costs(binding: Binding, versions: Mapping[Source, SecretVersion]) -> Iterator[int]:
    """Yield an upper bound of the cost of each entry, in units of ``expression.cost``.

    A rendering whose costs add up to a lot belongs in a thread.
    """
    extents = {source: _extent(versions[source].value) for source in binding.sources}
    for entry in binding.entries:
        yield cost(entry.expression, extents[entry.source])


def render(
    binding: Binding, versions: Mapping[Source, SecretVersion], known_costs: Iterable[int] | None = None
) -> dict[str, bytes]:
    """Render every key of the binding. ``known_costs`` are the ``costs``, if the caller has them already.

    Raises InvalidValue, which reports all errors at once. Its message names keys and expressions, but never a value.
    """
    documents = {source: _document(versions[source]) for source in binding.sources}
    data: dict[str, bytes] = {}
    errors: list[str] = []
    budget = MAX_TOTAL_COST
    if binding.everything_of:
        _render_everything(documents[binding.everything_of], data, errors)
    spending = costs(binding, versions) if known_costs is None else known_costs
    for entry, spent in zip(binding.entries, spending, strict=True):
        budget -= spent
        try:
            data[entry.key] = _as_bytes(_evaluate(entry.expression, documents[entry.source], spent))
        except EvaluationError as error:
            errors.append(f"key {entry.key} (expression {entry.expression!r:.120}): {error}")
        if budget < 0:
            if not errors:
                errors.append("its expressions together could produce far more than a Secret can hold: simplify them")
            break
    if not errors and sum(map(len, data.values())) > MAX_DATA:
        errors.append(f"its keys hold more than {MAX_DATA} bytes, a Secret's limit: take fewer of them with {DATA}")
    if errors:
        raise InvalidValue(f"AWS secret {', '.join(sorted(v.name for v in versions.values()))}: {tell_all(errors)}")
    return data


@dataclass(frozen=True, slots=True)
class _Document:
    """The value that expressions select from.

    ``raw`` is the value as AWS returned it. ``content`` is the parsed value if it is JSON, or else equal to ``raw``.
    """

    raw: str | bytes = field(repr=False)
    content: object = field(repr=False)
    is_json: bool


def _document(version: SecretVersion) -> _Document:
    raw = version.value
    if isinstance(raw, bytes):
        return _Document(raw, raw, is_json=False)
    try:
        return _Document(raw, json.loads(raw, parse_constant=_refuse_constant), is_json=True)
    except (ValueError, RecursionError):
        return _Document(raw, raw, is_json=False)


def _extent(value: str | bytes) -> Extent:
    return Extent(max(1, len(value)), 1) if isinstance(value, bytes) else extent_of(value)


def _refuse_constant(name: str) -> object:
    raise ValueError(name)  # Python accepts NaN and Infinity; JSON has neither


def _render_everything(document: _Document, data: dict[str, bytes], errors: list[str]) -> None:
    if not isinstance(document.content, dict):
        try:
            data[WHOLE_VALUE_KEY] = _as_bytes(document.raw)  # even if the value is JSON, such as `12345678`
        except EvaluationError as error:
            errors.append(str(error))
        return
    if not document.content:
        errors.append("it is a JSON object that has no properties: add one in AWS")
    # Errors give a property's number, because its name is part of the value and may itself be secret.
    for number, (key, value) in enumerate(document.content.items(), 1):
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


def _evaluate(expression: str, document: _Document, spent: int) -> object:
    if expression.strip() == "@" and not isinstance(document.content, dict | list):
        return document.raw
    if not document.is_json:
        raise EvaluationError("the value in AWS is not JSON: use the expression @, which takes the whole value")
    return evaluate(expression, document.content, spent)


def _as_bytes(value: object) -> bytes:
    """Encode text as it is, and numbers, booleans, objects and lists as compact JSON (docs/design.md#bindings)."""
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return _encode(value)
    if value is None:
        raise EvaluationError(f"it is null: give it a value in AWS, or name the keys you need with {DATA}")
    try:
        return _encode(json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False))
    except (ValueError, TypeError, RecursionError):
        raise EvaluationError(
            "its value cannot be written as JSON: it is nested too deeply, or a number is too large"
        ) from None


def _encode(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise EvaluationError("it holds half a surrogate pair, which is not text: correct the value in AWS") from None
