"""The doctor's checks, each both ways: what is fine has no finding, and what is broken has one with a remedy."""

from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from keyturn_cli.advice import Chosen
from keyturn_cli.doctor import aws_checks, cluster_checks
from keyturn_cli.doctor.aws_checks import check_keys, check_path
from keyturn_cli.doctor.aws_facts import AwsFacts, Notifier, Queue, Rule, SigningKey
from keyturn_cli.doctor.binding_checks import check_bindings, check_namespaces
from keyturn_cli.doctor.clock_checks import Identity, check_clocks, check_identity
from keyturn_cli.doctor.cluster_checks import check_cluster
from keyturn_cli.doctor.cluster_facts import (
    Bindings,
    BoundSecret,
    ClusterFacts,
    Configuration,
    Installation,
    LeaseState,
    ReceiverPod,
)
from keyturn_cli.doctor.examination import Facts, count, examine
from keyturn_cli.doctor.finding import Finding, Level, Unknown, length, some
from keyturn_cli.doctor.rights import check_rights, required_rights
from keyturn_cli.doctor.url_checks import UrlFacts, check_url
from keyturn_local.kubernetes.chart import chart_objects, chart_rights
from support.command_line import unknown_words

NOW = datetime(2026, 11, 29, 12, tzinfo=UTC)
POD = ReceiverPod("keyturn-x2", True, "0.2.0")
HEALTHY = ClusterFacts(
    NOW,
    (1, 36),
    Installation(2, (POD, replace(POD, name="keyturn-x3"))),
    Configuration(),
    LeaseState("keyturn-poller", "keyturn-x2", NOW - timedelta(seconds=4)),
    LeaseState("keyturn-event-path", "keyturn-x2", NOW - timedelta(seconds=40)),
    Bindings((BoundSecret("shop", "db", "true", "ok"),), {"shop": "shop/*"}),
    (),
)
QUEUE_ARN = "arn:aws:sqs:eu-west-1:111122223333:keyturn-events"
RULE_ARN = "arn:aws:events:eu-west-1:111122223333:rule/keyturn-LabelUpdatedRule-1X"
POLICY: dict[str, Any] = {
    "Statement": [
        {
            "Effect": "Allow",
            "Principal": {"Service": "events.amazonaws.com"},
            "Action": "sqs:SendMessage",
            "Resource": [QUEUE_ARN],
            "Condition": {"ArnLike": {"aws:SourceArn": ["arn:aws:events:*:*:rule/keyturn-*"]}},
        },
        {
            "Effect": "Deny",
            "Principal": "*",
            "Action": "sqs:*",
            "Resource": QUEUE_ARN,
            "Condition": {"Bool": {"aws:SecureTransport": "false"}},
        },
    ]
}
KEY_ARN = "arn:aws:secretsmanager:eu-west-1:111122223333:secret:SigningKey-a1B2c3-AbCdEf"
KEY = SigningKey(
    KEY_ARN, frozenset({"AWSCURRENT", "AWSPREVIOUS"}), False, True, NOW - timedelta(days=12), NOW + timedelta(days=18)
)
AWS = AwsFacts(
    NOW,
    Rule("label-updated", RULE_ARN, True, True, (QUEUE_ARN,)),
    "ENABLED",
    Queue(QUEUE_ARN, 0, POLICY, timedelta()),
    0,
    0,
    Notifier("keyturn-notifier", "Active", "Successful", False, "Enabled", {}),
    KEY,
)
URL = UrlFacts("https://keyturn.example.com/v1/notifications", NOW, NOW + timedelta(days=61), 401, True)


def bad(findings: Iterable[Finding]) -> list[Finding]:
    """Return the warnings and errors. Check that each of them says what to do."""
    found = [each for each in findings if each.level in (Level.WARNING, Level.ERROR)]
    assert all(each.remedy for each in found)
    return found


def only(findings: Iterable[Finding]) -> Finding:
    (finding,) = bad(findings)
    return finding


