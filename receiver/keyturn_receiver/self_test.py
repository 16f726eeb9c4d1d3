"""Self test. ``python -m keyturn_receiver.self_test URL`` sends a heartbeat to a running receiver, and checks the
reply.

``helm test`` runs this program in a pod with the receiver's image, ServiceAccount and settings. The test covers the
whole way of a delivery, from the signing key to the receiver's reply. If deliveries are off (KEYTURN_DELIVERIES), there
is no URL. The test then calls ListSecrets, as the poller does by default, with the same identity as the receiver's
pods. The exit status is 0 if the test passed, 1 if it failed, and 2 if the settings or arguments are invalid.
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
    MAX_HEARTBEAT_AGE,
    EventType,
    MalformedMessage,
    Notification,
    NotificationData,
    Outcome,
    decode_reply,
    encode,
)
from keyturn_contract.signature import TOLERANCE, sign
from keyturn_receiver import proxies
from keyturn_receiver.core.arn import region
from keyturn_receiver.errors import KeyturnError, SourceRefused
from keyturn_receiver.settings import Settings, read_settings
from keyturn_receiver.sources import clients, error_mapping
from keyturn_receiver.sources.caller_identity import IdentityFault
from keyturn_receiver.sources.key_file import read_keys
from keyturn_receiver.sources.key_secret import current_key

TIMEOUT = 10.0  # seconds for each step of the exchange
MAX_REPLY_SIZE = 64 * 1024  # bytes

_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Conclusion:
    """The conclusion of the test. ``text`` explains the result. If the test failed, it also says what to do next."""

    passed: bool
    text: str


class NoReply(Exception):
    """No HTTP response arrived. The text gives the reason, and says what to check."""


class NoKey(Exception):
    """The signing key cannot be read. The text gives the reason."""


def old_heartbeat(now: datetime) -> Notification:
    """Return a heartbeat that is too old to count, because a test must not make a broken event path look healthy.

    The heartbeat is too old even by the receiver's clock. The two clocks may differ by the tolerance of the signature
    check.
    """
    sent_at = now - timedelta(seconds=MAX_HEARTBEAT_AGE + 2 * TOLERANCE)
    return Notification(
        f"test-{uuid4()}",
        "dev.keyturn.test",
        EventType.HEARTBEAT,
        "heartbeat",
        sent_at.strftime("%Y-%m-%dT%H:%M:%SZ"),
        NotificationData("Heartbeat", account="none", region="none"),
    )


def evaluate(status: int, reply: bytes, sent: Notification, signed: bool) -> Conclusion:
    """Return the conclusion from a reply.

    ``signed`` is true if the heartbeat was signed with a key that the receiver should accept.
    """
    if status == 200:
        return _evaluate_results(reply, sent, signed)
    if status == 401 and not signed:
        return Conclusion(
            True,
            "Passed: the receiver is ready, and rejects what is unsigned. Not tested: whether it accepts signatures of"
            " the stack's KMS key, because with public keys alone this pod cannot sign.",
        )
    if status == 401:
        return Conclusion(
            False,
            "Failed: the receiver rejects this signature. Either it has another key (it reads a new one within"
            f" KEYTURN_SIGNING_KEY_INTERVAL_SECONDS), or the two clocks differ by more than {TOLERANCE:g} s. Its log"
            " says which.",
        )
    if status == 503:
        return Conclusion(
            False,
            "Failed: the receiver is not ready, or busy. Look at /readyz on its operations port, and at its log.",
        )
    if status in (404, 405):
        return Conclusion(False, "Failed: nothing accepts deliveries at this URL. It must end in /v1/notifications.")
    if 300 <= status < 400:
        return Conclusion(
            False, "Failed: this is a redirect, and the notifier does not follow redirects. Use its target as the URL."
        )
    return Conclusion(
        False,
        "Failed: this is not the reply to a heartbeat. Look at the receiver's log, and at the proxies in front of it.",
    )


def _evaluate_results(reply: bytes, sent: Notification, signed: bool) -> Conclusion:
    try:
        outcomes = [(result.id, result.outcome) for result in decode_reply(reply)]
    except MalformedMessage:
        outcomes = []
    if outcomes != [(sent.id, Outcome.IGNORED)]:
        return Conclusion(
            False, "Failed: a receiver answers a heartbeat differently. Something else is at this address."
        )
    if not signed:
        return Conclusion(False, "Failed: it accepts an unsigned delivery, so it would accept one from anybody.")
    return Conclusion(
        True,
        "Passed: the receiver is ready, and accepts signatures of this key. The heartbeat was too old to count for the"
        " event path.",
    )


def signing_key(settings: Settings) -> tuple[bytes, str] | None:
    """Return the signing key and a description of its source. Return None if only public keys are set. Raises NoKey."""
    secret_id, file = settings.signing_key_secret_id, settings.signing_key_file
    try:
        if secret_id:
            aws_region = region(secret_id) or clients.default_region()
            if not aws_region:
                raise NoKey(f"AWS secret {secret_id}: its region is not known: set AWS_REGION")
            clients.own_identity().check()
            return current_key(clients.secrets_manager(aws_region, 1), secret_id), f"AWS secret {secret_id}"
        if file:
            return read_keys(file)[0], f"file {file}"
    except (IdentityFault, KeyturnError) as error:
        # The message says that the receiver tries again. This program does not.
        raise NoKey(str(error).replace("trying again", "try it again")) from None
    return None


def ask_as_poller() -> Conclusion:
    """Call ListSecrets, as a sweep of the poller does by default, with this pod's identity and region."""
    aws_region = clients.default_region()
    if not aws_region:
        return Conclusion(False, "Failed: the region of the secrets is not known: set AWS_REGION.")
    what = f"ListSecrets in {aws_region}"
    not_tested = "Not tested: deliveries, which are off (KEYTURN_DELIVERIES), and the rights to read each secret."
    try:
        clients.own_identity().check()
        clients.secrets_manager(aws_region, 1).list_secrets(MaxResults=1)
    except IdentityFault as fault:
        return Conclusion(False, f"Failed: {fault}.".replace("trying again", "try it again"))
    except Exception as error:
        reason = error_mapping.translate_action(error, what)
        if isinstance(reason, SourceRefused):
            return Conclusion(
                True,
                f"Passed: AWS accepts this identity. It may not call {what}, so the poller asks for each bound secret."
                f" {not_tested}",
            )
        return Conclusion(False, f"Failed: {reason}.".replace("trying again", "try it again"))
    return Conclusion(True, f"Passed: AWS answers {what} to this identity, as it answers the poller. {not_tested}")


