"""Readers that Keyturn does not restart: bare pods, ReplicaSets without a Deployment, runs of Jobs, CronJobs, and the
pods of other controllers.

No watch shows these readers. After a change of a Secret, Keyturn lists pods and CronJobs, and reports the readers that
it finds.
"""

from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from enum import StrEnum

from keyturn_receiver.core.consumer import named_secrets, names_read, pod_template, reads_of
from keyturn_receiver.core.json_access import as_object, as_objects
from keyturn_receiver.core.object_name import is_object_name
from keyturn_receiver.core.pod import Pod
from keyturn_receiver.core.reloader import ReloaderMode
from keyturn_receiver.core.replica_set import is_cut, is_name_of, workload_of
from keyturn_receiver.core.revision import Record
from keyturn_receiver.core.rollout import has_older_value
from keyturn_receiver.core.rollout_switch import Switch, innermost, read_switch
from keyturn_receiver.core.workload_kinds import (
    CRON_JOB,
    GROUP_VERSIONS,
    ROLLOUT,
    WORKLOAD_KINDS,
    group_of,
    kind_of,
)
from keyturn_receiver.core.write_times import parse_time

MAX_NAMED = 10  # a report holds at most this many readers of one sort
MAX_NAME = 63  # a message repeats at most this many characters of a kind or name


class Sort(StrEnum):
    """The sort of a reader. It decides what has to happen before the reader uses the new value."""

    POD = "Pod"
    REPLICA_SET = "ReplicaSet"
    OTHER = "other"  # the pods of a controller that Keyturn does not know
    JOB = "Job"
    CRON_JOB = "CronJob"


# The words about the readers of one sort in a message about a Secret.
_OF_SEVERAL: Mapping[Sort, str] = {
    Sort.POD: "a bare pod keeps what it read by env or subPath until you create it again",
    Sort.REPLICA_SET: "its pods keep what they read by env or subPath until you delete them",
    Sort.OTHER: "Keyturn does not restart this kind: restart it yourself",
    Sort.JOB: "a run that has begun goes on with what it has read",
    Sort.CRON_JOB: "the next run reads the new value",
}
# The words in a message about one reader.
_OF_ONE: Mapping[Sort, str] = {
    Sort.POD: "no controller restarts this pod: it keeps what it read by env or subPath until you create it again",
    Sort.REPLICA_SET: "no Deployment restarts these pods: they keep what they read by env or subPath until you delete"
    " them",
    Sort.OTHER: "Keyturn does not restart the pods of this controller: restart it yourself",
    Sort.JOB: "this run has begun, and goes on with what it has read; the next one reads the new value",
}


@dataclass(frozen=True, slots=True)
class Subject:
    """The object on which an Event about a reader is recorded."""

    kind: str
    name: str
    uid: str


@dataclass(frozen=True, slots=True)
class Reader:
    """A reader that Keyturn does not restart. ``name`` is its name in messages, such as "Pod bare".

    ``pod`` has the reader's reads of Secrets and its time of creation, which is 0 for a CronJob. ``switch`` is what the
    reader's annotations say about restarts. ``deployment`` is the name of the Deployment, or of another workload, that
    may own the reader's ReplicaSet. It is empty if there is no such workload. It may be cut
    (``core/replica_set.py``).
    """

    sort: Sort
    name: str
    subject: Subject
    pod: Pod
    switch: Switch = Switch.UNSET
    deployment: str = ""


@dataclass(slots=True)
class Report:
    """The readers of one Secret that may use an older value. At most MAX_NAMED readers of each sort are kept, in the
    order in which they were found. ``cut`` is true if not all pods of the namespace were looked at."""

    readers: dict[Sort, dict[str, Subject]] = field(default_factory=dict)
    overflow: set[Sort] = field(default_factory=set)
    cut: bool = False

    def add(self, reader: Reader) -> None:
        """Add a reader to the report. Several pods of one controller count as one reader."""
        of_sort = self.readers.setdefault(reader.sort, {})
        if reader.name in of_sort:
            return
        if len(of_sort) == MAX_NAMED:
            self.overflow.add(reader.sort)
        else:
            of_sort[reader.name] = reader.subject

    @property
    def warning(self) -> bool:
        """Return whether somebody has to act."""
        return any(map(is_warning, self.readers))

    @property
    def subjects(self) -> list[tuple[Sort, Subject]]:
        """The readers that may get an Event of their own. The reporter writes Events only for the first of them. A
        CronJob gets no Event, because nothing is wrong with it."""
        of = self.readers
        return [(sort, each) for sort in Sort if sort is not Sort.CRON_JOB for each in of.get(sort, {}).values()]

    def message(self, version: str) -> str:
        """Return the message of the Event on the Secret. ``version`` is the id of the AWS version from which the Secret
        is made."""
        parts = []
        for sort in Sort:
            if names := self.readers.get(sort):
                more = " and more" if sort in self.overflow else ""
                parts.append(f"{', '.join(names)}{more} ({_OF_SEVERAL[sort]})")
        cut = "; not all pods of this namespace were looked at" if self.cut else ""
        return f"version {version}; not restarted: {'; '.join(parts)}{cut}"


