"""The cache of bound Secrets: what is kept beyond a Secret's life is bounded, and a Secret keeps its first time."""

import json
import time
import tracemalloc

import pytest

from keyturn_receiver.cluster.secret_cache import SecretCache
from keyturn_receiver.core.binding import Target
from support.bindings import bound_object


def large(number: int) -> dict:
    obj = bound_object(f"s{number}", "v1")
    content = {f"{number}-{key:05d}": "x" * 30 for key in range(4000)}
    obj["metadata"]["annotations"]["keyturn.dev/revisions"] = json.dumps(content)
    return obj


def test_nothing_large_is_kept_of_secrets_that_are_gone() -> None:
    """Two hundred Secrets with 180 kB of annotations come and go."""
    cache = SecretCache()
    tracemalloc.start()
    try:
        for number in range(200):
            obj = large(number)
            cache.update(cache.transform(obj))
            bound = cache.get(Target("team", f"s{number}"))
            assert bound
            assert len(bound.record.revisions) == 4000
            assert bound.spec.secret_id == f"prod/s{number}"
            cache.delete(obj)
        del obj, bound
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 16 * 2**20


def test_parsed_annotations_are_kept_for_the_next_caller() -> None:
    cache = SecretCache()
    for obj in (bound_object("small", "v1"), large(1)):
        cache.update(cache.transform(obj))
    for bound in cache.all():
        assert bound.record is bound.record
        assert bound.spec is bound.spec


@pytest.mark.parametrize(("uid", "keeps"), [("uid-db", True), ("another", False)])
def test_secret_keeps_the_time_at_which_it_was_first_seen(uid: str, keeps: bool) -> None:
    cache = SecretCache()
    cache.update(cache.transform(bound_object("db", version=1)))
    first = cache.get(Target("team", "db"))
    assert first
    time.sleep(0.01)
    later = bound_object("db", "v1", version=2)
    later["metadata"]["uid"] = uid
    for _ in range(2):  # by a watch, and by a list
        cache.update(cache.transform(later))
        cache.replace([cache.transform(later)])
        bound = cache.get(Target("team", "db"))
        assert bound
        assert bound.seen_at > first.seen_at
        assert (bound.first_seen_at == first.first_seen_at) is keeps