def tls_context(certificate: Path | None) -> ssl.SSLContext:
    """Return a TLS context. It trusts only ``certificate`` (PEM, leaf first) if this is given, and otherwise the
    system's CAs.

    If a certificate is given, the host name is not checked, because the certificate need not contain the name of the
    Service. Raises NoReply.
    """
    if certificate is None:
        return ssl.create_default_context()
    try:
        leaf = _CERTIFICATE.search(certificate.read_text(errors="replace"))
        if not leaf:
            raise NoReply(f"{certificate} contains no certificate in PEM")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        # Only the leaf is trusted, because its issuer may also have signed other certificates.
        context.load_verify_locations(cadata=leaf[0])
    except ssl.SSLError:
        raise NoReply(f"{certificate} contains no certificate that can be parsed") from None
    except OSError as error:
        raise NoReply(f"{certificate} cannot be read ({type(error).__name__}): mount the certificate there") from None
    return context


def post(url: SplitResult, body: bytes, headers: Mapping[str, str], certificate: Path | None) -> tuple[int, bytes]:
    """Send one POST without following redirects. Return the status and the body of the response. Raises NoReply."""
    host = url.hostname or ""
    connection = (
        http.client.HTTPSConnection(host, url.port, timeout=TIMEOUT, context=tls_context(certificate))
        if url.scheme == "https"
        else http.client.HTTPConnection(host, url.port, timeout=TIMEOUT)
    )
    try:
        connection.request("POST", url.path or "/", body, dict(headers))
        response = connection.getresponse()
        return response.status, response.read(MAX_REPLY_SIZE)
    except ssl.SSLCertVerificationError as error:
        mismatch = "not the one in the file (replaced just now?)" if certificate else "not trusted here"
        raise NoReply(
            f"its certificate is {mismatch}, or has expired ({error.verify_message}): pass the certificate that it"
            " serves with --certificate, and renew an expired one"
        ) from None
    except ssl.SSLError:
        raise NoReply("TLS failed: does this port serve http://?") from None
    except TimeoutError:
        raise NoReply(
            f"no response within {TIMEOUT:g} s: check that the Service has ready endpoints, and that no NetworkPolicy"
            " blocks this pod"
        ) from None
    except (http.client.HTTPException, ConnectionResetError):
        hint = "does this port serve https://?" if url.scheme == "http" else "check the proxies in front of it"
        raise NoReply(f"it does not speak HTTP: {hint}") from None
    except OSError as error:
        raise NoReply(
            f"it cannot be reached ({type(error).__name__}): check that the Service has ready endpoints on this port,"
            " and that no NetworkPolicy blocks this pod"
        ) from None
    finally:
        connection.close()