def is_warning(sort: Sort) -> bool:
    """Return whether a reader keeps the old value until somebody acts."""
    return sort not in (Sort.JOB, Sort.CRON_JOB)


def message_to_one(sort: Sort, secret_name: str, version: str) -> str:
    """Return the message of the Event on a reader."""
    return f"Secret {secret_name}: a key that it reads has changed with version {version}; {_OF_ONE[sort]}"


def read_cron_job(cron_job: Mapping[str, object]) -> Reader:
    """Parse a CronJob as the API server returns it. The reader counts as very old, so each change concerns it."""
    metadata = as_object(cron_job.get("metadata"))
    template = pod_template(CRON_JOB, cron_job)
    on_template = as_object(as_object(template.get("metadata")).get("annotations"))
    reads = reads_of(template, named_secrets(CRON_JOB, cron_job, ReloaderMode.ABSENT))
    subject = Subject(CRON_JOB.kind, str(metadata.get("name")), str(metadata.get("uid")))
    switch = innermost(read_switch(as_object(metadata.get("annotations"))), read_switch(on_template))
    return Reader(Sort.CRON_JOB, _named(subject.kind, subject.name), subject, Pod(reads, 0), switch)


def read_running_pod(pod: Mapping[str, object]) -> Reader | None:
    """Parse a pod as the API server returns it. Returns None if the pod is ending, has ended, or belongs to a workload
    of a kind that Keyturn restarts. A kind of another API group with the same name is another kind."""
    metadata = as_object(pod.get("metadata"))
    if metadata.get("deletionTimestamp") or as_object(pod.get("status")).get("phase") in ("Succeeded", "Failed"):
        return None
    subject = Subject("Pod", str(metadata.get("name")), str(metadata.get("uid")))
    controllers = (each for each in as_objects(metadata.get("ownerReferences")) if each.get("controller"))
    controller = next(controllers, None)
    sort, name, deployment = Sort.POD, _named("Pod", subject.name), ""
    if controller:
        kind, owner = kind_of(controller), str(controller.get("name"))
        if kind in WORKLOAD_KINDS:
            return None
        sort, name = Sort.OTHER, _named(_kind_in_messages(controller), owner)
        if kind in (Sort.REPLICA_SET, Sort.JOB):
            sort, subject = Sort(kind), Subject(kind, owner, str(controller.get("uid")))
        if sort is Sort.REPLICA_SET and (above := workload_of(owner, as_object(metadata.get("labels")))):
            kind_above, deployment = above
            if kind_above is ROLLOUT:  # if a Deployment is gone, messages name its ReplicaSet
                sort, name = Sort.OTHER, _named(kind_above.kind, deployment)
    annotations = as_object(metadata.get("annotations"))
    reads = reads_of(pod, filter(is_object_name, names_read(annotations)))
    created = parse_time(metadata.get("creationTimestamp")) or 0
    return Reader(sort, name, subject, Pod(reads, created), read_switch(annotations), deployment)


def has_to_be_told(
    reader: Reader, secret_name: str, changed: Set[str] | None, record: Record, restarted: Set[str]
) -> bool:
    """Return whether a reader that is not restarted may still use an older value of a changed key.

    ``changed`` holds the changed keys. None means that any key may have changed. ``restarted`` holds the names of the
    workloads that read the Secret and that Keyturn restarts.
    """
    reads = reader.pod.reads.get(secret_name)
    if reads is None or not (reads.whole or changed is None or reads.keys & changed):
        return False
    return not _is_restarted(reader, restarted) and has_older_value(reader.pod, secret_name, record)


def _is_restarted(reader: Reader, restarted: Set[str]) -> bool:
    if reader.deployment in restarted:
        return True
    found, replica_set = reader.deployment, reader.subject.name
    return bool(found) and is_cut(replica_set) and any(is_name_of(each, found, replica_set) for each in restarted)


def _kind_in_messages(reference: Mapping[str, object]) -> str:
    """Return the kind that an owner reference names. If one of GROUP_VERSIONS has the same name, the API group
    follows the kind, as in ``StatefulSet.apps.kruise.io``."""
    kind, group = str(reference.get("kind")), group_of(str(reference.get("apiVersion")))
    return f"{kind}.{group}" if kind in GROUP_VERSIONS and group and not kind_of(reference) else kind


def _named(kind: str, name: str) -> str:
    return f"{kind[:MAX_NAME]} {name[:MAX_NAME]}"
