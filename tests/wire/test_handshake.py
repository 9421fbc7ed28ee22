"""Both sides prove the token, or nothing happens."""

from __future__ import annotations

import hmac
import json

import pytest

from distmap.core.limits import LIMITS
from distmap.errors import AuthenticationError, DistmapError, ProtocolError, VersionMismatch
from distmap.wire import handshake
from distmap.wire.handshake import PROTOCOL, Dialer, Listener, Role, certificate_of, role_of, sanitized

TOKEN, OTHER = b"t" * 32, b"o" * 32
CERT, FOREIGN = b"c" * 32, b"f" * 32
INFO_L: dict[str, object] = {"name": "gpu1", "slots": 2, "python": "3.13.1"}
INFO_D: dict[str, object] = {"name": "notebook", "python": "3.13.7"}


def listener(role: Role = "worker", token: bytes = TOKEN, kid: str = "aaaa1111", nonce: bytes = b"L" * 32) -> Listener:
    return Listener(kid=kid, token=token, role=role, nonce=nonce, certificate=CERT)


def dialer(
    role: Role = "pool",
    token: bytes = TOKEN,
    kid: str = "aaaa1111",
    nonce: bytes = b"D" * 32,
    certificate: bytes = CERT,
) -> Dialer:
    return Dialer(kid=kid, token=token, role=role, nonce=nonce, certificate=certificate)


def forge(message: bytes, **changes: object) -> bytes:
    """A HELLO with fields changed; None takes one out."""
    fields = {**json.loads(message), **changes}
    return json.dumps({name: value for name, value in fields.items() if value is not None}).encode()


def reply(token: bytes, hello_l: bytes, **changes: object) -> bytes:
    """What a dialer that holds the token, but does not keep the rules, would answer."""
    side = dialer(token=token)
    answer = side.receive_hello(hello_l)
    size = int.from_bytes(answer[:2], "big")
    hello_d = forge(answer[2 : 2 + size], **changes)
    side._bind(hello_l, hello_d)
    return len(hello_d).to_bytes(2, "big") + hello_d + side._mac(b"D")


def test_both_sides_know_the_id_of_their_session_and_nobody_else_does() -> None:
    """There is none before the proof; another handshake has another one."""
    found = []
    for nonce in (b"D" * 32, b"E" * 32):
        left, right = listener(), dialer(nonce=nonce)
        for side in (left, right):
            with pytest.raises(ProtocolError, match="no session before the proof"):
                side.session_id  # noqa: B018
        right.receive_proof(left.receive(right.receive_hello(left.hello())))
        assert left.session_id == right.session_id
        found.append(left.session_id)
    assert found[0] != found[1]


@pytest.mark.parametrize("roles", [("worker", "pool"), ("pool", "worker")])
def test_both_sides_trust_each_other(roles: tuple[Role, Role]) -> None:
    """With one token on both sides, whoever listens, both end up proved and know each other's INFO."""
    left, right = listener(roles[0]), dialer(roles[1])
    proof = left.receive(right.receive_hello(left.hello()))
    assert left.proved
    assert not right.proved
    right.receive_proof(proof)
    assert right.proved
    assert left.open_info(right.seal_info(INFO_D)) == INFO_D
    assert right.open_info(left.seal_info(INFO_L)) == INFO_L


def test_the_token_is_never_sent() -> None:
    """No message of the handshake holds the token or the key made from it."""
    left, right = listener(), dialer()
    sent = [left.hello()]
    sent.append(right.receive_hello(sent[0]))
    sent.append(left.receive(sent[1]))
    right.receive_proof(sent[2])
    sent.append(right.seal_info(INFO_D))
    for secret in (TOKEN, handshake._hkdf(TOKEN)):
        for form in (secret, secret.hex().encode()):
            assert all(form not in message for message in sent)


def test_hkdf_is_rfc_5869() -> None:
    """The key is HKDF-SHA256 of the token, as written in the protocol."""
    extracted = hmac.digest(b"distmap/auth/1", TOKEN, "sha256")
    assert handshake._hkdf(TOKEN) == hmac.digest(extracted, b"mac\x01", "sha256")


def test_another_token_is_refused() -> None:
    """The listener refuses and names both ids; the dialer never gets a proof."""
    left, right = listener(), dialer(token=OTHER, kid="bbbb2222")
    with pytest.raises(AuthenticationError, match=r"bbbb2222.*aaaa1111"):
        left.receive(right.receive_hello(left.hello()))
    assert not left.proved


def test_the_right_id_without_the_token_is_refused() -> None:
    """Naming the token is not holding it."""
    left, right = listener(), dialer(token=OTHER)
    with pytest.raises(AuthenticationError, match="its proof is wrong"):
        left.receive(right.receive_hello(left.hello()))


