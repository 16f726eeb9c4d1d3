"""Access to JSON of unknown shape: a part that is missing, null or of another type counts as empty."""

from collections.abc import Mapping


def as_object(value: object) -> Mapping[str, object]:
    """The value if it is a JSON object, else an empty one."""
    return value if isinstance(value, Mapping) else {}


def as_objects(value: object) -> list[Mapping[str, object]]:
    """The JSON objects in the value if it is a list, else none."""
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []
