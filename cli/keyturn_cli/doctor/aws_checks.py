"""Checks of the stack in AWS: rule, schedule, queue, notifier and signing key. Pure."""

import fnmatch
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any

from keyturn_cli.advice import NOTHING_CHOSEN, Chosen
from keyturn_cli.doctor.aws_facts import AwsFacts, Notifier, Queue, Rule, SigningKey
from keyturn_cli.doctor.finding import Finding, Unknown, error, length, ok, skipped, some, warning
from keyturn_cli.words import counted
from keyturn_receiver.core.arn import full_name, refers_to

REDEPLOY = "deploy the stack again: it sets it back"
WAITING = timedelta(minutes=5)  # as in the alarm EventsNotReceived
OVERDUE = timedelta(days=1)


def check_path(facts: AwsFacts, chosen: Chosen = NOTHING_CHOSEN) -> Iterator[Finding]:
    """Check each part between the event bus and the notifier. ``chosen`` are the options of the command."""
    yield from [skipped("rule", facts.rule)] if isinstance(facts.rule, Unknown) else rule(facts.rule, facts.queue)
    yield schedule(facts.schedule)
    if isinstance(facts.queue, Unknown):
        yield skipped("queue", facts.queue)
    else:
        if isinstance(facts.rule, Rule):
            yield queue_policy(facts.queue, facts.rule.arn)
        yield queue_depth(facts.queue)
    yield dead_letters(facts.dead_letters, chosen)
    yield undelivered(facts.undelivered)
    yield from (
        [skipped("notifier", facts.notifier)] if isinstance(facts.notifier, Unknown) else notifier(facts.notifier)
    )


def rule(rule: Rule, queue: Queue | Unknown) -> Iterator[Finding]:
    """Check that the rule is enabled, that it matches a sample event, and that its target is the queue."""
    if not rule.enabled:
        yield error(
            f"rule {rule.name} is disabled, so no event reaches the queue", f"aws events enable-rule --name {rule.name}"
        )
    elif rule.matches_sample is False:
        yield error(f"the pattern of rule {rule.name} does not match a label move", REDEPLOY)
    elif isinstance(rule.matches_sample, Unknown):
        yield ok("rule enabled")
        yield skipped("pattern of the rule", rule.matches_sample)
    else:
        yield ok("rule enabled, pattern matches a sample")
    if isinstance(queue, Queue) and queue.arn not in rule.targets:
        yield error(f"rule {rule.name} does not send to the stack's queue", REDEPLOY)


def schedule(state: str | Unknown) -> Finding:
    """Check that the heartbeats are sent."""
    if isinstance(state, Unknown):
        return skipped("schedule of the heartbeats", state)
    if state != "ENABLED":
        return error(f"the schedule of the heartbeats is {state}", REDEPLOY)
    return ok("heartbeats scheduled")


def queue_policy(queue: Queue, rule_arn: str) -> Finding:
    """Check that the rule may send to the queue."""
    if policy_allows(queue.policy, queue.arn, rule_arn):
        return ok("queue policy")
    return error("the queue's policy does not let the rule send to it", REDEPLOY)


def policy_allows(policy: Mapping[str, Any], queue_arn: str, rule_arn: str) -> bool:
    """Return whether a queue's policy lets a rule of EventBridge send messages.

    The check understands only statements like those in template.yaml. These allow the service events.amazonaws.com (or
    everybody), with or without a condition on aws:SourceArn. Other statements, such as a Deny, are ignored.
    """
    for statement in _several(policy.get("Statement")):
        principal = statement.get("Principal")
        services = _several(principal.get("Service") if isinstance(principal, Mapping) else principal)
        if statement.get("Effect") != "Allow" or not {"events.amazonaws.com", "*"} & set(services):
            continue
        actions = [str(each).lower() for each in _several(statement.get("Action"))]
        resources = _several(statement.get("Resource"))
        if not any(fnmatch.fnmatchcase("sqs:sendmessage", action) for action in actions):
            continue
        if not any(fnmatch.fnmatchcase(queue_arn, str(each)) for each in resources):
            continue
        conditions = statement.get("Condition") or {}
        sources = [
            str(source)
            for tests in conditions.values()
            for key, given in tests.items()
            if key.lower() == "aws:sourcearn"
            for source in _several(given)
        ]
        if not sources or any(fnmatch.fnmatchcase(rule_arn, each) for each in sources):
            return True
    return False


