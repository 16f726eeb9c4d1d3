"""Secrets Manager behind asyncio: one value, the labels of one secret, or the versions of all."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from keyturn_receiver.core.binding import Source
from keyturn_receiver.core.render import SecretVersion
from keyturn_receiver.errors import KeyturnError, SourceRefused, SourceUnavailable
from keyturn_receiver.telemetry import Metrics

if TYPE_CHECKING:
    from mypy_boto3_secretsmanager import SecretsManagerClient

# https://docs.aws.amazon.com/secretsmanager/latest/apireference/API_GetSecretValue.html#API_GetSecretValue_Errors
_REFUSALS = {
    "ResourceNotFoundException": "does not exist, or has no version with that staging label: create it, or correct the"
    " name, the label or the region",
    "AccessDeniedException": "may not be read by the receiver's role: allow secretsmanager:GetSecretValue and"
    " DescribeSecret on it, and kms:Decrypt on its key",
    "DecryptionFailure": "cannot be decrypted: enable its KMS key, and allow the receiver's role kms:Decrypt on it",
    "InvalidRequestException": "is scheduled for deletion, or in no state to be read: restore it",
    "InvalidParameterException": "is not a valid secret id: correct the annotation",
    "ValidationException": "is not a valid secret id: correct the annotation",
}
_SLOW_DOWN = 5.0  # seconds


@dataclass(frozen=True, slots=True)
class Listed:
    """One secret as ListSecrets gives it: ``stages`` by version id, no value."""

    arn: str
    name: str
    stages: Mapping[str, frozenset[str]]


def new_client(concurrency: int) -> "SecretsManagerClient":
    """Build the client: it may be shared by threads (a session may not); a hung call ends after seconds."""
    config = Config(
        connect_timeout=2,
        read_timeout=5,
        max_pool_connections=concurrency,
        retries={"mode": "adaptive", "max_attempts": 3},
        user_agent_extra="keyturn-receiver",
    )
    client: SecretsManagerClient = boto3.session.Session().client("secretsmanager", config=config)
    return client


class SecretsManager:
    """One account and region of Secrets Manager; calls run in ``executor``, alike calls under way are joined."""

    def __init__(self, client: "SecretsManagerClient", executor: Executor, metrics: Metrics) -> None:
        self._client = client
        self._executor = executor
        self._metrics = metrics
        self._reading: dict[Source, asyncio.Future[SecretVersion]] = {}

    async def read(self, source: Source) -> SecretVersion:
        """Read the value that holds the staging label now. Raises SourceRefused or SourceUnavailable."""
        reading = self._reading.get(source)
        if reading is None:
            reading = asyncio.ensure_future(self._read(source))
            self._reading[source] = reading
            reading.add_done_callback(lambda _: self._reading.pop(source, None))
        return await asyncio.shield(reading)

    async def _read(self, source: Source) -> SecretVersion:
        answer = await self._call(
            "GetSecretValue", source.secret_id, self._client.get_secret_value, VersionStage=source.stage
        )
        value = answer["SecretString"] if "SecretString" in answer else answer["SecretBinary"]
        return SecretVersion(answer["ARN"], answer["Name"], answer["VersionId"], value)

    async def stages(self, secret_id: str) -> Mapping[str, frozenset[str]]:
        """Tell the staging labels of each version, by version id. Raises SourceRefused or SourceUnavailable."""
        answer = await self._call("DescribeSecret", secret_id, self._client.describe_secret)
        return _stages(answer.get("VersionIdsToStages"))

    async def all(self) -> AsyncIterator[Listed]:
        """List every secret of the account and region, with versions and without values."""
        more: dict[str, Any] = {}
        while True:
            answer = await self._call("ListSecrets", None, self._client.list_secrets, MaxResults=100, **more)
            for entry in answer["SecretList"]:
                yield Listed(entry["ARN"], entry["Name"], _stages(entry.get("SecretVersionsToStages")))
            if not answer.get("NextToken"):
                return
            more = {"NextToken": answer["NextToken"]}

    async def _call(self, action: str, secret_id: str | None, method: Callable[..., Any], **arguments: Any) -> Any:
        if secret_id is not None:
            arguments["SecretId"] = secret_id
        try:
            answer = await asyncio.get_running_loop().run_in_executor(self._executor, lambda: method(**arguments))
        except (ClientError, BotoCoreError) as error:
            translated = _translate(action, secret_id, error)
            self._metrics.aws_requests.labels(action, translated.reason).inc()
            raise translated from None  # AWS's own text is not ours to show
        self._metrics.aws_requests.labels(action, "ok").inc()
        return answer


def _stages(answer: Mapping[str, list[str]] | None) -> Mapping[str, frozenset[str]]:
    return {version_id: frozenset(stages) for version_id, stages in (answer or {}).items()}


def _translate(action: str, secret_id: str | None, error: ClientError | BotoCoreError) -> KeyturnError:
    subject = f"AWS secret {secret_id}" if secret_id else action
    if isinstance(error, ClientError):
        code = error.response.get("Error", {}).get("Code", "")
        if code in _REFUSALS:
            return SourceRefused(f"{subject} {_REFUSALS[code]} ({code})")
        return SourceUnavailable(f"{subject}: AWS answered {code or 'with an error'}: trying again", _SLOW_DOWN)
    return SourceUnavailable(f"{subject}: AWS cannot be reached ({type(error).__name__}): trying again", _SLOW_DOWN)