def test_healthy_facts_have_no_finding() -> None:
    identity = Identity("arn:aws:sts::1111:assumed-role/keyturn-receiver", "eu-west-1", {"reads signing key": ""})
    sections = examine(Facts(HEALTHY, identity, AWS, URL, {"pod - AWS": 0.2}), "0.2.0")
    assert [section.name for section in sections] == [
        "cluster",
        "rights",
        "identity",
        "bindings",
        "path",
        "keys",
        "clocks",
        "receiver's URL",
    ]
    assert {finding.level for section in sections for finding in section.findings} == {Level.OK}


def test_what_was_not_asked_for_has_no_section() -> None:
    assert [section.name for section in examine(Facts(HEALTHY), "0.2.0")] == ["cluster", "rights", "bindings"]


LEASE_ROWS: list[tuple[dict[str, Any], Level, str]] = [
    ({"kubernetes": (1, 28)}, Level.ERROR, "Kubernetes 1.28 < 1.29"),
    ({"installation": Installation(2, (POD,))}, Level.WARNING, "1/2 receivers ready"),
    ({"installation": Installation(0, ())}, Level.ERROR, "the Deployment asks for no receiver"),
    (
        {"installation": Installation(1, (replace(POD, ready=False, waits_for="CrashLoopBackOff"),))},
        Level.ERROR,
        "0/1 receivers ready (keyturn-x2: CrashLoopBackOff)",
    ),
    (
        {"installation": Installation(1, (replace(POD, version="0.1.0"),))},
        Level.WARNING,
        "receivers 0.1.0, CLI 0.2.0",
    ),
    (
        {"installation": Installation(2, (POD, replace(POD, version="0.1.0")))},
        Level.WARNING,
        "receivers of several releases: 0.1.0, 0.2.0",
    ),
    (
        {"poller": LeaseState("keyturn-poller")},
        Level.ERROR,
        "poller: no replica holds the Lease keyturn-poller",
    ),
    (
        {"poller": LeaseState("keyturn-poller", "x2", NOW - timedelta(seconds=31))},
        Level.ERROR,
        "poller: x2 has not renewed the Lease keyturn-poller for 31 s",
    ),
    (
        {"event_path": LeaseState("keyturn-event-path")},
        Level.ERROR,
        "event path: no heartbeat has ever arrived (Lease keyturn-event-path)",
    ),
    (
        {"event_path": LeaseState("keyturn-event-path", "x2", NOW - timedelta(minutes=12))},
        Level.ERROR,
        "event path: silent for 12 min (Lease keyturn-event-path)",
    ),
    (
        {"installation": Unknown("there is no Deployment keyturn", "name the release", is_fault=True)},
        Level.ERROR,
        "receivers: there is no Deployment keyturn",
    ),
]


@pytest.mark.parametrize(("change", "level", "text"), LEASE_ROWS, ids=[text for _, _, text in LEASE_ROWS])
def test_broken_cluster_has_one_finding(change: dict[str, Any], level: Level, text: str) -> None:
    finding = only(check_cluster(replace(HEALTHY, **change), "0.2.0"))
    assert (finding.level, finding.text) == (level, text)


def test_lease_that_is_as_old_as_its_limit_is_fresh() -> None:
    at_limit = replace(
        HEALTHY,
        poller=replace(HEALTHY.poller, renewed=NOW - cluster_checks.POLLER_SILENCE),  # type: ignore[type-var]
        event_path=LeaseState("e", "x2", NOW - timedelta(seconds=180)),
    )
    assert bad(check_cluster(at_limit, "0.2.0")) == []


@pytest.mark.parametrize("aws", [None, AWS])
def test_doctor_does_not_name_itself_as_the_remedy(aws: AwsFacts | None) -> None:
    silent = replace(HEALTHY, event_path=LeaseState("keyturn-event-path"))
    found = [each for section in examine(Facts(silent, aws=aws), "0.2.0") for each in section.findings]
    (remedy,) = [each.remedy for each in found if each.level is Level.ERROR]
    assert remedy.endswith("see docs/runbook.md#keyturneventpathdown")
    assert ("run keyturn doctor --aws --stack NAME, and " in remedy) is (aws is None)


