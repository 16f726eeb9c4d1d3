"""``python -m keyturn_receiver.self_test URL``: does a receiver answer there, and does it take what our key signs?

What ``helm test`` runs, in a pod with the receiver's image, ServiceAccount and settings. A composition root of its own:
it takes the way of a delivery, from the signing key to the receiver's answer. Exit status 0: all is well, 1: something
is not, 2: the settings or the arguments are wrong.
"""

import argparse
import http.client
import re
import ssl
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NoReturn
from urllib.parse import SplitResult, urlsplit
from uuid import uuid4

from keyturn_contract.message import (
    CONTENT_TYPE_BATCH,
    EventType,
    MalformedMessage,
    Notification,
    NotificationData,
    Outcome,
    decode_reply,
    encode,
)
from keyturn_contract.signature import TOLERANCE, sign
from keyturn_receiver.core.arn import region
from keyturn_receiver.errors import KeyturnError
from keyturn_receiver.settings import Settings, read_settings
from keyturn_receiver.sources import clients
from keyturn_receiver.sources.key_file import read_keys
from keyturn_receiver.sources.key_secret import current_key
from keyturn_receiver.web.notification_handler import FRESH_SECONDS

SECONDS = 10.0  # for each step of the exchange
MOST_REPLY = 64 * 1024  # bytes

