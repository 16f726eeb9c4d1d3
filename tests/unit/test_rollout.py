"""Rollout decision: which workloads read a Secret, and which of these are restarted."""

from dataclasses import replace
from typing import Any

import pytest

from keyturn_receiver.core.binding import read_spec
from keyturn_receiver.core.consumer import (
    MAX_MARK,
    MAX_REFERENCES,
    Consumer,
    Reads,
    WorkloadRef,
    former_mark_name,
    mark_name,
    named_secrets,
    read_consumer,
)
from keyturn_receiver.core.mark import present_mark
from keyturn_receiver.core.pod import Pod, read_pod
from keyturn_receiver.core.reloader import ReloaderMode
from keyturn_receiver.core.revision import Record, digest
from keyturn_receiver.core.rollout import (
    START_SECONDS,
    RolloutAnnotation,
    baseline,
    is_behind,
    is_waiting,
    lacks_keys,
    next_unsettled,
    rollout,
)
from keyturn_receiver.core.rollout_switch import Switch
from keyturn_receiver.core.workload_kinds import WORKLOAD_KINDS, WorkloadKind
from keyturn_receiver.core.write_times import WriteTime
from support.counted_map import CountedMap

WHOLE = Reads(whole=True)
OPTIONAL_A = Reads(keys=frozenset("a"), optional=True, optional_keys=frozenset("a"))
MARK = "revision.keyturn.dev/db"


def consumer(pod: dict[str, Any], marks: dict[str, str] | None = None, own: dict[str, str] | None = None) -> Consumer:
    workload = read_consumer(
        WORKLOAD_KINDS["Deployment"],
        {
            "metadata": {"namespace": "team", "name": "web", "resourceVersion": "1", "annotations": own},
            "spec": {"template": {"metadata": {"annotations": marks}, "spec": pod}},
        },
    )
    assert workload is not None
    return workload


def record(revisions: dict[str, str], **times: WriteTime) -> Record:
    return Record(revisions=revisions, write_times=times)


def key_ref(key: str, **more: bool) -> dict[str, Any]:
    return {"env": [{"name": "X", "valueFrom": {"secretKeyRef": {"name": "db", "key": key, **more}}}]}


@pytest.mark.parametrize(
    ("pod", "reads"),
    [
        ({"containers": [{"envFrom": [{"secretRef": {"name": "db"}}]}]}, WHOLE),
        ({"initContainers": [{"envFrom": [{"secretRef": {"name": "db"}}]}]}, WHOLE),
        ({"containers": [key_ref("a"), key_ref("b")]}, Reads(keys=frozenset("ab"))),
        ({"volumes": [{"secret": {"secretName": "db"}}]}, WHOLE),
        ({"volumes": [{"secret": {"secretName": "db", "items": [{"key": "a"}]}}]}, Reads(keys=frozenset("a"))),
        ({"volumes": [{"projected": {"sources": [{"secret": {"name": "db"}}]}}]}, WHOLE),
        (
            {"volumes": [{"projected": {"sources": [{"secret": {"name": "db", "items": [{"key": "a"}]}}]}}]},
            Reads(keys=frozenset("a")),
        ),
        (
            {"containers": [key_ref("a", optional=True)]},
            OPTIONAL_A,
        ),
        (
            {"volumes": [{"secret": {"secretName": "db", "items": [{"key": "a"}], "optional": True}}]},
            OPTIONAL_A,
        ),
        # A sidecar is an init container that keeps running.
        ({"initContainers": [{"restartPolicy": "Always", **key_ref("a")}]}, Reads(keys=frozenset("a"))),
        (
            {"initContainers": [key_ref("a")], "containers": [key_ref("b"), key_ref("c", optional=True)]},
            Reads(keys=frozenset("abc"), optional=True, optional_keys=frozenset("c")),
        ),
        # A container needs the key, although another one starts without it.
        ({"containers": [key_ref("a"), key_ref("a", optional=True)]}, Reads(keys=frozenset("a"), optional=True)),
        ({"containers": [{"envFrom": [{"secretRef": {"name": "db", "optional": True}, "prefix": "P_"}]}]}, WHOLE),
        (
            {"volumes": [{"projected": {"sources": [{"configMap": {"name": "x"}}, {"secret": {"name": "db"}}]}}]},
            WHOLE,
        ),
        ({"containers": [key_ref("a"), {"envFrom": [{"secretRef": {"name": "db"}}]}]}, Reads(True, frozenset("a"))),
    ],
)
def test_every_way_to_read_a_secret_is_recognized(pod: dict[str, Any], reads: Reads) -> None:
    assert consumer(pod).reads == {"db": reads}


