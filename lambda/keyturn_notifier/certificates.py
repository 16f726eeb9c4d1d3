"""Parser of the CA certificates that an operator gives, either as a parameter (base64) or as a PEM file."""

import base64
import binascii
import re
import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass

_CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
_DER = b"\x30"  # the first byte of a certificate in DER: the tag of a SEQUENCE
ADVICE = "give a certificate in PEM, or what this prints: openssl x509 -in ca.pem -outform der | base64 -w0"


@dataclass(frozen=True, slots=True)
class Certificates:
    """The result of parsing one text. ``der`` has the certificates in DER. ``faults`` describe the errors in the text,
    and never quote it."""

    der: tuple[bytes, ...] = ()
    faults: tuple[str, ...] = ()


NONE = Certificates()


def parse_parameter(text: str) -> Certificates:
    """Parse base64 texts that are separated by commas. Each text encodes a certificate in DER or a PEM file."""
    parsed = [_parse(f"item {number}", item) for number, item in enumerate(_decode(text), 1)]
    der = (der for each in parsed for der in each.der)
    return Certificates(tuple(dict.fromkeys(der)), tuple(fault for each in parsed for fault in each.faults))


def parse_file(text: str) -> Certificates:
    """Parse a PEM file."""
    return _parse("the file", text.encode())


def _decode(text: str) -> Iterator[bytes]:
    for item in filter(None, map(str.strip, text.split(","))):
        try:
            yield base64.b64decode(item, validate=True)
        except (binascii.Error, ValueError):
            yield b""


def _parse(name: str, content: bytes) -> Certificates:
    """Parse a certificate in DER or a PEM file. ``name`` is its name in the descriptions of faults."""
    blocks = _CERTIFICATE.findall(content)
    certificates = [content] if content.startswith(_DER) else [_pem_to_der(block) for block in blocks]
    faults = []
    if b"PRIVATE KEY-----" in content:
        faults.append(f"{name} has a private key: take it out and replace that key, because others can read it here")
    elif not certificates:
        faults.append(f"{name} has no certificate: {ADVICE}")
    for number, der in enumerate(certificates, 1):
        if fault := _fault(der):
            faults.append(f"{name}, certificate {number}, {fault}")
    return Certificates(tuple(filter(_is_readable, certificates)), tuple(faults))


def _pem_to_der(block: bytes) -> bytes:
    try:
        return ssl.PEM_cert_to_DER_cert(block.decode("ascii"))
    except ValueError:
        return b""


def _fault(der: bytes) -> str:
    """Return a description of the fault of a certificate, or an empty text if it has no fault."""
    if not _is_readable(der):
        return f"is not a certificate: {ADVICE}"
    context = _context(der)
    authorities = context.get_ca_certs()
    if not authorities:
        return (
            "is a server's and not a CA's: it is trusted, but not the one that follows it: "
            "give the certificate of the CA that issues it"
        )
    end = str(authorities[0]["notAfter"])
    return f"has expired ({end}): replace it" if ssl.cert_time_to_seconds(end) < time.time() else ""


def _is_readable(der: bytes) -> bool:
    try:
        _context(der)
    except (ssl.SSLError, ValueError):
        return False
    return True


def _context(der: bytes) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=der)
    return context
