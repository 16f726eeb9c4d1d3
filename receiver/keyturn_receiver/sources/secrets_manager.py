"""Secrets Manager behind asyncio: values, the labels of one secret, or the versions of all."""

import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError, ReadTimeoutError

from keyturn_receiver.core.arn import account_scope
from keyturn_receiver.core.binding import Source
from keyturn_receiver.core.render import SecretVersion
from keyturn_receiver.errors import KeyturnError, NoCredentials, SourceNotFound, SourceRefused
from keyturn_receiver.sources import error_mapping
from keyturn_receiver.sources.thread_pools import CallTimeout, ThreadPools
from keyturn_receiver.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from mypy_boto3_secretsmanager import SecretsManagerClient

BATCH = 20  # secrets: https://docs.aws.amazon.com/secretsmanager/latest/apireference/API_BatchGetSecretValue.html
SUSPECT_SECONDS = 60.0
NOT_TRIED = "they have not been tried yet"


@dataclass(frozen=True, slots=True)
class SecretMetadata:
    """One secret as ListSecrets or DescribeSecret gives it: ``stages`` by version id, no value."""

    arn: str
    name: str
    stages: Mapping[str, frozenset[str]]
    changed_at: datetime | None = None
    deletion: bool = False

    def current(self, stage: str) -> str | None:
        """The version that holds a staging label, if one does."""
        return next((version_id for version_id, stages in self.stages.items() if stage in stages), None)


class SecretsManager:
    """One identity in one region. ``sweep_client`` is apart, so that its throttling slows down nobody else."""

    def __init__(
        self, client: "SecretsManagerClient", sweep_client: "SecretsManagerClient", pools: ThreadPools, metrics: Metrics
    ) -> None:
        self._client = client
        self._sweep_client = sweep_client
        self._pools = pools
        self._metrics = metrics
        self._suspects: dict[str, float] = {}
        self._seen_accounts: set[str] = set()
        self.credentials_fault: str | None = NOT_TRIED

    @property
    def region(self) -> str:
        """The region that it talks to."""
        return self._client.meta.region_name

    def suspects(self, secret_id: str) -> bool:
        """Whether the last read of this secret has hung, a while ago at most."""
        return time.monotonic() < self._suspects.get(secret_id, 0.0)

    def has_seen(self, arn: str) -> bool:
        """Whether any secret of the account and region of ``arn`` was seen from here: "not found" then means gone."""
        return account_scope(arn) in self._seen_accounts

    async def value(self, source: Source) -> SecretVersion:
        """Read the value that holds the staging label now.

        Raises SourceNotFound, SourcePendingDeletion, another SourceRefused, or SourceUnavailable.
        """
        try:
            answer = await self._call(
                "GetSecretValue", self._client.get_secret_value, source.secret_id, VersionStage=source.stage
            )
        except SourceNotFound:
            await self.describe(source.secret_id)  # raises the same, if it is the secret that is missing
            raise SourceRefused(
                f"AWS secret {source.secret_id} has no version with the staging label {source.stage}:"
                " move the label to one, or correct the label"
            ) from None
        with _understood(f"AWS secret {source.secret_id}"):
            return self._version(answer)

    async def values(self, secret_ids: Sequence[str]) -> dict[str, SecretVersion | KeyturnError]:
        """Read the current values of up to BATCH secrets at once; what AWS says nothing about is not in the answer.

        Raises SourceRefused or SourceUnavailable when there is no answer for any.
        """
        answer = await self._call(
            "BatchGetSecretValue", self._client.batch_get_secret_value, SecretIdList=list(secret_ids)
        )
        found: dict[str, SecretVersion | KeyturnError] = {}
        with _understood("BatchGetSecretValue"):
            versions = [self._version(each) for each in answer.get("SecretValues", [])]
            errors = {each["SecretId"]: each.get("ErrorCode", "") for each in answer.get("Errors", [])}
        for secret_id in secret_ids:
            if secret_id in errors:
                found[secret_id] = error_mapping.of_code(errors[secret_id], f"AWS secret {secret_id}")
                continue
            for version in versions:
                if secret_id in (version.arn, version.name, version.arn[:-7]):
                    found[secret_id] = version
        return found

    async def describe(self, secret_id: str, sweep: bool = False) -> SecretMetadata:
        """Tell the staging labels of each version. Raises as ``value``."""
        client = self._sweep_client if sweep else self._client
        answer = await self._call("DescribeSecret", client.describe_secret, secret_id, sweep=sweep)
        with _understood(f"AWS secret {secret_id}"):
            return self._listed(answer)

    async def check_credentials(self) -> None:
        """Make one cheap call, so that ``credentials_fault`` tells; what else AWS says to it does not matter."""
        with suppress(KeyturnError):
            await self._call("ListSecrets", self._client.list_secrets, MaxResults=1)

    async def pages(self) -> AsyncIterator[Sequence[SecretMetadata]]:
        """List every secret, those scheduled for deletion included, in pages of 100, the last changed first."""
        more: dict[str, Any] = {}
        while True:
            answer = await self._call(
                "ListSecrets",
                self._sweep_client.list_secrets,
                sweep=True,
                MaxResults=100,
                SortBy="last-changed-date",
                SortOrder="desc",
                IncludePlannedDeletion=True,
                **more,
            )
            with _understood("ListSecrets"):
                page = [self._listed(entry) for entry in answer["SecretList"]]
            yield page
            if not answer.get("NextToken"):
                return
            more = {"NextToken": answer["NextToken"]}

    async def _call(
        self, action: str, method: Callable[..., Any], secret_id: str = "", sweep: bool = False, **arguments: Any
    ) -> Any:
        if secret_id:
            arguments["SecretId"] = secret_id
        pools = self._pools
        pool = pools.background if sweep else pools.quarantine if self.suspects(secret_id) else pools.foreground
        try:
            answer = await pool.run(lambda: method(**arguments))
        except Exception as error:
            fault = error_mapping.translate(error, f"AWS secret {secret_id}" if secret_id else action)
            self._metrics.aws_requests.labels(action, fault.reason).inc()
            if isinstance(error, ReadTimeoutError | CallTimeout) and secret_id:
                self._suspects[secret_id] = time.monotonic() + SUSPECT_SECONDS
            if isinstance(fault, NoCredentials):
                self.credentials_fault = str(fault)
            elif isinstance(error, ClientError):
                self.credentials_fault = None  # whatever AWS says, it knows who asks
            raise fault from None  # AWS's own text is not ours to show
        self._suspects.pop(secret_id, None)
        self.credentials_fault = None
        self._metrics.aws_requests.labels(action, "ok").inc()
        return answer

    def _version(self, answer: Mapping[str, Any]) -> SecretVersion:
        self._seen_accounts.add(account_scope(answer["ARN"]))
        value = answer["SecretString"] if "SecretString" in answer else answer["SecretBinary"]
        return SecretVersion(answer["ARN"], answer["Name"], answer["VersionId"], value)

    def _listed(self, entry: Mapping[str, Any]) -> SecretMetadata:
        self._seen_accounts.add(account_scope(entry["ARN"]))
        stages = entry.get("SecretVersionsToStages") or entry.get("VersionIdsToStages") or {}
        return SecretMetadata(
            entry["ARN"],
            entry["Name"],
            {version_id: frozenset(labels) for version_id, labels in stages.items()},
            entry.get("LastChangedDate"),
            "DeletedDate" in entry,
        )


@contextmanager
def _understood(subject: str) -> Iterator[None]:
    """What cannot be read as AWS's answer, such as a page of a proxy in between, is a failure like any other."""
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise error_mapping.translate(error, subject) from None
