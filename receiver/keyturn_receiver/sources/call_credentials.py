"""Credentials of a call. One AWS client serves many identities, because each call has its own credentials.

The SDK asks a client's credentials object for credentials each time it signs a request. Here the object returns the
credentials of the call that runs in this thread (docs/adr/024-one-client-for-all-identities-of-a-region.md).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import datetime

import botocore.credentials
from botocore.credentials import ReadOnlyCredentials
from botocore.exceptions import NoCredentialsError

_of_call: ContextVar[ReadOnlyCredentials | None] = ContextVar("credentials of the call", default=None)


@dataclass(frozen=True, slots=True)
class Credentials:
    """Temporary credentials of a role. Their values are never printed."""

    access_key_id: str = field(repr=False)
    secret_access_key: str = field(repr=False)
    session_token: str = field(repr=False)
    expires_at: datetime

    def frozen(self) -> ReadOnlyCredentials:
        """Return the credentials in the form that the SDK needs to sign a request."""
        return ReadOnlyCredentials(self.access_key_id, self.secret_access_key, self.session_token, None)


@contextmanager
def call_with(credentials: ReadOnlyCredentials) -> Iterator[None]:
    """Context manager. It makes the SDK sign the calls of this thread with ``credentials``."""
    token = _of_call.set(credentials)
    try:
        yield
    finally:
        _of_call.reset(token)


class CallCredentials(botocore.credentials.Credentials):
    """Credentials object of a shared client. It returns the credentials that ``call_with`` has set in this thread. A
    call outside of ``call_with`` fails, so it never uses another identity."""

    def __init__(self) -> None:
        super().__init__("", "", method="call")

    def get_frozen_credentials(self) -> ReadOnlyCredentials:
        credentials = _of_call.get()
        if credentials is None:
            raise NoCredentialsError
        return credentials


class CallCredentialsProvider(botocore.credentials.CredentialProvider):
    """Credential provider of a session whose clients are shared."""

    METHOD = "call"

    def load(self) -> CallCredentials:
        """Return an object that looks up the credentials of each call when the call is signed. This method itself
        fetches nothing."""
        return CallCredentials()
