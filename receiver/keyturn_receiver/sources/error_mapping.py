"""Error mapping. It turns the SDK's errors and AWS's error codes into the receiver's own errors.

AWS's own text is dropped, because it may quote anything.
"""

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
    ActionDenied,
    KeyturnError,
    NoCredentials,
    SourceNotFound,
    SourcePendingDeletion,
    SourceRefused,
    SourceUnavailable,
)
from keyturn_receiver.sources.caller_identity import IdentityFault
from keyturn_receiver.sources.thread_pools import CallTimeout, PoolExhausted

RETRY_AFTER = 5.0  # at least this many seconds before a retry, for every ``Temporary`` error of this module

# https://docs.aws.amazon.com/secretsmanager/latest/apireference/API_GetSecretValue.html#API_GetSecretValue_Errors
_REFUSALS: dict[str, tuple[type[SourceRefused], str]] = {
    "ResourceNotFoundException": (
        SourceNotFound,
        "does not exist{place}: create it, or correct the name, the account or the region",
    ),
    "InvalidRequestException": (
        SourcePendingDeletion,
        "is scheduled for deletion: restore it (aws secretsmanager restore-secret), or remove the binding",
    ),
    "AccessDeniedException": (
        SourceRefused,
        "cannot be read{place}, access is denied: allow secretsmanager:GetSecretValue and"
        " secretsmanager:DescribeSecret on it, and kms:Decrypt on its key, to the role that reads it",
    ),
    "DecryptionFailure": (
        SourceRefused,
        "cannot be decrypted{place}: enable its KMS key, and allow kms:Decrypt on the key to the role that reads it",
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


def translate(error: Exception, subject: str, place: str = "") -> KeyturnError:
    """Return the receiver's own error for an error of the SDK or of a thread pool. The message starts with ``subject``,
    such as "AWS secret prod/db".

    ``place`` says where AWS has looked for the secret, such as "in 123456789012, eu-west-1, as role app". It is empty
    if the place is not known.
    """
    if isinstance(error, IdentityFault):
        return NoCredentials(subject, str(error), RETRY_AFTER)
    if isinstance(error, ClientError):
        return translate_code(error_code(error), subject, place)
    # If STS refuses a web identity, the SDK raises a ClientError. If anything else is wrong with the credentials, it
    # raises one of these errors.
    if isinstance(error, _CREDENTIAL_ERRORS):
        return _no_credentials(subject, type(error).__name__)
    if isinstance(error, BotoCoreError | CallTimeout | PoolExhausted):
        return unreachable(error, subject)
    kind = type(error).__name__
    return SourceUnavailable(f"{subject}: the response of AWS cannot be parsed ({kind}): trying again", RETRY_AFTER)


def translate_action(error: Exception, action: str) -> KeyturnError:
    """Return the receiver's own error for a failed call that is not about a single secret. ``action`` is the name of
    the call, such as "ListSecrets"."""
    code = error_code(error) if isinstance(error, ClientError) else ""
    if code == "AccessDeniedException":
        return ActionDenied(f"{action} is denied: allow secretsmanager:{action} to the role that calls it")
    if code in _REFUSALS:  # the advice for these codes is about a single secret, so it does not fit here
        return SourceRefused(f"{action} is refused ({code})")
    return translate(error, action)


def translate_code(code: str, subject: str, place: str = "") -> KeyturnError:
    """Return the receiver's own error for an error code of Secrets Manager. The message starts with ``subject``.
    ``place`` is as for ``translate``."""
    if code in _REFUSALS:
        error_type, advice = _REFUSALS[code]
        advice = advice.format(place=f" {place}" if place else "")
        return error_type(f"{subject} {advice} ({code})")
    if code in _CREDENTIAL_CODES:
        return _no_credentials(subject, code)
    return unexpected_code(code, subject)


def error_code(error: ClientError) -> str:
    """Return AWS's code for an error. It is empty if the error has no code."""
    return str(error.response.get("Error", {}).get("Code") or "")


def not_found(subject: str, place: str = "") -> KeyturnError:
    """Return the same error that is raised when AWS reports that ``subject`` does not exist."""
    return translate_code("ResourceNotFoundException", subject, place)


def another_secret(subject: str) -> SourceUnavailable:
    """Return the error for a response that should be about ``subject`` but is about another secret."""
    return SourceUnavailable(
        f"{subject}: the response is about another secret: trying again; if this lasts, check what answers in AWS's"
        " place (endpoint, proxy)",
        RETRY_AFTER,
    )


def silent_region(subject: str, region: str, retry_after: float) -> SourceUnavailable:
    """Return the error for a call that was not made, because the region has not answered earlier calls."""
    return SourceUnavailable(
        f"{subject}: AWS region {region} does not answer this receiver: trying again; check that the account has"
        " enabled the region, and that no firewall is in between",
        max(RETRY_AFTER, retry_after),
    )


def unreachable(error: Exception, subject: str) -> SourceUnavailable:
    """Return the error for a call that AWS did not answer because of ``error``."""
    if isinstance(error, PoolExhausted):
        return SourceUnavailable(f"{subject}: too many calls of this kind wait for AWS: trying again", RETRY_AFTER)
    return SourceUnavailable(f"{subject}: AWS cannot be reached ({type(error).__name__}): trying again", RETRY_AFTER)


def unexpected_code(code: str, subject: str) -> SourceUnavailable:
    """Return the error for an AWS error code that has no mapping of its own, such as a throttling code."""
    # A proxy that answers in place of AWS can use any text as the code.
    code = code if _CODE.fullmatch(code) else "with an error"
    return SourceUnavailable(f"{subject}: AWS answered {code}: trying again", RETRY_AFTER)


def _no_credentials(subject: str, kind: str) -> NoCredentials:
    return NoCredentials(
        subject,
        f"the AWS credentials do not work ({kind}): check the role of the receiver's ServiceAccount (IRSA annotation or"
        " Pod Identity association)",
        RETRY_AFTER,
    )