def test_a_listener_without_the_token_is_refused() -> None:
    """Who listens on the worker's port without the token cannot make its proof."""
    left, right = listener(), dialer()
    left.receive(right.receive_hello(left.hello()))
    impostor = listener(token=OTHER)
    right = dialer()
    answer = right.receive_hello(impostor.hello())
    impostor._bind(impostor.hello(), answer)
    for proof in (impostor._mac(b"L"), b"", b"\0" * 32, answer[-32:]):
        with pytest.raises(AuthenticationError, match="did not prove"):
            right.receive_proof(proof)
        assert not right.proved


def test_a_relay_is_noticed_by_both() -> None:
    """TLS that ends in between: the dialer says so and gives no proof; a relay that lies fails at the proof."""
    left = listener()
    with pytest.raises(AuthenticationError, match="passes itself off as the worker"):
        dialer(certificate=FOREIGN).receive_hello(left.hello())
    lied = forge(left.hello(), cert=FOREIGN.hex())
    with pytest.raises(AuthenticationError):
        left.receive(dialer(certificate=FOREIGN).receive_hello(lied))
    assert not left.proved


def test_the_certificate_that_hello_names() -> None:
    """Read before anything is proved, to see whether TLS ends on the way."""
    assert certificate_of(listener().hello(), "worker") == CERT


@pytest.mark.parametrize(
    "hello",
    [
        b"{}",
        b"[]",
        b"hello",
        b'{"cert": 5}',
        b'{"cert": "%s"}' % (b"g" * 64),
        b'{"cert": "%s"}' % (b" " * 64),
        b'{"cert": "00"}',
        b"x" * 5000,
    ],
)
def test_what_is_no_hello(hello: bytes) -> None:
    """Whatever else comes there is of another protocol."""
    with pytest.raises(ProtocolError, match="worker sent"):
        certificate_of(hello, "worker")


@pytest.mark.parametrize("role", ["worker", "pool"])
def test_the_role_that_hello_names(role: Role) -> None:
    """Read before anything is proved, by who only checks the way."""
    assert role_of(listener(role).hello()) == role


@pytest.mark.parametrize("hello", [b"{}", b"[]", b'{"role": "relay"}', b'{"role": []}', b"x" * 5000])
def test_a_hello_without_a_role(hello: bytes) -> None:
    """Whatever else comes there is of another protocol."""
    with pytest.raises(ProtocolError, match="sent"):
        role_of(hello)


