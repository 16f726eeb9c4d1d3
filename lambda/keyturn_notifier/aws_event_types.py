"""The catalogue of all events that Secrets Manager is known to emit, each with the notification that it becomes. Pure.

A row here does not forward anything by itself. The rules in template.yaml put only a few of these events into the
queue: the native one and, if the parameter LifecycleEvents is true, four CloudTrail events (DeleteSecret,
RestoreSecret, RotationFailed, RotationAbandoned). The other rows matter only if an operator's own rule sends more
events. `make docs` generates docs/events.md from this module.

Native: https://docs.aws.amazon.com/secretsmanager/latest/userguide/monitoring-eventbridge.html

CloudTrail: https://docs.aws.amazon.com/secretsmanager/latest/userguide/cloudtrail_log_entries.html
"""

from collections.abc import Mapping
from dataclasses import dataclass

from keyturn_contract.message import EventType

NATIVE = "Secret Label Updated"
API_CALL = "AWS API Call via CloudTrail"
SERVICE_EVENT = "AWS Service Event via CloudTrail"
HEARTBEAT = "Keyturn Heartbeat"
MEMBER_HEARTBEAT = "Keyturn Member Heartbeat"


@dataclass(frozen=True, slots=True)
class Meaning:
    """The meaning of an event. ``becomes`` is the type of the notification that it becomes, or None if it becomes no
    notification. ``reason`` explains this."""

    becomes: EventType | None
    reason: str


_VALUE = Meaning(
    EventType.CHANGED, "it may change a value; if the label event reports that, too, the duplicate does no harm"
)
_READ = Meaning(None, "it only reads")
_METADATA = Meaning(None, "it changes no value; Keyturn copies no policies, tags or replicas")
_ROTATION = Meaning(None, "a rotation in progress changes no value in use; another event reports its end")
_VERSION_DELETION = Meaning(None, "DeleteSecret or RestoreSecret has reported it already")

MEANINGS: Mapping[tuple[str, str], Meaning] = {
    (NATIVE, "SecretLabelUpdated"): Meaning(
        EventType.CHANGED, "a staging label moved to another version; moves of AWSPENDING and AWSPREVIOUS are ignored"
    ),
    (API_CALL, "PutSecretValue"): _VALUE,
    (API_CALL, "UpdateSecret"): _VALUE,
    (API_CALL, "UpdateSecretVersionStage"): _VALUE,
    (API_CALL, "CreateSecret"): Meaning(EventType.CHANGED, "a binding may be waiting for the secret"),
    (API_CALL, "DeleteSecret"): Meaning(
        EventType.DELETED, "the bound Secret stays, and its status reports the deletion"
    ),
    (API_CALL, "RestoreSecret"): Meaning(EventType.RESTORED, "the secret is readable again"),
    **dict.fromkeys(
        (
            (API_CALL, name)
            for name in (
                "BatchGetSecretValue",
                "DescribeSecret",
                "GetRandomPassword",
                "GetResourcePolicy",
                "GetSecretValue",
                "ListResourcePolicies",
                "ListSecretVersionIds",
                "ListSecrets",
                "ValidateResourcePolicy",
            )
        ),
        _READ,
    ),
    **dict.fromkeys(
        (
            (API_CALL, name)
            for name in (
                "AssociateCrossAccountReplica",
                "DeleteResourcePolicy",
                "DisassociateCrossAccountReplica",
                "PutResourcePolicy",
                "RemoveRegionsFromReplication",
                "ReplicateSecretToRegions",
                "StopReplicationToReplica",
                "TagResource",
                "UntagResource",
            )
        ),
        _METADATA,
    ),
    (API_CALL, "CancelRotateSecret"): _ROTATION,
    (API_CALL, "RotateSecret"): _ROTATION,
    (SERVICE_EVENT, "RotationStarted"): _ROTATION,
    (SERVICE_EVENT, "RotationSucceeded"): Meaning(
        EventType.CHANGED, "the new version is current; the label event reports it, too"
    ),
    (SERVICE_EVENT, "RotationFailed"): Meaning(EventType.ROTATION_FAILED, "the old version is still current"),
    (SERVICE_EVENT, "RotationAbandoned"): Meaning(
        EventType.ROTATION_FAILED, "somebody wrote a version by hand during the rotation"
    ),
    (SERVICE_EVENT, "TestRotationStarted"): _ROTATION,
    (SERVICE_EVENT, "TestRotationSucceeded"): _ROTATION,
    (SERVICE_EVENT, "TestRotationFailed"): _ROTATION,
    (SERVICE_EVENT, "StartSecretVersionDelete"): _VERSION_DELETION,
    (SERVICE_EVENT, "CancelSecretVersionDelete"): _VERSION_DELETION,
    (SERVICE_EVENT, "EndSecretVersionDelete"): _VERSION_DELETION,
    (SERVICE_EVENT, "ReplicationStarted"): _METADATA,
    (SERVICE_EVENT, "ReplicationSucceeded"): _METADATA,
    (SERVICE_EVENT, "ReplicationFailed"): _METADATA,
}

UNKNOWN = Meaning(None, "the catalogue does not list it as changing a value")
