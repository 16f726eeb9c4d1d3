"""The policy that warns of Secrets without the label: the names that it knows are those of the code."""

import json
import re
from functools import cache
from typing import Any

import pytest

from keyturn_local.kubernetes.chart import CHART, chart_objects
from keyturn_receiver.core.vocabulary import BIND_LABEL, DECLARED, DOMAIN, SYNONYMS, WRITTEN, Place

LETTERS = "abcdefghijklmnopqrstuvwxyz"
NAME = DOMAIN.partition(".")[0]
POLICY = "ValidatingAdmissionPolicy"


def policies(values: dict[str, Any]) -> dict[str, Any]:
    return {each["kind"]: each for each in chart_objects("keyturn", values) if each["kind"].startswith(POLICY)}


@cache
def variables() -> dict[str, str]:
    """Return the expressions of the policy's variables by their names."""
    return {each["name"]: each["expression"] for each in policies({})[POLICY]["spec"]["variables"]}


@cache
def patterns(variable: str) -> set[str]:
    return set(re.findall(r"matches\('(.+?)'\)", variables()[variable]))


def matches(variable: str, name: str) -> bool:
    (pattern,) = patterns(variable)
    return re.search(pattern, name) is not None


def misspellings(word: str) -> set[str]:
    """Return the words that one typing error can make of a word: a letter is missing or wrong, a character is added
    inside the word, or two neighbouring letters are swapped."""
    cuts = [(word[:at], word[at:]) for at in range(len(word) + 1)]
    few = {head + tail[1:] for head, tail in cuts if tail}
    wrong = {head + letter + tail[1:] for head, tail in cuts if tail for letter in LETTERS}
    many = {head + letter + tail for head, tail in cuts if head and tail for letter in [*LETTERS, "-", "_"]}
    changed_over = {head + tail[1] + tail[0] + tail[2:] for head, tail in cuts if len(tail) > 1}
    return few | wrong | many | changed_over


def test_policy_warns_and_never_denies() -> None:
    made = policies({})
    assert made[f"{POLICY}Binding"]["spec"]["validationActions"] == ["Warn"]
    spec = made[POLICY]["spec"]
    assert spec["failurePolicy"] == "Ignore"
    (rule,) = spec["matchConstraints"]["resourceRules"]
    assert rule["resources"] == ["secrets"]
    assert rule["operations"] == ["CREATE", "UPDATE"]


def test_policy_never_looks_at_a_value() -> None:
    text = str(policies({}))
    assert not re.search(r"object\.(data|stringData)|object\[|object\)|oldObject", text)
    assert set(re.findall(r"object\.metadata\.(\w+)", text)) == {"annotations", "labels", "name"}


@pytest.mark.parametrize("values", [{"namespaces": ["team-a"]}, {"warnings": {"enabled": False}}], ids=str)
def test_policy_is_left_out_where_it_does_not_belong(values: dict[str, Any]) -> None:
    assert policies(values) == {}


@pytest.mark.parametrize(
    ("version", "has_it"),
    [("v1.29.15-eks-113cf36", False), ("v1.30.0-eks-a737599", True), ("v1.30.0", True), ("v1.36.1+k3s1", True)],
)
def test_policy_is_made_for_versions_that_have_it_alone(version: str, has_it: bool) -> None:
    """Kubernetes 1.30 is the first one with ValidatingAdmissionPolicy in admissionregistration.k8s.io/v1."""
    template = (CHART / "templates" / "warnings.yaml").read_text()
    (condition,) = re.findall(r'\((semverCompare "\S+" )\.Capabilities\.KubeVersion\.Version\)', template)
    # Helm's library always renders for the same version of Kubernetes. So Helm evaluates only the condition here, with
    # ``version`` as a text.
    asked = f"kind: Asked\nanswer: {{{{ {condition} {json.dumps(version)} }}}}"
    (made,) = (each for each in chart_objects("keyturn", {"extraObjects": [asked]}) if each["kind"] == "Asked")
    assert made["answer"] is has_it


def test_annotations_that_need_no_label_are_those_that_keyturn_writes_or_that_stand_elsewhere() -> None:
    left_out = set(re.findall(r"'([a-z-]+)'", variables()["declared"].partition(" in ")[2]))
    elsewhere = {name for name, places in DECLARED.items() if Place.SECRET not in places}
    assert left_out == {*WRITTEN, *elsewhere}
    assert set(re.findall(r"'([a-z./-]+)'", variables()["misplaced"])) == {f"{DOMAIN}/{name}" for name in elsewhere}


def test_name_of_keyturn_is_known_in_any_misspelt_domain() -> None:
    declared = [name for name, places in DECLARED.items() if Place.SECRET in places]
    assert all(matches("near", f"{NAME}.io/{name}") for name in declared)
    for wrong in misspellings(NAME):
        assert matches("near", f"{wrong}.dev/secret-id"), wrong
        assert matches("misspelt", f"{wrong}.dev/bind"), wrong


@pytest.mark.parametrize("name", ["secretId", "secret_id", "SecretID", "secret-ids", "versionStage", "serviceAccount"])
def test_name_of_keyturn_is_known_in_another_spelling(name: str) -> None:
    for begins in ("keyturn.io/", "keyturn/", "keyturn-", "Keyturn.dev/", "keyturn.dev."):
        assert matches("near", begins + name)


def test_words_for_the_label_are_known() -> None:
    words = {word for word, meaning in SYNONYMS.items() if meaning == "bind"}
    assert all(matches("misspelt", f"{DOMAIN}/{word}") for word in {BIND_LABEL.partition("/")[2], *words})


@pytest.mark.parametrize(
    "domain",
    ["return.dev", "saturn.dev", "turnkey.dev", "key.example.com", "turn.io", "keycloak.org", "example"],
)
def test_domains_of_others_are_left_alone(domain: str) -> None:
    assert not matches("near", f"{domain}/secret-id")
    assert not matches("misspelt", f"{domain}/bind")