@pytest.mark.parametrize(
    "pod",
    [
        {"imagePullSecrets": [{"name": "db"}]},  # the kubelet reads it, at the next pull
        {"ephemeralContainers": [{"envFrom": [{"secretRef": {"name": "db"}}]}]},  # a restart removes it
        {"volumes": [{"azureFile": {"secretName": "db"}}, {"csi": {"nodePublishSecretRef": {"name": "db"}}}]},
    ],
)
def test_secret_that_no_process_of_the_pod_reads_is_not_read(pod: dict[str, Any]) -> None:
    assert consumer({**pod, "containers": [{"envFrom": [{"secretRef": {"name": "other"}}]}]}).reads == {"other": WHOLE}
    owner = {"apiVersion": "apps/v1", "controller": True, "kind": "ReplicaSet", "name": "web-1"}
    metadata = {"ownerReferences": [owner], "labels": {"pod-template-hash": "1"}}
    read = read_pod({"metadata": metadata, "spec": pod}, WorkloadRef("Deployment", "t", "web"), "")
    assert read is not None
    assert read.reads == {}


@pytest.mark.parametrize("names", ["db,cache", " db , cache ,", "db\ncache", "db db cache"])
def test_annotation_names_the_secrets_that_are_read_otherwise(names: str) -> None:
    both = {"db": WHOLE, "cache": WHOLE}
    annotation = {"keyturn.dev/reads": names}
    assert consumer({}, own=annotation).reads == both
    assert consumer({}, marks=annotation).reads == both
    assert consumer(READS_A, own=annotation).reads == {"db": Reads(True, frozenset("a")), "cache": WHOLE}
    # A registry's credentials restart a workload if its annotation names them.
    pulls = consumer({"imagePullSecrets": [{"name": "registry"}]}, own={"keyturn.dev/reads": "registry"})
    assert pulls.reads == {"registry": WHOLE}
    mark = rollout(consumer({}, own={**annotation, MARK: "older"}), "db", record({"a": "v2"}), record({"a": "v1"}))
    assert mark is not None
    assert mark.restart


def test_pods_have_read_the_secrets_that_either_annotation_names() -> None:
    workload = {
        "metadata": {"annotations": {"keyturn.dev/reads": "db"}},
        "spec": {"template": {"metadata": {"annotations": {"keyturn.dev/reads": "cache"}}}},
    }
    named = named_secrets(WORKLOAD_KINDS["Deployment"], workload, ReloaderMode.ABSENT)
    metadata = {
        "creationTimestamp": "1970-01-01T00:16:40Z",
        "ownerReferences": [{"apiVersion": "apps/v1", "controller": True, "kind": "ReplicaSet", "name": "web-1"}],
        "labels": {"pod-template-hash": "1"},
    }
    pod = read_pod({"metadata": metadata, "spec": {}}, WorkloadRef("Deployment", "t", "web"), "", named)
    assert pod == Pod({"db": WHOLE, "cache": WHOLE}, WRITTEN)


@pytest.mark.parametrize("name", ["DB", "team/db", "db;cache", "-db", "x" * 254])
def test_name_that_no_secret_has_is_told_and_forbids_restarts(name: str) -> None:
    annotation = {"keyturn.dev/reads": f"cache, {name}"}
    for made in (consumer({}, own=annotation), consumer({}, marks=annotation)):
        assert made.switch is Switch.UNKNOWN
        assert made.reads == {"cache": WHOLE}  # a text that is no name takes no memory
        (told,) = made.faults
        assert told.startswith(f'annotation keyturn.dev/reads: "{name[:80]}" is not the name of a Secret: write names')


@pytest.mark.parametrize("names", ["", " , \n"])
def test_annotation_that_names_nothing_is_told(names: str) -> None:
    """An annotation that seems empty may be too long, because the client for Kubernetes replaces strings of more than
    4096 bytes by empty ones."""
    made = consumer(ENV_FROM, own={"keyturn.dev/reads": names})
    assert made.faults == (
        "annotation keyturn.dev/reads names no Secret, or is too long: write names of Secrets in this namespace,"
        " separated by commas",
    )


def test_workload_with_nothing_but_a_fault_is_kept_so_that_it_is_told() -> None:
    """A misspelt annotation would otherwise hide that its workload was meant to read a Secret."""
    made = consumer({}, own={"keyturn.dev/read": "db"})
    assert made.reads == {}
    assert made.faults == ("annotation keyturn.dev/read is not known: did you mean keyturn.dev/reads?",)
    assert rollout(made, "db", record({"a": "v1"})) is None
    assert made.size == 1


def test_names_beyond_the_limit_do_not_count() -> None:
    many = ",".join(f"s{number}" for number in range(2 * MAX_REFERENCES))
    assert len(consumer(ENV_FROM, own={"keyturn.dev/reads": many}).reads) == MAX_REFERENCES


