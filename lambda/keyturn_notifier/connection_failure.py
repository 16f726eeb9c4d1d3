"""Connection failures. This module describes why a POST got no answer, by the class of urllib3's error.

The descriptions are for logs and dead letters. They quote no text that the other side wrote. They quote only OpenSSL's
message about a certificate. If the certificate is for another host name, this message contains the host of the
receiver's URL.
"""

import errno
import http.client
import re
import ssl

from urllib3.exceptions import (
    ConnectTimeoutError,
    DecodeError,
    HTTPError,
    NameResolutionError,
    NewConnectionError,
    ProtocolError,
    ProxyError,
    ReadTimeoutError,
    SSLError,
)

from keyturn_notifier.exchange_deadline import ReplyTooSlow

_NO_ROUTE = (errno.EHOSTUNREACH, errno.ENETUNREACH)


def describe(error: HTTPError, connect_seconds: float, reply_seconds: float) -> str:
    """Describe the error of one POST. The timeouts of the POST are given in seconds."""
    match error:
        case ProxyError():
            return f"the proxy: {_proxy(error.original_error, connect_seconds, reply_seconds)}"
        case NameResolutionError():
            return "its name does not resolve"
        case NewConnectionError():
            return _refused(error)
        case ConnectTimeoutError():
            return f"no connection within {connect_seconds:g} s (security group, route)"
        case SSLError():
            return f"TLS: {_tls(error)}"
        case ReadTimeoutError() if "handshake" in str(error.__cause__):
            return f"TLS: no handshake within {connect_seconds:g} s"
        case ReadTimeoutError():
            return f"no answer within {reply_seconds:g} s"
        case ReplyTooSlow():
            return f"no complete answer within {connect_seconds + reply_seconds:g} s"
        case ProtocolError():
            return _broken(error)
        case DecodeError():
            return "the answer is not encoded as it says"
        case _:
            return f"no answer: {type(error).__name__}"


def _refused(error: NewConnectionError) -> str:
    cause = error.__cause__
    code = cause.errno if isinstance(cause, OSError) else None
    if code == errno.ECONNREFUSED:
        return "connection refused"
    if code in _NO_ROUTE:
        return "no route to it"
    return f"no connection: {errno.errorcode.get(code or 0, 'unknown error')}"


def _proxy(error: Exception, connect_seconds: float, reply_seconds: float) -> str:
    if isinstance(error, HTTPError):
        return describe(error, connect_seconds, reply_seconds)
    status = re.search(r"Tunnel connection failed: (\d{3})\b", str(error))  # the proxy wrote the rest of the text
    return f"it refuses the receiver with status {status[1]}" if status else f"no answer: {type(error).__name__}"


def _tls(error: SSLError) -> str:
    cause = error.args[0] if error.args else None
    if isinstance(cause, ssl.SSLCertVerificationError):
        return cause.verify_message
    reason = cause.reason if isinstance(cause, ssl.SSLError) else None
    return reason.lower().replace("_", " ") if reason else "the handshake failed"


def _broken(error: ProtocolError) -> str:
    # http.client.RemoteDisconnected is both a ConnectionError and a BadStatusLine, so ConnectionError comes first.
    cause = error.args[1] if len(error.args) > 1 else None
    if isinstance(cause, ConnectionError):
        return "it closed the connection without an answer"
    if isinstance(cause, http.client.BadStatusLine):
        return "the answer is not HTTP"
    return "the answer is incomplete"
