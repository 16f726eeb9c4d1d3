"""The cache of bound Secrets: what it keeps of a Secret, and how much of what tenants write."""

import json
import time
import tracemalloc
from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest

from keyturn_receiver.cluster import secret_cache
from keyturn_receiver.cluster.secret_cache import BoundSecret, SecretCache
from keyturn_receiver.core.binding import DATA, MAX_DATA_ANNOTATION, SECRET_ID, SERVICE_ACCOUNT, Target, read_binding
from keyturn_receiver.core.integrity import Integrity
from keyturn_receiver.core.plan import LiveSecret
from keyturn_receiver.core.revision import (
    DATA_HASH,
    RECORD_HASH,
    REVISIONS,
    STATUS,
    VERSION_IDS,
    Record,
    data_hash,
    record_hash,
    unkeyed_data_hash,
)
from keyturn_receiver.errors import InvalidBinding
from support.bindings import ARN, KEYED, bound_object

DB = Target("team", "db")


def cached(*objects: dict[str, Any]) -> SecretCache:
    cache = SecretCache(KEYED)
    for each in objects:
        cache.update(cache.transform(each))
    return cache


def one(*objects: dict[str, Any]) -> BoundSecret:
    found = cached(*objects).get(DB)
    assert found
    return found


def kept_characters(bound: BoundSecret) -> int:
    return sum(len(text) for text in (*bound.texts, *bound.names) if text)


def forged(count: int) -> dict[str, Any]:
    """Return a Secret with a record that names ``count`` ARNs."""
    obj = bound_object("db", "v1")
    names = {f"{ARN.format(f'other-{number}')}#AWSCURRENT": "v1" for number in range(count)}
    obj["metadata"]["annotations"][VERSION_IDS] = json.dumps(names)
    return obj


def without_key(obj: dict[str, Any], value: str) -> dict[str, Any]:
    obj = deepcopy(obj)
    del obj["metadata"]["annotations"][RECORD_HASH]
    obj["metadata"]["annotations"][DATA_HASH] = unkeyed_data_hash({"value": value.encode()})
    return obj


def test_values_are_not_kept() -> None:
    bound = one(bound_object("db", "a-secret-value"))
    assert bound.is_intact
    assert "YS1zZWNyZXQtdmFsdWU=" not in repr(bound)


def test_forged_names_are_neither_kept_nor_found() -> None:
    cache = cached(forged(16_000))
    assert cache.by_secret_id(ARN.format("other-1")) == []
    bound = cache.get(DB)
    assert bound
    assert bound.integrity is Integrity.BROKEN
    assert kept_characters(bound) < 1000


def test_names_of_a_valid_record_are_found() -> None:
    obj = bound_object("db", "v1", **{SECRET_ID: ARN.format("db").replace("prod/db", "prod/d*b")})
    assert cached(obj).by_secret_id("prod/db") == [DB]


def test_bindings_of_readers_that_may_not_read_the_secret_are_not_found() -> None:
    own = [bound_object(f"own-{number}", **{SECRET_ID: "prod/db"}) for number in range(3)]
    role = bound_object("role", **{SECRET_ID: "prod/db", SERVICE_ACCOUNT: "app"})
    blank = bound_object("blank", **{SECRET_ID: "prod/db", SERVICE_ACCOUNT: " "})
    cache = cached(*own, role, blank)
    names = ["blank", "own-0", "own-1", "own-2", "role"]
    assert [target.name for target in cache.by_secret_id("prod/db")] == names
    asked: list[tuple[str, bool]] = []

    def only_with_role(namespace: str, has_account: bool) -> bool:
        asked.append((namespace, has_account))
        return has_account

    assert [target.name for target in cache.by_secret_id("prod/db", None, only_with_role)] == ["role"]
    assert sorted(asked) == [("team", False), ("team", True)]
    found = cache.by_secret_id("prod/db", None, lambda _, has_account: not has_account)
    assert [target.name for target in found] == names[:-1]
    for bound in cache.all():
        assert bound.has_account is bool(bound.spec.account)


