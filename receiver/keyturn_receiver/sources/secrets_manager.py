"""Secrets Manager client for asyncio. It reads values, describes a single secret, and lists all secrets."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError, ConnectionError, HTTPClientError, ReadTimeoutError

from keyturn_receiver.core.arn import account_id, account_scope, refers_to, region
from keyturn_receiver.core.binding import Source
from keyturn_receiver.core.render import SecretVersion
from keyturn_receiver.errors import KeyturnError, NoCredentials, SourceNotFound, SourceRefused, SourceUnavailable
from keyturn_receiver.resilience.bounded_map import BoundedMap
from keyturn_receiver.sources import error_mapping
from keyturn_receiver.sources.caller_identity import CallerIdentity
from keyturn_receiver.sources.store_health import StoreHealth
from keyturn_receiver.sources.thread_pools import CallTimeout, ThreadPool, ThreadPools, namespace_owner
from keyturn_receiver.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from mypy_boto3_secretsmanager import SecretsManagerClient

MAX_BATCH = 20  # secrets: https://docs.aws.amazon.com/secretsmanager/latest/apireference/API_BatchGetSecretValue.html
MAX_QUARANTINED = 10_000  # number of secrets in quarantine; if there are more, the secret that hung first is forgotten
MAX_SEEN_ACCOUNTS = 1000  # pairs of account and region; "not found" deletes no Secret if its pair is forgotten
_SILENCE = (CallTimeout, HTTPClientError, ConnectionError)  # the SDK's own ConnectionError
NOT_CHECKED = "not checked yet"


@dataclass(frozen=True, slots=True)
class SecretMetadata:
    """One secret as ListSecrets or DescribeSecret returns it. The secret's value is not part of it.

    ``stages`` maps the id of each version to the version's staging labels.
    """

    arn: str
    name: str
    stages: Mapping[str, frozenset[str]]
    changed_at: datetime | None = None
    pending_deletion: bool = False

    def current(self, stage: str) -> str | None:
        """Return the id of the version that holds the staging label, or None if no version holds it."""
        return next((version_id for version_id, stages in self.stages.items() if stage in stages), None)


class SecretsManager:
    """AWS client for one identity in one region.

    ``background_client`` makes the calls of sweeps. If it is another client than ``client``, sweeps do not use the
    connections of other reads.

    ``credentials_error`` is the reason why the credentials did not work when AWS last checked them. It is None if they
    worked. Readiness shows this text, so it names no secret. If a call about a secret fails because of the credentials,
    it does not set the text, but starts a check. A check is a call about no secret.

    ``identity`` makes the calls. If the identity does not know its account, the account is read from AWS's responses.
    ``health`` is the health of the store (this identity in this region). The store is not proven if AWS has not
    answered yet, or no longer answers. Calls to an unproven store run in a separate pool. In this pool, each of the
    store's ``owners`` may make only a few calls at once. The same limit applies to the namespace for which a call is
    made.
    """

    def __init__(
        self,
        client: "SecretsManagerClient",
        background_client: "SecretsManagerClient",
        pools: ThreadPools,
        metrics: Metrics,
        identity: CallerIdentity,
        health: StoreHealth,
        owners: Sequence[str] = (),
    ) -> None:
        self._client = client
        self._background_client = background_client
        self._pools = pools
        self._metrics = metrics
        self._quarantined: BoundedMap[str, bool] = BoundedMap(MAX_QUARANTINED)  # secret ids
        self._seen_accounts: BoundedMap[str, bool] = BoundedMap(MAX_SEEN_ACCOUNTS)  # accounts and regions
        self._identity = identity
        self._learned_account = ""
        self._health = health
        self._owners = owners
        self.credentials_error: str | None = NOT_CHECKED
        self._check: asyncio.Task[None] | None = None

    @property
    def region(self) -> str:
        """The region of the client."""
        return self._client.meta.region_name

    def not_found(self, secret_id: str) -> KeyturnError:
        """Return the same error that is raised when AWS reports that a secret does not exist."""
        return error_mapping.not_found(f"AWS secret {secret_id}", self._place(secret_id))

    def _place(self, secret_id: str) -> str:
        """Return the place in which this client looks for a secret, and the role that it uses."""
        account = account_id(secret_id) or self._identity.account or self._learned_account
        role = f"role {self._identity.role}" if self._identity.role else "the receiver's role"
        return f"in {f'{account}, ' if account else ''}{self.region}, as {role}"

    def may_batch(self, secret_id: str) -> bool:
        """Return whether a batch may contain this secret. There are three conditions: the store is proven, the last
        call about the secret did not hang, and the secret belongs to the identity's own account.

        BatchGetSecretValue answers "not found" for secrets of other accounts, although GetSecretValue returns them:

        https://docs.aws.amazon.com/secretsmanager/latest/userguide/auth-and-access_examples_cross.html
        """
        named, own = account_id(secret_id), self._identity.account or self._learned_account
        return (not named or named == own) and self._health.proven and not self.is_quarantined(secret_id)

    def is_quarantined(self, secret_id: str) -> bool:
        """Return whether a call about this secret has hung, and AWS has answered no later call about the secret."""
        return secret_id in self._quarantined

    def has_seen(self, arn: str) -> bool:
        """Return whether AWS has ever returned a secret of the account and region in ``arn``.

        If AWS has never returned one, "not found" does not prove that a secret was deleted.
        """
        return account_scope(arn) in self._seen_accounts

    async def value(self, source: Source, namespace: str = "") -> SecretVersion:
        """Read the version that now holds the staging label of ``source``, for a binding in ``namespace``.

        Raises SourceNotFound, SourcePendingDeletion, another SourceRefused, or SourceUnavailable.
        """
        try:
            response = await self._call(
                "GetSecretValue",
                self._client.get_secret_value,
                source.secret_id,
                namespace=namespace,
                VersionStage=source.stage,
            )
        except SourceNotFound:
            # If the secret itself does not exist, ``describe`` raises SourceNotFound.
            await self.describe(source.secret_id, namespace=namespace)
            raise SourceRefused(
                f"AWS secret {source.secret_id} has no version with the staging label {source.stage}:"
                " move the label to a version, or correct the label in the binding"
            ) from None
        with _translate_parse_errors(f"AWS secret {source.secret_id}"):
            version = self._version(response)
        self._check_answer(source.secret_id, version.arn, version.name)
        return version

    async def values(self, secret_ids: Sequence[str], namespace: str = "") -> dict[str, SecretVersion]:
        """Read the current values of up to MAX_BATCH secrets with one call. ``namespace`` is empty if the values are
        for several namespaces.

        A secret is missing in the result if AWS returns an error, nothing, or more than one value for it. The caller
        then has to read this secret with a call of its own. Raises ActionDenied, another SourceRefused, or
        SourceUnavailable if the call itself fails.
        """
        response = await self._call(
            "BatchGetSecretValue",
            self._client.batch_get_secret_value,
            namespace=namespace,
            SecretIdList=list(secret_ids),
        )
        with _translate_parse_errors("BatchGetSecretValue"):
            versions = [self._version(entry) for entry in response.get("SecretValues", [])]
        results: dict[str, SecretVersion] = {}
        for secret_id in secret_ids:
            answers = [version for version in versions if self._answers(secret_id, version.arn, version.name)]
            if len(answers) == 1:
                results[secret_id] = answers[0]
        return results

    async def describe(self, secret_id: str, background: bool = False, namespace: str = "") -> SecretMetadata:
        """Read a secret's name and the staging labels of its versions. Raises the same errors as ``value``."""
        client = self._background_client if background else self._client
        response = await self._call(
            "DescribeSecret", client.describe_secret, secret_id, background=background, namespace=namespace
        )
        with _translate_parse_errors(f"AWS secret {secret_id}"):
            metadata = self._metadata(response)
        self._check_answer(secret_id, metadata.arn, metadata.name)
        return metadata

    async def check_credentials(self) -> None:
        """Make one cheap call, which updates ``credentials_error``. Errors that are not about credentials are
        ignored."""
        await asyncio.shield(self._start_check())

    def _start_check(self) -> "asyncio.Task[None]":
        if self._check is None or self._check.done():
            self._check = asyncio.create_task(self._run_check())
        return self._check

    async def _run_check(self) -> None:
        try:
            await self._call("ListSecrets", self._client.list_secrets, is_check=True, MaxResults=1)
        except NoCredentials:
            pass  # this call has set ``credentials_error``
        except SourceUnavailable as error:
            if self.credentials_error:
                self.credentials_error = f"{NOT_CHECKED}: {error}"  # readiness shows this text
        except KeyturnError:
            pass

    async def list_secrets(self) -> AsyncIterator[Sequence[SecretMetadata]]:
        """Yield all secrets in pages of 100. The first page has the secrets that changed last. Secrets that are
        scheduled for deletion are included."""
        next_page: dict[str, Any] = {}
        while True:
            response = await self._call(
                "ListSecrets",
                self._background_client.list_secrets,
                background=True,
                MaxResults=100,
                SortBy="last-changed-date",
                SortOrder="desc",
                IncludePlannedDeletion=True,
                **next_page,
            )
            with _translate_parse_errors("ListSecrets"):
                page = [self._metadata(entry) for entry in response["SecretList"]]
            if page:
                self._learned_account = account_id(page[0].arn)  # AWS lists only secrets of the caller's own account
            yield page
            if not response.get("NextToken"):
                return
            next_page = {"NextToken": response["NextToken"]}

    async def _call(
        self,
        action: str,
        method: Callable[..., Any],
        secret_id: str = "",
        background: bool = False,
        namespace: str = "",
        is_check: bool = False,
        **arguments: Any,
    ) -> Any:
        if secret_id:
            arguments["SecretId"] = secret_id
        about_secret = action != "ListSecrets"  # tenants choose the secrets, so they can make such a call fail

        def refuse_while_resting() -> None:
            if (rest := self._health.rests_for()) and not is_check:
                subject = f"AWS secret {secret_id}" if secret_id else action
                raise error_mapping.silent_region(subject, self.region, rest)

        refuse_while_resting()

        def call() -> Any:
            refuse_while_resting()  # the store may have become silent while this call waited for a thread
            with self._identity.call():
                return method(**arguments)

        try:
            pool = self._pool(secret_id, background, is_check)
            response = await pool.run(call, *self._owners_of(pool, namespace))
        except KeyturnError:
            raise  # AWS was not called
        except Exception as error:
            failure = (
                error_mapping.translate(error, f"AWS secret {secret_id}", self._place(secret_id))
                if secret_id
                else error_mapping.translate_action(error, action)
            )
            self._metrics.aws_requests.labels(action, failure.reason).inc()
            if isinstance(error, ClientError):
                self._health.answered()
                self._quarantined.pop(secret_id)
            elif isinstance(error, _SILENCE) and self._health.silent(about_secret):
                self._start_check()
            if isinstance(error, ReadTimeoutError | CallTimeout) and secret_id:
                self._quarantined.put(secret_id, True)
            if isinstance(failure, NoCredentials):
                if about_secret:
                    self._start_check()
                else:
                    self.credentials_error = failure.fault
            elif isinstance(error, ClientError):
                self.credentials_error = None  # any other error from AWS means that AWS accepted the credentials
            raise failure from None  # AWS's own text may quote anything
        self._quarantined.pop(secret_id)
        self.credentials_error = None
        self._health.answered()
        self._metrics.aws_requests.labels(action, "ok").inc()
        return response

    def _answers(self, secret_id: str, arn: str, name: str) -> bool:
        """Return whether a response is about ``secret_id``. The account, the region and the name in the response decide
        this."""
        if not refers_to(secret_id, arn, name) or region(arn) != self.region:
            return False
        # A bare name always refers to a secret of the caller's own account.
        return secret_id.startswith("arn:") or account_id(arn) == (self._identity.account or account_id(arn))

    def _check_answer(self, secret_id: str, arn: str, name: str) -> None:
        if not self._answers(secret_id, arn, name):
            raise error_mapping.another_secret(f"AWS secret {secret_id}")
        if not secret_id.startswith("arn:"):
            self._learned_account = account_id(arn)

    def _owners_of(self, pool: ThreadPool, namespace: str) -> Sequence[str]:
        """Return the owners that a call for ``namespace`` counts for in this pool. Owners with a small limit come
        first, because ``Shares.acquire`` needs the same order from all callers."""
        owners = [namespace_owner(namespace)] if namespace else []
        if pool is self._pools.unproven:
            owners += [owner for owner in self._owners if owner not in owners]
        return owners

    def _pool(self, secret_id: str, background: bool, is_check: bool) -> ThreadPool:
        # A check is made after calls without an answer, so the check may hang, too. Bindings choose the region of this
        # store. So its check must not use a thread of the foreground pool.
        if not self._health.proven or (is_check and not self._health.trusted):
            return self._pools.unproven
        if background:
            return self._pools.background
        return self._pools.quarantine if self.is_quarantined(secret_id) else self._pools.foreground

    def _version(self, response: Mapping[str, Any]) -> SecretVersion:
        self._seen_accounts.put(account_scope(response["ARN"]), True)
        value = response["SecretString"] if "SecretString" in response else response["SecretBinary"]
        return SecretVersion(response["ARN"], response["Name"], response["VersionId"], value)

    def _metadata(self, entry: Mapping[str, Any]) -> SecretMetadata:
        self._seen_accounts.put(account_scope(entry["ARN"]), True)
        stages = entry.get("SecretVersionsToStages") or entry.get("VersionIdsToStages") or {}
        return SecretMetadata(
            entry["ARN"],
            entry["Name"],
            {version_id: frozenset(labels) for version_id, labels in stages.items()},
            entry.get("LastChangedDate"),
            "DeletedDate" in entry,
        )


@contextmanager
def _translate_parse_errors(subject: str) -> Iterator[None]:
    """Context manager. If a response cannot be parsed, such as an error page of a proxy, it translates the error of the
    parser."""
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise error_mapping.translate(error, subject) from None
