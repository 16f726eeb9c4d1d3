"""The server's certificate: a new one is for the next connection, whatever the type of its key."""

import ssl
from pathlib import Path

import pytest
import trustme

from keyturn_receiver.web.certificate import ReloadingCertificate

EC, RSA = trustme.KeyType.ECDSA, trustme.KeyType.RSA


def write(directory: Path, authority: trustme.CA, key_type: trustme.KeyType) -> bytes:
    """Write a new certificate and its key, and return the certificate in DER."""
    made = authority.issue_cert("receiver", key_type=key_type)
    pem = made.cert_chain_pems[0].bytes()
    (directory / "tls.crt").write_bytes(pem)
    (directory / "tls.key").write_bytes(made.private_key_pem.bytes())
    return ssl.PEM_cert_to_DER_cert(pem.decode())


def served(context: ssl.SSLContext, authority: trustme.CA) -> bytes | None:
    """Return the certificate that a client gets, in DER."""
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = context.wrap_bio(to_server, to_client, server_side=True)
    client = trusting.wrap_bio(to_client, to_server, server_hostname="receiver")
    for side in (client, server, client, server):
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue
    return client.getpeercert(True)


@pytest.mark.parametrize(("before", "after"), [(EC, EC), (EC, RSA), (RSA, EC)])
def test_new_certificate_is_served_whatever_the_type_of_its_key(
    tmp_path: Path, before: trustme.KeyType, after: trustme.KeyType
) -> None:
    authority = trustme.CA()
    old = write(tmp_path, authority, before)
    certificate = ReloadingCertificate(tmp_path / "tls.crt", tmp_path / "tls.key")
    assert served(certificate.context, authority) == old
    new = write(tmp_path, authority, after)
    certificate.reload_if_changed()
    assert served(certificate.context, authority) == new


def test_certificate_without_its_key_is_not_served(tmp_path: Path) -> None:
    authority = trustme.CA()
    old = write(tmp_path, authority, EC)
    certificate = ReloadingCertificate(tmp_path / "tls.crt", tmp_path / "tls.key")
    (tmp_path / "tls.crt").write_bytes(authority.issue_cert("receiver").cert_chain_pems[0].bytes())
    certificate.reload_if_changed()
    assert served(certificate.context, authority) == old