_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of it, and on failure what to do next."""

    fine: bool
    text: str


class NoReply(Exception):
    """Nobody has answered; the text says what to look at."""


class NoKey(Exception):
    """The signing key cannot be had; the text says why."""


def heartbeat(now: datetime) -> Notification:
    """A heartbeat too old to be a sign of life: a dead event path must not look alive because somebody tests.

    That holds by the receiver's clock, too, which may differ by as much as a signature's.
    """
    told = now - timedelta(seconds=FRESH_SECONDS + 2 * TOLERANCE)
    data = NotificationData("Heartbeat", account="none", region="none")
    return Notification(
        f"test-{uuid4()}",
        "dev.keyturn.test",
        EventType.HEARTBEAT,
        "heartbeat",
        told.strftime("%Y-%m-%dT%H:%M:%SZ"),
        data,
    )


def judge(status: int, reply: bytes, sent: Notification, signed: bool) -> Verdict:
    """Tell what an answer means; ``signed``: with a key that the receiver should take."""
    if status == 200:
        return _judge_results(reply, sent, signed)
    if status == 401 and not signed:
        return Verdict(
            True,
            "That is right: it is there, it is ready, and it takes nothing unsigned. Whether it takes what the stack's"
            " KMS key signs is not shown: with public keys alone nothing here can sign.",
        )
    if status == 401:
        return Verdict(
            False,
            "It does not take this signature: it holds another key (one that was replaced just now it knows within"
            " KEYTURN_SIGNING_KEY_INTERVAL_SECONDS), or the two clocks differ by more than"
            f" {TOLERANCE:g} s. The receiver's log says which.",
        )
    if status == 503:
        return Verdict(
            False, "It is not ready, or busy: /readyz on its operations port and its log say what it waits for."
        )
    if status in (404, 405):
        return Verdict(False, "Nothing takes deliveries there: the URL must end in /v1/notifications.")
    if 300 <= status < 400:
        return Verdict(False, "It is sent elsewhere, which the notifier does not follow either: name that URL itself.")
    return Verdict(False, "That is no answer to a heartbeat: look at the receiver's log, and at what stands before it.")


def _judge_results(reply: bytes, sent: Notification, signed: bool) -> Verdict:
    try:
        outcomes = [(result.id, result.outcome) for result in decode_reply(reply)]
    except MalformedMessage:
        outcomes = []
    if outcomes != [(sent.id, Outcome.IGNORED)]:
        return Verdict(False, "But that is not how a receiver answers a heartbeat: something else is at this address.")
    if not signed:
        return Verdict(False, "But nobody had signed it: whatever answers there would take orders from anyone.")
    return Verdict(
        True,
        "That is right: it is there, it is ready, and it takes what this key signs. The heartbeat was too old to count"
        " as a sign of life of the event path.",
    )


def signing_key(settings: Settings) -> tuple[bytes, str] | None:
    """Read the key to sign with, and say in words which; None where there are public keys alone. Raises NoKey."""
    secret_id, file = settings.signing_key_secret_id, settings.signing_key_file
    try:
        if secret_id:
            where = region(secret_id) or clients.default_region()
            if not where:
                raise NoKey(f"AWS secret {secret_id}: no region is known: set AWS_REGION")
            return current_key(clients.secrets_manager(where, 1), secret_id), f"AWS secret {secret_id}"
        if file:
            return read_keys(file)[0], f"file {file}"
    except KeyturnError as error:
        raise NoKey(str(error).replace("trying again", "try it again")) from None
    return None


def tls(certificate: Path | None) -> ssl.SSLContext:
    """Trust whom the system trusts; or, given the receiver's own certificate (PEM, leaf first), that and no other.

    Whatever its names: the cluster's own name of the Service need not be among them. Raises NoReply.
    """
    if certificate is None:
        return ssl.create_default_context()
    try:
        found = _CERTIFICATE.search(certificate.read_text(errors="replace"))
        if not found:
            raise NoReply(f"{certificate} holds no certificate in PEM")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        # The leaf alone: whoever has signed it may have signed others.
        context.load_verify_locations(cadata=found[0])
    except ssl.SSLError:
        raise NoReply(f"{certificate} holds no certificate that can be read") from None
    except OSError as error:
        raise NoReply(f"{certificate} cannot be read ({type(error).__name__}): mount the certificate there") from None
    return context


def post(url: SplitResult, body: bytes, headers: Mapping[str, str], certificate: Path | None) -> tuple[int, bytes]:
    """Post once, and follow nobody elsewhere: the status and the reply. Raises NoReply."""
    host = url.hostname or ""
    connection = (
        http.client.HTTPSConnection(host, url.port, timeout=SECONDS, context=tls(certificate))
        if url.scheme == "https"
        else http.client.HTTPConnection(host, url.port, timeout=SECONDS)
    )
    try:
        connection.request("POST", url.path or "/", body, dict(headers))
        response = connection.getresponse()
        return response.status, response.read(MOST_REPLY)
    except ssl.SSLCertVerificationError as error:
        trusted = "not the one in the file (replaced just now?)" if certificate else "not one that is trusted here"
        raise NoReply(
            f"its certificate is {trusted}, or has run out ({error.verify_message}): give the one that it serves with"
            " --certificate, and renew what has run out"
        ) from None
    except ssl.SSLError:
        raise NoReply("it does not speak TLS as it should: is it http:// that is served there?") from None
    except TimeoutError:
        raise NoReply(
            f"no answer within {SECONDS:g} s: look whether the Service has ready endpoints, and whether a NetworkPolicy"
            " lets this pod in"
        ) from None
    except (http.client.HTTPException, ConnectionResetError):
        hint = "is it https:// that is served there?" if url.scheme == "http" else "look at what stands before it"
        raise NoReply(f"it does not answer in HTTP: {hint}") from None
    except OSError as error:
        raise NoReply(
            f"it cannot be reached ({type(error).__name__}): look whether the Service has ready endpoints on this port,"
            " and whether a NetworkPolicy lets this pod in"
        ) from None
    finally:
        connection.close()


def main() -> None:
    """Send one heartbeat, and say what came of it."""
    arguments = _arguments()
    url: SplitResult = arguments.url
    settings = read_settings()
    try:
        key = signing_key(settings)
    except NoKey as error:
        _end(Verdict(False, f"Nothing was sent, for there is no key to sign with. {error}."))
    now = datetime.now(UTC)
    sent = heartbeat(now)
    body = encode([sent])
    headers = {"content-type": CONTENT_TYPE_BATCH}
    if key:
        timestamp = int(time.time())
        headers |= {"webhook-id": sent.id, "webhook-timestamp": str(timestamp)}
        headers["webhook-signature"] = sign(key[0], sent.id, timestamp, body)
    what = f"A heartbeat to {url.geturl()}, {f'signed with the key of {key[1]}' if key else 'unsigned'}"
    try:
        status, reply = post(url, body, headers, arguments.certificate)
    except NoReply as error:
        _end(Verdict(False, f"{what}: {error}."))
    print(f"{what}: answered with {status}.")
    _end(judge(status, reply, sent, key is not None))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m keyturn_receiver.self_test",
        description="Send a receiver one heartbeat, signed as its settings (KEYTURN_*) say, and judge its answer.",
    )
    parser.add_argument("url", metavar="URL", type=_url, help="http(s)://<receiver>/v1/notifications")
    parser.add_argument(
        "--certificate",
        metavar="FILE",
        type=Path,
        help="the certificate that the receiver serves (PEM, leaf first): trust it, whatever its names, and no other",
    )
    arguments = parser.parse_args()
    if arguments.certificate and arguments.url.scheme != "https":
        parser.error("--certificate is for https:// alone")
    return arguments


def _url(text: str) -> SplitResult:
    try:
        url = urlsplit(text)
        valid = url.scheme in ("http", "https") and url.hostname and url.port != 0 and "@" not in url.netloc
    except ValueError:
        valid = False
    if not valid:
        raise argparse.ArgumentTypeError("must be http(s)://<receiver>/v1/notifications")
    return url


def _end(verdict: Verdict) -> NoReturn:
    print(verdict.text)
    sys.exit(0 if verdict.fine else 1)


if __name__ == "__main__":
    main()
