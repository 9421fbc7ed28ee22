"""The token, TLS contexts, and addresses of workers.

Owns where the token comes from, how it is kept from prying eyes, how a listener gets a certificate, and what a
worker's URL may be. It must not know the handshake that uses them (`wire/handshake.py`) or any socket.

The token is one secret, shared by pool and workers. It is 32 random bytes, never a password: a proof lets whoever
sees it guess at leisure. Its text is `dm1_<id>_<base64url>`; the id is public and derived, so that a damaged token
is noticed when it is read.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import re
import secrets
import ssl
import stat
import sys
import tempfile
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import NoReturn
from urllib.parse import parse_qsl, urlsplit

from distmap.errors import ConnectError, TokenError

#: The port of a worker when its URL names none.
DEFAULT_PORT = 8786
TOKEN_BYTES = 32
#: Files larger than this hold no token.
_MAX_TOKEN_FILE = 64 << 10


class Secret:
    """The token. Not a `str`: it shows itself by its public id only, and refuses to be pickled or copied."""

    __slots__ = ("__material", "kid")

    def __init__(self, material: bytes) -> None:
        if len(material) != TOKEN_BYTES:
            raise TokenError(f"a token is {TOKEN_BYTES} random bytes, not {len(material)}")
        self.__material = material
        #: The public id, 8 hexadecimal digits.
        self.kid = hashlib.sha256(b"distmap/kid/1" + material).hexdigest()[:8]

    @classmethod
    def generate(cls) -> Secret:
        """A fresh token."""
        return cls(secrets.token_bytes(TOKEN_BYTES))

    @classmethod
    def parse(cls, text: str, *, source: str = "the token") -> Secret:
        """The token of a text. `source` says in the error where the text came from; the text itself is never shown."""
        match = re.fullmatch(r"dm1_([0-9a-f]{8})_([A-Za-z0-9_-]{43})", text.strip())
        if match is None:
            raise TokenError(
                f"{source} is not of the form dm1_<id>_<43 characters>; passwords are not accepted, copy the token "
                "file of the other side, or leave the token out and one is made"
            )
        try:
            secret = cls(base64.urlsafe_b64decode(match[2] + "="))
        except binascii.Error as error:  # pragma: no cover - the pattern admits nothing that fails here
            raise TokenError(f"{source} cannot be decoded") from error
        if secret.kid != match[1]:
            raise TokenError(f"{source} is damaged: its id {match[1]} does not fit the rest; copy it again")
        return secret

    def reveal(self) -> str:
        """The text form; only to write it where nobody else can read."""
        return f"dm1_{self.kid}_{base64.urlsafe_b64encode(self.__material).decode().rstrip('=')}"

    def material(self) -> bytes:
        """The bytes that the proof is made with."""
        return self.__material

    def __repr__(self) -> str:
        return f"<token {self.kid}>"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self.material(), other.material())

    def __hash__(self) -> int:
        return hash(self.kid)

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("a token does not pickle: it must not leave this process inside a function or its data")


# --- where the token comes from --------------------------------------------------------------------------------------

#: What DISTMAP_TOKEN held. The variable is taken out of the environment, so that tasks do not inherit it.
_from_environment: Secret | None = None
_taking = threading.Lock()


def load_token(token: Secret | str | None = None, *, token_file: str | Path | None = None) -> Secret:
    """The token to use: the one given, else of the file given, `DISTMAP_TOKEN_FILE`, `DISTMAP_TOKEN`, the user's file.

    The first that is configured counts; if it cannot be used, that is a TokenError and never a reason to try the
    next. The user's file is made when it is first needed.
    """
    global _from_environment
    if isinstance(token, Secret):
        return token
    if token is not None:
        return Secret.parse(token)
    path = token_file or os.environ.get("DISTMAP_TOKEN_FILE")
    if path:
        return _read_token(Path(path))
    with _taking:  # a thread that comes second must find it in one of the two places
        text = os.environ.pop("DISTMAP_TOKEN", None)
        if text:
            _from_environment = Secret.parse(text, source="the variable DISTMAP_TOKEN")
    if _from_environment is not None:
        return _from_environment
    path = token_path()
    if not path.exists():
        _create_token(path)
    return _read_token(path)


def token_path() -> Path:
    """The token file of this user."""
    if sys.platform == "win32":
        base = Path(os.environ.get("APPDATA") or Path.home() / "AppData" / "Roaming")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Application Support"
    else:
        base = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    return base / "distmap" / "token"


def _create_token(path: Path) -> None:
    """Make the file whole or not at all; another process may be doing the same, and the first one wins."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft = path.with_name(f".token-{secrets.token_hex(8)}")
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)
        with open(os.open(draft, flags, 0o600), "w") as file:
            file.write(Secret.generate().reveal() + "\n")
        try:
            # link, not rename: it fails if the name is taken.
            os.link(draft, path)
        except FileExistsError:
            pass
        finally:
            draft.unlink()
    except OSError as error:
        raise TokenError(
            f"the token file {path} cannot be made: {error.strerror or error}; set DISTMAP_TOKEN_FILE"
        ) from error


