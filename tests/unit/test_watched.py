"""Watched Secrets: the revisions of their keys, what is kept on them, and which consumers are behind."""

import json
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyturn_receiver.cluster import watched_cache
from keyturn_receiver.cluster.record_key import RecordKey
from keyturn_receiver.cluster.watched_cache import SeenSecret, WatchedCache, WatchedSecret
from keyturn_receiver.core.binding import Target
from keyturn_receiver.core.consumer import Consumer, Reads, WorkloadRef
from keyturn_receiver.core.field_owners import WATCH_MANAGER
from keyturn_receiver.core.pod import Pod
from keyturn_receiver.core.revision import Record, digest
from keyturn_receiver.core.rollout import RolloutAnnotation, is_behind, rollout
from keyturn_receiver.core.rollout_switch import Switch
from keyturn_receiver.core.watched import MAX_KEPT, MAX_KEYS, WATCHED, Watched, judge, observe, write_kept
from keyturn_receiver.core.write_times import REMOVED, WriteTime, parse_time
from support.bindings import KEYED

DB = Target("team", "db")
T0, T1, T2, T3 = (f"2026-01-01T00:0{minute}:00Z" for minute in range(4))


def at(text: str) -> int:
    seconds = parse_time(text)
    assert seconds is not None
    return seconds


def secret(
    values: Mapping[str, str], written: str = T0, kept: tuple[str, str] | None = None, name: str = "db", **labels: str
) -> dict[str, Any]:
    """Return a Secret as a watch shows it. ``kept`` is Keyturn's annotation, and the time of its write."""
    fields: list[Any] = [{"manager": "their", "operation": "Update", "time": written, "fieldsV1": {"f:data": {}}}]
    annotations: dict[str, str] = {}
    if kept:
        annotations[WATCHED] = kept[0]
        fields.append({"manager": WATCH_MANAGER, "operation": "Apply", "time": kept[1], "fieldsV1": {}})
    return {
        "metadata": {
            "namespace": "team",
            "name": name,
            "uid": f"uid-{name}",
            "resourceVersion": "1",
            "labels": {"keyturn.dev/watch": "true", **labels},
            "annotations": annotations,
            "managedFields": fields,
        },
        "data": {key: b64encode(value.encode()).decode() for key, value in values.items()},
    }


def watched(obj: dict[str, Any], known: Watched | None = None, keyed: RecordKey = KEYED) -> Watched:
    return judge(observe(keyed, obj["metadata"], obj["data"]), known)


def keep(obj: dict[str, Any], when: str, known: Watched | None = None) -> tuple[str, str]:
    """Return the annotation that Keyturn writes on a Secret, and the time of that write."""
    return write_kept(KEYED, "team", obj["metadata"]["name"], watched(obj, known).record), when


def consumer(reads: Reads, mark: str | None = None, created: str | None = None) -> Consumer:
    marks = {"revision.keyturn.dev/db": mark} if mark else {}
    ref = WorkloadRef("Deployment", "team", "web")
    return Consumer(ref, "1", {"db": reads}, marks, {}, Switch.UNSET, created=at(created) if created else None)


def mark_of(
    reads: Reads, record: Record, mark: str | None = None, created: str | None = None
) -> RolloutAnnotation | None:
    return rollout(consumer(reads, mark, created), "db", record)


def is_restarted(reads: Reads, record: Record, mark: str | None, created: str) -> bool:
    """Return whether a consumer with this mark is restarted. Its only pod was created at the time ``created``."""
    due = mark_of(reads, record, mark, created)
    if due is None or not due.undecided:
        return bool(due and due.restart)
    return is_behind(Pod({"db": reads}, at(created)), "db", record, due, seen_late=False)


ALL, A, B = Reads(whole=True), Reads(keys=frozenset("a")), Reads(keys=frozenset("b"))


