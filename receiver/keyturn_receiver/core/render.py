"""From the values in AWS to the data of a Secret: all keys, or an error and none."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from keyturn_receiver.core.binding import DATA, SECRET_KEY, Binding, Source, tell_all
from keyturn_receiver.core.expression import MAX_COST, EvaluationError, cost, evaluate
from keyturn_receiver.errors import InvalidValue

WHOLE = "value"  # the key of a value that is not a JSON object
MAX_DATA = 1024 * 1024  # bytes, https://kubernetes.io/docs/concepts/configuration/secret/#restriction-data-size


# Units of ``expression.cost`` for all of a binding's: a thousand that are small alone are a bomb, too. About a second.
MAX_TOTAL = 10 * MAX_COST


@dataclass(frozen=True, slots=True)
class SecretVersion:
    """One version as GetSecretValue gave it: ``value`` is text (SecretString) or bytes (SecretBinary)."""

    arn: str
    name: str
    version_id: str
    value: str | bytes = field(repr=False)


def estimated_cost(binding: Binding, versions: Mapping[Source, SecretVersion]) -> int:
    """Bound what ``render`` will cost, in the units of ``expression.cost``: whether others can wait for it."""
    return sum(cost(entry.expression, len(versions[entry.source].value)) for entry in binding.entries)


def render(binding: Binding, versions: Mapping[Source, SecretVersion]) -> dict[str, bytes]:
    """Fill every key of the binding.

    Raises InvalidValue with every fault at once; it names keys and expressions, never a value.
    """
    documents = {source: _document(versions[source]) for source in binding.sources}
    data: dict[str, bytes] = {}
    faults: list[str] = []
    left = MAX_TOTAL
    if binding.everything_of:
        _render_everything(documents[binding.everything_of], data, faults)
    for entry in binding.entries:
        document = documents[entry.source]
        left -= cost(entry.expression, len(document.raw))
        try:
            data[entry.key] = _as_bytes(_evaluate(entry.expression, document))
        except EvaluationError as fault:
            faults.append(f"key {entry.key} (expression {entry.expression!r:.120}): {fault}")
        if left < 0:
            if not faults:
                faults.append("its expressions together would make far more than a Secret can hold: simplify them")
            break
    if not faults and sum(map(len, data.values())) > MAX_DATA:
        faults.append(f"its keys hold more than {MAX_DATA} bytes, a Secret's limit: take fewer of them with {DATA}")
    if faults:
        raise InvalidValue(f"AWS secret {', '.join(sorted(v.name for v in versions.values()))}: {tell_all(faults)}")
    return data


@dataclass(frozen=True, slots=True)
class _Document:
    """A value to select from: ``raw`` as it stands in AWS, ``content`` as JSON where it is JSON, else the same."""

    raw: str | bytes = field(repr=False)
    content: object = field(repr=False)
    is_json: bool


def _document(version: SecretVersion) -> _Document:
    if isinstance(version.value, bytes):
        return _Document(version.value, version.value, is_json=False)
    raw = version.value
    try:
        return _Document(raw, json.loads(version.value, parse_constant=_refuse_constant), is_json=True)
    except (ValueError, RecursionError):
        return _Document(raw, raw, is_json=False)


def _refuse_constant(name: str) -> object:
    raise ValueError(name)  # NaN and Infinity are Python's, not JSON's


def _render_everything(document: _Document, data: dict[str, bytes], faults: list[str]) -> None:
    if not isinstance(document.content, dict):
        try:
            data[WHOLE] = _as_bytes(document.raw)  # though it may happen to be JSON, as `12345678` is
        except EvaluationError as fault:
            faults.append(str(fault))
        return
    if not document.content:
        faults.append("it is a JSON object that has no properties: give it some")
    # By their number: what they are called is part of the value, and may be the secret part of it.
    for number, (key, value) in enumerate(document.content.items(), 1):
        if not SECRET_KEY.fullmatch(key):
            faults.append(
                f"its property number {number} is called what cannot be a key of a Secret:"
                f" name the keys you need with {DATA}"
            )
            continue
        try:
            data[key] = _as_bytes(value)
        except EvaluationError as fault:
            faults.append(f"its property number {number}: {fault}")


def _evaluate(expression: str, document: _Document) -> object:
    if expression.strip() == "@" and not isinstance(document.content, dict | list):
        return document.raw
    if not document.is_json:
        raise EvaluationError("the value in AWS is not JSON, so only the expression @ can select it, whole")
    return evaluate(expression, document.content, len(document.raw))


def _as_bytes(value: object) -> bytes:
    """Text as it is; numbers, booleans, objects and lists as compact JSON (docs/design.md#bindings)."""
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return _encode(value)
    if value is None:
        raise EvaluationError(f"it is null: give it a value in AWS, or name the keys you need with {DATA}")
    try:
        return _encode(json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False))
    except (ValueError, TypeError, RecursionError):
        raise EvaluationError("its value cannot be written as JSON: it is too deep, or a number too large") from None


def _encode(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise EvaluationError("it holds half a surrogate pair, which is not text: correct the value in AWS") from None
