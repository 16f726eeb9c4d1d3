"""What AWS's errors mean: translated once, here, free of AWS's own text, which may quote anything."""

import re

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    NoAuthTokenError,
    NoCredentialsError,
    PartialCredentialsError,
    TokenRetrievalError,
)

from keyturn_receiver.errors import (
    KeyturnError,
    NoCredentials,
    SourceNotFound,
    SourcePendingDeletion,
    SourceRefused,
    SourceUnavailable,
)
from keyturn_receiver.sources.thread_pools import CallTimeout, PoolExhausted

SLOW_DOWN = 5.0  # seconds

# https://docs.aws.amazon.com/secretsmanager/latest/apireference/API_GetSecretValue.html#API_GetSecretValue_Errors
_REFUSALS: dict[str, tuple[type[SourceRefused], str]] = {
    "ResourceNotFoundException": (
        SourceNotFound,
        "does not exist: create it, or correct the name, the account or the region",
    ),
    "InvalidRequestException": (
        SourcePendingDeletion,
        "is scheduled for deletion: restore it (aws secretsmanager restore-secret), or remove the binding",
    ),
    "AccessDeniedException": (
        SourceRefused,
        "may not be read by the role that reads it: allow secretsmanager:GetSecretValue and DescribeSecret on it,"
        " and kms:Decrypt on its key",
    ),
    "DecryptionFailure": (
        SourceRefused,
        "cannot be decrypted: enable its KMS key, and allow the role that reads it kms:Decrypt on it",
    ),
    "InvalidParameterException": (SourceRefused, "is not a valid secret id: correct the annotation"),
    "ValidationException": (SourceRefused, "is not a valid secret id: correct the annotation"),
}
# https://docs.aws.amazon.com/secretsmanager/latest/apireference/CommonErrors.html
_CREDENTIAL_CODES = frozenset(
    {
        "ExpiredToken",
        "ExpiredTokenException",
        "IncompleteSignature",
        "InvalidClientTokenId",
        "InvalidSignatureException",
        "MissingAuthenticationToken",
        "RequestExpired",
        "SignatureDoesNotMatch",
        "UnrecognizedClientException",
    }
)
_CODE = re.compile(r"[A-Za-z][A-Za-z0-9.]{2,63}")
_CREDENTIAL_ERRORS = (
    CredentialRetrievalError,
    NoAuthTokenError,
    NoCredentialsError,
    PartialCredentialsError,
    TokenRetrievalError,
)


def translate(error: Exception, subject: str) -> KeyturnError:
    """Say what an error of the SDK, or of its use, means for ``subject``, such as "AWS secret prod/db"."""
    if isinstance(error, ClientError):
        return of_code(error.response.get("Error", {}).get("Code", ""), subject)
    kind = type(error).__name__
    # The web identity's own refusal comes out of the SDK as a ClientError of STS, the others as these.
    if isinstance(error, _CREDENTIAL_ERRORS):
        return _no_credentials(subject, kind)
    if isinstance(error, BotoCoreError | CallTimeout | PoolExhausted):
        return SourceUnavailable(f"{subject}: AWS cannot be reached ({kind}): trying again", SLOW_DOWN)
    return SourceUnavailable(f"{subject}: the answer of AWS cannot be read ({kind}): trying again", SLOW_DOWN)


def of_code(code: str, subject: str) -> KeyturnError:
    """Say what an error code of Secrets Manager means for ``subject``."""
    code = code if _CODE.fullmatch(code) else ""  # whatever answers in AWS's place may say anything
    if code in _REFUSALS:
        kind, text = _REFUSALS[code]
        return kind(f"{subject} {text} ({code})")
    if code in _CREDENTIAL_CODES:
        return _no_credentials(subject, code)
    return SourceUnavailable(f"{subject}: AWS answered {code or 'with an error'}: trying again", SLOW_DOWN)


def _no_credentials(subject: str, kind: str) -> NoCredentials:
    return NoCredentials(
        f"{subject}: the AWS credentials do not work ({kind}): check the role of the receiver's ServiceAccount"
        " (IRSA annotation or Pod Identity association)",
        SLOW_DOWN,
    )