def test_keys_of_thousands_of_references_are_joined_in_linear_time() -> None:
    pod = {"containers": [key_ref(f"k{number}") for number in range(2 * MAX_REFERENCES)]}
    assert consumer(pod).reads == {"db": Reads(keys=frozenset(f"k{n}" for n in range(MAX_REFERENCES)))}


def test_volume_with_more_items_than_are_kept_reads_the_whole_secret() -> None:
    items = [{"key": f"k{number}"} for number in range(MAX_REFERENCES + 1)]
    assert consumer({"volumes": [{"secret": {"secretName": "db", "items": items}}]}).reads == {"db": WHOLE}


def test_workload_that_reads_no_secret_is_no_consumer() -> None:
    metadata = {"namespace": "team", "name": "web", "resourceVersion": "1"}
    pod = {"containers": [{"envFrom": [{"configMapRef": {"name": "db"}}]}], "volumes": [{"emptyDir": {}}]}
    assert (
        read_consumer(WORKLOAD_KINDS["Deployment"], {"metadata": metadata, "spec": {"template": {"spec": pod}}}) is None
    )


def test_pod_template_is_read_from_where_the_kind_has_it() -> None:
    kind = WorkloadKind("CronJob", "batch/v1", "cronjobs", template=("spec", "jobTemplate", "spec", "template"))
    workload = {
        "metadata": {"namespace": "team", "name": "nightly", "resourceVersion": "1"},
        "spec": {"jobTemplate": {"spec": {"template": {"metadata": {"annotations": {MARK: "v1"}}, "spec": ENV_FROM}}}},
    }
    parsed = read_consumer(kind, workload)
    assert parsed is not None
    assert parsed.reads == {"db": WHOLE}
    assert parsed.marks == {MARK: "v1"}
    assert read_consumer(kind, {**workload, "spec": {"template": {"spec": ENV_FROM}}}) is None


ENV_FROM = {"containers": [{"envFrom": [{"secretRef": {"name": "db"}}]}]}
READS_A = {"containers": [key_ref("a")]}


def test_consumer_without_a_mark_gets_a_baseline_and_no_restart() -> None:
    mark = rollout(consumer(ENV_FROM), "db", record({"a": "v1"}))
    assert mark is not None
    assert not mark.restart


def test_consumer_with_a_baseline_restarts_when_a_revision_changes() -> None:
    mark = baseline(consumer(ENV_FROM), "db", record({"a": "v1"}), record({"a": "v2", "b": "v1"}))
    assert mark is not None
    marked = consumer(ENV_FROM, own={MARK: mark.value})
    assert baseline(marked, "db", record({"a": "v1"}), record({"a": "v2"})) is None
    assert rollout(marked, "db", record({"a": "v1"})) is None
    restarted = rollout(marked, "db", record({"a": "v2"}), record({"a": "v1"}))
    assert restarted is not None
    assert restarted.restart
    # Without the former record, nothing tells whether the pods have been replaced since. So the pods decide.
    later = rollout(marked, "db", record({"a": "v2"}))
    assert later is not None
    assert (later.restart, later.undecided) == (False, True)


def test_same_change_gives_the_same_mark_and_no_second_restart() -> None:
    marked = consumer(ENV_FROM, own={MARK: "older"})
    first, second = (rollout(marked, "db", record({"a": "v2", "b": "v1"})) for _ in range(2))
    assert first == second
    assert first is not None
    assert rollout(consumer(ENV_FROM, marks={MARK: first.value}), "db", record({"a": "v2", "b": "v1"})) is None


def test_change_of_an_unread_key_restarts_nothing() -> None:
    mark = baseline(consumer(READS_A), "db", record({"a": "v1", "b": "v1"}), record({"a": "v2", "b": "v1"}))
    assert mark is not None
    marked = consumer(READS_A, own={MARK: mark.value})
    before = record({"a": "v1", "b": "v1"})
    assert rollout(marked, "db", record({"a": "v1", "b": "v2"}), before) is None
    complete = replace(marked, progress=None)
    assert rollout(complete, "db", record({"a": "v2", "b": "v2"}), before) == RolloutAnnotation(
        MARK, digest({"a": "v2"}, ["a"]), restart=True, marked=True
    )
    # A consumer that is behind for another reason is not restarted by a write that does not concern it.
    older = rollout(consumer(READS_A, own={MARK: "older"}), "db", record({"a": "v1", "b": "v2"}), before)
    assert older is not None
    assert (older.restart, older.undecided) == (False, True)


def test_consumer_of_unmanaged_keys_gets_no_mark() -> None:
    assert rollout(consumer(READS_A), "db", record({"b": "v1"})) is None


