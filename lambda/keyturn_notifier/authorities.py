"""The CAs that the notifier trusts when it calls receivers: public CAs, and private CAs from the settings and from an
AWS secret."""

import ssl
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from keyturn_notifier.certificates import Certificates, parse_file
from keyturn_notifier.signing import error_code

if TYPE_CHECKING:
    from mypy_boto3_secretsmanager import SecretsManagerClient

# A log message. Its field ``reason`` names the parameter of the CA, and describes the fault.
CA_FAULT = "fault in a private CA"
RELOAD_SECONDS = 60.0  # the shortest time between two reloads of the secret, in seconds


class Authorities:
    """The TLS context for the calls to all receivers. It trusts the public CAs and the private CAs of ``private`` and
    of an AWS secret. It is thread-safe.

    If a CA is added to the secret, it is also added to the context. So an operator can replace a CA without a
    deployment. If a CA is removed from the secret, it stays trusted until Lambda replaces the execution environment.
    ``report`` is called with a description of each fault of a private CA. ``read`` returns the content of the secret,
    which is a PEM file. It is None if there is no secret.
    """

    def __init__(
        self,
        private: Certificates,
        read: Callable[[], str] | None,
        report: Callable[[str], None],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.context = tls_context()
        self._read = read
        self._report = report
        self._monotonic = monotonic
        self._trusted: set[bytes] = set()
        self._next_read = monotonic()
        self._lock = threading.Lock()
        self._add("CaBundle", private)
        self._read_secret()

    def reload(self) -> bool:
        """Read the secret again, and return whether it has a new CA. If the last reload was less than RELOAD_SECONDS
        ago, return False without a read."""
        with self._lock:
            if self._monotonic() < self._next_read:
                return False
            self._next_read = self._monotonic() + RELOAD_SECONDS
            return self._read_secret()

    def _read_secret(self) -> bool:
        if self._read is None:
            return False
        try:
            certificates = parse_file(self._read())
        except Exception as error:
            certificates = Certificates(faults=(f"Secrets Manager: {error_code(error)}",))
        return self._add("CaBundleSecretArn", certificates)

    def _add(self, source: str, certificates: Certificates) -> bool:
        for fault in certificates.faults:
            self._report(f"{source}: {fault}")
        new = [der for der in certificates.der if der not in self._trusted]
        for der in new:
            self.context.load_verify_locations(cadata=der)
        self._trusted.update(new)
        return bool(new)


def tls_context() -> ssl.SSLContext:
    """Return a TLS context that trusts the system's CAs. It always verifies certificates.

    The context applies RFC 5280 strictly. This is Python's default since 3.13, and the functions run on 3.13:
    https://docs.python.org/3.13/library/ssl.html#ssl.create_default_context
    """
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | ssl.VERIFY_X509_STRICT
    return context


def read_from_secret(secrets_manager: "SecretsManagerClient", secret_id: str) -> Callable[[], str]:
    """Return a function that reads a PEM file from an AWS secret."""

    def read() -> str:
        response = secrets_manager.get_secret_value(SecretId=secret_id)
        return response.get("SecretString") or response.get("SecretBinary", b"").decode("ascii", "replace")

    return read
