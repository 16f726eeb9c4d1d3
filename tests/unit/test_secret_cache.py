"""The cache of bound Secrets: what it keeps of a Secret, and how much of what tenants write."""

import json
import sys
import time
import tracemalloc
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest

from keyturn_receiver.cluster import former_secrets, secret_cache
from keyturn_receiver.cluster.namespace_cache import NamespaceCache
from keyturn_receiver.cluster.secret_cache import BoundSecret, SecretCache
from keyturn_receiver.core.binding import (
    DATA,
    MAX_DATA_ANNOTATION,
    ON_DELETE,
    RECONCILE,
    SECRET_ID,
    SERVICE_ACCOUNT,
    Target,
    binding_hash,
    read_binding,
)
from keyturn_receiver.core.integrity import Integrity
from keyturn_receiver.core.plan import LiveSecret
from keyturn_receiver.core.revision import (
    DATA_HASH,
    RECONCILED,
    RECORD_HASH,
    REVISIONS,
    STATUS,
    VERSION_IDS,
    Record,
    data_hash,
    record_hash,
    unkeyed_data_hash,
    version_key,
)
from keyturn_receiver.core.rollout_pace import PACE
from keyturn_receiver.core.rollout_switch import ROLLOUT, Switch
from keyturn_receiver.core.unsettled import UNSETTLED
from keyturn_receiver.core.write_times import CHANGED_AT
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


def size_of_texts(bound: BoundSecret) -> int:
    return sum(sys.getsizeof(text) for text in bound.texts if text)


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


