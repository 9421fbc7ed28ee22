"""The mutual proof of the token, without sending it.

Owns the bytes and the order of the handshake: HELLO of the listener; HELLO and proof of the dialer; proof of the
listener; then INFO of both. It must not know sockets, TLS or where randomness comes from: nonces and the hash of
the server's certificate enter as arguments. Nothing else of distmap's protocol exists before `proved` is true.

    L -> D   HELLO_L                        {v: [min, max], role, nonce, cert}
    D -> L   size, HELLO_D, PROOF_D         {v, role, nonce, kid}
    L -> D   PROOF_L
    D -> L   INFO_D, its MAC                L -> D   INFO_L, its MAC
    k = HKDF-SHA256(token, salt="distmap/auth/1", info="mac")
    T = SHA256(length-prefixed: "distmap-auth-1", HELLO_L, HELLO_D, binding type, binding)
    PROOF_D = HMAC(k, "D" + T)      PROOF_L = HMAC(k, "L" + T)      MAC = HMAC(k, "d" or "l" + T + INFO)

Both nonces, both roles, versions, the key's id and the certificate's hash are under the MACs, so that replay,
reflection, relay, swapped roles and downgrades all fail at the same comparison. Where a hop on the way ends TLS, all of
this happens inside a TLS of the two ends, whose certificate it is then. Only HMAC and TLS are relied on: there is no
cipher or key exchange of our own here. A session that goes on over a new connection is named in the INFO
of both, so it takes the whole handshake again (`transport/reconnect.py`).
"""

from __future__ import annotations

import hashlib
import hmac
import json
import struct
from collections.abc import Mapping
from typing import Literal

from distmap.core.limits import LIMITS
from distmap.errors import AuthenticationError, ProtocolError, VersionMismatch

Role = Literal["pool", "worker"]

#: Lowest and highest version of the protocol that this side speaks.
PROTOCOL = (6, 6)
NONCE_BYTES = 32
SESSION_ID_CHARS = 32

_BINDING = b"tls-server-end-point"
_SIZE = struct.Struct(">H")
_PROOF_BYTES = 32
#: The role that a side of this role talks to.
OTHER: Mapping[Role, Role] = {"pool": "worker", "worker": "pool"}


