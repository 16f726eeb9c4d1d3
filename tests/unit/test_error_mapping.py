"""Error mapping: each error of AWS is mapped to one meaning and one piece of advice, and AWS's own text is dropped."""

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError, NoCredentialsError

from keyturn_receiver.errors import (
    ActionDenied,
    KeyturnError,
    NoCredentials,
    SourceNotFound,
    SourcePendingDeletion,
    SourceRefused,
    SourceUnavailable,
)
from keyturn_receiver.sources import error_mapping
from keyturn_receiver.sources.thread_pools import CallTimeout

CANARY = "hunter2-canary"


def aws_error(code: object) -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": CANARY}}, "GetSecretValue")


@pytest.mark.parametrize(
    ("error", "expected", "advice"),
    [
        (aws_error("ResourceNotFoundException"), SourceNotFound, "create it"),
        (aws_error("InvalidRequestException"), SourcePendingDeletion, "restore it"),
        (aws_error("AccessDeniedException"), SourceRefused, "allow secretsmanager:GetSecretValue"),
        (aws_error("DecryptionFailure"), SourceRefused, "kms:Decrypt"),
        (aws_error("ExpiredTokenException"), NoCredentials, "check the role"),
        (NoCredentialsError(), NoCredentials, "check the role"),
        (aws_error("ThrottlingException"), SourceUnavailable, "AWS answered ThrottlingException: trying again"),
        (aws_error(f"<html>{CANARY}"), SourceUnavailable, "AWS answered with an error: trying again"),
        (aws_error(None), SourceUnavailable, "AWS answered with an error: trying again"),
        (EndpointConnectionError(endpoint_url=CANARY), SourceUnavailable, "AWS cannot be reached"),
        (CallTimeout(), SourceUnavailable, "AWS cannot be reached (CallTimeout): trying again"),
        (ValueError(CANARY), SourceUnavailable, "cannot be parsed (ValueError): trying again"),
    ],
)
def test_error_of_aws_is_translated_with_advice(error: Exception, expected: type[KeyturnError], advice: str) -> None:
    translated = error_mapping.translate(error, "AWS secret prod/db")
    assert type(translated) is expected
    assert str(translated).startswith("AWS secret prod/db")
    assert advice in str(translated)
    assert CANARY not in str(translated)


@pytest.mark.parametrize(
    ("code", "beginning"),
    [
        ("ResourceNotFoundException", "AWS secret prod/db does not exist in 1, eu-west-1, as role app: create it"),
        (
            "AccessDeniedException",
            "AWS secret prod/db cannot be read in 1, eu-west-1, as role app, access is denied: al",
        ),
        (
            "DecryptionFailure",
            "AWS secret prod/db cannot be decrypted in 1, eu-west-1, as role app: enable its KMS key",
        ),
    ],
)
def test_refusal_says_where_and_as_whom_aws_was_asked(code: str, beginning: str) -> None:
    translated = error_mapping.translate(aws_error(code), "AWS secret prod/db", "in 1, eu-west-1, as role app")
    assert str(translated).startswith(beginning)


def test_not_found_equals_the_answer_of_aws() -> None:
    made, answered = (
        error_mapping.not_found("AWS secret prod/db"),
        error_mapping.translate(aws_error("ResourceNotFoundException"), "AWS secret prod/db"),
    )
    assert (type(made), str(made)) == (type(answered), str(answered))


def test_denied_action_names_its_own_permission() -> None:
    denied = error_mapping.translate_action(aws_error("AccessDeniedException"), "ListSecrets")
    assert type(denied) is ActionDenied
    assert "allow secretsmanager:ListSecrets" in str(denied)
    refused = error_mapping.translate_action(aws_error("InvalidParameterException"), "BatchGetSecretValue")
    assert type(refused) is SourceRefused
    assert str(refused) == "BatchGetSecretValue is refused (InvalidParameterException)"
    throttled = error_mapping.translate_action(aws_error("ThrottlingException"), "ListSecrets")
    assert str(throttled) == "ListSecrets: AWS answered ThrottlingException: trying again"
