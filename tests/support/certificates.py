"""Certificates for servers that tests run: an authority, and what it signs for this machine."""

from __future__ import annotations

import datetime
import ipaddress
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec


class Certificate(NamedTuple):
    """PEM files: what is shown, its key, and who has signed it."""

    cert: Path
    key: Path
    ca: Path


def certificate(folder: Path, name: str = "proxy", *, days: int = 1, hosts: tuple[str, ...] = ()) -> Certificate:
    """A certificate for localhost, 127.0.0.1 and `hosts`, signed by an authority of its own.

    Args:
        folder: Where the files go.
        name: Of the files.
        days: For which it is valid from now; less than 0: it has expired.
        hosts: More names.
    """
    now = datetime.datetime.now(datetime.UTC)
    begin, end = now - datetime.timedelta(days=30), now + datetime.timedelta(days=days)

    def sign(subject: str, key: ec.EllipticCurvePrivateKey, ca: bool) -> bytes:
        names = [x509.DNSName(host) for host in ("localhost", *hosts)]
        extensions: list[x509.ExtensionType] = [x509.BasicConstraints(ca=ca, path_length=None)]
        if not ca:
            extensions.append(x509.SubjectAlternativeName([*names, x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]))
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, subject)]))
            .issuer_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, f"{name} authority")]))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(begin)
            .not_valid_after(now + datetime.timedelta(days=365) if ca else end)
        )
        for extension in extensions:
            builder = builder.add_extension(extension, critical=ca)
        return builder.sign(authority, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    authority, own = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    made = Certificate(*(folder / f"{name}{suffix}" for suffix in (".pem", ".key", "-ca.pem")))
    made.cert.write_bytes(sign(name, own, ca=False))
    made.ca.write_bytes(sign(f"{name} authority", authority, ca=True))
    private = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    made.key.write_bytes(own.private_bytes(*private))
    made.key.chmod(0o600)
    return made