class _Side:
    """What both sides have in common: the key, the transcript, and the state of the proof."""

    _dials: bool

    def __init__(self, *, kid: str, token: bytes, role: Role, nonce: bytes, certificate: bytes) -> None:
        """Begin one handshake.

        Args:
            kid: The public id of the token.
            token: The token's bytes.
            role: Role of this side; the other side must have the other one.
            nonce: NONCE_BYTES fresh random bytes, never used before.
            certificate: SHA-256 of the listener's certificate (DER), as this side knows it: its own, or the one that
                TLS showed.
        """
        if len(nonce) != NONCE_BYTES:
            raise ValueError(f"a nonce has {len(nonce)} bytes, not {NONCE_BYTES}")
        self.role = role
        self.peer_role: Role = OTHER[role]
        #: Whether the other side has proved that it holds the token, with nothing in between.
        self.proved = False
        self._kid = kid
        self._key = _hkdf(token)
        self._nonce = nonce
        self._certificate = certificate
        self._transcript = b""

    def seal_info(self, info: Mapping[str, object]) -> bytes:
        """The INFO message of this side. Only after the proof."""
        data = json.dumps(dict(info), ensure_ascii=False).encode("utf-8", "replace")
        message = data + self._info_mac(data, by_dialer=self._dials)
        if len(message) > LIMITS.handshake_bytes:
            raise ProtocolError(
                f"the INFO of this {self.role} has {len(message)} bytes; {LIMITS.handshake_bytes} are allowed"
            )
        return message

    def open_info(self, message: bytes) -> dict[str, object]:
        """The INFO of the other side. Only after the proof."""
        _bounded(message, self.peer_role)
        data, mac = message[:-_PROOF_BYTES], message[-_PROOF_BYTES:]
        if not hmac.compare_digest(mac, self._info_mac(data, by_dialer=not self._dials)):
            raise AuthenticationError(f"the INFO of the {self.peer_role} was changed on the way")
        return _object(data, self.peer_role)

    @property
    def session_id(self) -> str:
        """The id of a session that begins with this handshake: only the two sides know it. Only after the proof.

        It names a session and proves nothing: whoever goes on with a session goes through a handshake of its own.
        """
        if not self.proved:
            raise ProtocolError("there is no session before the proof")
        return self._mac(b"session").hex()[:SESSION_ID_CHARS]

    def _info_mac(self, data: bytes, *, by_dialer: bool) -> bytes:
        if not self.proved:
            raise ProtocolError("INFO has no place before the proof")
        return self._mac(b"d" if by_dialer else b"l", data)

    def _mac(self, label: bytes, data: bytes = b"") -> bytes:
        return hmac.digest(self._key, label + self._transcript + data, "sha256")

    def _bind(self, hello_l: bytes, hello_d: bytes) -> None:
        parts = (b"distmap-auth-1", hello_l, hello_d, _BINDING, self._certificate)
        self._transcript = hashlib.sha256(b"".join([_SIZE.pack(len(part)) + part for part in parts])).digest()

    def _check_nonce(self, hello: Mapping[str, object]) -> None:
        nonce = hello.get("nonce")
        if not isinstance(nonce, str) or len(nonce) != 2 * NONCE_BYTES or nonce == self._nonce.hex():
            raise ProtocolError(f"the {self.peer_role} sent no nonce of its own")

    def _check_role(self, hello: Mapping[str, object]) -> None:
        if hello.get("role") != self.peer_role:
            raise AuthenticationError(f"a {self.role} talks to a {self.peer_role} only, and the other side is none")

    def _check_versions(self, hello: Mapping[str, object]) -> None:
        match hello.get("v"):
            case [int(low), int(high)] if max(low, PROTOCOL[0]) <= min(high, PROTOCOL[1]):
                return
            case [int(low), int(high)]:
                raise VersionMismatch(
                    f"the {self.peer_role} speaks versions {low} to {high} of distmap's protocol and this {self.role} "
                    f"{PROTOCOL[0]} to {PROTOCOL[1]}; install the same distmap on both sides"
                )
            case _:
                raise ProtocolError(f"the {self.peer_role} names no versions of distmap's protocol")


class Listener(_Side):
    """The side that was dialled. `hello()`, then `receive()` once, then INFO."""

    _dials = False
    _hello = b""

    def hello(self) -> bytes:
        """The first message of all."""
        self._hello = _json(
            v=PROTOCOL, role=self.role, nonce=self._nonce.hex(), cert=self._certificate.hex()
        )  # fmt: skip
        return self._hello

    def receive(self, message: bytes) -> bytes:
        """Take HELLO and proof of the dialer; returns our proof. Raises if anything about them is wrong."""
        if not self._hello or self._transcript:
            raise ProtocolError("a second proof, or one before HELLO")
        _bounded(message, self.peer_role)
        if len(message) < _SIZE.size:
            raise ProtocolError(f"the {self.peer_role} sent no HELLO")
        (size,) = _SIZE.unpack_from(message)
        hello, proof = message[_SIZE.size : _SIZE.size + size], message[_SIZE.size + size :]
        fields = _object(hello, self.peer_role)
        self._bind(self._hello, hello)
        # The proof is checked whatever the fields say, so that each failure takes the same time.
        right = hmac.compare_digest(proof, self._mac(b"D"))
        if not right:
            raise AuthenticationError(_other_token(self.peer_role, fields.get("kid"), self._kid))
        self._check_nonce(fields)
        self._check_role(fields)
        self._check_versions(fields)
        self.proved = True
        return self._mac(b"L")


