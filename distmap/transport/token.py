"""The token: one secret, shared by pool and workers.

Owns its form, where it comes from, and how it is kept private. It must not know the handshake that uses it
(`wire/handshake.py`) or any socket.

It is 32 random bytes, never a password: a proof lets any observer guess passwords offline. Its text is
`dm1_<id>_<base64url>`; the id is public and derived from the bytes, so that a damaged token is noticed when it is read.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import re
import secrets
import sys
import threading
from pathlib import Path
from typing import NoReturn

from distmap.errors import TokenError
from distmap.transport.private import read_private

#: Length of a token; part of its form.
TOKEN_BYTES = 32


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
        """The token of a text. `source` names the origin of the text in errors; the text itself is never shown."""
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
        """The text form; write it only to a place that no other user can read."""
        return f"dm1_{self.kid}_{base64.urlsafe_b64encode(self.__material).decode().rstrip('=')}"

    def material(self) -> bytes:
        """The bytes that the proof is made with."""
        return self.__material

    def room(self, name: str = "") -> str:
        """The room of a relay where those meet who hold this token, 32 hexadecimal digits.

        HKDF (RFC 5869, SHA-256, one block): who sees it learns nothing of the token, nor of rooms with other names.
        """
        key = hmac.digest(b"distmap/relay/1", self.__material, "sha256")
        return hmac.digest(key, b"room/" + name.encode() + b"\x01", "sha256").hex()[:32]

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

#: The token of DISTMAP_TOKEN, which is removed from the environment, so that tasks do not inherit it.
_from_environment: Secret | None = None
#: Held while the variable is moved there: a thread that comes second must find the token in one of the two places.
_environment_lock = threading.Lock()


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
    with _environment_lock:
        text = os.environ.pop("DISTMAP_TOKEN", None)
        if text:
            _from_environment = Secret.parse(text, source="the variable DISTMAP_TOKEN")
    if _from_environment is not None:
        return _from_environment
    path = token_path()
    if not path.exists():
        _create_token(path)
    return _read_token(path)


def token_source(token_file: str | Path | None = None) -> Path | None:
    """The file that `load_token` takes the token from, if none is given; None: from the variable DISTMAP_TOKEN."""
    path = token_file or os.environ.get("DISTMAP_TOKEN_FILE")
    if not path and (_from_environment is not None or os.environ.get("DISTMAP_TOKEN")):
        return None
    return Path(path) if path else token_path()


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
    """Make the file whole or not at all. Another process may do the same at once; the first one wins."""
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
    named = os.environ.get("DISTMAP_TOKEN_FILE") == str(path)
    remedy = "correct or unset DISTMAP_TOKEN_FILE, which names it" if named else "name another file"
    copy = "copy the other side's token file there (scp, then chmod 600)"
    lines = read_private(path, "token file", TokenError, f"{copy}, or {remedy}")
    return Secret.parse(lines[0] if lines else "", source=f"the content of {path}")