def main() -> None:
    """Send one heartbeat, or call AWS if deliveries are off. Print the conclusion, and exit."""
    parser = _parser()
    arguments = parser.parse_args()
    settings = read_settings()
    proxies.normalize_no_proxy()
    if not settings.deliveries:
        if arguments.url:
            parser.error("nothing takes deliveries at a URL while KEYTURN_DELIVERIES is false: leave the URL out")
        _exit(ask_as_poller())
    if not arguments.url:
        parser.error("name the URL of a receiver")
    url: SplitResult = arguments.url
    if arguments.certificate and url.scheme != "https":
        parser.error("--certificate needs an https:// URL")
    try:
        key = signing_key(settings)
    except NoKey as error:
        _exit(Conclusion(False, f"Failed: there is no key to sign with, so nothing was sent. {error}."))
    sent = old_heartbeat(datetime.now(UTC))
    body = encode([sent])
    headers = {"content-type": CONTENT_TYPE_BATCH}
    if key:
        timestamp = int(time.time())
        headers |= {"webhook-id": sent.id, "webhook-timestamp": str(timestamp)}
        headers["webhook-signature"] = sign(key[0], sent.id, timestamp, body)
    delivery = f"A heartbeat to {url.geturl()}, {f'signed with the key of {key[1]}' if key else 'unsigned'}"
    try:
        status, reply = post(url, body, headers, arguments.certificate)
    except NoReply as error:
        _exit(Conclusion(False, f"{delivery}: {error}."))
    print(f"{delivery}: answered with {status}.")
    _exit(evaluate(status, reply, sent, key is not None))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m keyturn_receiver.self_test",
        description="Send a receiver one heartbeat, signed as the settings (KEYTURN_*) say, and check the reply.",
    )
    parser.add_argument(
        "url",
        metavar="URL",
        type=_url,
        nargs="?",
        help="http(s)://<receiver>/v1/notifications; none if deliveries are off (KEYTURN_DELIVERIES=false)",
    )
    parser.add_argument(
        "--certificate",
        metavar="FILE",
        type=Path,
        help="the certificate that the receiver serves (PEM, leaf first): trust only this one, whatever its names",
    )
    return parser


def _url(text: str) -> SplitResult:
    try:
        url = urlsplit(text)
        valid = url.scheme in ("http", "https") and url.hostname and url.port != 0 and "@" not in url.netloc
    except ValueError:
        valid = False
    if not valid:
        raise argparse.ArgumentTypeError("must be http(s)://<receiver>/v1/notifications")
    return url


def _exit(conclusion: Conclusion) -> NoReturn:
    print(conclusion.text)
    sys.exit(0 if conclusion.passed else 1)


if __name__ == "__main__":
    main()
