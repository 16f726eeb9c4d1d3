"""Names of annotations and labels: each that is not known is told, with the nearest known one."""

import re
import time
from pathlib import Path
from typing import Any

import pytest

import keyturn_receiver
from keyturn_receiver.core import vocabulary
from keyturn_receiver.core.binding import is_bound, read_binding, read_spec
from keyturn_receiver.core.consumer import read_consumer
from keyturn_receiver.core.rollout_switch import Switch
from keyturn_receiver.core.vocabulary import (
    DECLARED,
    LABELS,
    MAX_FAULTS,
    SYNONYMS,
    WRITTEN,
    Place,
    object_faults,
    secret_faults,
)
from keyturn_receiver.core.workload_kinds import WORKLOAD_KINDS
from keyturn_receiver.errors import InvalidBinding

RECEIVER = Path(keyturn_receiver.__file__).parent
BOUND = {"keyturn.dev/bind": "true"}


def metadata(labels: dict[str, str] | None = None, **annotations: str) -> dict[str, Any]:
    named = {f"keyturn.dev/{name.replace('_', '-')}": value for name, value in annotations.items()}
    return {"labels": BOUND if labels is None else labels, "annotations": named}


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("keys", "data"),
        ("Data", "data"),
        ("dat", "data"),
        ("template", "data"),
        ("version_stage", "version-stage"),
        ("versionStage", "version-stage"),
        ("secretId", "secret-id"),
        ("secret_id", "secret-id"),
        ("secret-arn", "secret-id"),
        ("serviceaccount", "service-account"),
        ("onDelete", "on-delete"),
        ("deletion-policy", "on-delete"),
        ("rolout", "rollout"),
        ("restart", "rollout"),
        ("refresh", "reconcile"),
    ],
)
def test_misspelt_annotation_of_a_secret_is_told_with_the_nearest_one(name: str, nearest: str) -> None:
    told = secret_faults({"labels": BOUND, "annotations": {f"keyturn.dev/{name}": "x"}})
    assert told == (f"annotation keyturn.dev/{name} is not known: did you mean keyturn.dev/{nearest}?",)


def test_misspelt_annotation_fills_nothing() -> None:
    annotations = {"keyturn.dev/secret-id": "prod/db", "keyturn.dev/keys": "PASSWORD: password"}
    spec = read_spec(annotations, secret_faults({"labels": BOUND, "annotations": annotations}))
    with pytest.raises(InvalidBinding, match=r"keyturn\.dev/keys is not known: did you mean keyturn\.dev/data\?"):
        read_binding(None, spec)  # type: ignore[arg-type]
    assert not spec.names_a_source  # so AWS is not asked, and no notification waits for this Secret


def test_advice_for_a_misspelt_secret_id_is_not_given_twice() -> None:
    annotations = {"keyturn.dev/secretId": "prod/db"}
    spec = read_spec(annotations, secret_faults({"labels": BOUND, "annotations": annotations}))
    with pytest.raises(InvalidBinding) as told:
        read_binding(None, spec)  # type: ignore[arg-type]
    assert str(told.value) == "annotation keyturn.dev/secretId is not known: did you mean keyturn.dev/secret-id?"


def test_name_that_resembles_none_is_told_with_all() -> None:
    (told,) = secret_faults(metadata(owner="team-a"))
    assert told.startswith(
        "annotation keyturn.dev/owner is not known: remove it, or use one of keyturn.dev/secret-id, "
    )


@pytest.mark.parametrize("name", [*DECLARED, *WRITTEN])
def test_every_annotation_of_a_secret_is_known(name: str) -> None:
    places = {**DECLARED, **WRITTEN}[name]
    told = secret_faults({"labels": BOUND, "annotations": {f"keyturn.dev/{name}": "x"}})
    assert bool(told) == (Place.SECRET not in places)


def test_every_name_in_the_source_is_in_the_vocabulary() -> None:
    known = {*DECLARED, *WRITTEN, *LABELS}
    for file in RECEIVER.rglob("*.py"):
        for name in re.findall(r"(?<!revision\.)keyturn\.dev/([a-z][a-z-]*)", file.read_text()):
            assert name in known, f"{file.name}: keyturn.dev/{name}"


def test_every_synonym_means_a_known_name() -> None:
    assert set(SYNONYMS.values()) <= {*DECLARED, *LABELS}
    assert not SYNONYMS.keys() & {*DECLARED, *LABELS, *WRITTEN}


