"""The check of a way: each hop that can break is broken alone, and the check names that one."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import os
import re
import socket
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.broken import drops, says, shows, upgrades
from support.certificates import Certificate, certificate
from support.hop import hop
from support.relays import relaying_at

from distmap._version import __version__
from distmap.core.limits import LIMITS
from distmap.errors import ConnectError
from distmap.transport import check as module
from distmap.transport import measure
from distmap.transport.channel import ChannelClosed
from distmap.transport.check import check
from distmap.transport.first_hop import FirstHop, load_hop
from distmap.transport.hop_report import HOPS, HopReport
from distmap.transport.identity import PYTHON, me
from distmap.transport.room import Room, parse_relay
from distmap.transport.token import Secret
from distmap.transport.url import WorkerURL, parse_url
from distmap.wire import handshake

TOKEN = Secret(b"t" * 32)  # the one of conftest.py
WORKER = {"role": "worker", "name": "gpu1", "slots": 2, "python": PYTHON, "distmap": __version__}
UNNEEDED = {"name", "proxy", "relay", "inner TLS"}  # on a direct way to an address
PROXIES = ("https_proxy", "http_proxy", "all_proxy", "no_proxy", "ws_proxy", "wss_proxy")


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return certificate(tmp_path_factory.mktemp("hop"))


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the machine that runs the tests are not asked."""
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def failing(found: HopReport, name: str, words: str) -> None:
    """That this hop failed, with these words, that all before it are passed, and that none after it was tried."""
    at = HOPS.index(name)  # type: ignore[arg-type]
    states = [hop.state for hop in found.hops]
    assert states[at] == "failed", found
    assert set(states[:at]) <= {"ok", "not needed"}, found
    assert set(states[at + 1 :]) <= {"not tried"}, found
    assert words in found[name].words, found
    assert not found.ok
    assert found.failed == found[name]
    assert "\n" not in found[name].words
    assert "--check" not in found[name].words  # that is what runs
    assert found.url not in found[name].words  # it is the heading
    assert found.summary == f"Failed: {name}. What comes after it was not tried."


async def go(url: WorkerURL, **options: Any) -> HopReport:
    async with asyncio.timeout(15):
        return await check(url, **{"token": TOKEN, "timeout": 5, **options})


# --- a way that is good ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ["worker", "pool"])
def test_a_direct_way(role: Any, open_port: Any, run: Any) -> None:
    """Every hop is passed or not needed, with figures; the other side, whichever it is, serves nobody for it."""

    async def main() -> None:
        async with open_port(role=role, info=lambda theirs: {**WORKER, "role": role}) as other:
            found = await go(other.url)
            assert found.ok, found
            assert found.failed is None
            assert found.url == str(other.url)
            assert [hop.name for hop in found.hops] == list(HOPS)
            assert {hop.name for hop in found.hops if hop.state == "not needed"} == UNNEEDED
            assert found["TCP"].facts["seconds"] < 5
            tls = found["TLS"].facts
            assert (tls["version"], tls["issuer"], tls["direct"], tls["trusted"]) == ("TLS 1.3", "distmap", True, None)
            assert found["HTTP upgrade"].facts["status"] == 101
            assert found["hello"].facts["role"] == role
            assert found["token"].facts["kid"] == TOKEN.kid
            assert found["Python"].facts == {"here": PYTHON, "there": PYTHON}
            assert found["distmap"].facts == {"here": __version__, "there": __version__}
            assert 0 < found["round trip"].facts["seconds"] < 5
            assert found["bandwidth"].facts["to"] > 0
            assert found["bandwidth"].facts["back"] > 0
            assert found.peer["name"] == "gpu1"
            assert found.serves == ""
            assert other.accepted.empty()
            assert other.refused.empty()

    run(main)


