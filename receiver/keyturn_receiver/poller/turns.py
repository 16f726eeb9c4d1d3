"""Turns of namespaces in a sweep: a namespace with many bindings, or with many in error, delays no other."""

import math
from collections.abc import Sequence

from keyturn_receiver.poller.bound_source import BoundSource
from keyturn_receiver.resilience.turns import take_turns

# Bindings in error of one namespace whose secrets one sweep describes, in addition to a list of changes. The next sweep
# takes the next ones.
MAX_ERRORS = 200


def in_turns(bindings: Sequence[BoundSource]) -> dict[str, list[BoundSource]]:
    """Group bindings by AWS secret. The namespaces take turns."""
    named = dict.fromkeys((bound.target.namespace, bound.source.secret_id) for bound in bindings)
    by_id: dict[str, list[BoundSource]] = {secret_id: [] for _, secret_id in take_turns(named, lambda pair: pair[0])}
    for bound in bindings:
        by_id[bound.source.secret_id].append(bound)
    return by_id


def part_of(errors: Sequence[BoundSource], number: int) -> list[BoundSource]:
    """Return at most MAX_ERRORS bindings of each namespace. The next ``number`` gives the next ones."""
    by_namespace: dict[str, list[BoundSource]] = {}
    for bound in errors:
        by_namespace.setdefault(bound.target.namespace, []).append(bound)
    part: list[BoundSource] = []
    for bounds in by_namespace.values():
        begin = number % math.ceil(len(bounds) / MAX_ERRORS) * MAX_ERRORS
        part += bounds[begin : begin + MAX_ERRORS]
    return part
