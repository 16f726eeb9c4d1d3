"""template.yaml is valid and hardened, and agrees with the code and with the local AWS."""

import base64
import dataclasses
import itertools
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from keyturn_contract.message import Notification
from keyturn_local.aws import deployed
from keyturn_local.aws import server as local_aws
from keyturn_local.aws.template import FILE, queues, read
from keyturn_local.notifier import function
from keyturn_notifier import aws, aws_event_types, delivery, disposition, event_parser, handler, queue, rotation
from keyturn_notifier.aws_event_types import HEARTBEAT, MEANINGS, MEMBER_HEARTBEAT, NATIVE
from keyturn_notifier.settings import InvalidSettings, NotifierSettings, read_settings
from keyturn_notifier.telemetry import DEFINITIONS, NAMESPACE, Metric
from support.iam import allows
from support.sam import NOTHING, RECEIVER, broken_rules, resolved

TEMPLATE = read()
RESOURCES: dict[str, Any] = TEMPLATE["Resources"]
PARAMETERS: dict[str, Any] = TEMPLATE["Parameters"]
VARIABLES: dict[str, Any] = TEMPLATE["Globals"]["Function"]["Environment"]["Variables"]
SET = {
    "KEYTURN_RECEIVER_URLS": RECEIVER,
    "KEYTURN_SIGNING_KEY_SECRET_ID": "arn",
    "KEYTURN_QUEUE_URL": "https://queue",
    "KEYTURN_DLQ_URL": "https://dlq",
}