def test_revision_depends_on_secret_key_and_value_alone() -> None:
    record = watched(secret({"a": "1", "b": "1"})).record
    assert record.revisions["a"] != record.revisions["b"]
    assert record.revisions == watched(secret({"b": "1", "a": "1"}, T2)).record.revisions
    assert record.revisions["a"] != watched(secret({"a": "1"}, name="other")).record.revisions["a"]
    assert record.revisions["a"] != watched(secret({"a": "1"}), keyed=RecordKey(b"another")).record.revisions["a"]
    back = [watched(secret({"a": text})).record.revisions["a"] for text in ("1", "2", "1")]
    assert back[0] == back[2] != back[1]


@given(st.dictionaries(st.text("ab.", min_size=1, max_size=3), st.text(max_size=4), max_size=4), st.data())
def test_records_are_equal_if_and_only_if_the_data_is(values: dict[str, str], data: st.DataObject) -> None:
    other = data.draw(st.dictionaries(st.sampled_from([*values, "a", "b"]), st.text(max_size=2), max_size=4))
    first, second = (watched(secret(each)).record for each in (values, other))
    assert (first.revisions == second.revisions) == (values == other)


def test_secret_that_is_new_restarts_nobody() -> None:
    new = watched(secret({"a": "1"}, T2))
    assert (new.is_new, new.is_kept) == (True, False)
    mark = mark_of(A, new.record, created=T0)
    assert mark
    assert (mark.restart, mark.undecided) == (False, False)
    assert mark.value == new.record.mark_prefix + digest(new.record.revisions, "a")


def test_kept_secret_is_as_before_and_tells_no_change() -> None:
    obj = secret({"a": "1"}, kept=keep(secret({"a": "1"}), T1))
    now = watched(obj)
    assert (now.is_new, now.is_kept) == (False, True)
    assert (now.record.write_times, now.record.unknown_until) == ({}, at(T0))


def test_change_restarts_readers_of_the_key_alone() -> None:
    before = secret({"a": "1", "b": "1"})
    old = watched(before).record
    now = watched(secret({"a": "2", "b": "1"}, T2, keep(before, T1)))
    assert not now.is_kept
    marks = {name: mark_of(reads, old) for name, reads in {"a": A, "b": B, "all": ALL}.items()}
    for name, reads in {"a": A, "b": B, "all": ALL}.items():
        mark = marks[name]
        assert mark
        assert is_restarted(reads, now.record, mark.value, created=T1) == (name != "b")
        assert not is_restarted(reads, now.record, mark.value, created=T3)  # somebody else has restarted it


@pytest.mark.parametrize(("created", "undecided"), [(T0, True), (T2, False)])
def test_consumer_without_a_mark_is_decided_by_the_time_of_the_change(created: str, undecided: bool) -> None:
    before = secret({"a": "1", "b": "1"})
    now = secret({"a": "2", "b": "1"}, T1, keep(before, T0))
    for each in (now, secret({"a": "2", "b": "1"}, T1, keep(now, T2))):  # before the change is kept, and after
        mark = mark_of(A, watched(each).record, created=created)
        assert mark
        assert (mark.restart, mark.undecided) == (False, undecided)
        unchanged = mark_of(B, watched(each).record, created=T0)
        assert unchanged
        assert not unchanged.undecided


def test_change_is_not_older_than_what_was_kept_before_it() -> None:
    """The managed fields may tell too early a time, if somebody else wrote them."""
    now = watched(secret({"a": "2"}, T0, keep(secret({"a": "1"}), T1)))
    assert now.record.write_times["a"] == WriteTime(at(T1))


def test_unknown_time_of_a_change_is_that_of_the_next_write() -> None:
    obj = secret({"a": "2"}, kept=keep(secret({"a": "1"}), T1))
    obj["metadata"]["managedFields"] = []
    record = watched(obj).record
    assert record.write_times["a"] == WriteTime(None)
    text = write_kept(KEYED, "team", "db", record)
    assert watched(secret({"a": "2"}, kept=(text, T2))).record.write_times["a"] == WriteTime(at(T2))