def test_settled_mark_takes_precedence_over_the_one_on_the_template() -> None:
    """A manifest may keep an old mark on the template forever. The mark on the workload tells that the pods are new."""
    mark = rollout(consumer(ENV_FROM), "db", record({"a": "v2"}))
    assert mark is not None
    assert rollout(consumer(ENV_FROM, marks={MARK: "older"}, own={MARK: mark.value}), "db", record({"a": "v2"})) is None
    assert rollout(consumer(ENV_FROM, marks={MARK: mark.value}, own={MARK: "older"}), "db", record({"a": "v2"}))
    assert rollout(consumer(ENV_FROM, marks={MARK: mark.value}), "db", record({"a": "v2"})) is None


def test_long_secret_names_give_valid_and_different_mark_names() -> None:
    names = {mark_name("a" * 253), mark_name("a" * 252 + "b"), mark_name("a" * 63)}
    assert len(names) == 3
    assert all(len(name.partition("/")[2]) <= 63 for name in names)


def test_marks_of_secrets_that_the_pods_do_not_read_are_not_kept() -> None:
    """An object can have ten thousand annotations with the names of marks, which would take 3 MiB."""
    long = "a" * 80
    reads = {"containers": [{"envFrom": [{"secretRef": {"name": name}} for name in ("db", long)]}]}
    real = {MARK: "v1", mark_name(long): "v2", former_mark_name(long) or "": "v3"}
    many = {f"revision.keyturn.dev/{number}": "x" for number in range(10_000)}
    made = consumer(reads, marks={**many, **real}, own={**real, **many})
    assert (made.marks, made.baseline) == (real, real)


def test_mark_that_is_no_digest_is_cut_and_still_restarts() -> None:
    up_to_date = rollout(consumer(ENV_FROM), "db", record({"a": "v1"}))
    assert up_to_date
    made = consumer(ENV_FROM, own={MARK: up_to_date.value + "x" * 4000})
    assert len(made.baseline[MARK]) == MAX_MARK > len(up_to_date.value)
    restart = rollout(made, "db", record({"a": "v1"}), record({"a": "v0"}))
    assert restart
    assert restart.restart


def test_names_and_keys_that_no_secret_can_have_are_not_kept() -> None:
    name, key = "n" * 60_000, "k" * 20_000
    volumes: list[dict[str, Any]] = [
        {"secret": {"secretName": name}},
        {"secret": {"secretName": "db", "items": [{"key": "a"}, {"key": key}]}},
    ]
    containers = [{"envFrom": [{"secretRef": {"name": name}}]}, key_ref("b"), key_ref(key)]
    made = consumer({"volumes": volumes, "containers": containers})
    assert made.reads == {"db": Reads(keys=frozenset("ab"))}


def test_faults_count_by_their_length() -> None:
    """A workload whose pods read one key can have 5 KiB of faults."""
    wrong = {f"keyturn.dev/{'x' * 40}{number}": "" for number in range(60)}
    made = consumer(READS_A, own=wrong)
    characters = sum(map(len, made.faults))
    assert characters > 1000
    assert made.size == 2 + characters // 100


def test_two_secrets_never_share_a_mark() -> None:
    """Formerly, a Secret could have the very name to which a longer name was shortened."""
    long = "a" * 80
    twin = (former_mark_name(long) or "").partition("/")[2]
    assert len(twin) == 63
    assert mark_name(long) != mark_name(twin)
    assert "_" in mark_name(long)  # no name of a Secret has an underscore
    assert former_mark_name(twin) is None


def test_mark_of_release_0_2_is_read_so_that_the_upgrade_restarts_nobody() -> None:
    long = "a" * 80
    reads = {"containers": [{"envFrom": [{"secretRef": {"name": long}}]}]}
    made = rollout(consumer(reads), long, record({"a": "v1"}))
    assert made is not None
    former = former_mark_name(long)
    assert former is not None
    for marked in (consumer(reads, marks={former: made.value}), consumer(reads, own={former: made.value})):
        assert rollout(marked, long, record({"a": "v1"})) is None
        changed = rollout(marked, long, record({"a": "v2"}), record({"a": "v1"}))
        assert changed is not None
        assert (changed.name, changed.restart) == (mark_name(long), True)


WRITTEN = 1_000  # the second of the last write
UNMARKED = RolloutAnnotation(MARK, "present", restart=False, undecided=True)
MARKED = replace(UNMARKED, marked=True)


def created(
    at: int | None, pod: dict[str, Any] = ENV_FROM, late: bool = False, marks: dict[str, str] | None = None
) -> Consumer:
    return replace(consumer(pod, marks), created=at, seen_late=late)


