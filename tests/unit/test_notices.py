"""Notices about workloads, namespaces and copies: one Event each, by the leader."""

from collections import Counter
from typing import Any

from keyturn_receiver.cluster.consumer_cache import ConsumerCache, ConsumerIndex
from keyturn_receiver.cluster.event_recorder import MAX_MESSAGE
from keyturn_receiver.cluster.namespace_cache import NamespaceCache
from keyturn_receiver.cluster.secret_cache import CopiedSecret
from keyturn_receiver.core.binding import Target
from keyturn_receiver.core.copies import Copy
from keyturn_receiver.core.workload_kinds import WORKLOAD_KINDS
from keyturn_receiver.reconcile.notices import MAX_NOTICES, MAX_NOTICES_PER_NAMESPACE, Notices


class Recorder:
    def __init__(self) -> None:
        self.events: list[tuple[str, str, bool, str, str]] = []

    def event(self, target: Target, uid: str, warning: bool, reason: str, message: str, kind: str = "Secret") -> None:
        self.events.append((f"{kind} {target}", uid, warning, reason, message))


class Setting:
    def __init__(self, leads: bool = True) -> None:
        self.recorder, self.leads = Recorder(), leads
        recorder: Any = self.recorder
        self.notices = Notices(recorder, lambda: self.leads)
        self.index = ConsumerIndex()
        self.workloads = ConsumerCache(WORKLOAD_KINDS["Deployment"], self.index)
        self.namespaces = NamespaceCache()
        self.index.add_fault_handler(self.notices.on_consumer)
        self.namespaces.add_fault_handler(self.notices.on_namespace)

    def show(self, version: int = 1, **annotations: str) -> None:
        made = deployment(version, **annotations)
        self.workloads.update(self.workloads.transform(made))

    def show_namespace(self, uid: str = "n", **annotations: str) -> None:
        named = {f"keyturn.dev/{name.replace('_', '-')}": text for name, text in annotations.items()}
        made = {"metadata": {"name": "team", "uid": uid, "annotations": named}}
        self.namespaces.update(self.namespaces.transform(made))


def deployment(version: int, **annotations: str) -> dict[str, Any]:
    pod = {"containers": [{"name": "app", "envFrom": [{"secretRef": {"name": "db"}}]}]}
    named = {f"keyturn.dev/{name}": text for name, text in annotations.items()}
    metadata = {"namespace": "team", "name": "web", "uid": "w", "resourceVersion": str(version), "annotations": named}
    return {"metadata": metadata, "spec": {"template": {"spec": pod}}}


def test_fault_of_a_workload_is_told_once_and_again_if_it_comes_back() -> None:
    setting = Setting()
    for version in range(5):  # a workload's status changes all the time
        setting.show(version, rolout="disabled")
    (event,) = setting.recorder.events
    assert event == (
        "Deployment team/web",
        "w",
        True,
        "InvalidBinding",
        "annotation keyturn.dev/rolout is not known: did you mean keyturn.dev/rollout?;"
        " its pods are not restarted until then",
    )
    setting.show(9)
    setting.show(10, rolout="disabled")
    assert len(setting.recorder.events) == 2


def test_fault_of_a_workload_that_refers_to_no_secret_is_told() -> None:
    setting = Setting()
    made = deployment(1, read="db")
    made["spec"] = {}
    setting.workloads.update(setting.workloads.transform(made))
    (event,) = setting.recorder.events
    assert event[4].startswith("annotation keyturn.dev/read is not known: did you mean keyturn.dev/reads?")


def test_relist_does_not_repeat_a_notice() -> None:
    setting = Setting()
    for _ in range(3):
        setting.workloads.replace([setting.workloads.transform(deployment(1, rolout="disabled"))])
    assert len(setting.recorder.events) == 1


def test_fault_of_a_namespace_is_told_and_its_policy_stays() -> None:
    setting = Setting()
    for _ in range(3):
        setting.show_namespace(allow_secret="*", allow_secrets="team/*")
    (event,) = setting.recorder.events
    assert event[:4] == ("Namespace team/team", "n", True, "InvalidBinding")
    assert event[4].startswith(
        "annotation keyturn.dev/allow-secret is not known: did you mean keyturn.dev/allow-secrets?"
    )
    assert setting.namespaces.annotations("team") == {"keyturn.dev/allow-secrets": "team/*"}
    setting.show_namespace(allow_secrets="team/*")
    setting.namespaces.delete({"metadata": {"name": "team"}})
    assert len(setting.recorder.events) == 1


def test_copy_is_told_without_a_warning() -> None:
    setting = Setting()
    for _ in range(3):
        setting.notices.on_copy(CopiedSecret(Target("other", "db"), "c", Copy("Reflector", "shop/db")))
    (event,) = setting.recorder.events
    assert event[:4] == ("Secret other/db", "c", False, "CopyIgnored")
    assert event[4].startswith("this Secret is made by Reflector from shop/db, label keyturn.dev/bind included: ")


def test_new_leader_tells_what_the_old_one_may_have_missed() -> None:
    setting = Setting(leads=False)
    setting.show(rolout="disabled")
    setting.show_namespace(allow_secret="*")
    assert setting.recorder.events == []
    setting.leads = True
    setting.notices.on_started_leading()
    assert [event[0] for event in setting.recorder.events] == ["Deployment team/web", "Namespace team/team"]


def test_workload_that_is_gone_is_not_told() -> None:
    setting = Setting(leads=False)
    setting.show(rolout="disabled")
    setting.workloads.delete(deployment(2))
    setting.notices.on_started_leading()
    assert setting.recorder.events == []


def copied(namespace: str, name: str) -> CopiedSecret:
    return CopiedSecret(Target(namespace, name), "c", Copy("Reflector", "shop/" + "x" * 100_000))


def test_notices_of_one_namespace_push_out_none_of_another() -> None:
    setting = Setting(leads=False)
    setting.show(rolout="disabled")
    for number in range(MAX_NOTICES + 1):
        setting.notices.on_copy(copied("hostile", f"s{number}"))
    setting.leads = True
    setting.notices.on_started_leading()
    told = Counter(subject for subject, *_ in setting.recorder.events)
    assert told["Deployment team/web"] == 1
    assert told.total() == MAX_NOTICES_PER_NAMESPACE + 1
    assert told[f"Secret hostile/s{MAX_NOTICES}"] == 1
    assert max(len(message) for *_, message in setting.recorder.events) == MAX_MESSAGE