@pytest.mark.parametrize("value", ["True", "TRUE", "yes", "1", "on", "enabled", "", " true"])
def test_label_in_another_spelling_is_seen_and_told(value: str) -> None:
    assert is_bound({"labels": {"keyturn.dev/bind": value}})
    told = secret_faults(metadata({"keyturn.dev/bind": value}))
    assert told == (f'label keyturn.dev/bind is "{value}": set it to "true"',)


@pytest.mark.parametrize("value", ["false", "False", "no", "off", "0", "disabled"])
def test_label_that_says_no_binds_nothing(value: str) -> None:
    assert not is_bound({"labels": {"keyturn.dev/bind": value}})


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        (
            {"keyturn.dev/binding": "true"},
            "label keyturn.dev/binding is not known: did you mean label keyturn.dev/bind?",
        ),
        ({"keyturn.dev/secret-id": "db"}, "label keyturn.dev/secret-id has no effect: make it an annotation"),
        (
            {"keyturn.dev/versionstage": "x"},
            "label keyturn.dev/versionstage is not known: did you mean annotation keyturn.dev/version-stage?",
        ),
    ],
)
def test_misspelt_or_misplaced_label_is_told(labels: dict[str, str], told: str) -> None:
    assert secret_faults(metadata({**BOUND, **labels})) == (told,)


def test_readers_are_named_on_the_workload_and_not_on_the_secret() -> None:
    assert secret_faults(metadata(reads="web")) == (
        "annotation keyturn.dev/reads does not belong on a Secret: move it to the workload",
    )


def test_label_as_an_annotation_beside_the_label_does_no_harm() -> None:
    assert secret_faults(metadata(bind="true")) == ()


def test_annotation_of_another_object_is_told_with_its_place() -> None:
    assert secret_faults(metadata(allow_secrets="*")) == (
        "annotation keyturn.dev/allow-secrets does not belong on a Secret: move it to the namespace",
    )


@pytest.mark.parametrize("domain", ["keyturn.io", "keytrun.dev", "keyturn.com", "Keyturn.dev", "keyturn"])
def test_misspelt_domain_is_told_where_the_rest_is_known(domain: str) -> None:
    (told,) = secret_faults({"labels": BOUND, "annotations": {f"{domain}/data": "A: a"}})
    assert told == f"annotation {domain}/data is not known: did you mean keyturn.dev/data?"


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("keyturn.io/keys", "data"),
        ("keytrun.dev/Data", "data"),
        ("keytrun.dev/keys", "data"),
        ("Keyturn.dev/secretId", "secret-id"),
        ("keyturn/secret_arn", "secret-id"),
        ("keyturn.de/Version-Stage", "version-stage"),
        ("kyturn.dev/name", "secret-id"),
        ("keyturn.sh/restart", "rollout"),
    ],
)
def test_misspelt_domain_is_told_where_the_rest_stands_for_a_known_name(name: str, nearest: str) -> None:
    assert secret_faults({"labels": BOUND, "annotations": {name: "x"}}) == (
        f"annotation {name} is not known: did you mean keyturn.dev/{nearest}?",
    )
    (told,) = secret_faults({"labels": {**BOUND, name: "x"}})
    assert told == f"label {name} is not known: did you mean annotation keyturn.dev/{nearest}?"


@pytest.mark.parametrize(
    "name",
    [
        "keyturn.io/owner",
        "keyturn.io/allowed",
        "return.dev/owner",
        "return.dev/name",
        "saturn.dev/version",
        "turn.dev/keys",
        "keycloak.org/name",
        "helm.sh/template",
        "keyturn.example/x",
        "app.kubernetes.io/version",
        "argocd.io/sync",
        "kubectl.kubernetes.io/last-applied-configuration",
        "data",
        "revision.keyturn.dev/db",
        "example.com/data",
        "keyturn.example.com/data",
    ],
)
def test_names_of_others_are_left_alone(name: str) -> None:
    assert secret_faults({"labels": BOUND, "annotations": {name: "x"}}) == ()
    assert object_faults({"annotations": {name: "x"}}, Place.WORKLOAD) == ()


def test_names_that_a_newer_release_has_written_are_no_faults() -> None:
    newer = {**metadata(future="x"), "labels": {**BOUND, "keyturn.dev/later": "y"}}
    assert len(secret_faults(newer)) == 2
    fields = {
        "f:annotations": {".": {}, "f:keyturn.dev/future": {}},
        "f:labels": {"f:keyturn.dev/later": {}},
    }
    for manager in ("keyturn", "keyturn-status"):
        newer["managedFields"] = [{"manager": manager, "operation": "Apply", "fieldsV1": {"f:metadata": fields}}]
        assert secret_faults(newer) == ()
    newer["managedFields"] = [{"manager": "kubectl", "operation": "Apply", "fieldsV1": {"f:metadata": fields}}]
    assert len(secret_faults(newer)) == 2


