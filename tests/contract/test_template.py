"""template.yaml: valid, hardened, and the same facts as the code and the local AWS."""

import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from keyturn_local.aws import server as local_aws
from keyturn_local.aws.template import FILE, event_path, read
from keyturn_local.notifier import event_source
from keyturn_notifier import delivery, event, handler, queue, rotation
from keyturn_notifier.catalogue import HEARTBEAT, NATIVE
from keyturn_notifier.settings import InvalidSettings, NotifierSettings, read_settings
from keyturn_notifier.telemetry import DEFINITIONS, NAMESPACE, Metric
from support.sam import RECEIVER

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


def of_type(kind: str) -> dict[str, Any]:
    return {name: each.get("Properties", {}) for name, each in RESOURCES.items() if each["Type"] == kind}


@pytest.mark.parametrize("region", ["us-east-1", "eu-central-1", "ap-southeast-2"])
def test_cfn_lint_finds_nothing(region: str) -> None:
    lint = Path(sys.executable).with_name("cfn-lint")
    done = subprocess.run([lint, "--regions", region, "--", FILE], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


class TestSettings:
    def test_the_functions_get_every_setting_and_no_other(self) -> None:
        settings = {f"KEYTURN_{each.name.upper()}" for each in dataclasses.fields(NotifierSettings)}
        assert {name for name in VARIABLES if name.startswith("KEYTURN_")} == settings

    def test_the_local_functions_get_the_same_variables(self, tmp_path: Path) -> None:
        path = local_aws.EventPath("queue", "dlq", "arn")
        made = local_aws.LocalAws.__new__(local_aws.LocalAws)
        made.endpoint_url = "http://127.0.0.1:1"
        local = event_source.function_environment(made, path, [RECEIVER])
        assert {name for name in local if not name.startswith("AWS_")} == VARIABLES.keys()

    @pytest.mark.parametrize("missing", SET)
    def test_one_that_is_missing_is_named(self, missing: str) -> None:
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
    def test_a_receiver_that_is_not_https_is_refused_by_the_template_and_by_the_function(self, url: str) -> None:
        assert not re.fullmatch(PARAMETERS["ReceiverUrls"]["AllowedPattern"], url)
        with pytest.raises(InvalidSettings, match="KEYTURN_RECEIVER_URLS") as caught:
            read_settings({**SET, "KEYTURN_RECEIVER_URLS": url})
        assert "hush" not in str(caught.value)

    def test_several_receivers_are_taken_by_both(self) -> None:
        urls = f"{RECEIVER},https://10.0.0.1:8443/v1/notifications"
        assert re.fullmatch(PARAMETERS["ReceiverUrls"]["AllowedPattern"], urls)
        assert read_settings({**SET, "KEYTURN_RECEIVER_URLS": urls}).receiver_urls == tuple(urls.split(","))

    def test_loopback_needs_no_tls(self) -> None:
        read_settings({**SET, "KEYTURN_RECEIVER_URLS": "http://127.0.0.1:1/v1/notifications"})

    @pytest.mark.parametrize("text", ["not base64!", "aGVsbG8="])
    def test_a_ca_bundle_that_is_none_is_refused(self, text: str) -> None:
        with pytest.raises(InvalidSettings, match="KEYTURN_CA_BUNDLE"):
            read_settings({**SET, "KEYTURN_CA_BUNDLE": text})


class TestParameters:
    def test_each_has_a_description_and_what_may_be_mistyped_a_pattern(self) -> None:
        for name, each in PARAMETERS.items():
            assert each.get("Description"), name
            checked = {"AllowedPattern", "AllowedValues", "MinValue"} & each.keys()
            assert checked or each["Type"] == "CommaDelimitedList", name
            assert "ConstraintDescription" in each or "AllowedPattern" not in each, name

    def test_each_default_is_allowed(self) -> None:
        for name, each in PARAMETERS.items():
            if "Default" in each and "AllowedPattern" in each:
                assert re.fullmatch(each["AllowedPattern"], each["Default"]), name
            if "AllowedValues" in each:
                assert each["Default"] in each["AllowedValues"], name

    def test_each_is_in_a_group_of_the_console(self) -> None:
        groups = TEMPLATE["Metadata"]["AWS::CloudFormation::Interface"]["ParameterGroups"]
        assert sorted(name for group in groups for name in group["Parameters"]) == sorted(PARAMETERS)

    @pytest.mark.parametrize("bad", ["a b", "a,,b", ",a", "a,b,c,d,e,f", "ä"])
    def test_a_mistyped_list_of_prefixes_is_refused(self, bad: str) -> None:
        assert not re.fullmatch(PARAMETERS["NamePrefixes"]["AllowedPattern"], bad)


class TestQueues:
    def test_they_outlive_a_day_of_a_dead_receiver(self) -> None:
        made, function = RESOURCES["Queue"]["Properties"], RESOURCES["Notifier"]["Properties"]
        assert made["VisibilityTimeout"] >= 6 * function["Timeout"]
        assert made["VisibilityTimeout"] == queue.MAX_DELAY
        receives = made["RedrivePolicy"]["maxReceiveCount"]
        assert receives >= 500
        shortest = sum(queue.retry_delay(receive, 0, jitter=1.0) for receive in range(1, receives + 1))
        assert shortest >= 24 * 3600
        assert made["MessageRetentionPeriod"] >= 4 * 24 * 3600
        assert RESOURCES["DeadLetterQueue"]["Properties"]["MessageRetentionPeriod"] == 14 * 24 * 3600

    def test_all_are_encrypted_and_say_who_may_redrive_into_them(self) -> None:
        for name, each in of_type("AWS::SQS::Queue").items():
            assert each["SqsManagedSseEnabled"] == {"Fn::If": ["WithCustomerKey", {"Ref": "AWS::NoValue"}, True]}, name
            assert each["KmsMasterKeyId"]["Fn::If"][1] == {"Ref": "KmsKeyArn"}, name
            assert "RedrivePolicy" in each or "RedriveAllowPolicy" in each, name
        named = RESOURCES["DeadLetterQueue"]["Properties"]["RedriveAllowPolicy"]["sourceQueueArns"][0]["Fn::Sub"]
        assert named.endswith(":" + RESOURCES["Queue"]["Properties"]["QueueName"]["Fn::Sub"])

    def test_all_refuse_what_does_not_come_over_tls(self) -> None:
        denied = set()
        for policy in of_type("AWS::SQS::QueuePolicy").values():
            for statement in policy["PolicyDocument"]["Statement"]:
                if statement["Effect"] == "Deny":
                    assert statement["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}
                    assert (statement["Principal"], statement["Action"]) == ("*", "sqs:*")
                    denied |= {each["Ref"] for each in policy["Queues"]}
        assert denied == of_type("AWS::SQS::Queue").keys()

    def test_only_the_stacks_own_rules_may_send(self) -> None:
        allowed = [
            statement
            for policy in of_type("AWS::SQS::QueuePolicy").values()
            for statement in policy["PolicyDocument"]["Statement"]
            if statement["Effect"] == "Allow"
        ]
        (statement,) = allowed
        assert statement["Principal"] == {"Service": "events.amazonaws.com"}
        assert statement["Action"] == "sqs:SendMessage"
        rules = json.dumps(statement["Condition"]["ArnEquals"]["aws:SourceArn"])
        assert {name for name in RESOURCES if f'"{name}"' in rules} == of_type("AWS::Events::Rule").keys()

    def test_every_target_of_a_rule_has_a_dead_letter_queue(self) -> None:
        for rule in of_type("AWS::Events::Rule").values():
            for target in rule["Targets"]:
                assert target["DeadLetterConfig"] == {"Arn": {"Fn::GetAtt": ["UndeliveredEvents", "Arn"]}}


class TestFunctions:
    def test_the_handlers_are_there(self) -> None:
        handlers = {name: each["Handler"] for name, each in of_type("AWS::Serverless::Function").items()}
        assert handlers == {
            "Notifier": f"{handler.__name__}.{handler.handler.__name__}",
            "SigningKeyRotation": f"{rotation.__name__}.{rotation.handler.__name__}",
        }

    def test_a_post_fits_into_the_time_of_the_function(self) -> None:
        left = RESOURCES["Notifier"]["Properties"]["Timeout"] - handler.RESERVE_SECONDS
        assert left > delivery.CONNECT_SECONDS + delivery.REPLY_SECONDS
        assert RESOURCES["Notifier"]["Properties"]["Timeout"] == event_source.TIMEOUT_SECONDS

    def test_a_rotation_waits_for_longer_than_receivers_take_to_see_a_new_key(self) -> None:
        from keyturn_receiver.settings import Settings as OfTheReceiver

        interval = OfTheReceiver.model_fields["signing_key_interval_seconds"].default
        assert RESOURCES["SigningKeyRotation"]["Properties"]["Timeout"] - rotation.TRY_SECONDS >= 2 * interval

    def test_failures_are_reported_one_by_one(self) -> None:
        source = RESOURCES["Notifier"]["Properties"]["Events"]["Queue"]["Properties"]
        assert source["FunctionResponseTypes"] == ["ReportBatchItemFailures"]
        assert source["BatchSize"] <= 10  # the contract's limit, and SQS's for one call
        assert source["ScalingConfig"] == {"MaximumConcurrency": {"Ref": "MaximumConcurrency"}}

    def test_each_has_a_log_in_json_that_does_not_grow_for_ever(self) -> None:
        for each in of_type("AWS::Serverless::Function").values():
            log = RESOURCES[each["LoggingConfig"]["LogGroup"]["Ref"]]["Properties"]
            assert each["LoggingConfig"]["LogFormat"] == "JSON"
            assert log["RetentionInDays"] == {"Ref": "LogRetentionDays"}


class TestRules:
    def test_heartbeats_are_what_the_notifier_takes_for_heartbeats(self) -> None:
        target = RESOURCES["Heartbeat"]["Properties"]["Target"]
        assert target["EventBridgeParameters"] == {"Source": event.HEARTBEAT_SOURCE, "DetailType": HEARTBEAT}
        text, values = target["Input"]["Fn::Sub"]
        assert values["Label"]["Fn::If"][1] == local_aws.HEARTBEAT["labelUpdated"]
        assert json.loads(text.replace("${Prefix}", "").replace("${Label}", "AWSCURRENT")) == local_aws.HEARTBEAT

    def test_the_label_rule_carries_label_moves_and_heartbeats(self) -> None:
        pattern = RESOURCES["LabelUpdatedRule"]["Properties"]["EventPattern"]
        assert pattern["detail-type"] == [NATIVE, HEARTBEAT]
        assert pattern["source"] == [event.SOURCE, event.HEARTBEAT_SOURCE]

    def test_the_local_aws_deploys_these_rules_and_queues(self) -> None:
        local = event_path(TEMPLATE)["Resources"]
        assert local.keys() == of_type("AWS::SQS::Queue").keys() | of_type("AWS::Events::Rule").keys()


class TestAlarms:
    def test_there_is_one_for_everything_that_ends_in_lost_or_late_events(self) -> None:
        watched = {(each["Namespace"], each["MetricName"]) for each in of_type("AWS::CloudWatch::Alarm").values()}
        assert watched == {
            ("AWS/SQS", "ApproximateAgeOfOldestMessage"),
            ("AWS/SQS", "ApproximateNumberOfMessagesVisible"),
            ("AWS/Events", "FailedInvocations"),
            ("AWS/Lambda", "Errors"),
            ("AWS/Lambda", "Throttles"),
            (NAMESPACE, Metric.HEARTBEATS_ACCEPTED),
            (NAMESPACE, Metric.HEARTBEATS_REFUSED),
        }

    def test_both_dead_letter_queues_are_watched(self) -> None:
        dimensions = json.dumps([each["Dimensions"] for each in of_type("AWS::CloudWatch::Alarm").values()])
        assert '"DeadLetterQueue"' in dimensions
        assert '"UndeliveredEvents"' in dimensions

    def test_each_tells_the_topic_and_says_what_to_do(self) -> None:
        for name, each in of_type("AWS::CloudWatch::Alarm").items():
            for actions in ("AlarmActions", "OKActions"):
                assert each[actions] == {"Fn::If": ["WithTopic", [{"Ref": "AlarmTopicArn"}], {"Ref": "AWS::NoValue"}]}
            assert len(each["AlarmDescription"]) > 40, name

    def test_the_dashboard_shows_every_metric_that_the_notifier_counts(self) -> None:
        body = RESOURCES["Dashboard"]["Properties"]["DashboardBody"]["Fn::Sub"]
        json.loads(re.sub(r"\$\{[^}]+\}", "x", body))
        assert {metric.value for metric in DEFINITIONS if f'"{metric.value}"' in body} == set(Metric)


def test_what_would_lose_something_is_kept_when_it_is_replaced() -> None:
    for name, each in RESOURCES.items():
        if each["Type"] in ("AWS::SQS::Queue", "AWS::SecretsManager::Secret", "AWS::KMS::Key", "AWS::Logs::LogGroup"):
            assert each["UpdateReplacePolicy"] == "Retain", name
