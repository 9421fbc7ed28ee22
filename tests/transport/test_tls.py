"""TLS contexts: version, certificates, and where the key is not left."""

from __future__ import annotations

import builtins
import hashlib
import ssl
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.certificates import certificate

from distmap.errors import ConnectError
from distmap.transport import tls
from distmap.transport.tls import client_context, read_certificate, server_context


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_tls_1_3_only() -> None:
    """On both sides."""
    assert client_context().minimum_version == ssl.TLSVersion.TLSv1_3
    assert server_context()[0].minimum_version == ssl.TLSVersion.TLSv1_3


def shake_hands(server: ssl.SSLContext) -> bytes:
    """TLS in memory; gives the server's certificate as the client sees it."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    left = client_context().wrap_bio(to_client, to_server)
    right = server.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(4):
        for side in (left, right):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    shown = left.getpeercert(binary_form=True)
    assert shown is not None
    return shown


def test_the_fingerprint_is_of_the_certificate_shown() -> None:
    """What the handshake binds to is what TLS shows."""
    context, fingerprint = server_context()
    assert hashlib.sha256(shake_hands(context)).digest() == fingerprint


def test_each_start_has_a_certificate_of_its_own() -> None:
    """Nothing to keep, nothing to rotate."""
    assert server_context()[1] != server_context()[1]


@pytest.mark.parametrize("platform", ["linux", "darwin"])
def test_the_key_is_not_left_on_disk(platform: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither where files without a name exist nor where they do not."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(sys, "platform", platform)
    context, fingerprint = server_context()
    assert hashlib.sha256(shake_hands(context)).digest() == fingerprint
    assert list(tmp_path.iterdir()) == []


def test_a_chain_of_ones_own(tmp_path: Path) -> None:
    """Certificate and key in one file or in two; the first certificate of a chain counts."""
    (cert, key), (other, _) = tls._ephemeral_certificate(), tls._ephemeral_certificate()
    both = write(tmp_path / "both.pem", (cert + other + key).decode())
    alone = write(tmp_path / "cert.pem", cert.decode())
    key_file = write(tmp_path / "key.pem", key.decode())
    expected = hashlib.sha256(ssl.PEM_cert_to_DER_cert(cert.decode())).digest()
    for arguments in ((both,), (alone, key_file)):
        context, fingerprint = server_context(*arguments)
        assert fingerprint == expected == hashlib.sha256(shake_hands(context)).digest()


def test_certificates_that_do_not_work(tmp_path: Path) -> None:
    """Missing, no PEM, wrong key, encrypted key, key alone: each one sentence with the path, and no prompt."""
    from cryptography.hazmat.primitives import serialization

    cert, key = tls._ephemeral_certificate()
    _, wrong = tls._ephemeral_certificate()
    encrypted = serialization.load_pem_private_key(key, None).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"x"),
    )
    path = write(tmp_path / "cert.pem", cert.decode())
    cases: list[tuple[Path | None, Path | None]] = [
        (tmp_path / "missing", None),
        (write(tmp_path / "text", "hello"), None),
        (path, None),
        (path, write(tmp_path / "wrong.pem", wrong.decode())),
        (path, write(tmp_path / "encrypted.pem", encrypted.decode())),
        (None, path),
    ]
    for arguments in cases:
        with pytest.raises(ConnectError) as caught:
            server_context(*arguments)
        assert str(arguments[0] or arguments[1]) in str(caught.value)


def test_without_cryptography(monkeypatch: pytest.MonkeyPatch) -> None:
    """Listening says what to install; there is no listening without TLS."""
    real = builtins.__import__

    def refuse(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("cryptography"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ConnectError, match=r"install `cryptography`, or give --tls-cert"):
        server_context()


def test_importing_it_is_light() -> None:
    """`cryptography` is loaded by a listener only."""
    code = "import sys, distmap.transport.tls; assert not any(name.startswith('cryptography') for name in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=15)


def test_what_a_certificate_says(tmp_path: Path) -> None:
    """For whom it is, who signed it, and until when."""
    shown = read_certificate(ssl.PEM_cert_to_DER_cert(certificate(tmp_path, days=3).cert.read_text()))
    assert (shown.subject, shown.issuer, shown.self_signed) == ("proxy", "proxy authority", False)
    own = read_certificate(ssl.PEM_cert_to_DER_cert(tls._ephemeral_certificate()[0].decode()))
    assert (own.subject, own.issuer, own.self_signed) == ("distmap", "distmap", True)
    assert own.until > shown.until


def test_a_certificate_without_a_name(tmp_path: Path) -> None:
    """Public authorities name hosts only in an extension; then these are shown."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization

    made = certificate(tmp_path)
    key = serialization.load_pem_private_key(made.key.read_bytes(), None)
    old = x509.load_pem_x509_certificate(made.cert.read_bytes())
    builder = x509.CertificateBuilder().subject_name(x509.Name([])).issuer_name(x509.Name([]))
    builder = builder.public_key(old.public_key()).serial_number(old.serial_number)
    builder = builder.not_valid_before(old.not_valid_before_utc).not_valid_after(old.not_valid_after_utc)
    hosts = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName("gpu1.example")]), critical=False)
    for signed, subject in ((builder, "nobody"), (hosts, "gpu1.example")):
        der = signed.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)
        assert read_certificate(der).subject == subject


def test_a_certificate_that_cannot_be_read() -> None:
    """Whatever is wrong with it, that is one kind of error."""
    der = ssl.PEM_cert_to_DER_cert(tls._ephemeral_certificate()[0].decode())
    version_7 = der.replace(bytes.fromhex("a003020102"), bytes.fromhex("a003020106"), 1)
    for broken in (b"", b"hello", der[:-1], version_7):
        with pytest.raises(ValueError, match=r"."):
            read_certificate(broken)