def test_valid_record_is_bounded_in_the_names_that_are_found() -> None:
    obj = forged(500)
    annotations = obj["metadata"]["annotations"]
    annotations[RECORD_HASH] = record_hash(KEYED, obj["metadata"]["uid"], annotations)
    bound = one(obj)
    assert bound.integrity is Integrity.INTACT
    assert len(bound.names) <= 2 + 2 * secret_cache.MAX_ARNS


@pytest.mark.parametrize("name", [SECRET_ID, "keyturn.dev/version-stage", "keyturn.dev/service-account", STATUS])
def test_long_annotation_is_cut_and_still_invalid(name: str) -> None:
    obj = bound_object("db", **{name: "x" * 200_000})
    obj["metadata"]["annotations"][name] = "x" * 200_000
    bound = one(obj)
    assert kept_characters(bound) < 10_000
    if name != STATUS:
        with pytest.raises(InvalidBinding):
            read_binding(DB, bound.spec)


def test_data_annotation_beyond_its_limit_is_cut_and_still_refused() -> None:
    bound = one(bound_object("db", **{DATA: "A: a\n" * 50_000}))
    assert kept_characters(bound) < MAX_DATA_ANNOTATION + 1000
    with pytest.raises(InvalidBinding, match="longer than"):
        read_binding(DB, bound.spec)


def test_large_annotations_of_one_namespace_are_bounded_and_the_last_ones_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(secret_cache, "MAX_LARGE_BYTES", 200_000)
    long = [bound_object(f"s{number}", **{DATA: "A: a\n" * 10_000}) for number in range(20)]
    small = bound_object("db", "v1")
    other = bound_object("s1", **{DATA: "A: a\n" * 10_000})
    other["metadata"]["namespace"] = "other"
    cache = cached(*long, small, other)
    refused = [each for each in cache.all() if each.fault]
    assert len(refused) == 17
    assert all("shorten their annotations" in each.fault for each in refused)
    assert sum(kept_characters(each) for each in cache.all() if each.target.namespace == "team") < 250_000
    assert not one(small).fault
    there = cache.get(Target("other", "s1"))
    assert there
    assert not there.fault
    # What is deleted makes room.
    for number in range(20):
        cache.delete(long[number])
    cache.update(cache.transform({**long[0], "metadata": {**long[0]["metadata"], "resourceVersion": "9"}}))
    again = cache.get(Target("team", "s0"))
    assert again
    assert not again.fault


def test_secret_that_loses_its_record_is_known_as_filled() -> None:
    filled, stripped = bound_object("db", "v1"), bound_object("db", version=2)
    bound = one(filled, stripped)
    assert not bound.record.was_written
    assert bound.lost_record
    assert one(filled, stripped, bound_object("db", version=3)).lost_record
    created_again = bound_object("db", version=2)
    created_again["metadata"]["uid"] = "another"
    assert not one(filled, created_again).lost_record


def test_keyed_hash_that_is_taken_away_counts_as_an_edit() -> None:
    plain = without_key(bound_object("db", "v1", version=2), "v1")
    assert one(plain).integrity is Integrity.UNKEYED
    assert one(bound_object("db", "v1"), plain).integrity is Integrity.BROKEN


def test_same_version_is_judged_again_after_the_key_has_changed() -> None:
    obj = bound_object("db", "v1")
    cache = cached(obj)
    changes: list[Target] = []
    cache.add_handler(changes.append)
    cache.update(cache.transform(obj))
    assert changes == []
    cache.update(replace(cache.transform(obj), integrity=Integrity.BROKEN))  # type: ignore[type-var]
    assert changes == [DB]


def live(fingerprints: dict[str, bytes]) -> LiveSecret:
    return LiveSecret(
        DB, "uid-db", "1", "Opaque", False, Record(), fingerprints, holders={"theirs": "helm", "gone": "helm"}
    )