def queue_depth(queue: Queue) -> Finding:
    """Check that events do not wait in the queue for a long time."""
    oldest = queue.oldest
    text = f"queue {queue.messages}"
    if isinstance(oldest, Unknown):
        return ok(text)
    text += f", oldest {length(oldest)}"
    if oldest > WAITING:
        return warning(text, "see the notifier's log for receivers that do not take them: docs/aws.md")
    return ok(text)


def dead_letters(number: int | Unknown, chosen: Chosen) -> Finding:
    """Check that there are no dead letters."""
    if isinstance(number, Unknown):
        return skipped("dead letters", number)
    if number:
        return warning(f"dead letters {number}", chosen.command("redeliver", "--list"))
    return ok("dead letters 0")


def undelivered(number: int | Unknown) -> Finding:
    """Check that EventBridge has put each event into the queue."""
    if isinstance(number, Unknown):
        return skipped("undelivered events", number)
    if number:
        return warning(
            f"{counted(number, 'event')} that EventBridge could not put into the queue",
            "see the attribute ERROR_MESSAGE: docs/aws.md#when-an-alarm-rings",
        )
    return ok("undelivered 0")


def notifier(notifier: Notifier) -> Iterator[Finding]:
    """Check that the function is active, that its event source mapping is enabled, and that it is in a VPC if a
    receiver has a private address."""
    before = True
    if notifier.state not in ("Active", "Inactive") or notifier.last_update == "Failed":
        before = False
        yield error(
            f"notifier {notifier.name} is {notifier.state}, its last update {notifier.last_update}",
            f"see the reason: aws lambda get-function-configuration --function-name {notifier.name}",
        )
    if notifier.event_source != "Enabled":
        before = False
        yield error(
            f"the notifier's event source is {notifier.event_source or 'gone'}, so nobody takes events off the queue",
            f"aws lambda list-event-source-mappings --function-name {notifier.name}, and enable it",
        )
    if notifier.private and not notifier.in_vpc:
        before = False
        hosts = some(f"{host} -> {address}" for host, address in notifier.private.items())
        yield error(f"the notifier is in no VPC, but {hosts} (private)", "set SubnetIds and SecurityGroupIds")
    if before:
        yield ok("notifier active, " + ("in a VPC" if notifier.in_vpc else "not in a VPC"))


def check_keys(key: SigningKey | Unknown, now: datetime) -> Iterator[Finding]:
    """Check that the signing key exists, is rotated, and is the key that the receivers read."""
    if isinstance(key, Unknown):
        yield skipped("signing key", key)
        return
    if key.deleted:
        yield error(
            "the signing key is scheduled for deletion", f"aws secretsmanager restore-secret --secret-id {key.arn}"
        )
        return
    if "AWSCURRENT" not in key.labels:
        yield error("the signing key has no version AWSCURRENT", "docs/runbook.md#keyturnnosigningkey writes one")
        return
    age = f", written {length(now - key.written)} ago" if key.written else ""
    yield ok(f"signing key present{age}" + (", previous accepted" if "AWSPREVIOUS" in key.labels else ""))
    if not key.rotates:
        yield warning("the signing key is not rotated", REDEPLOY)
    elif key.next_rotation and now - key.next_rotation > OVERDUE:
        yield warning(
            f"the rotation of the signing key is overdue by {length(now - key.next_rotation)}",
            "the rotation function's log names the receiver that does not accept the new key",
        )
    used = key.used_by_receivers
    if used is not None and used != key.arn and not refers_to(used, key.arn, full_name(key.arn)):
        yield error(
            f"receivers read the signing key {used}, and the notifier another",
            f"set the chart's value signingKey.secretId to {key.arn}",
        )


def _several(value: Any) -> list[Any]:
    """Return a list of values. A policy of IAM may have a single value where it could have a list."""
    return value if isinstance(value, list) else [] if value is None else [value]