def test_a_host_name_and_its_addresses(open_port: Any, run: Any) -> None:
    """The first hop tells what the name stands for."""

    async def main() -> None:
        async with open_port(info=lambda theirs: WORKER) as other:
            found = await go(WorkerURL("localhost", other.url.port))
            assert found["name"].state == "ok"
            assert "127.0.0.1" in found["name"].facts["addresses"]

    run(main)


def test_a_way_through_a_hop_that_ends_tls(shown: Certificate, open_port: Any, run: Any) -> None:
    """Who signed its certificate, until when, that it is trusted, and that the two ends speak TLS inside."""

    async def main() -> None:
        async with open_port(info=lambda theirs: WORKER) as other, hop(other.url, shown) as between:
            found = await go(between.url, hop=load_hop(ca=shown.ca))
            assert found.ok, found
            tls = found["TLS"].facts
            assert (tls["subject"], tls["issuer"]) == ("proxy", "proxy authority")
            assert tls["trusted"] is True
            assert tls["direct"] is False
            assert f"signed by proxy authority, until {tls['until']:%Y-%m-%d}, trusted" in found["TLS"].words
            assert found["inner TLS"].state == "ok"
            assert "end to end through a proxy" in found.summary

    run(main)


def test_a_port_that_has_no_tls_of_its_own(open_port: Any, run: Any) -> None:
    """For a proxy on the same machine: TLS is not needed up to there, and is spoken inside."""

    async def main() -> None:
        async with open_port(address="ws://127.0.0.1:0", info=lambda theirs: WORKER) as other:
            found = await go(other.url)
            assert found.ok, found
            assert (found["TLS"].state, found["inner TLS"].state) == ("not needed", "ok")

    run(main)


def test_a_tunnel(open_port: Any, run: Any) -> None:
    """Where a tunnel leads there, this side has no name to look up, no TCP of its own and no proxy."""

    async def main() -> None:
        async with open_port(info=lambda theirs: WORKER) as other:

            async def tunnel(seconds: float) -> socket.socket:
                sock = socket.create_connection(("127.0.0.1", other.url.port))
                sock.setblocking(False)
                return sock

            found = await go(WorkerURL("far.invalid", 1), hop=FirstHop(tunnel=tunnel))
            assert found.ok, found
            assert {found[name].state for name in ("name", "TCP", "proxy")} == {"not needed"}

    run(main)


def test_a_tunnel_that_fails(run: Any) -> None:
    """What it says is told; it stands in the place of TCP."""

    async def tunnel(seconds: float) -> socket.socket:
        raise ConnectError("ssh://lab7: the host key has changed")

    async def main() -> None:
        found = await go(WorkerURL("far.invalid", 1), hop=FirstHop(tunnel=tunnel))
        failing(found, "TCP", "the host key has changed")
        assert found["TCP"].words == "the host key has changed"

    run(main)


# --- a worker that takes no pool -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("refused", "serves", "summary"),
    [
        ({"refused": "busy", "by": "ann@lab pid 7"}, "ann@lab pid 7", "it serves ann@lab pid 7."),
        ({"refused": "busy", "by": me()}, me(), "it serves this pool."),
        ({"refused": "leaving"}, "", "it takes no pool now: leaving."),
        ({}, "", "it is free."),
    ],
    ids=["another pool", "this pool", "leaving", "free"],  # the name of this process is not the same in each of xdist
)
def test_what_a_worker_does_is_told(
    refused: dict[str, str], serves: str, summary: str, open_port: Any, run: Any
) -> None:
    """The way is good all the same: reached and proved."""

    async def main() -> None:
        async with open_port(info=lambda theirs: {**WORKER, **refused}) as other:
            found = await go(other.url)
            assert found.ok, found
            assert found.serves == serves
            assert found.summary == f"Every hop is passed, end to end. The worker gpu1 answers; {summary}"
            assert other.refused.empty()

    run(main)