class Dialer(_Side):
    """The side that dials. `receive_hello()`, then `receive_proof()`, then INFO."""

    _dials = True

    def receive_hello(self, message: bytes) -> bytes:
        """Take the listener's HELLO; returns ours with the proof. Raises if TLS ends before the listener."""
        if self._transcript:
            raise ProtocolError("a second HELLO")
        _bounded(message, self.peer_role)
        fields = _object(message, self.peer_role)
        self._check_versions(fields)
        self._check_nonce(fields)
        self._check_role(fields)
        # Only for the wording, and so that a relay is given no proof; what decides is the MAC, which holds the hash.
        if fields.get("cert") != self._certificate.hex():
            raise AuthenticationError(
                f"something between you and the {self.peer_role} passes itself off as the {self.peer_role}: the "
                "certificate that it shows is not the one at the end"
            )
        hello = _json(v=PROTOCOL, role=self.role, nonce=self._nonce.hex(), kid=self._kid)
        self._bind(message, hello)
        return _SIZE.pack(len(hello)) + hello + self._mac(b"D")

    def receive_proof(self, message: bytes) -> None:
        """Take the listener's proof; from then on the two sides trust each other."""
        if not self._transcript or self.proved:
            raise ProtocolError("a second proof, or one before HELLO")
        if not hmac.compare_digest(message, self._mac(b"L")):
            raise AuthenticationError(f"the {self.peer_role} did not prove that it holds the token {self._kid}")
        self.proved = True


def certificate_of(hello: bytes, role: Role) -> bytes:
    """The hash of the certificate that the HELLO of a listener names. Nothing about it is proved.

    Raises:
        ProtocolError: It names none. `role` is the one that was expected there.
    """
    _bounded(hello, role)
    named = _object(hello, role).get("cert")
    if not isinstance(named, str) or not (len(named) == 64 and set(named) <= set("0123456789abcdef")):
        raise ProtocolError(f"the {role} sent something that is not of distmap's handshake")
    return bytes.fromhex(named)


def role_of(hello: bytes) -> Role:
    """The role that the HELLO of a listener names. Nothing about it is proved.

    Raises:
        ProtocolError: It names none.
    """
    _bounded(hello, "worker")
    match _object(hello, "worker").get("role"):
        case "pool":
            return "pool"
        case "worker":
            return "worker"
    raise ProtocolError("what listens there sent something that is not of distmap's handshake")


def sanitized(text: str, limit: int = 200) -> str:
    """A text of the other side, fit to be shown on a terminal: without control characters, and not long."""
    text = "".join([char for char in text[: 4 * limit] if char.isprintable()])
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _other_token(role: Role, kid: object, ours: str) -> str:
    theirs = sanitized(kid) if isinstance(kid, str) else ""
    if theirs == ours:
        return f"the {role} names the token {ours}, but its proof is wrong: TLS is terminated in between, or it lies"
    return f"the {role} holds another token ({theirs or 'without an id'}) than this side ({ours})"


def _bounded(message: bytes, role: Role) -> None:
    if len(message) > LIMITS.handshake_bytes:
        raise ProtocolError(f"the {role} sent {len(message)} bytes where {LIMITS.handshake_bytes} are allowed")


def _json(**fields: object) -> bytes:
    return json.dumps(fields, separators=(",", ":")).encode()


def _object(data: bytes, role: Role) -> dict[str, object]:
    try:
        fields = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"the {role} sent something that is not of distmap's handshake") from error
    if not isinstance(fields, dict):
        raise ProtocolError(f"the {role} sent a {type(fields).__name__} that is not of distmap's handshake")
    return fields


def _hkdf(token: bytes) -> bytes:
    """RFC 5869 with SHA-256, one block."""
    extracted = hmac.digest(b"distmap/auth/1", token, "sha256")
    return hmac.digest(extracted, b"mac" + b"\x01", "sha256")
