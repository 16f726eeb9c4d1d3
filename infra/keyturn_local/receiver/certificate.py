"""A certificate for a receiver that runs as a process. Each certificate has a CA of its own."""

import base64
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import trustme


@dataclass(frozen=True)
class Certificate:
    """The files of a certificate for 127.0.0.1 and of its key, and a CA bundle with the certificate's issuer."""

    certificate_file: Path
    key_file: Path
    bundle: bytes  # PEM

    @classmethod
    def issue(cls, directory: Path) -> Self:
        """Issue a certificate with a new CA. Write the files into ``directory``."""
        authority = trustme.CA()
        issued = authority.issue_cert("127.0.0.1")
        certificate_file, key_file = directory / "tls.crt", directory / "tls.key"
        certificate_file.write_bytes(b"".join(each.bytes() for each in issued.cert_chain_pems))
        key_file.write_bytes(issued.private_key_pem.bytes())
        return cls(certificate_file, key_file, authority.cert_pem.bytes())

    def context(self) -> ssl.SSLContext:
        """Return the TLS context of a server with this certificate."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate_file, self.key_file)
        return context

    @property
    def parameter(self) -> str:
        """The CA bundle in the form of the stack's parameter CaBundle."""
        return base64.b64encode(self.bundle).decode()

    def settings(self) -> dict[str, str]:
        """Return the receiver's settings that turn on TLS."""
        return {
            "KEYTURN_TLS_CERTIFICATE_FILE": str(self.certificate_file),
            "KEYTURN_TLS_KEY_FILE": str(self.key_file),
        }