def test_remedies_name_the_stack_and_the_cluster_that_are_checked() -> None:
    chosen = Chosen({"stack": ("keyturn-blue",), "context": ("blue",), "release": ("ops/blue",)})
    found = bindings(BoundSecret("shop", "b", "true", "SourceNotFound: x"), shop=None)
    broken = replace(HEALTHY, event_path=LeaseState("keyturn-event-path"), bindings=found)
    remedies = [
        finding.remedy
        for aws in (None, replace(AWS, dead_letters=2))
        for section in examine(Facts(broken, aws=aws, chosen=chosen), "0.2.0")
        for finding in section.findings
    ]
    doctor = "keyturn doctor --aws --context blue --release ops/blue --stack keyturn-blue"
    assert f"run {doctor}, and see docs/runbook.md#keyturneventpathdown" in remedies
    assert "keyturn status -A --failing --context blue" in remedies
    assert "keyturn redeliver --list --stack keyturn-blue" in remedies
    assert "kubectl --context blue annotate namespace NAME 'keyturn.dev/allow-secrets=PREFIX/*'" in remedies
    assert [unknown_words(each) for each in remedies if each.startswith("keyturn ")] == [[], [], []]


def test_silence_is_no_error_if_the_settings_cannot_be_read() -> None:
    """They may say that no heartbeat comes."""
    unknown = Unknown("you may not read it", "ask for the right")
    for renewed in (None, NOW - timedelta(minutes=12)):
        lease = LeaseState("keyturn-event-path", "a", renewed)
        found = list(check_cluster(replace(HEALTHY, event_path=lease, configuration=unknown), "0.2.0"))
        assert bad(found) == []
        assert "event path: not checked, because you may not read it" in [each.text for each in found]


@pytest.mark.parametrize(
    "settings", [{"KEYTURN_DELIVERIES": "false"}, {"KEYTURN_HEARTBEAT_SILENCE_SECONDS": "0"}], ids=str
)
def test_silent_event_path_is_fine_where_no_heartbeat_is_expected(settings: dict[str, str]) -> None:
    silent = replace(HEALTHY, event_path=LeaseState("keyturn-event-path"), configuration=Configuration(settings))
    assert bad(check_cluster(silent, "0.2.0")) == []


def test_set_silence_decides() -> None:
    configuration = Configuration({"KEYTURN_HEARTBEAT_SILENCE_SECONDS": "30"})
    assert "silent for 40 s" in only(check_cluster(replace(HEALTHY, configuration=configuration), "0.2.0")).text


def test_unknown_fact_is_named_and_is_no_error() -> None:
    unknown = Unknown("you may not read it", "ask for the right")
    facts = ClusterFacts(NOW, unknown, unknown, unknown, unknown, unknown, unknown, unknown)
    sections = examine(Facts(facts), "0.2.0")
    assert count(sections, Level.ERROR) == count(sections, Level.WARNING) == 0
    assert count(sections, Level.SKIPPED) == 6
    assert all(
        "not checked, because you may not read it" in finding.text
        for section in sections
        for finding in section.findings
    )


# --- bindings and namespaces


def bindings(*secrets: BoundSecret, **allowed: str | None) -> Bindings:
    return Bindings(secrets, allowed or {"shop": "shop/*"})


def test_failing_bindings_are_counted_and_named_with_their_reasons() -> None:
    found = bindings(
        BoundSecret("shop", "a", "true", "ok"),
        BoundSecret("shop", "b", "true", "SourceNotFound: AWS has no secret shop/b"),
        BoundSecret("shop", "c", "true", "RolloutHalted: Deployment web has failed"),
    )
    finding = only(check_bindings(found))
    assert finding.level is Level.ERROR
    assert finding.text == "2 of 3 bindings fail (shop/b: SourceNotFound, shop/c: RolloutHalted)"


def test_secret_without_a_status_waits_for_a_receiver() -> None:
    finding = only(check_bindings(bindings(BoundSecret("shop", "a", "true", ""))))
    assert finding.level is Level.WARNING
    assert "no receiver has looked at (shop/a)" in finding.text


@pytest.mark.parametrize("label", ["True", "yes", "1", ""])
def test_wrong_label_is_the_only_finding(label: str) -> None:
    finding = only(check_bindings(bindings(BoundSecret("shop", "a", label, "InvalidBinding: label"))))
    assert (finding.level, finding.remedy) == (Level.WARNING, 'set the label to "true"')