@pytest.mark.parametrize(
    ("at", "late", "undecided", "behind"),
    [
        (WRITTEN - 1, False, True, True),
        (WRITTEN, False, False, False),  # a watch showed the workload at once, and its pods take longer to start
        (WRITTEN, True, True, True),
        (WRITTEN + 1, True, False, False),
        (None, True, False, False),
    ],
)
def test_consumer_without_a_mark_is_undecided_if_it_is_older_than_the_last_write(
    at: int | None, late: bool, undecided: bool, behind: bool
) -> None:
    written = record({"a": "v2"}, a=WriteTime(WRITTEN))
    mark = rollout(created(at, late=late), "db", written)
    assert mark is not None
    assert (mark.restart, mark.undecided) == (False, undecided)
    # A workload that this replica saw late may have the pods of a former one with its name.
    assert mark.may_have_adopted is (late and at == WRITTEN + 1)
    if at is not None:
        assert is_behind(Pod({"db": WHOLE}, at), "db", written, UNMARKED, late) is behind


def test_times_of_keys_that_a_pod_does_not_read_do_not_matter() -> None:
    written = record({"a": "v1", "b": "v2"}, a=WriteTime(WRITTEN - 100), b=WriteTime(WRITTEN))
    old = WRITTEN - 50
    mark = rollout(created(old, READS_A), "db", written)
    assert mark is not None
    assert not mark.undecided
    assert not is_behind(Pod({"db": Reads(keys=frozenset("a"))}, old), "db", written, UNMARKED, False)
    assert not is_behind(Pod({"other": WHOLE}, old), "db", written, UNMARKED, False)
    assert is_behind(Pod({"db": WHOLE}, old), "db", written, UNMARKED, False)


def test_removed_key_concerns_those_that_read_every_key() -> None:
    written = record({"a": "v1"}, **{"": WriteTime(WRITTEN)})
    assert is_behind(Pod({"db": WHOLE}, WRITTEN - 1), "db", written, UNMARKED, False)
    assert not is_behind(Pod({"db": Reads(keys=frozenset("a"))}, WRITTEN - 1), "db", written, UNMARKED, False)


def test_key_that_appeared_leaves_behind_only_pods_that_may_have_started_without_it() -> None:
    written = record({"a": "v1"}, a=WriteTime(WRITTEN, appeared=True))
    early, just_before = WRITTEN - START_SECONDS - 1, WRITTEN - START_SECONDS
    needs, optional = (
        Reads(keys=frozenset("a")),
        OPTIONAL_A,
    )
    assert not is_behind(Pod({"db": needs}, early), "db", written, UNMARKED, False)
    for reads in (WHOLE, optional):
        assert is_behind(Pod({"db": reads}, early), "db", written, UNMARKED, False)
        assert not is_behind(Pod({"db": reads}, just_before), "db", written, UNMARKED, False)


@pytest.mark.parametrize(
    "reads",
    [WHOLE, OPTIONAL_A],
    ids=["all keys", "optional key"],
)
def test_pod_that_is_known_to_run_without_the_key_is_behind_however_young_it_is(reads: Reads) -> None:
    written = record({"a": "v1"}, a=WriteTime(WRITTEN, appeared=True))
    for started, behind in ((WRITTEN - 1, True), (WRITTEN, False), (WRITTEN + 1, False)):
        pod = Pod({"db": reads}, WRITTEN - 1, started={"db": started})
        assert is_behind(pod, "db", written, UNMARKED, False) is behind
    young = rollout(replace(created(WRITTEN - 1), reads={"db": reads}), "db", written)
    assert young is not None
    assert young.undecided  # so the pods are read


@pytest.mark.parametrize(
    "reads",
    [WHOLE, OPTIONAL_A],
    ids=["all keys", "optional key"],
)
def test_pod_of_a_marked_consumer_may_have_started_at_once_without_the_key(reads: Reads) -> None:
    """The key goes and comes back within a second. The reconcile that restarts is not the one that wrote the key."""
    written = record({"a": "v3"}, a=WriteTime(WRITTEN, appeared=True))
    for age, behind in ((1, True), (0, True), (-1, False)):
        assert is_behind(Pod({"db": reads}, WRITTEN - age), "db", written, MARKED, False) is behind


def test_optional_key_that_is_gone_restarts_those_who_read_nothing_else() -> None:
    optional = {"containers": [key_ref("a", optional=True)]}
    marked = {MARK: digest({"a": "v1"}, ["a"])}
    gone = record({"b": "v1"}, **{"": WriteTime(WRITTEN)})
    before = record({"a": "v1", "b": "v1"})
    mark = rollout(consumer(optional, marked), "db", gone, before)
    assert mark is not None
    assert mark.restart
    # If the first reconcile has not restarted the consumer, its pods decide, as they do for other changes.
    undecided = rollout(created(WRITTEN - 1, optional, marks=marked), "db", gone)
    assert undecided is not None
    assert undecided.undecided
    reads = {"db": OPTIONAL_A}
    assert is_behind(Pod(reads, WRITTEN - 1), "db", gone, undecided, False)
    assert not is_behind(Pod(reads, WRITTEN + 1), "db", gone, undecided, False)
    restarted = consumer(optional, {MARK: mark.value})
    assert rollout(restarted, "db", gone) is None
    back = rollout(restarted, "db", record({"a": "v3", "b": "v1"}), gone)
    assert back is not None
    assert back.restart
    # If the key is not optional, the pods are kept, because they would not start again without the key.
    assert rollout(consumer(READS_A, marked), "db", gone) is None
    # No mark is due if the consumer has never had one, if Keyturn has never removed a key, or if the Secret has no
    # record.
    assert rollout(consumer(optional), "db", gone) is None
    assert rollout(consumer(optional, marked), "db", record({"b": "v1"})) is None
    assert rollout(consumer(optional, marked), "db", Record()) is None