def test_key_that_appears_and_key_that_goes() -> None:
    now = watched(secret({"a": "1", "c": "1"}, T2, keep(secret({"a": "1", "b": "1"}), T1))).record
    assert now.write_times == {"c": WriteTime(at(T2), appeared=True), REMOVED: WriteTime(at(T2))}
    optional = replace(B, optional=True, optional_keys=B.keys)
    old = mark_of(optional, watched(secret({"a": "1", "b": "1"})).record)
    assert old
    for record in (now, watched(secret({"a": "1"})).record):  # the latter is not kept: its owner removed the annotation
        assert is_restarted(optional, record, old.value, created=T0)
        gone = mark_of(optional, record, old.value)
        assert gone
        assert mark_of(optional, record, gone.value) is None
        assert mark_of(B, record, old.value) is None  # no container would start without the key


def test_required_key_that_goes_and_returns_restarts_pods_only_for_another_value() -> None:
    both = Reads(keys=frozenset("ab"))
    before = secret({"a": "1", "b": "1"})
    old = mark_of(both, watched(before).record)
    assert old
    gone = secret({"a": "1"}, T1, keep(before, T0))
    assert mark_of(both, watched(gone).record, old.value) is None
    same, other = (secret({"a": "1", "b": text}, T2, keep(gone, T1)) for text in ("1", "2"))
    assert mark_of(both, watched(same).record, old.value) is None
    assert is_restarted(both, watched(other).record, old.value, created=T0)
    assert not is_restarted(both, watched(other).record, old.value, created=T3)


def test_owner_that_removes_the_annotation_hides_no_change() -> None:
    known = watched(secret({"a": "1"}, kept=keep(secret({"a": "1"}), T1)))
    now = watched(secret({"a": "2"}, T2), known)
    assert (now.is_new, now.is_kept) == (False, False)
    assert now.record.write_times["a"] == WriteTime(at(T2))
    mark = mark_of(A, known.record)
    assert mark
    lost = watched(secret({"a": "2"}, T2))  # the process has died, too
    assert is_restarted(A, lost.record, mark.value, created=T1)
    assert not is_restarted(A, lost.record, mark.value, created=T3)
    assert not is_restarted(A, lost.record, None, created=T1)  # the Secret looks new
    # The process dies again, after it has written the annotation and before it writes the marks.
    again = watched(secret({"a": "2"}, T2, (write_kept(KEYED, "team", "db", lost.record), T3)))
    assert again.is_kept
    assert is_restarted(A, again.record, mark.value, created=T1)
    assert not is_restarted(A, again.record, None, created=T1)


def test_other_record_key_makes_marks_tell_nothing() -> None:
    obj = secret({"a": "1"}, T0, keep(secret({"a": "1"}), T1))
    old = mark_of(A, watched(obj).record)
    assert old
    now = watched(obj, watched(obj), RecordKey(b"another"))
    assert not now.is_kept
    mark = mark_of(A, now.record, old.value, created=T0)
    assert mark
    assert (mark.restart, mark.undecided) == (False, False)
    # Somebody has written the Secret since, and nothing tells what has changed. So the pods decide.
    later = watched(secret({"a": "1"}, T2, keep(secret({"a": "1"}), T1)), None, RecordKey(b"another"))
    mark = mark_of(A, later.record, old.value, created=T0)
    assert mark
    assert mark.undecided


def test_mark_of_a_binding_tells_nothing_about_a_watched_secret_and_the_reverse() -> None:
    record, bound = watched(secret({"a": "1"})).record, Record(revisions={"a": "v1"})
    of_watched, of_bound = mark_of(A, record), mark_of(A, bound)
    assert of_watched
    assert of_bound
    for other, mark in ((bound, of_watched), (record, of_bound)):
        made = mark_of(A, other, mark.value)
        assert made
        assert not made.restart