@pytest.mark.parametrize("label", ["false", "no", "Off"])
def test_label_that_says_no_is_no_finding(label: str) -> None:
    assert bad(check_bindings(bindings(BoundSecret("shop", "a", label, "")))) == []


def test_key_that_another_manager_owns_is_found() -> None:
    shared = BoundSecret("shop", "a", "true", "ok", {"password": frozenset({"argocd-controller"})})
    finding = only(check_bindings(bindings(shared, BoundSecret("shop", "b", "true", "ok", {"user": frozenset()}))))
    assert finding.level is Level.WARNING
    assert "1 Secret with keys that others write, too (shop/a): argocd-controller (password)" in finding.text


def test_namespace_without_the_annotation_is_found_once() -> None:
    found = bindings(BoundSecret("pay", "a", "true", "NotAllowed: namespace pay may read nothing"), pay=None)
    assert bad(check_bindings(found)) == []
    finding = only(check_namespaces(found, Configuration()))
    assert (finding.level, finding.text) == (
        Level.WARNING,
        "1 namespace with bindings and without keyturn.dev/allow-secrets (pay)",
    )


def test_binding_that_its_namespace_does_not_allow_fails_where_there_is_an_annotation() -> None:
    found = bindings(BoundSecret("pay", "a", "true", "NotAllowed: it may read pay/*"), pay="pay/*")
    assert "1 of 1 binding fails" in only(check_bindings(found)).text
    assert bad(check_namespaces(found, Configuration())) == []


def test_annotation_is_not_needed_where_the_default_allows() -> None:
    configuration = Configuration({"KEYTURN_POLICY_DEFAULT": "allow"})
    assert bad(check_namespaces(bindings(BoundSecret("pay", "a", "true", "ok"), pay=None), configuration)) == []


# --- rights

CHART_VALUES: list[dict[str, Any]] = [
    {},
    {"namespaces": ["team-a", "team-b"]},
    {"rollouts": {"enabled": False}},
    {"rollouts": {"reportReaders": False, "argoRollouts": True}},
    {"deletions": {"enabled": True}, "tenantRoles": {"enabled": True}},
    {"deliveries": {"enabled": False}, "signingKey": {"secretId": ""}},
]


@pytest.mark.parametrize("values", CHART_VALUES, ids=str)
def test_required_rights_are_those_that_the_chart_gives(values: dict[str, Any]) -> None:
    (deployment,) = (each for each in chart_objects("keyturn", values) if each["kind"] == "Deployment")
    env = deployment["spec"]["template"]["spec"]["containers"][0]["env"]
    configuration = Configuration({each["name"]: each["value"] for each in env if "value" in each})
    given = {
        (group, resource, verb, role["metadata"].get("namespace", ""), name)
        for role in chart_rights("keyturn", values)
        for rule in role.get("rules", [])
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
        for name in rule.get("resourceNames", [""])
    }
    required = {
        (
            right.group,
            f"{right.resource}/{right.subresource}" if right.subresource else right.resource,
            right.verb,
            right.namespace,
            # The Role gives the right to its own Namespace without naming it.
            "" if right.resource == "namespaces" else right.name,
        )
        for right in required_rights(configuration, "keyturn", "keyturn")
    }
    assert required == given


def test_missing_rights_are_named() -> None:
    assert bad([check_rights(())]) == []
    finding = only([check_rights(("patch secrets", "list pods"))])
    assert (finding.level, finding.text) == (Level.ERROR, "RBAC: the receivers may not list pods, patch secrets")


def test_right_is_named_as_in_kubectl() -> None:
    rights = required_rights(Configuration({"KEYTURN_TENANT_ROLES": "true"}), "keyturn", "keyturn")
    texts = {str(right) for right in rights}
    assert {"create serviceaccounts/token", "patch deployments.apps"} <= texts
    assert "update leases.coordination.k8s.io keyturn-poller in keyturn" in texts


# --- AWS


def rule(**changes: Any) -> AwsFacts:
    assert isinstance(AWS.rule, Rule)
    return replace(AWS, rule=replace(AWS.rule, **changes))