def test_every_bit_flip_is_refused() -> None:
    """Whatever single bit changes in any message of the handshake, on the way, one side refuses."""
    flips = 0
    messages = 5
    for which in range(messages):
        position = 0
        while True:
            left, right = listener(), dialer()
            flipped = False

            def carry(message: bytes, number: int, which: int = which, at: int = position) -> bytes:
                nonlocal flipped
                if number != which or at >= 8 * len(message):
                    return message
                flipped = True
                damaged = bytearray(message)
                damaged[at // 8] ^= 1 << at % 8
                return bytes(damaged)

            try:
                proof = left.receive(carry(right.receive_hello(carry(left.hello(), 0)), 1))
                right.receive_proof(carry(proof, 2))
                left.open_info(carry(right.seal_info(INFO_D), 3))
                right.open_info(carry(left.seal_info(INFO_L), 4))
            except DistmapError:
                assert flipped
            else:
                assert not flipped, f"bit {position} of message {which}"
                break
            flips += 1
            position += 1
    assert flips > 2000


def test_every_truncation_is_refused() -> None:
    """A message of the handshake that was cut anywhere, or has bytes behind it, is refused."""
    whole = listener().hello()
    for cut in [whole[:end] for end in range(len(whole))] + [whole + b"\0"]:
        with pytest.raises(DistmapError):
            dialer().receive_hello(cut)
    whole = dialer().receive_hello(listener().hello())
    for cut in [whole[:end] for end in range(len(whole))] + [whole + b"\0"]:
        left = listener()
        left.hello()
        with pytest.raises(DistmapError):
            left.receive(cut)
        assert not left.proved


def test_replay_and_reflection_are_refused() -> None:
    """A proof that was seen does not open a second handshake, and one's own words do not come back as another's."""
    left = listener()
    recorded = dialer().receive_hello(left.hello())
    left.receive(recorded)
    fresh = listener(nonce=b"N" * 32)
    fresh.hello()
    with pytest.raises(AuthenticationError):
        fresh.receive(recorded)
    left, right = listener(), dialer()
    answer = right.receive_hello(left.hello())
    with pytest.raises(AuthenticationError):
        right.receive_proof(answer[-32:])
    info = _proved()[1]
    with pytest.raises(AuthenticationError, match="INFO"):
        info.open_info(info.seal_info(INFO_D))


def test_equal_roles_are_refused() -> None:
    """A pool does not talk to a pool, nor a worker to a worker: on either side."""
    left = listener("pool")
    with pytest.raises(AuthenticationError, match="pool talks to a worker"):
        dialer("pool").receive_hello(left.hello())
    left = listener()
    with pytest.raises(AuthenticationError, match="worker talks to a pool"):
        left.receive(reply(TOKEN, left.hello(), role="worker"))


OLDEST, NEWEST = PROTOCOL


@pytest.mark.parametrize("versions", [[NEWEST + 1, NEWEST + 2], [OLDEST - 1, OLDEST - 1]])
def test_versions_that_do_not_overlap(versions: list[int]) -> None:
    """Both sides refuse with both ranges named."""
    hello = forge(listener().hello(), v=versions)
    with pytest.raises(VersionMismatch, match=rf"{versions[0]} to {versions[1]} .* {OLDEST} to {NEWEST}"):
        dialer().receive_hello(hello)
    left = listener()
    with pytest.raises(VersionMismatch, match=rf"{versions[0]} to {versions[1]} .* {OLDEST} to {NEWEST}"):
        left.receive(reply(TOKEN, left.hello(), v=versions))
    assert not left.proved


def test_a_newer_side_that_still_speaks_ours_is_taken() -> None:
    """Ranges that overlap are enough."""
    left = listener()
    left.receive(reply(TOKEN, left.hello(), v=[1, 9]))
    assert left.proved


@pytest.mark.parametrize(
    "change",
    [{"v": None}, {"v": "1"}, {"v": [1]}, {"v": ["1", "1"]}, {"nonce": None}, {"nonce": 5}, {"nonce": "00"}],
    ids=str,
)
def test_missing_and_odd_fields_are_refused(change: dict[str, object]) -> None:
    """A HELLO without versions or nonce is none, on either side."""
    with pytest.raises(ProtocolError):
        dialer().receive_hello(forge(listener().hello(), **change))
    left = listener()
    with pytest.raises(ProtocolError):
        left.receive(reply(TOKEN, left.hello(), **change))


def test_own_nonce_is_refused() -> None:
    """A side that sends back our nonce has none of its own."""
    left = listener()
    with pytest.raises(ProtocolError, match="nonce"):
        dialer(nonce=b"L" * 32).receive_hello(left.hello())


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"[]",
        b"null",
        b"GET / HTTP/1.1",
        b"\xff\xfe",
        b"{" * 3000,
        b"[" * 4000,
        b" " * (LIMITS.handshake_bytes + 1),
    ],
    ids=lambda message: repr(message[:10]),
)
def test_what_is_no_hello_is_refused(message: bytes) -> None:
    """Anything else in HELLO's place: ProtocolError, however odd or deep."""
    with pytest.raises(ProtocolError):
        dialer().receive_hello(message)
    left = listener()
    left.hello()
    with pytest.raises(ProtocolError):
        left.receive(len(message).to_bytes(2, "big") + message + b"\0" * 32)


def test_a_nonce_must_be_whole() -> None:
    """A caller that gives a short nonce is told at once."""
    with pytest.raises(ValueError, match="32"):
        listener(nonce=b"short")


def test_steps_out_of_order_are_refused() -> None:
    """Nothing can be said before its turn or twice."""
    with pytest.raises(ProtocolError):
        listener().receive(b"")
    with pytest.raises(ProtocolError):
        dialer().receive_proof(b"\0" * 32)
    left, right = _proved()
    with pytest.raises(ProtocolError):
        left.receive(b"")
    with pytest.raises(ProtocolError):
        right.receive_hello(b"")
    with pytest.raises(ProtocolError):
        right.receive_proof(b"")
    for side in (listener(), dialer()):
        with pytest.raises(ProtocolError, match="before the proof"):
            side.seal_info({})
        with pytest.raises(ProtocolError, match="before the proof"):
            side.open_info(b"\0" * 40)


def test_info_is_bounded() -> None:
    """An INFO of more than 4 KiB is neither sent nor taken."""
    left, right = _proved()
    with pytest.raises(ProtocolError, match="4096"):
        left.seal_info({"name": "x" * LIMITS.handshake_bytes})
    with pytest.raises(ProtocolError, match="4096"):
        right.open_info(b"x" * (LIMITS.handshake_bytes + 1))


def _proved() -> tuple[Listener, Dialer]:
    left, right = listener(), dialer()
    right.receive_proof(left.receive(right.receive_hello(left.hello())))
    return left, right


def test_clean_drops_what_a_terminal_would_obey() -> None:
    """Escape sequences and line breaks of the other side do not reach a terminal, and long texts are cut."""
    assert sanitized("\x1b[31mred\n\u202e") == "[31mred"
    assert sanitized("x" * 500, 10) == "x" * 9 + "…"