def test_a_check_says_that_it_is_one(caplog: pytest.LogCaptureFixture, open_port: Any, run: Any) -> None:
    """Its INFO names it, and the log of the other side has one line."""
    caplog.set_level("INFO", "distmap")
    seen: list[Any] = []

    async def main() -> None:
        async with open_port(info=lambda theirs: [seen.append(theirs), WORKER][1]) as other:
            await go(other.url)

    run(main)
    assert [info["check"] for info in seen] == [True]
    assert [line.split(" (")[0] for line in caplog.messages] == [f"checked by pool {me()}"]


def plain(report: str) -> list[str]:
    """The lines of a report without what differs from run to run."""
    report = re.sub(r"\d{4}-\d\d-\d\d", "DATE", report)
    report = re.sub(r"(?<=HTTP 101 from ).*", "SERVER", report)
    report = re.sub(r"[\d.]+ (ms|s|[kMG]B/s)\b", "FIGURE", report)
    report = re.sub(r"wss://\S+|port \d+|\d+\.\d+\.\d+(\.\d+)?|[0-9a-f]{8}|\S+@\S+ pid \d+", "ONE", report)
    return report.splitlines()


def test_the_samples_in_the_guide_are_real(shown: Certificate, open_port: Any, run: Any) -> None:
    """What the page on troubleshooting shows is what a check says: of a good way, and of one that fails at TLS."""
    page = Path(__file__).parents[2].joinpath("docs/how-to/troubleshooting.md").read_text(encoding="utf-8")
    samples = re.findall(r"```text\n(wss://.*?)\n```", page, re.DOTALL)
    found: list[str] = []

    async def main() -> None:
        busy = {**WORKER, "refused": "busy", "by": "ann@laptop pid 4711"}
        async with open_port(info=lambda theirs: busy) as other, hop(other.url, shown) as between:
            url = replace(between.url, host="localhost")
            found.append(repr(await go(url, hop=load_hop(ca=shown.ca))))
            found.append(repr(await go(url)))

    run(main)
    names = {
        "localhost": "gpu1.example",
        "certificate of proxy": "certificate of gpu1.example",
        "proxy authority": "Example CA",
    }
    for there, sample in zip(found, samples, strict=True):
        for ours, shown_there in names.items():
            there = there.replace(ours, shown_there)
        assert plain(there) == plain(sample)


