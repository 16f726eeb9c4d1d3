"""Access to JSON of unknown shape. A part that is missing, null or of another type counts as empty."""

from collections.abc import Mapping


def as_object(value: object) -> Mapping[str, object]:
    """Return the value if it is a JSON object, or else an empty object."""
    return value if isinstance(value, Mapping) else {}


def as_objects(value: object) -> list[Mapping[str, object]]:
    """Return the JSON objects in the value if it is a list, or else an empty list."""
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []
