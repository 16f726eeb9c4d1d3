"""Turns of namespaces in a sweep: a namespace with many bindings, or with many in error, delays no other."""

import math
from collections.abc import Sequence

from keyturn_receiver.cluster.secret_cache import BoundSecret

# Bindings in error of one namespace whose secrets one sweep describes, in addition to a list of changes. The next sweep
# takes the next ones.
MAX_ERRORS = 200


def in_turns(bindings: Sequence[BoundSecret]) -> dict[str, list[BoundSecret]]:
    """Group bindings by AWS secret. The namespaces take turns."""
    by_id: dict[str, list[BoundSecret]] = {}
    turns: dict[str, int] = {}  # of each secret: its earliest turn in a namespace that names it
    named: dict[str, set[str]] = {}  # the secrets of each namespace
    for bound in bindings:
        secret_id = bound.spec.secret_id
        by_id.setdefault(secret_id, []).append(bound)
        ids = named.setdefault(bound.target.namespace, set())
        ids.add(secret_id)
        turns[secret_id] = min(turns.get(secret_id, len(ids)), len(ids))
    return {secret_id: by_id[secret_id] for secret_id in sorted(by_id, key=turns.__getitem__)}


def part_of(errors: Sequence[BoundSecret], number: int) -> list[BoundSecret]:
    """Return at most MAX_ERRORS bindings of each namespace. The next ``number`` gives the next ones."""
    by_namespace: dict[str, list[BoundSecret]] = {}
    for bound in errors:
        by_namespace.setdefault(bound.target.namespace, []).append(bound)
    part: list[BoundSecret] = []
    for bounds in by_namespace.values():
        begin = number % math.ceil(len(bounds) / MAX_ERRORS) * MAX_ERRORS
        part += bounds[begin : begin + MAX_ERRORS]
    return part
