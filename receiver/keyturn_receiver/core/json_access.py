"""Access to JSON whose shape is unknown. A part that is missing, null or of another type is treated as empty."""

from collections.abc import Mapping


def as_object(value: object) -> Mapping[str, object]:
    """Return the value if it is a JSON object, and otherwise an empty object."""
    return value if isinstance(value, Mapping) else {}


def as_objects(value: object) -> list[Mapping[str, object]]:
    """Return the JSON objects in the value if it is a list, and otherwise an empty list."""
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []
