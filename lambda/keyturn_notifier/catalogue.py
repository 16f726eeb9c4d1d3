"""Every event that Secrets Manager is known to emit, and what it means to Keyturn. Pure: docs/events.md is made of it.

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


@dataclass(frozen=True, slots=True)
class Meaning:
    """What an event becomes (None: it is ignored), and why."""

    becomes: EventType | None
    why: str


_VALUE = Meaning(
    EventType.CHANGED, "it may have changed a value; sent beside the label event where both arrive, which does no harm"
)
_READ = Meaning(None, "it only reads")
_METADATA = Meaning(None, "it changes no value: policies, tags and replicas are not carried")
_ROTATION = Meaning(None, "a rotation under way has changed nothing that anybody reads; its end is told")
_VERSION_DELETION = Meaning(None, "the deletion has been told already, by DeleteSecret or RestoreSecret")

MEANINGS: Mapping[tuple[str, str], Meaning] = {
    (NATIVE, "SecretLabelUpdated"): Meaning(
        EventType.CHANGED, "a staging label is on another version now; moves of AWSPENDING and AWSPREVIOUS are ignored"
    ),
    (API_CALL, "PutSecretValue"): _VALUE,
    (API_CALL, "UpdateSecret"): _VALUE,
    (API_CALL, "UpdateSecretVersionStage"): _VALUE,
    (API_CALL, "CreateSecret"): Meaning(EventType.CHANGED, "a binding may be waiting for it"),
    (API_CALL, "DeleteSecret"): Meaning(EventType.DELETED, "the binding's Secret stays, and says so"),
    (API_CALL, "RestoreSecret"): Meaning(EventType.RESTORED, "it can be read again"),
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
    (SERVICE_EVENT, "RotationSucceeded"): Meaning(EventType.CHANGED, "the new version is current"),
    (SERVICE_EVENT, "RotationFailed"): Meaning(EventType.ROTATION_FAILED, "the old version is still current"),
    (SERVICE_EVENT, "RotationAbandoned"): Meaning(
        EventType.ROTATION_FAILED, "somebody wrote a version by hand while a rotation was under way"
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

UNKNOWN = Meaning(None, "it is not known here to change a value")
