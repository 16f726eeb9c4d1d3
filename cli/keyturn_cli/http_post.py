"""HTTP client for one POST to a receiver's URL. TLS certificates are verified. Redirects are not followed, as in the
notifier."""

import http.client
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from keyturn_cli.errors import CliError, UsageError

TIMEOUT = 10.0  # seconds for the connection, and for each read or write
MAX_REPLY = 256 * 1024  # bytes; the notifier has the same limit


class NoReply(CliError):
    """No reply arrived. The text gives the reason, and the advice says what to check."""


@dataclass(frozen=True, slots=True)
class HttpReply:
    """A reply. ``headers`` have lower-case names. ``expires`` is the time at which the server's certificate expires."""

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)
    expires: datetime | None


def read_url(text: str) -> SplitResult:
    """Read the URL of a receiver. Raises UsageError."""
    try:
        url = urlsplit(text)
        valid = url.scheme in ("http", "https") and url.hostname and url.port != 0 and "@" not in url.netloc
    except ValueError:
        valid = False
    if not valid:
        raise UsageError(f"{text} is not the URL of a receiver", "write https://HOST/v1/notifications")
    return url


def tls_context(ca_file: Path | None) -> ssl.SSLContext:
    """Return a context that trusts the system's CAs and the CAs in ``ca_file`` (PEM). Raises UsageError."""
    context = ssl.create_default_context()
    if ca_file:
        try:
            context.load_verify_locations(ca_file)
        except OSError:  # ssl.SSLError is a subclass of OSError
            raise UsageError(f"{ca_file} cannot be read as certificates", "give a PEM file with the CA") from None
    return context


def post(url: SplitResult, body: bytes, headers: Mapping[str, str], ca_file: Path | None = None) -> HttpReply:
    """Send one POST. Raises NoReply, and UsageError if ``ca_file`` cannot be read."""
    host = url.hostname or ""
    connection = (
        http.client.HTTPSConnection(host, url.port, timeout=TIMEOUT, context=tls_context(ca_file))
        if url.scheme == "https"
        else http.client.HTTPConnection(host, url.port, timeout=TIMEOUT)
    )
    try:
        connection.connect()
        expires = _expiry(connection.sock)
        connection.request("POST", url.path or "/", body, dict(headers))
        response = connection.getresponse()
        given = {name.lower(): value for name, value in response.getheaders()}
        return HttpReply(response.status, given, response.read(MAX_REPLY), expires)
    except ssl.SSLCertVerificationError as error:
        raise NoReply(
            f"TLS: {error.verify_message}",
            "renew the certificate, or trust its CA with --ca-file (CaBundle in the stack)",
        ) from None
    except ssl.SSLError:
        raise NoReply("TLS failed", "check that this port serves https") from None
    except TimeoutError:
        raise NoReply(
            f"no answer within {TIMEOUT:g} s", "check routes, security groups and the load balancer"
        ) from None
    except (http.client.HTTPException, ConnectionResetError):
        raise NoReply("it closed the connection without an answer", "check what listens there") from None
    except OSError as error:
        raise NoReply(f"no connection ({type(error).__name__})", "check the name, the port and the network") from None
    finally:
        connection.close()


def _expiry(sock: object) -> datetime | None:
    if not isinstance(sock, ssl.SSLSocket):
        return None
    certificate = sock.getpeercert() or {}
    return datetime.fromtimestamp(ssl.cert_time_to_seconds(str(certificate["notAfter"])), UTC)


def now() -> datetime:
    """Return the time of this machine."""
    return datetime.fromtimestamp(time.time(), UTC)
