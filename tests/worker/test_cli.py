"""Tests of distmap/worker/cli.py."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import socket
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from distmap._version import __version__
from distmap.core.limits import LIMITS
from distmap.tasks.nesting import cores
from distmap.testing.workers import WorkerProcess
from distmap.transport.dial import dial
from distmap.transport.identity import pool_info, read_worker, worker_info
from distmap.transport.tls import client_context
from distmap.transport.token import Secret, load_token
from distmap.transport.url import parse_url
from distmap.worker.cli import _options, build_parser, main


@pytest.fixture(autouse=True)
def token(token_file: Path) -> None:
    """A token that workers find through the environment."""
    token_file.touch(mode=0o600)
    token_file.write_text(Secret.generate().reveal() + "\n")


SECRET = "dm1_ab12cd34_verysecret"


def test_prints_one_line_and_a_banner_without_the_token(token_file: Path) -> None:
    """Standard output has the one line; the banner has the line to paste and the token's place, never the token."""
    with WorkerProcess("--port", "0", "--slots", "1", "--name", "w", "--memory-limit", "2GB") as worker:
        line = worker.line("stdout", "listening")
        worker.line("stderr", "distmap-worker w: 1 slot of at most 2.0 GB, Python")
        assert re.fullmatch(r"listening on wss://127\.0\.0\.1:\d+", line)
        assert f'Pool("{worker.url}")' in worker.line("stderr", "Pool(")
        worker.line("stderr", str(token_file))
        worker.signal(signal.SIGTERM)
        assert worker.wait() == 0
        assert worker.stdout == [line]
        text = token_file.read_text().strip()
        assert text.startswith("dm1_")
        assert text not in "\n".join([*worker.stdout, *worker.stderr])


def test_a_password_of_a_proxy_is_not_taken_from_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    """Every user of the host could read it there; the variable for it is named, and the password is not repeated."""
    with pytest.raises(SystemExit):
        main(["wss://nb.example:1", "--proxy", "http://ann:s3cret@proxy.example:3128"])
    said = capsys.readouterr().err
    assert "HTTPS_PROXY" in said
    assert "s3cret" not in said


def test_listens_on_loopback_only() -> None:
    """A worker opens exactly one port, and by default no other host can reach it."""
    with WorkerProcess("--port", "0", "--slots", "1") as worker:
        port = int(worker.url.rpartition(":")[2])
        found = [c for c in psutil.Process(worker.pid).net_connections("inet") if c.status == psutil.CONN_LISTEN]
        assert [(c.laddr.ip, c.laddr.port) for c in found] == [("127.0.0.1", port)]


def test_a_taken_port_is_one_sentence() -> None:
    """A port that something else holds is named, without a traceback."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with WorkerProcess("--port", str(port), "--slots", "1") as worker:
            assert worker.wait() == 2
            assert str(port) in worker.stderr[-1]
            assert not any("Traceback" in line for line in worker.stderr)


@pytest.mark.parametrize("arguments", [["--token", SECRET], [f"--token={SECRET}"], ["--token"]])
def test_token_on_the_command_line_is_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """--token is refused with the reason (ps) and the alternatives, and is not repeated."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert "ps" in said
    assert "--token-file" in said
    assert SECRET not in said


@pytest.mark.parametrize(
    "arguments",
    [
        ["--slots", "0"],
        ["--slots", "many"],
        ["--port", "70000"],
        ["--drain", "-1"],
        ["--name", ""],
        ["--tls-cert", "cert.pem"],
        ["wss://pool:1", "--port", "1"],
        ["--tag", "x" * 100],
        ["--toke", "x"],
    ],
)
def test_senseless_arguments_are_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """An argument out of range, or two that do not fit together, is a usage error."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "distmap-worker: error" in capsys.readouterr().err


def test_an_url_that_is_none_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    """What is no wss URL is named in one sentence."""
    assert main(["ftp://pool:1"]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1
    assert "ftp" in said[0]


def test_version_names_distmap_and_python(capsys: pytest.CaptureFixture[str]) -> None:
    """--version gives what must fit between two sides."""
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert __version__ in capsys.readouterr().out


def test_defaults() -> None:
    """One slot for each core this process may use, 25 s to drain, no tags, listening."""
    options = build_parser().parse_args([])
    assert options.slots == cores() >= 1
    assert (options.url, options.drain, options.tag, options.exit_if_orphaned) == (None, 25.0, [], None)
    assert build_parser().parse_args(["--exit-if-orphaned"]).exit_if_orphaned == 120.0
    assert build_parser().parse_args(["--tag", "a", "--tag", "b"]).tag == ["a", "b"]


def test_a_certificate_of_ones_own(tmp_path: Path) -> None:
    """--tls-cert and --tls-key: that certificate is shown, and the pool takes it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "worker")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now, now + timedelta(days=1))
        .sign(key, hashes.SHA256())
        .public_bytes(Encoding.PEM)
    )
    (tmp_path / "cert.pem").write_bytes(certificate)
    (tmp_path / "key.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))

    async def main(url: str) -> bytes | None:
        connection = await dial(parse_url(url), token=load_token(), role="pool", info=pool_info())
        await connection.channel.close()
        _reader, writer = await asyncio.open_connection("127.0.0.1", parse_url(url).port, ssl=client_context())
        shown: bytes | None = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        return shown

    options = ("--tls-cert", str(tmp_path / "cert.pem"), "--tls-key", str(tmp_path / "key.pem"))
    with WorkerProcess("--port", "0", "--slots", "1", *options) as worker:
        assert asyncio.run(main(worker.url)) == ssl.PEM_cert_to_DER_cert(certificate.decode())


def test_a_memory_limit_that_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    """It is refused, with what was expected."""
    with pytest.raises(SystemExit):
        main(["--memory-limit", "plenty"])
    assert "--memory-limit: a memory limit is a number of bytes or text such as '2GB'" in capsys.readouterr().err


def test_a_worker_that_was_launched_says_so_and_stays_for_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its INFO names its start, which its tasks do not inherit; without a pool it leaves, unless it is told when."""
    for argv, orphan in ([], LIMITS.orphan_after), (["--exit-if-orphaned", "5"], 5.0):
        monkeypatch.setenv("DISTMAP_LAUNCH", "7_1")
        options = _options(build_parser(), argv)
        assert (options.launch, options.exit_if_orphaned) == ("7_1", orphan)
        assert "DISTMAP_LAUNCH" not in os.environ
    assert _options(build_parser(), []).exit_if_orphaned is None
    info = worker_info(name="w", slots=1, tags=frozenset(), launch="7_1")
    assert read_worker(info, "here").launch == "7_1"
    assert read_worker(worker_info(name="w", slots=1, tags=frozenset()), "here").launch == ""