@pytest.mark.parametrize(
    "text", ["", "x", "[]", "{}", '{"hash":"x"}', '{"hash":null}', '{"a":"\\ud800"}', "[" * 100_000, "9" * 5000]
)
def test_annotation_of_somebody_else_counts_as_none(text: str) -> None:
    assert watched(secret({"a": "1"}, kept=(text, T1))).is_new
    known = watched(secret({"a": "1"}, kept=keep(secret({"a": "1"}), T1)))
    now = watched(secret({"a": "1"}, kept=(text, T1)), known)
    assert (now.is_new, now.is_kept) == (False, False)


def test_copied_annotation_counts_as_none() -> None:
    assert watched(secret({"a": "1"}, kept=keep(secret({"a": "1"}), T1), name="copy")).is_new


def test_annotation_has_no_value_and_no_plain_digest() -> None:
    text = write_kept(KEYED, "team", "db", watched(secret({"a": "hunter2"})).record)
    assert "hunter2" not in text
    assert b64encode(b"hunter2").decode() not in text
    assert set(json.loads(text)) == {"hash", "digest", "revisions", "changed-at", "unknown-until"}


def test_long_annotation_tells_of_all_keys_together() -> None:
    values = {f"{'k' * 40}-{number}": "1" for number in range(MAX_KEYS)}
    kept = keep(secret(values), T1)
    assert len(kept[0]) <= MAX_KEPT
    assert watched(secret(values, kept=kept)).is_kept
    changed = {**values, next(iter(values)): "2"}
    now = watched(secret(changed, T2, kept))
    assert set(now.record.write_times.values()) == {WriteTime(at(T2))}
    again = watched(secret(changed, T2, (write_kept(KEYED, "team", "db", now.record), T2)))
    assert again.is_kept
    assert again.record.write_times == now.record.write_times


# --- the cache


def cached(*objects: dict[str, Any]) -> tuple[WatchedCache, list[str], list[str]]:
    """Return a cache with these objects, the names of the Secrets that it reported, and the faults that it reported."""
    cache, told, faults = WatchedCache(KEYED), list[str](), list[str]()
    cache.add_handler(lambda target: told.append(target.name))
    cache.add_fault_handler(lambda seen: faults.append(seen.fault))
    for each in objects:
        cache.update(cache.transform(each))
    return cache, told, faults


def one(cache: WatchedCache) -> WatchedSecret:
    found = cache.get(DB)
    assert found
    return found


def test_same_values_written_again_are_not_told() -> None:
    first = secret({"a": "1"})
    again = secret({"a": "1"}, T2)
    again["metadata"]["resourceVersion"] = "2"
    cache, told, _ = cached(first, again, again)
    assert told == ["db"]
    assert one(cache).resource_version == "2"
    cache.update(cache.transform(secret({"a": "2"}, T2)))
    assert told == ["db", "db"]


def test_kept_annotation_is_told_once() -> None:
    cache, _, _ = cached(secret({"a": "1"}))
    followed: list[str] = []
    cache.add_kept_handler(lambda before: followed.append(before.resource_version))
    kept = secret({"a": "1"}, kept=keep(secret({"a": "1"}), T1))
    for _ in range(2):
        cache.update(cache.transform(kept))
    assert followed == ["1"]


def test_cache_holds_no_value() -> None:
    cache, _, _ = cached(secret({"a": "a-secret-value"}))
    assert b64encode(b"a-secret-value").decode() not in repr(one(cache))