def test_fingerprints_of_very_many_keys_are_not_kept() -> None:
    cache = cached(bound_object("db", "v1"))
    bound = cache.get(DB)
    assert bound
    few = {"theirs": b"1"}
    cache.keep_values(live(few), "1", few)
    kept = cache.live(bound)
    assert kept
    assert (kept.fingerprints, kept.holders) == (few, {"theirs": "helm"})
    many = {str(number): b"1" for number in range(secret_cache.MAX_FINGERPRINTS + 1)}
    cache.keep_values(live(many), "1", many)
    assert cache.live(bound) is None


@pytest.mark.parametrize("how", ["deleted", "created again", "without its record"])
def test_revisions_of_a_secret_that_is_gone_are_found_by_its_values(how: str) -> None:
    cache = cached(bound_object("db", "v1"))
    values = {"value": b"fingerprint"}
    cache.keep_values(live(values), "1", values)
    again = bound_object("db", version=2)
    if how == "deleted":
        cache.delete(again)
    else:
        again["metadata"]["uid"] = "another" if how == "created again" else "uid-db"
        cache.update(cache.transform(again))
    assert cache.former_revisions(DB, values) == {"value": "v1"}
    assert cache.former_revisions(DB, {"value": b"another", "more": b"fingerprint"}) == {}
    assert cache.former_revisions(Target("other", "db"), values) == {}


def test_revisions_of_secrets_that_are_gone_are_bounded() -> None:
    cache = SecretCache(KEYED)
    for number in range(secret_cache.MAX_FORMER + 10):
        obj = bound_object(f"s{number}", "v1")
        cache.update(cache.transform(obj))
        values = {"value": b"1"}
        cache.keep_values(replace(live(values), target=Target("team", f"s{number}")), "1", values)
        cache.delete(obj)
    known = [cache.former_revisions(Target("team", f"s{n}"), values) for n in range(secret_cache.MAX_FORMER + 10)]
    assert (known[:10], known[10:]) == ([{}] * 10, [{"value": "v1"}] * secret_cache.MAX_FORMER)


def large(number: int) -> dict[str, Any]:
    """Return a Secret with a valid record of 180 kB."""
    obj = bound_object(f"s{number}", "v1")
    metadata, values = obj["metadata"], {f"{number}-{key:05d}": b"" for key in range(4000)}
    annotations = metadata["annotations"]
    annotations[REVISIONS] = json.dumps(dict.fromkeys(values, "x" * 30))
    annotations[DATA_HASH] = data_hash(KEYED, metadata["uid"], values)
    annotations[RECORD_HASH] = record_hash(KEYED, metadata["uid"], annotations)
    metadata["managedFields"][0]["fieldsV1"]["f:data"] = {f"f:{key}": {} for key in values}
    obj["data"] = dict.fromkeys(values, "")
    return obj


def test_nothing_large_is_kept_of_secrets_that_are_gone() -> None:
    """Twenty-five Secrets with 180 kB of annotations, which take 0.8 MiB each, come and go."""
    cache = SecretCache(KEYED)
    tracemalloc.start()
    try:
        for number in range(25):
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
    assert kept < 10 * 2**20


def test_parsed_annotations_are_kept_for_the_next_caller() -> None:
    cache = SecretCache(KEYED)
    for obj in (bound_object("small", "v1"), large(1)):
        cache.update(cache.transform(obj))
    for bound in cache.all():
        assert bound.record is bound.record
        assert bound.spec is bound.spec


@pytest.mark.parametrize(("uid", "keeps"), [("uid-db", True), ("another", False)])
def test_secret_keeps_the_time_at_which_it_was_first_seen(uid: str, keeps: bool) -> None:
    cache = SecretCache(KEYED)
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


def test_keys_of_other_writers_are_kept_unless_they_are_very_long() -> None:
    few, many = bound_object("s1"), bound_object("s2")
    few["data"] = {"ca.crt": "eA=="}
    many["data"] = dict.fromkeys((f"key-{number}" for number in range(1000)), "eA==")
    cache = cached(few, many)
    keys = {each.target.name: each.keys for each in cache.all()}
    assert "ca.crt" in (keys["s1"] or ())
    assert keys["s2"] is None