def test_workload_that_waits_for_a_key_needs_no_restart_when_it_comes() -> None:
    """The Secret comes after its Deployment: a first installation in any order restarts nothing."""
    filled = record({"a": "v1"}, a=WriteTime(None, appeared=True))
    assert baseline(consumer(READS_A), "db", record({"a": "-"}), filled) is None
    mark = rollout(created(1, READS_A), "db", filled)
    assert mark is not None
    assert (mark.restart, mark.undecided) == (False, False)
    # Containers that start without the key have to be restarted.
    assert baseline(consumer(ENV_FROM), "db", record({"a": "-"}), filled) is not None
    assert (
        baseline(consumer({"containers": [key_ref("a", optional=True)]}), "db", record({"a": "-"}), filled) is not None
    )


def test_write_that_changes_nothing_for_a_consumer_gives_it_no_baseline() -> None:
    """Its pods may be behind already, which a baseline would hide."""
    written = record({"a": "v2", "b": "v3"}, b=WriteTime(None))
    assert baseline(consumer(READS_A), "db", record({"a": "v2", "b": "v2"}), written) is None


def test_write_of_this_very_moment_is_later_than_every_pod() -> None:
    written = record({"a": "v2"}, a=WriteTime(None))
    mark = rollout(created(WRITTEN), "db", written)
    assert mark is not None
    assert mark.undecided
    assert is_behind(Pod({"db": WHOLE}, WRITTEN), "db", written, UNMARKED, False)


OF_WEB = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-5d8f"}
HASH = {"pod-template-hash": "5d8f"}


@pytest.mark.parametrize(
    ("owner", "more", "belongs"),
    [
        (OF_WEB, {"labels": HASH}, True),
        ({**OF_WEB, "name": "other-5d8f"}, {"labels": HASH}, False),
        # The names of other workloads begin with the same word.
        ({**OF_WEB, "name": "web-canary-5d8f"}, {"labels": HASH}, False),
        ({**OF_WEB, "name": "web-canary-5d8f"}, {"labels": {"pod-template-hash": "canary-5d8f"}}, True),
        (OF_WEB, {"labels": {"pod-template-hash": "8f"}}, False),
        # A ReplicaSet that nobody made for the Deployment, and one of an Argo Rollout with the same name.
        (OF_WEB, {}, False),
        (OF_WEB, {"labels": {"rollouts-pod-template-hash": "5d8f"}}, False),
        ({**OF_WEB, "apiVersion": "example.com/v1"}, {"labels": HASH}, False),
        ({"kind": "StatefulSet", "name": "web", "uid": "of web"}, {}, True),
        ({"kind": "StatefulSet", "name": "web", "uid": "of another"}, {}, False),
        (OF_WEB, {"labels": HASH, "deletionTimestamp": "2026-11-28T22:00:00Z"}, False),
    ],
)
def test_pods_of_the_workload_that_are_not_ending_count(
    owner: dict[str, Any], more: dict[str, Any], belongs: bool
) -> None:
    metadata = {"creationTimestamp": "1970-01-01T00:16:40Z", "ownerReferences": [{"controller": True, **owner}], **more}
    ref = WorkloadRef("Deployment", "team", "web")
    pod = read_pod({"metadata": metadata, "spec": ENV_FROM}, ref, "of web")
    assert pod == (Pod({"db": WHOLE}, WRITTEN) if belongs else None)
    for phase in ("Succeeded", "Failed"):
        assert read_pod({"metadata": metadata, "spec": ENV_FROM, "status": {"phase": phase}}, ref, "of web") is None


@pytest.mark.parametrize(
    ("kind", "label", "belongs"),
    [
        ("Deployment", "pod-template-hash", True),
        ("Rollout", "rollouts-pod-template-hash", True),
        ("Rollout", "pod-template-hash", False),
        ("StatefulSet", "pod-template-hash", False),
        ("DaemonSet", "rollouts-pod-template-hash", False),
    ],
)
def test_label_of_the_pods_tells_the_kind_whose_replica_set_they_have(kind: str, label: str, belongs: bool) -> None:
    metadata = {"ownerReferences": [{**OF_WEB, "controller": True}], "labels": {label: "5d8f"}}
    made = {"metadata": metadata, "spec": ENV_FROM}
    assert bool(read_pod(made, WorkloadRef(kind, "team", "web"), "of web")) is belongs