@pytest.mark.parametrize(
    ("obj", "fault"),
    [
        (secret({"a": "1"}, **{"keyturn.dev/bind": "true"}), "has the label keyturn.dev/bind, too"),
        (secret({"a": "1"}, **{"keyturn.dev/watch": "True"}), 'label keyturn.dev/watch is "True": set it to "true"'),
        (secret({f"k{number}": "" for number in range(MAX_KEYS + 1)}), f"at most {MAX_KEYS} keys"),
    ],
)
def test_secret_that_is_not_watched_is_told_until_it_is(obj: dict[str, Any], fault: str) -> None:
    cache, told, faults = cached(obj)
    assert cache.get(DB) is None
    assert told == []
    assert fault in faults[-1]
    cache.update(cache.transform(secret({"a": "1"})))
    assert (told, faults[-1]) == (["db"], "")


@pytest.mark.parametrize("value", ["false", "no", "disabled"])
def test_label_that_says_no_means_no(value: str) -> None:
    cache, told, faults = cached(secret({"a": "1"}, **{"keyturn.dev/watch": value}))
    assert (len(cache), told, faults) == (0, [], [""])


def test_copy_by_another_controller_is_watched_although_it_is_never_bound() -> None:
    obj = secret({"a": "1"}, **{"keyturn.dev/bind": "true"})
    obj["metadata"]["annotations"]["reflector.v1.k8s.emberstack.com/reflects"] = "prod/db"
    cache, told, _ = cached(obj)
    assert told == ["db"]
    assert one(cache).target == DB


@pytest.mark.parametrize(
    ("annotations", "switch"),
    [
        ({}, Switch.UNSET),
        ({"keyturn.dev/rollout": "disabled"}, Switch.DISABLED),
        ({"keyturn.dev/rolout": "enabled"}, Switch.UNKNOWN),
        ({"keyturn.dev/rollout": "offf"}, Switch.UNKNOWN),
        ({"keyturn.dev/watch": "true"}, Switch.UNSET),
        ({"keyturn.dev/rollout-pace": "3", "keyturn.dev/rollout-resume": "5f0c9a1e"}, Switch.UNSET),
        ({"keyturn.dev/rollout-pace": "0"}, Switch.UNKNOWN),
    ],
)
def test_annotation_that_is_not_understood_forbids_restarts(annotations: dict[str, str], switch: Switch) -> None:
    obj = secret({"a": "1"})
    obj["metadata"]["annotations"] = annotations
    spec = one(cached(obj)[0]).spec
    assert spec.switch is switch
    assert bool(spec.rollout_faults) == (switch is Switch.UNKNOWN)
    if "keyturn.dev/rollout-resume" in annotations:
        assert (spec.pace, spec.resume) == (3, "5f0c9a1e")


def test_list_removes_what_is_gone_and_label_that_goes_removes_too() -> None:
    cache, told, _ = cached(secret({"a": "1"}), secret({"a": "1"}, name="other"))
    cache.replace([cache.transform(secret({"a": "1"}))], None)
    assert [each.target.name for each in cache.all()] == ["db"]
    unlabelled = secret({"a": "1"})
    unlabelled["metadata"]["labels"] = {}
    cache.update(cache.transform(unlabelled))
    assert (len(cache), told) == (0, ["db", "other", "other", "db"])
    assert cache.judge(unlabelled) is None


def test_secrets_of_one_namespace_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watched_cache, "MAX_SIZE", 30)
    big = {f"k{number}": "1" for number in range(20)}
    cache, _, faults = cached(secret(big), secret(big, name="more"))
    assert cache.get(Target("team", "more")) is None
    assert "have more than" in faults[-1]
    cache.delete(secret(big))
    cache.update(cache.transform(secret(big, name="more")))
    assert cache.get(Target("team", "more"))


def test_secret_that_is_made_anew_under_its_name_is_new() -> None:
    cache, _, _ = cached(secret({"a": "1"}, kept=keep(secret({"a": "1"}), T1)))
    anew = secret({"a": "2"}, T2)
    anew["metadata"]["uid"] = "another"
    item = cache.transform(anew)
    assert isinstance(item, SeenSecret)
    cache.update(item)
    assert one(cache).watched.is_new
