"""The effect of a write on the objects of a fake API server, for tests that replace the API client with a fake."""

import json
from typing import Any

from keyturn_receiver.errors import Conflict


def copied(obj: dict[str, Any]) -> dict[str, Any]:
    """Return a deep copy of an object of the API, which is JSON. It takes a third of the time of ``copy.deepcopy``."""
    copy: dict[str, Any] = json.loads(json.dumps(obj))
    return copy


def patch(obj: dict[str, Any], body: dict[str, Any], at: str | None = None) -> None:
    """Write ``body`` into an object, as a merge patch or Keyturn's server-side apply does.

    ``at`` is the time that is recorded for the write. A replaced part of ``obj`` is a new object, so a reference to
    the former part still shows the former state. Raises Conflict if ``body`` names another resource version.
    """
    metadata = obj["metadata"]
    if body["metadata"]["resourceVersion"] != metadata["resourceVersion"]:
        raise Conflict("changed")
    metadata["resourceVersion"] = str(int(metadata["resourceVersion"]) + 1)
    for field in ("annotations", "labels"):
        merged = {**metadata.get(field, {}), **body["metadata"].get(field, {})}
        metadata[field] = {name: text for name, text in merged.items() if text is not None}
    if "data" in body:
        gone = {key for key in obj["data"] if f"f:{key}" in _owned_data(metadata)} - body["data"].keys()
        obj["data"] = {**{key: text for key, text in obj["data"].items() if key not in gone}, **body["data"]}
        owned = {f"f:{name}": {} for name in body["metadata"]["annotations"]}
        fields = {"f:data": {f"f:{key}": {} for key in body["data"]}, "f:metadata": {"f:annotations": owned}}
        entry = {"manager": "keyturn", "operation": "Apply", "fieldsV1": fields}
        metadata["managedFields"] = [entry if at is None else {**entry, "time": at}]
    if "spec" in body:
        template = obj["spec"]["template"]["metadata"]
        template["annotations"] = {**template["annotations"], **body["spec"]["template"]["metadata"]["annotations"]}


def _owned_data(metadata: dict[str, Any]) -> dict[str, Any]:
    """Return the keys that the last apply has written. The next apply removes those that it leaves out."""
    owned: dict[str, Any] = {}
    for entry in metadata.get("managedFields", []):
        owned |= entry["fieldsV1"].get("f:data", {}) if entry["manager"] == "keyturn" else {}
    return owned