def queue(**changes: Any) -> AwsFacts:
    assert isinstance(AWS.queue, Queue)
    return replace(AWS, queue=replace(AWS.queue, **changes))


def notifier(**changes: Any) -> AwsFacts:
    assert isinstance(AWS.notifier, Notifier)
    return replace(AWS, notifier=replace(AWS.notifier, **changes))


PATH_ROWS: list[tuple[AwsFacts, Level, str]] = [
    (rule(enabled=False), Level.ERROR, "rule label-updated is disabled"),
    (rule(matches_sample=False), Level.ERROR, "the pattern of rule label-updated does not match"),
    (rule(targets=()), Level.ERROR, "rule label-updated does not send to the stack's queue"),
    (replace(AWS, rule=Unknown("it is gone", "deploy", is_fault=True)), Level.ERROR, "rule: it is gone"),
    (replace(AWS, schedule="DISABLED"), Level.ERROR, "the schedule of the heartbeats is DISABLED"),
    (queue(policy={}), Level.ERROR, "the queue's policy does not let the rule send"),
    (queue(oldest=timedelta(minutes=6), messages=3), Level.WARNING, "queue 3, oldest 6 min"),
    (replace(AWS, dead_letters=2), Level.WARNING, "dead letters 2"),
    (replace(AWS, undelivered=1), Level.WARNING, "1 event that EventBridge could not put"),
    (notifier(state="Failed"), Level.ERROR, "notifier keyturn-notifier is Failed"),
    (notifier(last_update="Failed"), Level.ERROR, "notifier keyturn-notifier is Active, its last update Failed"),
    (notifier(event_source="Disabled"), Level.ERROR, "the notifier's event source is Disabled"),
    (notifier(event_source=""), Level.ERROR, "the notifier's event source is gone"),
    (
        notifier(private={"keyturn.example.com": "10.0.3.7"}),
        Level.ERROR,
        "the notifier is in no VPC, but keyturn.example.com -> 10.0.3.7 (private)",
    ),
]


@pytest.mark.parametrize(("facts", "level", "text"), PATH_ROWS, ids=[text for _, _, text in PATH_ROWS])
def test_broken_path_has_one_finding(facts: AwsFacts, level: Level, text: str) -> None:
    finding = only(check_path(facts))
    assert finding.level is level
    assert finding.text.startswith(text)


def test_dead_letters_name_the_command_that_shows_them() -> None:
    assert only(check_path(replace(AWS, dead_letters=2))).remedy == "keyturn redeliver --list"


def test_private_receiver_is_fine_for_a_notifier_in_a_vpc() -> None:
    assert bad(check_path(notifier(private={"keyturn.example.com": "10.0.3.7"}, in_vpc=True))) == []


def test_stack_that_cannot_be_read_is_an_error() -> None:
    unknown = Unknown("AWS: DescribeStacks keyturn: ValidationError", "name the stack: --stack NAME")
    sections = examine(Facts(HEALTHY, aws=unknown), "0.2.0")
    assert count(sections, Level.ERROR) == 1


def policy(**changes: Any) -> dict[str, Any]:
    return {"Statement": {**POLICY["Statement"][0], **changes}}


@pytest.mark.parametrize(
    ("given", "allows"),
    [
        (POLICY, True),
        (policy(), True),
        (policy(Condition={"ArnEquals": {"AWS:SourceArn": RULE_ARN}}), True),
        (policy(Condition={}), True),
        (policy(Action=["sqs:*"]), True),
        (policy(Principal="*"), True),
        (policy(Effect="Deny"), False),
        (policy(Action="sqs:ReceiveMessage"), False),
        (policy(Resource="arn:aws:sqs:eu-west-1:111122223333:other"), False),
        (policy(Principal={"Service": "sns.amazonaws.com"}), False),
        (policy(Condition={"ArnLike": {"aws:SourceArn": "arn:aws:events:*:*:rule/other-*"}}), False),
        ({}, False),
    ],
)
def test_queue_policy_is_read_as_iam_does(given: dict[str, Any], allows: bool) -> None:
    assert aws_checks.policy_allows(given, QUEUE_ARN, RULE_ARN) is allows