def test_name_that_was_cut_in_the_name_of_the_replica_set_is_recognized() -> None:
    name = "w" * 250
    owner = {**OF_WEB, "controller": True, "name": f"{name[:248]}-5d8f"}
    made = {"metadata": {"ownerReferences": [owner], "labels": HASH}, "spec": ENV_FROM}
    for workload, belongs in ((name, True), (name[:248], True), (name[:247], False), ("x" * 250, False)):
        assert bool(read_pod(made, WorkloadRef("Deployment", "team", workload), "u")) is belongs
    owner["name"] = f"{name[:247]}-5d8f"
    assert read_pod(made, WorkloadRef("Deployment", "team", name), "u") is None


@pytest.mark.parametrize(
    ("value", "disabled", "understood"),
    [
        (None, False, True),
        ("enabled", False, True),
        ("disabled", True, True),
        (" disabled\n", True, True),
        ("false", True, False),
        ("Disabled", True, False),
        ("true", True, False),
        ("", True, False),
    ],
)
def test_value_that_is_not_understood_restarts_nobody_and_is_told(
    value: str | None, disabled: bool, understood: bool
) -> None:
    annotations = {} if value is None else {"keyturn.dev/rollout": value}
    made = consumer(ENV_FROM, own=annotations)
    assert (made.switch in (Switch.DISABLED, Switch.UNKNOWN)) is disabled
    spec = read_spec(annotations)
    assert spec.switch is made.switch
    for faults in (made.faults, spec.rollout_faults):
        assert bool(faults) is not understood
        assert all("write enabled or disabled" in fault for fault in faults)
    assert spec.faults == ()  # the Secret is filled nevertheless


@pytest.mark.parametrize("pod", [ENV_FROM, READS_A], ids=["all keys", "one key"])
@pytest.mark.parametrize("marks", [{}, {MARK: "older"}], ids=["unmarked", "marked"])
def test_keys_of_a_secret_are_not_looked_at_again_for_each_consumer(pod: dict[str, Any], marks: dict[str, str]) -> None:
    """A tenant may have thousands of keys and consumers, and the event loop waits for the comparison."""
    keys = ["a", *(f"key-{number}" for number in range(3500))]
    old, new = (CountedMap(dict.fromkeys(keys, version)) for version in ("v1", "v2"))
    times = CountedMap({key: WriteTime(WRITTEN, appeared=key != "a") for key in keys})
    before, after = Record(revisions=old), Record(revisions=new, write_times=times)
    young = replace(consumer(pod, marks), created=WRITTEN + 1)
    for _ in range(1000):
        assert rollout(young, "db", after)
        baseline(young, "db", before, after)
        assert not is_behind(Pod(young.reads, WRITTEN + 1), "db", after, UNMARKED, False)
    assert max(each.looks for each in (old, new, times)) < 5 * len(keys)


BOTH = {"containers": [key_ref("a"), key_ref("b")]}
OPTIONAL_POD = {"containers": [key_ref("a", optional=True), key_ref("b", optional=True)]}
BEFORE = record({"a": "v1", "b": "v1"}, a=WriteTime(1), b=WriteTime(1))
GONE = record({"a": "v1"}, a=WriteTime(1), **{"": WriteTime(WRITTEN)})
GONE_AND_CHANGED = record({"a": "v2"}, a=WriteTime(WRITTEN), **{"": WriteTime(WRITTEN)})
READ_BOTH = digest({"a": "v1", "b": "v1"}, "ab")
ENV_FROM_AND_B = {"containers": [key_ref("b"), *ENV_FROM["containers"]]}


@pytest.mark.parametrize("after", [GONE, GONE_AND_CHANGED], ids=["one goes", "one goes and one changes"])
@pytest.mark.parametrize("evicts", [False, True])
@pytest.mark.parametrize("on_template", [False, True])
def test_workload_that_misses_one_of_two_required_keys_keeps_its_pods(
    after: Record, evicts: bool, on_template: bool
) -> None:
    mark = {MARK: READ_BOTH}
    made = replace(consumer(BOTH, mark if on_template else None, None if on_template else mark), evicts=evicts)
    assert rollout(made, "db", BEFORE) is None
    assert not lacks_keys(made, "db", BEFORE)
    for before in (BEFORE, None):
        assert rollout(made, "db", after, before) is None
    assert lacks_keys(made, "db", after)
    assert present_mark(made, "db", after) is None  # so the version is not reported as live


