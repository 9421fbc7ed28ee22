"""TLS 1.3 contexts, and the certificate that a listener makes for itself.

Owns the use of `ssl` settings and of `cryptography`. It must not know the handshake, which binds its proof to the
SHA-256 of the certificate: that, not a chain of trust, is what authenticates the listener.
"""

from __future__ import annotations

import hashlib
import os
import re
import ssl
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from distmap.errors import ConnectError
from distmap.tasks._typing import NamedTuple
from distmap.wire.handshake import sanitized

if TYPE_CHECKING:
    import datetime

    from cryptography import x509


def client_context() -> ssl.SSLContext:
    """TLS 1.3 for dialling. It accepts any certificate: the proof is bound to the one that was shown."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def verified_context(ca: str | Path | None = None) -> ssl.SSLContext:
    """TLS for the way to a proxy. It accepts what the system trusts for that host name, or what `ca` has signed.

    Args:
        ca: A file of certificates (PEM) to trust besides, or a folder of them as OpenSSL names them.

    Raises:
        ConnectError: `ca` cannot be read, or has no certificate in it.
    """
    context = ssl.create_default_context()
    # Set by default since Python 3.13; many an authority of a company or a lab leaves out what RFC 5280 asks for then.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if ca is not None:
        # Authorities of companies often lack what Python 3.13 asks for besides (an Authority Key Identifier).
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        try:
            folder = Path(ca).is_dir()
            context.load_verify_locations(cafile=None if folder else ca, capath=ca if folder else None)
        except (OSError, ValueError) as error:
            raise ConnectError(f"the certificates of {ca} (ca=, DISTMAP_CA) cannot be used: {error}") from error
    return context


def server_context(
    tls_cert: str | Path | None = None, tls_key: str | Path | None = None
) -> tuple[ssl.SSLContext, bytes]:
    """TLS 1.3 for listening, and the SHA-256 of its certificate.

    Without `tls_cert`, a certificate is made for this process. Its key stays in memory on Linux; elsewhere it is
    in a temporary file, readable by this user only, for the moment that the ssl module takes to read it.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    # Sessions of TLS are not resumed here; tickets would be messages that nobody waits for.
    context.num_tickets = 0
    if tls_cert is None:
        if tls_key is not None:
            raise ConnectError(f"a TLS key ({tls_key}) needs its certificate too: --tls-cert")
        certificate, key = _ephemeral_certificate()
        _load_from_memory(context, certificate + key)
    else:
        try:
            certificate = Path(tls_cert).read_bytes()
            # An encrypted key would have OpenSSL ask on the terminal.
            context.load_cert_chain(tls_cert, tls_key, password=_no_password)
        except (OSError, ValueError) as error:
            raise ConnectError(
                f"the TLS certificate {tls_cert} (key {tls_key or 'in it'}) cannot be used: {error}"
            ) from error
    return context, _fingerprint(certificate)


def _no_password() -> NoReturn:
    raise ValueError("its key is encrypted; give a key without a password")


def _fingerprint(pem: bytes) -> bytes:
    """SHA-256 of the first certificate of a PEM text, which is the one that a server shows."""
    match = re.search(rb"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", pem, re.DOTALL)
    assert match is not None, "a chain was loaded from it"
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(match[0].decode() + "\n")).digest()


class Certificate(NamedTuple):
    """What a certificate says, for people."""

    subject: str
    issuer: str
    #: The end of its validity, in UTC.
    until: datetime.datetime
    self_signed: bool


def read_certificate(der: bytes) -> Certificate:
    """What the certificate says. Nothing about it is verified.

    Raises:
        ValueError: It cannot be read.
    """
    from cryptography import x509
    from cryptography.exceptions import UnsupportedAlgorithm

    try:
        certificate = x509.load_der_x509_certificate(der)
        try:
            names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
            hosts = sanitized(", ".join(map(str, names.get_values_for_type(x509.DNSName)[:2])), 80)
        except x509.ExtensionNotFound:
            hosts = ""
        return Certificate(
            _shown(certificate.subject) or hosts or "nobody",
            _shown(certificate.issuer) or "nobody",
            certificate.not_valid_after_utc,
            certificate.subject == certificate.issuer,
        )
    except (x509.InvalidVersion, x509.DuplicateExtension, UnsupportedAlgorithm) as error:
        raise ValueError(str(error)) from error


def _shown(name: x509.Name) -> str:
    """The organization and the common name, as far as there are any; these texts are the other side's."""
    from cryptography.x509 import NameOID

    oids = (NameOID.ORGANIZATION_NAME, NameOID.COMMON_NAME)
    parts = [str(attribute.value) for oid in oids for attribute in name.get_attributes_for_oid(oid)]
    return sanitized(" ".join(dict.fromkeys(parts)) or name.rfc4514_string(), 80)


def _ephemeral_certificate() -> tuple[bytes, bytes]:
    """A self-signed P-256 certificate and its key, as PEM. 70 ms, most of it the import."""
    try:
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec
    except ImportError as error:
        raise ConnectError(
            "listening needs a TLS certificate: install `cryptography`, or give --tls-cert and --tls-key"
        ) from error
    import datetime

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "distmap")])
    today = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        # Wide, for clocks that are wrong: what counts is the hash inside the proof.
        .not_valid_before(today - datetime.timedelta(days=365))
        .not_valid_after(today + datetime.timedelta(days=3650))
        .sign(key, hashes.SHA256())
    )
    encoding = serialization.Encoding.PEM
    pem = key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return certificate.public_bytes(encoding), pem


def _load_from_memory(context: ssl.SSLContext, pem: bytes) -> None:
    """Load certificate and key, which the ssl module takes from a path only."""
    if sys.platform == "linux":
        descriptor = os.memfd_create("distmap")
        with open(descriptor, "wb", buffering=0) as file:
            file.write(pem)
            context.load_cert_chain(f"/proc/self/fd/{descriptor}")
        return
    descriptor, path = tempfile.mkstemp(prefix="distmap-")
    try:
        with open(descriptor, "wb") as file:
            file.write(pem)
        context.load_cert_chain(path)
    finally:
        os.unlink(path)
