"""Integrity: whether a Secret's keys and its record (Keyturn's notes in annotations) are as Keyturn wrote them. Only
the Secret itself is needed to find out, so no API is called."""

import hmac
from base64 import b64decode
from collections.abc import Iterable, Mapping
from enum import StrEnum

from keyturn_receiver.core.field_owners import managed_fields, owned, owns, owns_exactly
from keyturn_receiver.core.json_access import as_object
from keyturn_receiver.core.revision import (
    HASHED,
    RECORD,
    RECORD_HASH,
    KeyedHash,
    Record,
    data_hash,
    record_hash,
    unkeyed_data_hash,
)


class Integrity(StrEnum):
    """Whether a Secret still is as Keyturn wrote it."""

    INTACT = "intact"  # the keyed hashes of the data and of the record prove it
    UNKEYED = "unkeyed"  # a release up to 0.2 wrote it; its hash fits, but was made without a key and proves nothing
    BROKEN = "broken"  # Keyturn never wrote it, or somebody has changed a key or the record


def integrity(
    keyed: KeyedHash,
    manager: str,
    metadata: Mapping[str, object],
    data: Mapping[str, str],
    record: Record,
) -> Integrity:
    """Return the integrity of a Secret, from its ``metadata``, its base64 ``data`` and the ``record`` in its
    annotations.

    The owners of the fields do not show every edit: server-side apply of ``stringData`` leaves the owner of ``data`` as
    it is, and any writer can name its field manager ``keyturn``. So the values themselves are compared, by a hash. The
    owners count, too, because Keyturn cannot remove a key that it does not own. Such a key would stay in the Secret
    after its removal from the AWS secret.
    """
    uid = str(metadata.get("uid"))
    found = as_object(metadata.get("annotations"))
    # Only these annotations are looked up, because a tenant may have written very many others.
    annotations = {name: str(found[name]) for name in (*HASHED, RECORD_HASH) if name in found}
    if not record.was_written or not owns_all(manager, managed_fields(metadata), record):
        return Integrity.BROKEN
    written = annotations.get(RECORD_HASH)
    if written is not None and not _equal(written, record_hash(keyed, uid, annotations)):
        return Integrity.BROKEN
    try:
        values = {key: b64decode(data[key]) for key in record.revisions}
    except (KeyError, ValueError):
        return Integrity.BROKEN
    if written is not None:
        fits = _equal(record.data_hash, data_hash(keyed, uid, values))
        return Integrity.INTACT if fits else Integrity.BROKEN
    return Integrity.UNKEYED if _equal(record.data_hash, unkeyed_data_hash(values)) else Integrity.BROKEN


def owns_all(manager: str, entries: Iterable[Mapping[str, object]], record: Record) -> bool:
    """Return whether ``manager`` has applied the record, and exactly the keys that the record names.

    A writer that changes the value of a field with another field manager usually becomes the field's owner, and a
    writer that removes a field also removes its ownership.
    https://kubernetes.io/docs/reference/using-api/server-side-apply/#field-management
    """
    for entry in entries:
        if entry.get("manager") == manager and entry.get("operation") == "Apply":
            fields = as_object(entry.get("fieldsV1"))
            owns_record = owns(fields, RECORD, "metadata", "annotations")
            return owns_record and owns_exactly(fields, record.revisions.keys(), "data")
    return False


def holders(manager: str, entries: Iterable[Mapping[str, object]], data: Iterable[str]) -> dict[str, str]:
    """Return the keys of a Secret that ``manager`` has not applied. The result maps each of these keys to the field
    manager that holds the key.

    The field manager is an empty text if nobody holds the key.
    """
    ours: set[str] = set()
    theirs: dict[str, str] = {}
    for entry in entries:
        name = str(entry.get("manager"))
        fields = as_object(entry.get("fieldsV1"))
        keys = owned(fields, "data") | owned(fields, "stringData")
        if name == manager and entry.get("operation") == "Apply":
            ours |= keys
        else:
            theirs.update(dict.fromkeys(keys, name))
    return {key: theirs.get(key, "") for key in data if key not in ours}


def _equal(written: str, computed: str) -> bool:
    return hmac.compare_digest(written.encode(errors="surrogatepass"), computed.encode())