def test_object_with_very_many_names_is_read_quickly() -> None:
    names = [f"keyturn.dev/n{number}" for number in range(20_000)]
    names += [f"keyturn{number}.dev/data" for number in range(20_000)]
    names += [f"k{number}.dev/keys" for number in range(20_000)]
    started = time.process_time()
    assert len(secret_faults({"labels": BOUND, "annotations": dict.fromkeys(names, "")})) == MAX_FAULTS
    assert time.process_time() - started < 0.5


def test_faults_of_one_object_are_limited() -> None:
    assert len(secret_faults(metadata(**{f"x{number}": "" for number in range(100)}))) == MAX_FAULTS


def workload(on_workload: dict[str, str], on_template: dict[str, str]) -> dict[str, Any]:
    pod = {"containers": [{"name": "app", "envFrom": [{"secretRef": {"name": "db"}}]}]}
    return {
        "metadata": {
            "namespace": "team",
            "name": "web",
            "uid": "u",
            "resourceVersion": "1",
            "annotations": {f"keyturn.dev/{name}": value for name, value in on_workload.items()},
        },
        "spec": {
            "template": {
                "metadata": {"annotations": {f"keyturn.dev/{name}": value for name, value in on_template.items()}},
                "spec": pod,
            }
        },
    }


@pytest.mark.parametrize(
    ("on_workload", "on_template", "told"),
    [
        (
            {"rolout": "disabled"},
            {},
            "annotation keyturn.dev/rolout is not known: did you mean keyturn.dev/rollout?",
        ),
        (
            {"secret-id": "db"},
            {},
            "annotation keyturn.dev/secret-id does not belong on a workload: move it to the Secret",
        ),
        (
            {},
            {"secret-id": "db"},
            "annotation keyturn.dev/secret-id does not belong on a pod template: move it to the Secret",
        ),
        (
            {},
            {"rollout": "off"},
            'annotation keyturn.dev/rollout on the pod template is "off": did you mean disabled? write enabled or'
            " disabled",
        ),
        (
            {},
            {"roll-out": "disabled"},
            "annotation keyturn.dev/roll-out is not known: did you mean keyturn.dev/rollout?",
        ),
        (
            {"read": "db"},
            {},
            "annotation keyturn.dev/read is not known: did you mean keyturn.dev/reads?",
        ),
        (
            {},
            {"uses": "db"},
            "annotation keyturn.dev/uses is not known: did you mean keyturn.dev/reads?",
        ),
    ],
)
@pytest.mark.parametrize("kind", WORKLOAD_KINDS.values(), ids=WORKLOAD_KINDS)
def test_faults_of_a_workload_are_told_and_forbid_restarts(
    kind: Any, on_workload: dict[str, str], on_template: dict[str, str], told: str
) -> None:
    consumer = read_consumer(kind, workload(on_workload, on_template))
    assert consumer is not None
    assert consumer.faults == (told,)
    assert consumer.switch is Switch.UNKNOWN
    assert consumer.uid == "u"


def test_workload_without_faults_is_restarted() -> None:
    consumer = read_consumer(WORKLOAD_KINDS["Deployment"], workload({}, {}))
    assert consumer is not None
    assert (consumer.faults, consumer.switch) == ((), Switch.UNSET)


def test_namespace_has_its_own_names() -> None:
    assert object_faults(metadata({}, allow_secrets="*", rollout="disabled"), Place.NAMESPACE) == ()
    assert object_faults(metadata({}, allow_secret="*"), Place.NAMESPACE) == (
        "annotation keyturn.dev/allow-secret is not known: did you mean keyturn.dev/allow-secrets?",
    )
    assert object_faults(metadata({}, secrets="*"), Place.NAMESPACE) == (
        "annotation keyturn.dev/secrets is not known: did you mean keyturn.dev/allow-secrets?",
    )
    assert object_faults(metadata({"keyturn.dev/secrets": "all"}), Place.NAMESPACE) == (
        "label keyturn.dev/secrets is not known: did you mean annotation keyturn.dev/allow-secrets?",
    )


def test_domain_is_written_in_one_place() -> None:
    assert f"{vocabulary.DOMAIN}/bind" == vocabulary.BIND_LABEL
