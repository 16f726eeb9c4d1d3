"""Private CAs as an operator provides them: each form is read, and each fault is described."""

import base64
from datetime import UTC, datetime

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from keyturn_notifier.certificates import parse_file, parse_parameter

OLD, NEW, EXPIRED = trustme.CA(), trustme.CA(), trustme.CA()
LEAF = OLD.issue_cert("receiver.example")


def der(pem: bytes) -> bytes:
    return x509.load_pem_x509_certificate(pem).public_bytes(serialization.Encoding.DER)


def text(*items: bytes) -> str:
    return ",".join(base64.b64encode(item).decode() for item in items)


PEM = [each.cert_pem.bytes() for each in (OLD, NEW)]
DER = [der(each) for each in PEM]


@pytest.mark.parametrize(
    "items",
    [
        DER,
        [PEM[0] + PEM[1]],
        [PEM[0], PEM[1]],
        [PEM[0], DER[1]],
        [b"# old\r\n" + PEM[0].replace(b"\n", b"\r\n") + b"\n# new\n" + PEM[1]],
        [DER[0], DER[1], PEM[0] + PEM[1]],
    ],
)
def test_several_cas_are_read_in_every_form(items: list[bytes]) -> None:
    found = parse_parameter(text(*items))
    assert (found.der, found.faults) == (tuple(DER), ())


def test_file_of_several_cas_is_read() -> None:
    found = parse_file((PEM[0] + PEM[1]).decode())
    assert (found.der, found.faults) == (tuple(DER), ())


@pytest.mark.parametrize("empty", ["", " ", ","])
def test_no_text_is_no_ca_and_no_fault(empty: str) -> None:
    assert parse_parameter(empty).faults == ()


BROKEN_PEM = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"


@pytest.mark.parametrize(
    ("item", "words"),
    [
        ("not base64!", "item 2 has no certificate"),
        (text(b"hello"), "item 2 has no certificate"),
        (text(b"\x30 hello"), "item 2, certificate 1, is not a certificate"),
        (text(BROKEN_PEM), "item 2, certificate 1, is not a certificate"),
        (text(PEM[1] + BROKEN_PEM), "item 2, certificate 2, is not a certificate"),
        (text(LEAF.private_key_pem.bytes()), "item 2 has a private key"),
        (text(LEAF.private_key_pem.bytes() + PEM[1]), "item 2 has a private key"),
        (text(LEAF.cert_chain_pems[0].bytes()), "item 2, certificate 1, is a server's and not a CA's"),
    ],
)
def test_fault_is_told_in_words_and_the_other_cas_are_read(item: str, words: str) -> None:
    found = parse_parameter(f"{text(DER[0])},{item}")
    (fault,) = found.faults
    assert fault.startswith(words)
    assert found.der[0] == DER[0]
    secret = LEAF.private_key_pem.bytes().decode().splitlines()[1]
    assert secret not in fault
    assert "AAAA" not in fault


def test_ca_that_has_expired_is_told() -> None:
    (fault,) = parse_file(expired_ca().decode()).faults
    assert fault.startswith("the file, certificate 1, has expired (")


def expired_ca() -> bytes:
    ca = x509.load_pem_x509_certificate(EXPIRED.cert_pem.bytes())
    key = serialization.load_pem_private_key(EXPIRED.private_key_pem.bytes(), None)
    builder = x509.CertificateBuilder(
        ca.issuer,
        ca.subject,
        ca.public_key(),
        ca.serial_number,
        datetime(2019, 1, 1, tzinfo=UTC),
        datetime(2020, 1, 1, tzinfo=UTC),
        list(ca.extensions),
    )
    made = builder.sign(key, ca.signature_hash_algorithm)  # type: ignore[arg-type]
    return made.public_bytes(serialization.Encoding.PEM)


@pytest.mark.parametrize("empty", ["", "\n", '{"ca.pem": "?"}'])
def test_file_without_a_certificate_is_told(empty: str) -> None:
    (fault,) = parse_file(empty).faults
    assert fault.startswith("the file has no certificate: give a certificate in PEM")