def _read_token(path: Path) -> Secret:
    try:
        # Not blocking, should somebody have put a pipe there.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
    except OSError as error:
        named = os.environ.get("DISTMAP_TOKEN_FILE") == str(path)
        remedy = "correct or unset DISTMAP_TOKEN_FILE, which names it" if named else "name another file"
        raise TokenError(
            f"the token file {path} cannot be read: {error.strerror or error}; copy the other side's token file there "
            f"(scp, then chmod 600), or {remedy}"
        ) from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise TokenError(f"the token file {path} is not a regular file")
        if sys.platform != "win32":
            _check_private(path, status)
        text = os.read(descriptor, _MAX_TOKEN_FILE).decode("utf-8", "replace")
    finally:
        os.close(descriptor)
    lines = [line for line in map(str.strip, text.splitlines()) if line and not line.startswith("#")]
    return Secret.parse(lines[0] if lines else "", source=f"the content of {path}")


def _check_private(path: Path, status: os.stat_result) -> None:
    if status.st_uid != os.geteuid():
        raise TokenError(f"the token file {path} belongs to another user; copy it and point DISTMAP_TOKEN_FILE there")
    if status.st_mode & 0o077:
        mode = stat.S_IMODE(status.st_mode)
        raise TokenError(f"the token file {path} is open to others (mode {mode:04o}); do: chmod 600 {path}")


# --- TLS -------------------------------------------------------------------------------------------------------------


def client_context() -> ssl.SSLContext:
    """TLS 1.3 for dialling. It checks no certificate itself: the proof is bound to the one that was shown."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def server_context(
    tls_cert: str | Path | None = None, tls_key: str | Path | None = None
) -> tuple[ssl.SSLContext, bytes]:
    """TLS 1.3 for listening, and the SHA-256 of its certificate.

    Without a certificate of yours, one is made for this process. Its key stays in memory on Linux; elsewhere it is
    in a temporary file, readable by this user only, for the moment that the ssl module takes to read it.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
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
    raise ValueError("its key is encrypted, and nobody can be asked for the password")


def _fingerprint(pem: bytes) -> bytes:
    """SHA-256 of the first certificate of a PEM text, which is the one that a server shows."""
    match = re.search(rb"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", pem, re.DOTALL)
    assert match is not None, "a chain was loaded from it"
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(match[0].decode() + "\n")).digest()


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


# --- addresses -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class WorkerURL:
    """Where a worker (or a listening pool) is reached."""

    host: str
    port: int
    options: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_loopback(self) -> bool:
        """Whether it can only be this machine."""
        if self.host == "localhost":
            return True
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return False

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"wss://{host}:{self.port}"


def parse_url(text: str, *, listening: bool = False) -> WorkerURL:
    """The address of `wss://host:port`, with options after a `?`. Port 8786 if none is named.

    `listening` admits port 0, which picks a free one. Raises ConnectError with one sentence.
    """
    if "dm1_" in text or re.search(r"[?&](token|key|secret|password)=", text, re.IGNORECASE):
        raise ConnectError("the URL holds a token, and URLs end up in logs: take it out, and use a token file")
    # Spaces around it come with pasting; elsewhere urlsplit would drop some of them without a word.
    text = text.strip()
    try:
        if re.search(r"[\s\x00-\x1f\x7f]", text):
            raise ValueError("there is a space or control character in it")
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise ConnectError(f"{text!r} is no wss:// URL: {error}") from error
    if parts.scheme != "wss":
        hint = "everything is encrypted" if parts.scheme == "ws" else "a worker's address looks like wss://host:8786"
        raise ConnectError(f"{text!r} is no wss:// URL; {hint}")
    if parts.username is not None or parts.password is not None:
        raise ConnectError(f"the URL for {parts.hostname} holds a user name or password; distmap uses a token file")
    if not parts.hostname:
        raise ConnectError(f"{text!r} names no host; a worker's address looks like wss://host:8786")
    try:
        # As the look-up will: it refuses empty and overlong labels.
        possible = parts.hostname.encode("idna") and re.fullmatch(r"[\w.:%-]+", parts.hostname)
    except UnicodeError:
        possible = None
    if not possible:
        raise ConnectError(f"{text!r} names no possible host; a worker's address looks like wss://host:8786")
    if parts.path not in ("", "/") or parts.fragment:
        raise ConnectError(f"{text!r} has a path; a worker's address looks like wss://host:8786")
    if port == 0 and not listening:
        raise ConnectError(f"{text!r} has port 0; name the port that the other side prints")
    return WorkerURL(parts.hostname, DEFAULT_PORT if port is None else port, dict(parse_qsl(parts.query)))