def test_the_guide_quotes_real_sentences() -> None:
    """What the page on troubleshooting says that you read is a part of a sentence of distmap."""
    root = Path(__file__).parents[2]
    page = root.joinpath("docs/how-to/troubleshooting.md").read_text(encoding="utf-8")
    quoted = re.findall(r'^\| [\w, ]+ \| "([^"]+)"', page, re.MULTILINE)
    assert len(quoted) >= 20
    package = Path(module.__file__).parents[1]
    said = [
        node.value
        for path in (*package.glob("transport/*.py"), *package.glob("wire/*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    assert [words for words in quoted if not any(words in sentence for sentence in said)] == []


# --- each hop that breaks --------------------------------------------------------------------------------------------


def broken(make: Callable[[], Any], name: str, words: str, run: Any, **options: Any) -> HopReport:
    """Check the URL of the context manager that `make` gives, and see that this hop fails."""
    reports: list[HopReport] = []

    async def main() -> None:
        async with contextlib.AsyncExitStack() as stack:
            made = make()
            enter = stack.enter_async_context if hasattr(made, "__aenter__") else stack.enter_context
            url = made if isinstance(made, WorkerURL) else enter(made)
            reports.append(await go(await url if isinstance(url, Awaitable) else url, **options))

    run(main)
    failing(reports[0], name, words)
    return reports[0]


def test_a_name_that_does_not_resolve(run: Any) -> None:
    """The first hop."""
    url = parse_url("wss://nowhere.invalid:1")
    broken(lambda: url, "name", "the host name nowhere.invalid does not resolve", run)


def test_a_closed_port(run: Any) -> None:
    """Nobody listens, and it says how to start a worker."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    broken(lambda: WorkerURL("127.0.0.1", port), "TCP", f"nothing listens on port {port}", run)


def test_a_port_whose_packets_are_dropped(run: Any) -> None:
    """A firewall, or a host that is down."""
    broken(drops, "TCP", "a firewall drops the connection", run, timeout=1)


def test_a_proxy_that_refuses(run: Any) -> None:
    """It is reached, so name and TCP are passed; its address and status are told, its password is not."""

    async def main() -> None:
        async with says(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n") as proxy:
            url = f"http://ann:secret@127.0.0.1:{proxy.port}"
            found = await go(parse_url("wss://gpu1.example:1"), hop=FirstHop(proxy=url))
            failing(found, "proxy", f"http://127.0.0.1:{proxy.port}")
            assert "403" in found["proxy"].words
            assert found["TCP"].facts["port"] == proxy.port
            assert "secret" not in repr(found)

    run(main)


@pytest.mark.parametrize(("proxy", "name"), [("http://nowhere.invalid:1", "name"), ("http://127.0.0.1:1", "TCP")])
def test_a_proxy_that_is_not_there(proxy: str, name: str, run: Any) -> None:
    """Name and TCP are those of the proxy."""
    broken(lambda: parse_url("wss://gpu1.example:1"), name, "the proxy", run, hop=FirstHop(proxy=proxy))


def test_a_proxy_that_cannot_be_meant(run: Any) -> None:
    """Its address is wrong, so nothing is tried."""

    async def main() -> None:
        found = await go(parse_url("wss://gpu1.example:1"), hop=FirstHop(proxy="gopher://x"))
        assert found.failed == found["proxy"]
        assert "gopher://x is none that can be used" in found["proxy"].words
        assert {hop.state for hop in found.hops} == {"failed", "not tried"}

    run(main)


def test_something_else_than_tls(run: Any) -> None:
    """Such as an SSH server."""
    broken(lambda: says(b"SSH-2.0-OpenSSH_9.6\r\n"), "TLS", "it does not speak TLS", run)


def test_a_certificate_that_is_not_trusted(shown: Certificate, open_port: Any, run: Any) -> None:
    """Of a hop that ends TLS: who signed it, and how to trust it."""

    async def main() -> None:
        async with open_port() as other, hop(other.url, shown) as between:
            found = await go(between.url)
            failing(found, "TLS", "DISTMAP_CA")
            assert "certificate of proxy, signed by proxy authority, until" in found["TLS"].words
            assert "is not trusted" in found["TLS"].words
            assert found["TLS"].facts["trusted"] is False

    run(main)


def test_a_certificate_that_has_expired(open_port: Any, tmp_path: Any, run: Any) -> None:
    """Since when is told, though its authority is trusted."""
    old = certificate(tmp_path, days=-2)

    async def main() -> None:
        async with open_port() as other, hop(other.url, old) as between:
            found = await go(between.url, hop=load_hop(ca=old.ca))
            failing(found, "TLS", "expired")
            assert f"until {found['TLS'].facts['until']:%Y-%m-%d}" in found["TLS"].words

    run(main)


def test_a_certificate_of_nonsense(shown: Certificate, monkeypatch: pytest.MonkeyPatch, run: Any) -> None:
    """What cannot be read of it is told, and the way goes on."""

    def unreadable(der: bytes) -> Any:
        raise ValueError("bad tag")

    monkeypatch.setattr(module, "read_certificate", unreadable)
    found = broken(lambda: upgrades(mute, shows(shown)), "hello", "", run, timeout=0.5)
    assert found["TLS"].words == "TLS 1.3; its certificate cannot be read (bad tag)"


def test_certificates_that_cannot_be_read(tmp_path: Any, run: Any) -> None:
    """What is wrong with `ca=` is a matter of TLS, and nothing is tried."""
    url, wrong = parse_url("wss://gpu1.example:1"), tmp_path / "none.pem"

    async def main() -> None:
        found = await go(url, hop=FirstHop(ca=wrong))
        assert found.failed is not None
        assert found.failed.name == "TLS"
        assert str(wrong) in found["TLS"].words
        assert {hop.state for hop in found.hops} == {"failed", "not tried"}

    run(main)


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (b"404 Not Found\r\nContent-Type: text/plain\r\nContent-Length: 8\r\n\r\nno route", 404),
        (b"403 Forbidden\r\nContent-Type: text/plain\r\nContent-Length: 8\r\n\r\nno token", 403),
        (b"502 Bad Gateway\r\nContent-Type: text/plain\r\nContent-Length: 8\r\n\r\nupstream", 502),
        (b"200 OK\r\nContent-Type: text/html\r\nContent-Length: 31\r\n\r\n<html><title>Login</title></html>", 200),
    ],
)
def test_an_answer_that_is_no_upgrade(answer: bytes, status: int, shown: Certificate, run: Any) -> None:
    """Its status is told."""
    found = broken(lambda: says(b"HTTP/1.1 " + answer, shows(shown)), "HTTP upgrade", f"HTTP {status}", run)
    assert found["HTTP upgrade"].facts["status"] == status


def test_silence_in_place_of_an_upgrade(shown: Certificate, run: Any) -> None:
    """It has a deadline."""
    broken(lambda: says(b"", shows(shown)), "HTTP upgrade", "within 1 s", run, timeout=1)


def test_a_relay_where_nobody_waits(run: Any) -> None:
    """The relay is reached, and the other side is not there; which one is told."""

    async def main() -> None:
        async with relaying_at() as relay:
            url = parse_relay(f"{relay}?room=mine")
            room = Room(TOKEN, url, "worker", patience=0.3)
            found = await go(url, hop=FirstHop(room=room))
            failing(found, "relay", "no pool with this token came to the relay in the room 'mine' for 0.3 s")

    run(main)


async def mute(link: Any) -> None:
    await link.wait_closed()


@pytest.mark.parametrize("subprotocol", [None, "chat"])
def test_another_websocket_server(subprotocol: str | None, shown: Certificate, run: Any) -> None:
    """It upgrades, and speaks something else."""
    broken(lambda: upgrades(mute, shows(shown), subprotocol), "subprotocol", "", run)


def test_an_upgrade_and_then_silence(shown: Certificate, run: Any) -> None:
    """HELLO has a deadline."""
    broken(lambda: upgrades(mute, shows(shown)), "hello", "within 1 s", run, timeout=1)


def test_an_upgrade_and_then_the_end(shown: Certificate, run: Any) -> None:
    """As jupyter-server-proxy does when nobody listens behind it: the connection breaks without a word."""

    async def hang_up(link: Any) -> None:
        link.transport.abort()

    broken(lambda: upgrades(hang_up, shows(shown)), "hello", "ended the connection", run)


def test_something_else_than_hello(shown: Certificate, run: Any) -> None:
    """A server that took the name of our subprotocol."""

    async def other(link: Any) -> None:
        await link.send(b'{"hello": "world"}')
        await link.wait_closed()

    broken(lambda: upgrades(other, shows(shown)), "hello", "not of distmap's handshake", run)


def test_another_version_of_the_protocol(monkeypatch: pytest.MonkeyPatch, open_port: Any, run: Any) -> None:
    """HELLO names the versions; both ranges are told."""
    ours = b'"v":[%d,%d]' % handshake.PROTOCOL

    class Newer(handshake.Listener):
        def hello(self) -> bytes:
            self._hello = super().hello().replace(ours, b'"v":[77,78]')
            return self._hello

    monkeypatch.setattr(handshake, "Listener", Newer)

    async def main() -> None:
        async with open_port() as other:
            failing(await go(other.url), "hello", "install the same distmap on both sides")

    run(main)


def test_a_hop_that_breaks_the_inner_tls(shown: Certificate, open_port: Any, run: Any) -> None:
    """What is inside the messages comes changed."""

    async def main() -> None:
        def flip(direction: str, number: int, message: bytes) -> list[bytes]:
            return [message if number == 0 and direction == "down" else bytes(len(message))]

        async with open_port() as other, hop(other.url, shown, flip) as between:
            failing(await go(between.url, hop=load_hop(ca=shown.ca)), "inner TLS", "the")

    run(main)


def test_another_token(open_port: Any, run: Any) -> None:
    """Both ids are told to whom they belong, and no token."""

    async def main() -> None:
        async with open_port() as other:
            found = await go(other.url, token=Secret.generate())
            failing(found, "token", "wrong token")
            assert "dm1_" not in repr(found)
            assert found.peer == {}
            assert "another token" in await other.refusal()

    run(main)


def test_another_python(open_port: Any, run: Any) -> None:
    """The token is right, so the other side is known by name."""

    async def main() -> None:
        async with open_port(info=lambda theirs: {**WORKER, "python": "3.9.2"}) as other:
            found = await go(other.url)
            failing(found, "Python", "worker gpu1 runs Python 3.9")
            assert found["Python"].facts == {"here": PYTHON, "there": "3.9.2"}
            assert found.peer["name"] == "gpu1"

    run(main)


def test_another_distmap_of_the_same_protocol(open_port: Any, run: Any) -> None:
    """They fit together; both versions are told."""

    async def main() -> None:
        async with open_port(info=lambda theirs: {**WORKER, "distmap": "9.9.9"}) as other:
            found = await go(other.url)
            assert found.ok
            assert found["distmap"].words == f"9.9.9 there, {__version__} here"

    run(main)


@pytest.mark.parametrize("code", [1000, None])
def test_a_connection_that_does_not_last(
    code: int | None, monkeypatch: pytest.MonkeyPatch, open_port: Any, run: Any
) -> None:
    """After the token and the versions the measurements find that it ends."""

    async def leave(channel: Any) -> None:
        await channel.close() if code else channel.abort()

    monkeypatch.setattr(measure, "answer", leave)

    async def main() -> None:
        async with open_port(info=lambda theirs: WORKER) as other:
            failing(await go(other.url), "round trip", "the connection did not last")

    run(main)


@pytest.mark.parametrize(("answers", "name"), [(0, "round trip"), (LIMITS.check_round_trips, "bandwidth")])
def test_a_way_that_is_very_slow(
    answers: int, name: str, monkeypatch: pytest.MonkeyPatch, open_port: Any, run: Any
) -> None:
    """The measurements have a deadline, and those before it are told."""

    async def silence(channel: Any) -> None:
        with contextlib.suppress(ChannelClosed):
            for _ in range(answers):
                await channel.send([await channel.recv()])
            while True:
                await channel.recv()

    monkeypatch.setattr(measure, "answer", silence)
    monkeypatch.setattr(measure, "LIMITS", LIMITS._replace(check_seconds=0.3))
    monkeypatch.setattr(module, "LIMITS", LIMITS._replace(check_seconds=0.3))

    async def main() -> None:
        async with open_port(info=lambda theirs: WORKER) as other:
            failing(await go(other.url), name, "within 0.3 s")

    run(main)


def test_an_impostor_on_the_port(shown: Certificate, run: Any) -> None:
    """Who took the port and has no token is found at the proof."""
    import hashlib
    import ssl

    der = ssl.PEM_cert_to_DER_cert(shown.cert.read_text())

    async def impostor(link: Any) -> None:
        side = handshake.Listener(
            kid=TOKEN.kid,
            token=bytes(32),
            role="worker",
            nonce=os.urandom(32),
            certificate=hashlib.sha256(der).digest(),
        )
        await link.send(side.hello())
        await link.recv()
        await link.send(bytes(32))
        await link.wait_closed()

    broken(lambda: upgrades(impostor, shows(shown)), "token", "did not prove that it holds the token", run)