@pytest.mark.parametrize("pod", [BOTH, ENV_FROM_AND_B], ids=["two keys", "all keys and one"])
def test_baseline_of_a_workload_that_was_never_marked_tells_what_it_read_before_the_key_went(
    pod: dict[str, Any],
) -> None:
    made = baseline(consumer(pod), "db", BEFORE, GONE)
    assert made
    assert made.value == READ_BOTH
    assert rollout(consumer(pod, own={MARK: made.value}), "db", GONE, BEFORE) is None
    assert rollout(consumer(pod), "db", GONE) is None
    assert lacks_keys(consumer(pod), "db", GONE)


@pytest.mark.parametrize("gone", [GONE, GONE_AND_CHANGED], ids=["one goes", "one goes and one changes"])
def test_required_key_that_returns_with_another_value_restarts_the_pods_that_were_kept(gone: Record) -> None:
    kept = replace(consumer(BOTH, own={MARK: READ_BOTH}), created=1)
    back = replace(
        gone,
        revisions={**gone.revisions, "b": "v3"},
        write_times={**gone.write_times, "b": WriteTime(WRITTEN + 50, appeared=True)},
    )
    for before in (gone, None):
        mark = rollout(kept, "db", back, before)
        assert mark
        assert mark.restart or mark.undecided
        assert is_behind(Pod(kept.reads, WRITTEN - 1), "db", back, mark, False)
        assert not is_behind(Pod(kept.reads, WRITTEN + 51), "db", back, mark, False)
    assert not lacks_keys(kept, "db", back)


def test_required_key_that_returns_with_the_same_revision_restarts_only_pods_of_the_time_in_between() -> None:
    """A container that does not read the key may have started in a pod that was created in between."""
    kept = consumer(BOTH, own={MARK: READ_BOTH})
    assert rollout(kept, "db", BEFORE, GONE) is None
    assert is_waiting(kept, "db", GONE_AND_CHANGED)
    unsettled = next_unsettled([kept], "db", GONE_AND_CHANGED, BEFORE, 2 * WRITTEN)
    times = {"a": WriteTime(WRITTEN + 50), "b": WriteTime(WRITTEN + 50, appeared=True)}
    back = replace(BEFORE, write_times=times, unsettled=unsettled)
    mark = rollout(kept, "db", back, GONE_AND_CHANGED)
    assert mark
    assert (mark.restart, mark.returned_since) == (False, WRITTEN)
    assert not is_behind(Pod(kept.reads, WRITTEN - 1), "db", back, mark, False)
    assert is_behind(Pod(kept.reads, WRITTEN + 1), "db", back, mark, False)


def test_required_key_that_the_secret_has_without_a_revision_is_not_missing() -> None:
    """Another writer fills it. If it is not known which keys the Secret has, no restart is left out."""
    marked = consumer(BOTH, own={MARK: digest({"a": "v1"}, "a")})
    for other_keys in (frozenset("b"), None):
        before, after = (replace(each, other_keys=other_keys) for each in (GONE, GONE_AND_CHANGED))
        assert rollout(marked, "db", before) is None
        mark = rollout(marked, "db", after, before)
        assert mark
        assert mark.restart
        assert not lacks_keys(marked, "db", after)
    assert rollout(marked, "db", replace(GONE_AND_CHANGED, other_keys=frozenset("c"))) is None


def test_loss_of_all_keys_is_seen_although_the_keys_of_other_writers_are_not_known() -> None:
    gone = replace(GONE, revisions={}, other_keys=None)
    assert lacks_keys(consumer(BOTH, {MARK: READ_BOTH}), "db", gone)
    assert not lacks_keys(consumer(BOTH, {MARK: READ_BOTH}), "db", replace(GONE, other_keys=None))


def test_workload_that_already_has_the_mark_without_the_key_keeps_no_old_value() -> None:
    """An older release has restarted it although a required key was gone."""
    assert not lacks_keys(consumer(BOTH, {MARK: digest({"a": "v1"}, "a")}), "db", GONE)
    assert present_mark(consumer(BOTH, {MARK: digest({"a": "v1"}, "a")}), "db", GONE)


def test_required_keys_do_not_change_the_mark() -> None:
    """Otherwise an upgrade would restart everything."""
    optional = {"containers": [key_ref("a"), key_ref("b", optional=True)]}
    for pod, value in ((BOTH, READ_BOTH), (optional, READ_BOTH), (ENV_FROM_AND_B, BEFORE.digest)):
        mark = rollout(consumer(pod), "db", BEFORE)
        assert mark
        assert mark.value == value


def test_sets_of_keys_are_shared_because_there_are_many_consumers() -> None:
    required, optional, whole = (consumer(pod).reads["db"] for pod in (BOTH, OPTIONAL_POD, ENV_FROM))
    assert required.required is required.keys
    assert optional.optional_keys is optional.keys
    assert required.optional_keys is whole.optional_keys is whole.keys