def metrics_of(alarm: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the namespace and the name of each metric that an alarm watches, directly or through an expression."""
    metrics = [each["MetricStat"]["Metric"] for each in alarm.get("Metrics", ()) if "MetricStat" in each] or [alarm]
    return [(each["Namespace"], each["MetricName"]) for each in metrics]


def queue_statements(ExtraRuleArns: bool) -> list[dict[str, Any]]:
    """Return the statements of all queue policies, with or without those for the operator's own rules."""
    policies = [each["PolicyDocument"]["Statement"] for each in of_type("AWS::SQS::QueuePolicy").values()]
    conditions = {**dict.fromkeys(TEMPLATE["Conditions"], True), "WithExtraRules": ExtraRuleArns}
    pruned = [[each for each in policy if "Fn::If" not in each] for policy in policies]
    extra = [resolved(each, conditions) for policy in policies for each in policy if "Fn::If" in each]
    return [*(each for policy in pruned for each in policy), *(each for each in extra if each is not NOTHING)]


def of_type(kind: str) -> dict[str, Any]:
    return {name: each.get("Properties", {}) for name, each in RESOURCES.items() if each["Type"] == kind}


def test_cfn_lint_finds_no_fault_in_any_region() -> None:
    regions = ["us-east-1", "eu-central-1", "ap-southeast-2"]
    lint = Path(sys.executable).with_name("cfn-lint")
    done = subprocess.run([lint, "--regions", *regions, "--", FILE], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


class TestSettings:
    def test_functions_get_exactly_the_settings_that_the_code_reads(self) -> None:
        settings = {f"KEYTURN_{each.name.upper()}" for each in dataclasses.fields(NotifierSettings)}
        assert {name for name in VARIABLES if name.startswith("KEYTURN_")} == settings

    def test_local_functions_get_the_same_variables(self, tmp_path: Path) -> None:
        path = local_aws.EventPath("queue", "dlq", "arn")
        made = local_aws.LocalAws.__new__(local_aws.LocalAws)
        made.endpoint_url = "http://127.0.0.1:1"
        local = function.function_environment(made, path, [RECEIVER])
        assert {name for name in local if not name.startswith("AWS_")} == VARIABLES.keys() - {"AWS_USE_FIPS_ENDPOINT"}

    @pytest.mark.parametrize("missing", SET)
    def test_missing_setting_is_named(self, missing: str) -> None:
        with pytest.raises(InvalidSettings, match=missing):
            read_settings({name: value for name, value in SET.items() if name != missing})

    @pytest.mark.parametrize(
        "url",
        [
            "http://example.com/v1/notifications",
            f"{RECEIVER},http://example.com/v1/notifications",
            "ftp://example.com/v1/notifications",
            "example.com",
            "https://",
            f"{RECEIVER},",
            "https://user:hush@example.com/v1/notifications",
            f"{RECEIVER}?token=hush",
        ],
    )
    def test_invalid_receiver_url_is_refused_by_the_template_and_the_function(self, url: str) -> None:
        assert not re.fullmatch(PARAMETERS["ReceiverUrls"]["AllowedPattern"], url)
        with pytest.raises(InvalidSettings, match="KEYTURN_RECEIVER_URLS") as caught:
            read_settings({**SET, "KEYTURN_RECEIVER_URLS": url})
        assert "hush" not in str(caught.value)

    def test_several_receiver_urls_are_accepted_by_the_template_and_the_function(self) -> None:
        urls = f"{RECEIVER},https://10.0.0.1:8443/v1/notifications"
        assert re.fullmatch(PARAMETERS["ReceiverUrls"]["AllowedPattern"], urls)
        assert read_settings({**SET, "KEYTURN_RECEIVER_URLS": urls}).receiver_urls == tuple(urls.split(","))

    def test_loopback_url_may_be_http(self) -> None:
        read_settings({**SET, "KEYTURN_RECEIVER_URLS": "http://127.0.0.1:1/v1/notifications"})

    @pytest.mark.parametrize("text", ["not base64!", "aGVsbG8=", "aGVsbG8=,not base64!"])
    def test_invalid_ca_bundle_is_refused(self, text: str) -> None:
        with pytest.raises(InvalidSettings, match=r"KEYTURN_CA_BUNDLE.*openssl x509 -in ca\.pem -outform der"):
            read_settings({**SET, "KEYTURN_CA_BUNDLE": text})

    def test_two_cas_and_all_other_variables_fit_lambdas_limit(self) -> None:
        """While a CA is rolled over, the old CA and the new one are both needed. Lambda's limit for all variables is 4
        KB:

        https://docs.aws.amazon.com/lambda/latest/dg/configuration-envvars.html
        """
        rsa_2048 = 900  # bytes of a CA certificate in DER with long names; with RSA 4096 it has about 1,400
        cas = ",".join(base64.b64encode(b"\x30" * rsa_2048).decode() for _ in range(2))
        assert len(cas) <= PARAMETERS["CaBundle"]["MaxLength"]
        assert re.fullmatch(PARAMETERS["CaBundle"]["AllowedPattern"], cas)
        arn, url = "arn:aws:secretsmanager:ap-southeast-2:123456789012:secret:" + "n" * 60, f"https://{'u' * 90}"
        values = dict.fromkeys(VARIABLES, "v" * 40) | {
            "KEYTURN_RECEIVER_URLS": ",".join([url] * 3),
            "KEYTURN_SIGNING_KEY_SECRET_ID": arn,
            "KEYTURN_QUEUE_URL": url,
            "KEYTURN_DLQ_URL": url,
            "KEYTURN_KMS_KEY_ID": arn,
            "KEYTURN_CA_BUNDLE": cas,
        }
        assert len(json.dumps(values)) <= 4096

    @pytest.mark.parametrize("good", ["", "MIIB", "MIIB,LS0t+/8=", "MIIB==,MIIC="])
    def test_ca_bundle_of_one_or_several_certificates_is_accepted(self, good: str) -> None:
        assert re.fullmatch(PARAMETERS["CaBundle"]["AllowedPattern"], good)

    @pytest.mark.parametrize("bad", ["-----BEGIN X-----", "MIIB, MIIC", "MIIB,", "MI=IB", "a\nb", "arn:aws:x"])
    def test_ca_bundle_that_is_not_base64_is_refused_by_the_template(self, bad: str) -> None:
        assert not re.fullmatch(PARAMETERS["CaBundle"]["AllowedPattern"], bad)

    @pytest.mark.parametrize(
        "proxy",
        ["proxy:3128", "http://proxy", "https://proxy:3128", "http://me:hush@proxy:3128", "http://proxy:3128/x", "-"],
    )
    def test_proxy_that_cannot_work_is_refused_by_the_template_and_the_function(self, proxy: str) -> None:
        assert not re.fullmatch(PARAMETERS["HttpsProxy"]["AllowedPattern"], proxy)
        with pytest.raises(InvalidSettings, match="KEYTURN_HTTPS_PROXY") as caught:
            read_settings({**SET, "KEYTURN_HTTPS_PROXY": proxy})
        assert "hush" not in str(caught.value)

    @pytest.mark.parametrize("proxy", ["http://proxy.example:3128", "http://10.0.0.1:80"])
    @pytest.mark.parametrize("bypassed", ["", "amazonaws.com", ".example.com,10.0.0.0/8,fd00::/8,[fd00::1],*.a.b"])
    def test_proxy_and_hosts_without_it_are_accepted_by_the_template_and_the_function(
        self, proxy: str, bypassed: str
    ) -> None:
        assert re.fullmatch(PARAMETERS["HttpsProxy"]["AllowedPattern"], proxy)
        assert re.fullmatch(PARAMETERS["NoProxy"]["AllowedPattern"], bypassed)
        read = read_settings({**SET, "KEYTURN_HTTPS_PROXY": proxy, "KEYTURN_NO_PROXY": bypassed})
        assert read.https_proxy
        assert read.https_proxy.url == proxy

    def test_hosts_without_a_proxy_are_refused_if_there_is_no_proxy(self) -> None:
        with pytest.raises(InvalidSettings, match="KEYTURN_NO_PROXY is set, but KEYTURN_HTTPS_PROXY is not"):
            read_settings({**SET, "KEYTURN_NO_PROXY": "10.0.0.0/8"})

    def test_network_that_is_none_is_refused_in_words(self) -> None:
        with pytest.raises(InvalidSettings, match=r"10\.0\.0\.0/40 must be a name, an address, or a network"):
            read_settings({**SET, "KEYTURN_HTTPS_PROXY": "http://proxy:3128", "KEYTURN_NO_PROXY": "10.0.0.0/40"})

    @pytest.mark.parametrize("service", ["secretsmanager", "sqs", "kms"])
    def test_fips_endpoints_are_called_if_the_parameter_is_true(
        self, service: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert VARIABLES["AWS_USE_FIPS_ENDPOINT"] == {"Ref": "UseFipsEndpoints"}
        for name in ("AWS_DEFAULT_REGION", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.setenv(name, "us-east-1")
        for value in PARAMETERS["UseFipsEndpoints"]["AllowedValues"]:
            monkeypatch.setenv("AWS_USE_FIPS_ENDPOINT", value)
            host = urlsplit(aws.client(service, None).meta.endpoint_url).hostname
            assert host == f"{service}{'-fips' if value == 'true' else ''}.us-east-1.amazonaws.com"


class TestParameters:
    def test_parameter_has_a_description_and_a_constraint(self) -> None:
        for name, each in PARAMETERS.items():
            assert each.get("Description"), name
            assert {"AllowedPattern", "AllowedValues", "MinValue"} & each.keys(), name
            assert "ConstraintDescription" in each or "AllowedPattern" not in each, name

    def test_parameter_default_satisfies_its_constraint(self) -> None:
        for name, each in PARAMETERS.items():
            if "Default" in each and "AllowedPattern" in each:
                assert re.fullmatch(each["AllowedPattern"], each["Default"]), name
            if "AllowedValues" in each:
                assert each["Default"] in each["AllowedValues"], name

    def test_parameter_is_in_one_group_of_the_console(self) -> None:
        groups = TEMPLATE["Metadata"]["AWS::CloudFormation::Interface"]["ParameterGroups"]
        assert sorted(name for group in groups for name in group["Parameters"]) == sorted(PARAMETERS)

    @pytest.mark.parametrize("bad", ['a"b', "a\\b", "a b", "a,,b", ",a", "a\nb", "a\x01"])
    def test_label_that_would_break_the_heartbeats_json_is_refused(self, bad: str) -> None:
        assert not re.fullmatch(PARAMETERS["Labels"]["AllowedPattern"], bad)

    @pytest.mark.parametrize("good", ["AWSCURRENT", "AWSCURRENT,blue", "blue-green_2.0:x/y"])
    def test_labels_are_accepted(self, good: str) -> None:
        assert re.fullmatch(PARAMETERS["Labels"]["AllowedPattern"], good)

    @pytest.mark.parametrize(
        ("values", "broken"),
        [
            ({}, []),
            ({"SubnetIds": "subnet-1,subnet-2", "SecurityGroupIds": "sg-1"}, []),
            ({"SubnetIds": "subnet-1,subnet-2"}, ["SecurityGroupIds must be set if SubnetIds is set"]),
            ({"SecurityGroupIds": "sg-1"}, ["SubnetIds must be set if SecurityGroupIds is set"]),
            ({"ReceiverRoleArns": "arn:aws:iam::1:role/r", "KmsKeyArn": "arn:aws:kms:x:1:key/k"}, []),
            ({"ReceiverRoleArns": "arn:aws:iam::1:role/r"}, ["KmsKeyArn must be set if ReceiverRoleArns is set"]),
            ({"HttpsProxy": "http://proxy:3128", "NoProxy": "amazonaws.com"}, []),
            ({"HttpsProxy": "http://proxy:3128"}, []),
            ({"NoProxy": "amazonaws.com"}, ["HttpsProxy must be set if NoProxy is set"]),
        ],
    )
    def test_parameters_that_belong_together_are_refused_alone(self, values: dict[str, str], broken: list[str]) -> None:
        assert broken_rules(TEMPLATE, values) == broken

    @pytest.mark.parametrize(
        ("name", "good", "bad"),
        [
            ("SubnetIds", "subnet-0a1b2c3d", "sg-0a1b2c3d"),
            ("SecurityGroupIds", "sg-0a1b2c3d", "default"),
            (
                "ReceiverRoleArns",
                "arn:aws:iam::123456789012:role/path/keyturn-Role-1A",
                "arn:aws:iam::123456789012:user/me",
            ),
            (
                "ExtraRuleArns",
                "arn:aws:events:eu-west-1:123456789012:rule/bus/mine",
                "arn:aws:sns:eu-west-1:123456789012:t",
            ),
        ],
    )
    def test_each_member_of_a_list_has_its_form(self, name: str, good: str, bad: str) -> None:
        """CloudFormation applies the pattern to each member of the list:

        https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/parameters-section-structure.html
        """
        assert PARAMETERS[name]["Type"] == "CommaDelimitedList"
        assert re.fullmatch(PARAMETERS[name]["AllowedPattern"], good)
        for each in (bad, f"{good} ", "<SubnetId>", "*"):
            assert not re.fullmatch(PARAMETERS[name]["AllowedPattern"], each), each

    def test_queue_names_fit_for_stack_names_as_long_as_the_page_says(self) -> None:
        longest = max(len(each["QueueName"]["Fn::Sub"]) for each in of_type("AWS::SQS::Queue").values())
        allowed = 80 - (longest - len("${AWS::StackName}"))
        page = (FILE.parent / "docs" / "aws.md").read_text()
        assert f"at most {allowed} characters" in page

    @pytest.mark.parametrize("good", ["", "prod/", "rds!cluster-", "shop/,rds!cluster-,redshift!"])
    def test_name_prefixes_of_own_and_of_managed_secrets_are_accepted(self, good: str) -> None:
        assert re.fullmatch(PARAMETERS["NamePrefixes"]["AllowedPattern"], good)

    @pytest.mark.parametrize("bad", ["a b", "a,,b", ",a", "a,b,c,d,e,f", "ä"])
    def test_invalid_name_prefixes_are_refused(self, bad: str) -> None:
        assert not re.fullmatch(PARAMETERS["NamePrefixes"]["AllowedPattern"], bad)


class TestQueues:
    def test_messages_survive_a_receiver_outage_of_a_day(self) -> None:
        made, function = RESOURCES["Queue"]["Properties"], RESOURCES["Notifier"]["Properties"]
        assert made["VisibilityTimeout"] >= 6 * function["Timeout"]
        assert made["VisibilityTimeout"] == queue.MAX_DELAY
        receives = made["RedrivePolicy"]["maxReceiveCount"]
        assert receives >= 500
        shortest = sum(queue.retry_delay(receive, 0, jitter=1.0) for receive in range(1, receives + 1))
        assert shortest >= 24 * 3600
        assert made["MessageRetentionPeriod"] >= 4 * 24 * 3600
        assert RESOURCES["DeadLetterQueue"]["Properties"]["MessageRetentionPeriod"] == 14 * 24 * 3600

    def test_queues_are_encrypted_and_limit_redrive_sources(self) -> None:
        for name, each in of_type("AWS::SQS::Queue").items():
            assert each["SqsManagedSseEnabled"] == {"Fn::If": ["WithCustomerKey", {"Ref": "AWS::NoValue"}, True]}, name
            assert each["KmsMasterKeyId"]["Fn::If"][1] == {"Ref": "KmsKeyArn"}, name
            assert "RedrivePolicy" in each or "RedriveAllowPolicy" in each, name
        named = RESOURCES["DeadLetterQueue"]["Properties"]["RedriveAllowPolicy"]["sourceQueueArns"][0]["Fn::Sub"]
        assert named.endswith(":" + RESOURCES["Queue"]["Properties"]["QueueName"]["Fn::Sub"])

    def test_queues_refuse_calls_without_tls(self) -> None:
        denied = set()
        for policy in of_type("AWS::SQS::QueuePolicy").values():
            for statement in policy["PolicyDocument"]["Statement"]:
                if statement.get("Effect") == "Deny":
                    assert statement["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}
                    assert (statement["Principal"], statement["Action"]) == ("*", "sqs:*")
                    denied |= {each["Ref"] for each in policy["Queues"]}
        assert denied == of_type("AWS::SQS::Queue").keys()

    @pytest.mark.parametrize("bus", ["", "keyturn/"])
    def test_queues_accept_messages_only_from_the_rules_of_the_stack(self, bus: str) -> None:
        """When an update of the stack creates a rule, the policy does not have the rule's ARN at first. The rule is
        accepted anyway, because its name begins with the name of the stack."""
        allowed = [each for each in queue_statements(ExtraRuleArns=False) if each["Effect"] == "Allow"]
        (statement,) = allowed
        assert statement["Principal"] == {"Service": "events.amazonaws.com"}
        assert statement["Action"] == "sqs:SendMessage"
        arns = statement["Condition"]["ArnLike"]["aws:SourceArn"]
        rules = json.dumps(arns)
        assert {name for name in RESOURCES if f'"{name}"' in rules} == of_type("AWS::Events::Rule").keys()
        values = {"Partition": "aws", "Region": "eu-west-1", "AccountId": "123456789012", "StackName": "keyturn"}
        patterns = [re.sub(r"\$\{AWS::(\w+)\}", lambda found: values[found[1]], each["Fn::Sub"]) for each in arns[3:]]
        policy = [{**statement, "Resource": "*", "Condition": {"ArnLike": {"aws:SourceArn": patterns}}}]
        for account, rule, expected in (
            ("123456789012", "keyturn-LabelUpdatedRule-1A2B", True),
            ("123456789012", "other-keyturn-1A2B", False),
            ("123456789012", "keyturn2-LabelUpdatedRule-1A2B", False),
            ("999988887777", "keyturn-LabelUpdatedRule-1A2B", False),
        ):
            arn = f"arn:aws:events:eu-west-1:{account}:rule/{bus}{rule}"
            assert allows(policy, "sqs:SendMessage", "*", {"aws:SourceArn": arn}) is expected, arn

    def test_rules_of_the_operator_may_send_to_the_queue_if_they_are_named(self) -> None:
        """A rule of the operator may send events that the stack's rules do not forward (docs/events.md)."""
        given = "arn:aws:events:eu-west-1:123456789012:rule/mine"
        (statement,) = (
            each for each in queue_statements(ExtraRuleArns=True) if each["Sid"] == "AllowSendFromExtraRules"
        )
        assert statement["Principal"] == {"Service": "events.amazonaws.com"}
        assert statement["Resource"] == {"Fn::GetAtt": ["Queue", "Arn"]}
        assert statement["Condition"] == {"ArnEquals": {"aws:SourceArn": {"Ref": "ExtraRuleArns"}}}
        policy = [{**statement, "Resource": "*", "Condition": {"ArnEquals": {"aws:SourceArn": [given]}}}]
        for rule, expected in ((given, True), (given + "2", False), (given.replace("1234", "9999"), False)):
            assert allows(policy, "sqs:SendMessage", "*", {"aws:SourceArn": rule}) is expected
        assert not allows(policy, "sqs:ReceiveMessage", "*", {"aws:SourceArn": given})

    def test_rule_target_has_a_dead_letter_queue(self) -> None:
        for rule in of_type("AWS::Events::Rule").values():
            for target in rule["Targets"]:
                assert target["DeadLetterConfig"] == {"Arn": {"Fn::GetAtt": ["UndeliveredEvents", "Arn"]}}


class TestFunctions:
    def test_handler_paths_exist_in_the_code(self) -> None:
        handlers = {name: each["Handler"] for name, each in of_type("AWS::Serverless::Function").items()}
        assert handlers == {
            "Notifier": f"{handler.__name__}.{handler.handler.__name__}",
            "SigningKeyRotation": f"{rotation.__name__}.{rotation.handler.__name__}",
        }

    def test_post_fits_into_the_timeout_of_the_function(self) -> None:
        left = RESOURCES["Notifier"]["Properties"]["Timeout"] - handler.RESERVE_SECONDS
        assert left > delivery.CONNECT_SECONDS + delivery.REPLY_SECONDS
        assert RESOURCES["Notifier"]["Properties"]["Timeout"] == function.TIMEOUT_SECONDS

    def test_rotation_waits_for_two_key_intervals_of_the_receivers(self) -> None:
        from keyturn_receiver.settings import Settings as ReceiverSettings

        interval = ReceiverSettings.model_fields["signing_key_interval_seconds"].default
        assert RESOURCES["SigningKeyRotation"]["Properties"]["Timeout"] - rotation.TRY_SECONDS >= 2 * interval

    def test_event_source_uses_partial_batch_failures_and_bounded_batches(self) -> None:
        source = RESOURCES["Notifier"]["Properties"]["Events"]["Queue"]["Properties"]
        assert source["FunctionResponseTypes"] == ["ReportBatchItemFailures"]
        assert source["BatchSize"] <= 10  # the limit of the contract, and of one call to SQS
        assert source["ScalingConfig"] == {"MaximumConcurrency": {"Ref": "MaximumConcurrency"}}

    def test_function_logs_json_with_a_retention(self) -> None:
        for each in of_type("AWS::Serverless::Function").values():
            log = RESOURCES[each["LoggingConfig"]["LogGroup"]["Ref"]]["Properties"]
            assert each["LoggingConfig"]["LogFormat"] == "JSON"
            assert log["RetentionInDays"] == {"Ref": "LogRetentionDays"}
            assert log["KmsKeyId"] == {"Fn::If": ["WithCustomerKey", {"Ref": "KmsKeyArn"}, {"Ref": "AWS::NoValue"}]}


class TestRules:
    def test_scheduled_heartbeat_is_what_the_notifier_parses_as_one(self) -> None:
        target = RESOURCES["Heartbeat"]["Properties"]["Target"]
        assert target["EventBridgeParameters"] == {"Source": event_parser.HEARTBEAT_SOURCE, "DetailType": HEARTBEAT}
        text, values = target["Input"]["Fn::Sub"]
        assert values["Label"]["Fn::If"][1] == deployed.HEARTBEAT["labelUpdated"]
        assert json.loads(text.replace("${Prefix}", "").replace("${Label}", "AWSCURRENT")) == deployed.HEARTBEAT

    def test_label_rule_forwards_label_moves_and_heartbeats(self) -> None:
        pattern = RESOURCES["LabelUpdatedRule"]["Properties"]["EventPattern"]
        assert pattern["detail-type"] == [NATIVE, HEARTBEAT]
        assert pattern["source"] == [event_parser.SOURCE, event_parser.HEARTBEAT_SOURCE]

    def test_lifecycle_rule_forwards_exactly_the_events_that_the_catalogue_names(self) -> None:
        forwarded = set(RESOURCES["LifecycleRule"]["Properties"]["EventPattern"]["detail"]["eventName"])
        assert forwarded <= {name for (_, name), meaning in MEANINGS.items() if meaning.becomes}
        assert {name for _, name in MEANINGS if name in (aws_event_types.__doc__ or "")} == forwarded

    def test_members_heartbeats_are_counted_if_the_parameter_says_how_many_there_are(self) -> None:
        rule, alarm = RESOURCES["MemberHeartbeatRule"], RESOURCES["MemberHeartbeatsMissingAlarm"]
        assert rule["Condition"] == alarm["Condition"] == "WithMembers"
        assert rule["Properties"]["EventBusName"] == {"Ref": "EventBusName"}
        pattern = rule["Properties"]["EventPattern"]
        assert pattern == {"source": [event_parser.HEARTBEAT_SOURCE], "detail-type": [MEMBER_HEARTBEAT]}
        assert MEMBER_HEARTBEAT not in RESOURCES["LabelUpdatedRule"]["Properties"]["EventPattern"]["detail-type"]

    def test_local_aws_deploys_the_same_queues(self) -> None:
        assert queues(TEMPLATE)["Resources"].keys() == of_type("AWS::SQS::Queue").keys()


class TestAlarms:
    def test_alarms_cover_every_cause_of_lost_or_late_events(self) -> None:
        watched = {metric for each in of_type("AWS::CloudWatch::Alarm").values() for metric in metrics_of(each)}
        assert watched == {
            ("AWS/SQS", "ApproximateAgeOfOldestMessage"),
            ("AWS/SQS", "ApproximateNumberOfMessagesVisible"),
            ("AWS/Events", "FailedInvocations"),
            ("AWS/Lambda", "Errors"),
            ("AWS/Lambda", "Throttles"),
            (NAMESPACE, Metric.EVENT_WAITING),
            (NAMESPACE, Metric.HEARTBEATS_ACCEPTED),
            (NAMESPACE, Metric.HEARTBEATS_REFUSED),
            (NAMESPACE, Metric.MEMBER_HEARTBEATS),
        }

    @pytest.mark.parametrize("retry_after", [0.0, disposition.MAX_RETRY_AFTER])
    @pytest.mark.parametrize("jitter", [0.0, 1.0])
    def test_one_event_that_is_never_applied_rings_the_alarm(self, jitter: float, retry_after: float) -> None:
        """The queue's metric leaves out a message from its third receive on. So the notifier's own metric has to report
        it."""
        alarm = RESOURCES["EventsWaitingAlarm"]["Properties"]
        assert (alarm["Statistic"], alarm["Dimensions"][0]["Name"]) == ("Maximum", "service")
        tries = list(itertools.accumulate(queue.retry_delay(each, retry_after, jitter) for each in range(1, 60)))
        breaching = {second // alarm["Period"] for second in tries if second * 1000 > alarm["Threshold"]}
        rings = [
            minute
            for minute in range(60)
            if sum(minute - past in breaching for past in range(alarm["EvaluationPeriods"]))
            >= alarm["DatapointsToAlarm"]
        ]
        assert rings, "it never rings"
        assert rings[0] * alarm["Period"] <= 300 + max(queue.MAX_DELAY, 2 * retry_after)
        if not retry_after:
            assert rings == list(range(rings[0], 60)), "it goes off while the event still waits"

    def test_alarms_watch_both_dead_letter_queues(self) -> None:
        dimensions = json.dumps([each.get("Dimensions") for each in of_type("AWS::CloudWatch::Alarm").values()])
        assert '"DeadLetterQueue"' in dimensions
        assert '"UndeliveredEvents"' in dimensions

    @pytest.mark.parametrize(
        ("accepted", "refused", "ringing"), [(1, 0, set()), (0, 1, {"Refused"}), (0, 0, {"Missing"})]
    )
    def test_only_one_of_the_heartbeats_alarms_rings(self, accepted: int, refused: int, ringing: set[str]) -> None:
        """A heartbeat counts as refused if any receiver refuses it. It counts as accepted if none does."""
        missing, refusing = (RESOURCES[f"Heartbeats{name}Alarm"]["Properties"] for name in ("Missing", "Refused"))
        assert missing["Metrics"][-1]["Expression"] == "FILL(accepted, 0) + FILL(refused, 0)"
        assert [each["MetricStat"]["Metric"]["MetricName"] for each in missing["Metrics"][:-1]] == [
            Metric.HEARTBEATS_ACCEPTED,
            Metric.HEARTBEATS_REFUSED,
        ]
        assert (missing["ComparisonOperator"], missing["TreatMissingData"]) == ("LessThanThreshold", "breaching")
        assert refusing["MetricName"] == Metric.HEARTBEATS_REFUSED
        rings = {"Missing": accepted + refused < missing["Threshold"], "Refused": refused > refusing["Threshold"]}
        assert {name for name, rung in rings.items() if rung} == ringing

    @pytest.mark.parametrize("members", [1, 2, 50, 400])
    @pytest.mark.parametrize(("silent", "lost", "rings"), [(0, 0, False), (0, 2, False), (1, 0, True), (1, 1, True)])
    def test_alarm_of_the_members_rings_if_one_is_silent(
        self, members: int, silent: int, lost: int, rings: bool
    ) -> None:
        """The schedule sends each heartbeat only once. So if no member is silent, ``lost`` heartbeats in a period
        do not trigger the alarm."""
        alarm = RESOURCES["MemberHeartbeatsMissingAlarm"]["Properties"]
        minutes = alarm["Metrics"][0]["MetricStat"]["Period"] / 60
        received = (members - silent) * minutes - lost
        expression = alarm["Metrics"][1]["Expression"]["Fn::Sub"]
        assert expression == f"${{MemberCount}} - FILL(received, 0) / {minutes:.0f}"
        assert alarm["ComparisonOperator"] == "GreaterThanThreshold"
        assert (members - received / minutes > alarm["Threshold"]) is rings

    def test_alarm_notifies_the_topic_and_describes_what_to_do(self) -> None:
        for name, each in of_type("AWS::CloudWatch::Alarm").items():
            for actions in ("AlarmActions", "OKActions"):
                assert each[actions] == {"Fn::If": ["WithTopic", [{"Ref": "AlarmTopicArn"}], {"Ref": "AWS::NoValue"}]}
            assert len(each["AlarmDescription"]) > 40, name

    def test_dashboard_shows_every_metric_of_the_notifier(self) -> None:
        body = RESOURCES["Dashboard"]["Properties"]["DashboardBody"]["Fn::Sub"]
        json.loads(re.sub(r"\$\{[^}]+\}", "x", body))
        assert {metric.value for metric in DEFINITIONS if f'"{metric.value}"' in body} == set(Metric)

    def test_widgets_of_the_log_query_lines_and_fields_that_the_notifier_logs(self) -> None:
        source = Path(handler.__file__).read_text()
        queries = {each["title"]: each["query"] for each in _widgets("log")}
        assert queries.keys() == {"Rotations", "Failed deliveries", "Arrived, but refused by a binding"}
        for query in queries.values():
            filters, fields = re.findall(r"\| (?:filter|fields) ([^|]+)", query)
            texts = set(re.findall(r"'([^']+)'", filters)) - {"Heartbeat"}
            names = {*re.findall(r"(\w+) (?:in|=|!=) ", filters), *re.split(r", |\.\d\.", fields.strip())}
            for word in texts | names - {"@timestamp", "message"}:
                assert f'"{word}"' in source, word

    def test_widgets_do_not_overlap(self) -> None:
        places = [
            (each["x"] + x, each["y"] + y)
            for each in _dashboard()["widgets"]
            for x in range(each["width"])
            for y in range(each["height"])
        ]
        assert len(set(places)) == len(places)

    def test_rotations_on_the_dashboard_are_all_events_but_heartbeats(self) -> None:
        (query,) = (each["query"] for each in _widgets("log") if each["title"] == "Rotations")
        heartbeat = json.loads((FILE.parent / "tests" / "events" / "heartbeat.json").read_text())
        parsed = event_parser.parse_event(heartbeat)
        assert isinstance(parsed, Notification)
        name = parsed.data.event_name
        assert f"filter message in ['delivered', 'not delivered'] and event_name != '{name}'" in query


def _dashboard() -> Any:
    body = RESOURCES["Dashboard"]["Properties"]["DashboardBody"]["Fn::Sub"]
    return json.loads(re.sub(r"\$\{[^}]+\}", "x", body))


def _widgets(kind: str) -> list[Any]:
    return [each["properties"] for each in _dashboard()["widgets"] if each["type"] == kind]


def test_stateful_resource_is_retained_when_replaced() -> None:
    for name, each in RESOURCES.items():
        if each["Type"] in ("AWS::SQS::Queue", "AWS::SecretsManager::Secret", "AWS::KMS::Key", "AWS::Logs::LogGroup"):
            assert each["UpdateReplacePolicy"] == "Retain", name