@pytest.mark.parametrize("name", [DATA, CHANGED_AT, UNSETTLED, ON_DELETE, STATUS, SERVICE_ACCOUNT])
def test_limit_of_a_namespace_holds_for_every_annotation(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(secret_cache, "MAX_LARGE_BYTES", 200_000)
    others = {STATUS: "a status", RECONCILE: "one", RECONCILED: "one", ROLLOUT: "disabled", PACE: "𝄞" * 4000}
    cache = cached(*(bound_object(f"s{number}", **{**others, name: "x" * 30_000}) for number in range(40)))
    assert sum(size_of_texts(each) for each in cache.all() if each.large_bytes) <= 200_000
    refused = [each for each in cache.all() if each.fault]
    assert len(refused) > 20
    for each in refused:
        assert size_of_texts(each) <= secret_cache.LARGE
        # An answered request is not answered again and again, and the refused Secret restarts nobody.
        assert (each.spec.reconcile, each.record.reconciled) == ("one", "one")
        assert each.spec.switch is Switch.DISABLED


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


VALUES = {"value": b"fingerprint"}
VERSION_KEYS = {version_key(ARN.format("db"), "AWSCURRENT")}


def later(uid: str = "later", name: str = "db", namespace: str = "team") -> LiveSecret:
    """Return a Secret that is to be filled."""
    return replace(live({}), target=Target(namespace, name), uid=uid)


def hash_of(*objects: dict[str, Any]) -> str:
    return one(*objects).spec.hash


def revisions(cache: SecretCache, secret: LiveSecret | None = None, **changes: Any) -> Mapping[str, str]:
    """Return the revisions that a later Secret with the same binding takes over."""
    fill = {"binding_hash": hash_of(bound_object("db")), "version_keys": VERSION_KEYS, "fingerprints": VALUES}
    return cache.former.revisions(secret or later(), **{**fill, **changes})


def deleted(keys: int = 1) -> SecretCache:
    """Return a cache that has filled a Secret, and seen its deletion."""
    obj = bound_object("db", "v1")
    cache = cached(obj)
    values = VALUES | {str(number): b"1" for number in range(keys - 1)}
    cache.keep_values(live(values), "1", values)
    cache.delete(obj)
    return cache


@pytest.mark.parametrize("how", ["deleted", "created again", "without its record"])
def test_revisions_of_a_secret_that_is_gone_are_found_by_its_values(how: str) -> None:
    cache = cached(bound_object("db", "v1"))
    cache.keep_values(live(VALUES), "1", VALUES)
    again = bound_object("db", version=2)
    if how == "deleted":
        cache.delete(again)
    else:
        again["metadata"]["uid"] = "another" if how == "created again" else "uid-db"
        cache.update(cache.transform(again))
    assert revisions(cache) == {"value": "v1"}
    assert revisions(cache) == {"value": "v1"}  # asked again, because the first write was a conflict
    assert revisions(cache, fingerprints={"value": b"another", "more": b"fingerprint"}) == {}
    assert revisions(cache, later(namespace="other")) == {}


def test_revisions_of_a_secret_that_is_gone_go_to_one_secret_alone() -> None:
    """The author of the Secret deletes it, and creates it again and again with guesses in place of the value."""
    cache = deleted()
    assert revisions(cache, fingerprints={"value": b"a guess"}) == {}
    assert revisions(cache, later("guess 2")) == {}
    assert revisions(cache) == {}


@pytest.mark.parametrize(
    "changes",
    [
        {"binding_hash": hash_of(bound_object("db", **{DATA: "value: \"'123456'\""}))},
        {"version_keys": {version_key(ARN.format("db").replace("123456789012", "999999999999"), "AWSCURRENT")}},
    ],
    ids=["a constant", "another AWS secret"],
)
def test_revisions_of_a_secret_that_is_gone_confirm_no_guess(changes: dict[str, Any]) -> None:
    cache = deleted()
    assert revisions(cache, **changes) == {}
    assert revisions(cache) == {}


def test_revisions_of_an_earlier_secret_are_forgotten_if_the_last_one_had_too_many_keys() -> None:
    cache = deleted()
    obj = bound_object("db", "v1")
    cache.update(cache.transform(obj))
    values = {str(number): b"1" for number in range(former_secrets.MAX_FORMER_KEYS + 1)}
    cache.keep_values(live(values), "1", values)
    cache.delete(obj)
    assert revisions(cache) == {}


def namespace(uid: str, version: int) -> dict[str, Any]:
    return {"metadata": {"name": "team", "uid": uid, "resourceVersion": str(version)}}


@pytest.mark.parametrize("how", ["deleted", "deleted and seen late", "created again", "not listed"])
@pytest.mark.parametrize("slow", ["namespaces", "secrets"])
def test_revisions_of_a_secret_are_forgotten_with_its_namespace(how: str, slow: str) -> None:
    namespaces = NamespaceCache()
    obj = bound_object("db", "v1")
    cache = cached(obj)
    cache.keep_values(live(VALUES), "1", VALUES)
    namespaces.add_end_handler(cache.forget_former)
    # A namespace that is seen late was never read, so the cache does not know it.
    if how != "deleted and seen late":
        namespaces.put_read(namespaces.transform(namespace("1", 1)), 1.0)
    if slow == "namespaces":
        cache.delete(obj)
    if how == "created again":
        namespaces.put_read(namespaces.transform(namespace("2", 9)), 2.0)
        namespaces.delete(namespace("1", 8))
    elif how == "not listed":
        namespaces.replace([])
    else:
        namespaces.delete(namespace("1", 8))
    if slow == "secrets":
        cache.delete(obj)
    assert revisions(cache) == {}


def test_revisions_stay_while_the_namespace_does() -> None:
    namespaces, cache = NamespaceCache(), deleted()
    namespaces.add_end_handler(cache.forget_former)
    for version in (1, 2, 3):
        namespaces.put_read(namespaces.transform(namespace("2", version)), float(version))
        namespaces.replace([namespaces.transform(namespace("2", version))])
    namespaces.delete(namespace("1", 1))  # the end of a former namespace, which is told late
    other = {"metadata": {"name": "other"}}
    namespaces.delete(other)
    assert revisions(cache) == {"value": "v1"}


def test_revisions_of_secrets_that_are_gone_are_bounded() -> None:
    cache, count = SecretCache(KEYED), former_secrets.MAX_FORMER + 10
    known = []
    for number in range(count):
        obj = bound_object(f"s{number}", "v1")
        cache.update(cache.transform(obj))
        cache.keep_values(later("uid", f"s{number}"), "1", VALUES)
        cache.delete(obj)
    for number in range(count):
        name = f"s{number}"
        keys = {version_key(ARN.format(name), "AWSCURRENT")}
        binding = binding_hash({SECRET_ID: f"prod/{name}"})
        known.append(cache.former.revisions(later(name=name), binding, keys, VALUES))
    assert (known[:10], known[10:]) == ([{}] * 10, [{"value": "v1"}] * former_secrets.MAX_FORMER)


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
    bodies = [json.dumps(large(number)) for number in range(25)]
    tracemalloc.start()
    try:
        for number, body in enumerate(bodies):
            obj = json.loads(body)
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
    for _ in range(2):  # twice, each time by a watch and by a list
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
