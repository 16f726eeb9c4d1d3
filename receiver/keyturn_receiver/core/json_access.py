"""Access to JSON whose shape is unknown. A part that is missing, null or of another type is treated as empty."""

from collections.abc import Mapping
from typing import TypeGuard


def as_object(value: object) -> Mapping[str, object]:
    """Return the value if it is a JSON object, and otherwise an empty object."""
    return value if _is_object(value) else {}


def as_objects(value: object) -> list[Mapping[str, object]]:
    """Return the JSON objects in the value if it is a list, and otherwise an empty list."""
    return [item for item in value if _is_object(item)] if isinstance(value, list) else []


def _is_object(value: object) -> TypeGuard[Mapping[str, object]]:
    return type(value) is dict or isinstance(value, Mapping)  # a check for an abstract class takes ten times as long