KEY_ROWS: list[tuple[dict[str, Any], Level, str]] = [
    ({"deleted": True}, Level.ERROR, "the signing key is scheduled for deletion"),
    ({"labels": frozenset({"AWSPENDING"})}, Level.ERROR, "the signing key has no version AWSCURRENT"),
    ({"rotates": False}, Level.WARNING, "the signing key is not rotated"),
    ({"next_rotation": NOW - timedelta(days=3)}, Level.WARNING, "the rotation of the signing key is overdue by 3 days"),
    ({"used_by_receivers": "keyturn/other"}, Level.ERROR, "receivers read the signing key keyturn/other"),
]


@pytest.mark.parametrize(("change", "level", "text"), KEY_ROWS, ids=[text for _, _, text in KEY_ROWS])
def test_broken_signing_key_has_one_finding(change: dict[str, Any], level: Level, text: str) -> None:
    finding = only(check_keys(replace(KEY, **change), NOW))
    assert finding.level is level
    assert finding.text.startswith(text)


@pytest.mark.parametrize("used", [None, KEY_ARN, KEY_ARN[:-7], "SigningKey-a1B2c3"])
def test_signing_key_is_the_same_by_arn_and_by_name(used: str | None) -> None:
    assert bad(check_keys(replace(KEY, used_by_receivers=used), NOW)) == []


# --- identity, clocks, URL


def test_identity_that_cannot_be_read_is_an_error() -> None:
    assert only(check_identity(Unknown("no credentials", "give it a role"))).level is Level.ERROR


def test_unknown_region_and_refused_reads_are_errors() -> None:
    found = bad(check_identity(Identity("arn", "", {"reads signing key": "AccessDeniedException", "ListSecrets": ""})))
    assert [each.text for each in found] == ["the region is not known", "reads signing key: AccessDeniedException"]


@pytest.mark.parametrize(
    ("seconds", "level"),
    [(0.2, Level.OK), (-30, Level.OK), (31, Level.WARNING), (-300, Level.WARNING), (301, Level.ERROR)],
)
def test_clock_skew_is_held_against_the_tolerance_of_signatures(seconds: float, level: Level) -> None:
    (finding,) = check_clocks({"pod - AWS": seconds})
    assert finding.level is level
    assert bool(finding.remedy) == (level is not Level.OK)


URL_ROWS: list[tuple[dict[str, Any], Level, str]] = [
    ({"expires": Unknown("TLS: Hostname mismatch", "correct it")}, Level.ERROR, "TLS: Hostname mismatch"),
    ({"expires": NOW - timedelta(seconds=1)}, Level.ERROR, "the certificate has expired"),
    ({"expires": NOW + timedelta(days=13)}, Level.WARNING, "certificate matches, 13 days left"),
    ({"status": 200}, Level.ERROR, "unsigned POST answered 200: it is accepted without a signature"),
    ({"status": 404, "by_receiver": False}, Level.ERROR, "answered 404 by something in front of the receiver"),
    ({"status": 401, "by_receiver": False}, Level.ERROR, "answered 401 by something in front of the receiver"),
    ({"status": 503}, Level.ERROR, "unsigned POST answered 503"),
    ({"status": 405}, Level.ERROR, "unsigned POST answered 405"),
    ({"status": Unknown("no answer", "check the network")}, Level.ERROR, "unsigned POST: no answer"),
]


@pytest.mark.parametrize(("change", "level", "text"), URL_ROWS, ids=[text for _, _, text in URL_ROWS])
def test_broken_url_has_one_finding(change: dict[str, Any], level: Level, text: str) -> None:
    finding = only(check_url(replace(URL, **change)))
    assert finding.level is level
    assert text in finding.text


# --- words


@pytest.mark.parametrize(
    ("seconds", "text"), [(4, "4 s"), (119, "119 s"), (120, "2 min"), (7300, "2 h"), (61 * 86400, "61 days")]
)
def test_duration_has_the_largest_unit_that_fits(seconds: int, text: str) -> None:
    assert length(timedelta(seconds=seconds)) == text


def test_long_list_is_cut() -> None:
    assert some(["d", "c", "b", "a", "e"]) == "a, b, c and 2 more"
