"""Tests of distmap/relay/cli.py."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support.certificates import certificate
from support.waiting import until

from distmap._version import __version__
from distmap.core.relay_limits import RELAY
from distmap.relay.cli import build_parser, main
from distmap.transport.tls import verified_context


@contextmanager
def relay_process(*args: str, log: Path) -> Iterator[tuple[Any, str]]:
    """A real relay and the line that it printed."""
    with open(log, "wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "distmap.relay.cli", *args], stdout=subprocess.PIPE, stderr=file, text=True
        )
    try:
        assert process.stdout is not None
        yield process, process.stdout.readline().strip()
    finally:
        process.kill()
        process.wait(10)
        process.stdout.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_one_line_of_output_and_a_polite_end(number: signal.Signals, tmp_path: Path) -> None:
    """Standard output has the address; standard error has the lines to type; a signal ends it with exit code 0."""
    log = tmp_path / "log"
    with relay_process("--port", "0", "--base-path", "/relay/", log=log) as (process, line):
        assert re.fullmatch(r"listening on ws://127\.0\.0\.1:\d+", line)
        assert 'Pool(relay="wss://YOUR-PROXY/relay")' in log.read_text()
        assert "distmap-worker --relay wss://YOUR-PROXY/relay" in log.read_text()
        process.send_signal(number)
        assert process.wait(10) == 0
        assert process.stdout.read() == ""
        until(lambda: "stopping" in log.read_text())


def test_with_a_certificate_it_ends_tls_itself(tmp_path: Path) -> None:
    """It shows the certificate that it was given."""
    import socket

    shown = certificate(tmp_path)
    args = ["--port", "0", "--tls-cert", str(shown.cert), "--tls-key", str(shown.key)]
    with relay_process(*args, log=tmp_path / "log") as (_, line):
        assert line.startswith("listening on wss://127.0.0.1:")
        context = verified_context(shown.ca)
        address = ("127.0.0.1", int(line.rpartition(":")[2]))
        with socket.create_connection(address, 10) as raw, context.wrap_socket(raw, server_hostname="127.0.0.1") as tls:
            assert tls.version() == "TLSv1.3"


def test_a_hub_leads_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the terminal of a JupyterHub the lines have the path of the hub's proxy."""
    monkeypatch.setenv("JUPYTERHUB_SERVICE_PREFIX", "/user/ann/")
    log = tmp_path / "log"
    with relay_process("--port", "0", log=log) as (_, line):
        port = line.rpartition(":")[2]
        assert f"distmap-worker --relay wss://YOUR-HUB/user/ann/proxy/{port}\n" in log.read_text()


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (["--tls-key", "key.pem"], "--tls-key needs its certificate"),
        (["--rooms", "0"], "expected a number from 1"),
        (["--rate", "-1"], "expected a number from 0"),
        (["--port", "x"], "expected a number from 0 to 65535"),
        (["--conn", "5"], "unrecognized arguments"),
    ],
)
def test_wrong_command_lines(args: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    """They end with exit code 2 and a sentence."""
    with pytest.raises(SystemExit) as ended:
        main(args)
    assert ended.value.code == 2
    assert sentence in capsys.readouterr().err


def test_a_port_in_use_and_a_certificate_that_is_none(tmp_path: Path) -> None:
    """What cannot be opened is named."""
    log = tmp_path / "log"
    with relay_process("--port", "0", log=log) as (_, line):
        with relay_process("--port", line.rpartition(":")[2], log=tmp_path / "second") as (second, nothing):
            assert second.wait(10) == 2
            assert nothing == ""
            assert re.search(
                r"distmap-relay: cannot listen on 127\.0\.0\.1 port \d+: ", (tmp_path / "second").read_text()
            )
    with relay_process("--tls-cert", "/dev/null", log=log) as (third, _):
        assert third.wait(10) == 2
        assert "the TLS certificate /dev/null (key in it) cannot be used" in log.read_text()


def test_the_defaults_are_the_limits() -> None:
    """What is not said is what the table of limits says."""
    options = build_parser().parse_args([])
    assert (options.rooms, options.connections) == (RELAY.rooms, RELAY.connections)
    assert (options.room_connections, options.rate * 1e6) == (RELAY.room_connections, RELAY.rate)
    assert options.host == "127.0.0.1"


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    """It names the version of distmap."""
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"distmap {__version__}\n"


def test_it_imports_no_more_than_it_needs() -> None:
    """A relay has no token, runs nothing and keeps nothing: what does is not even loaded."""
    code = (
        "import sys; import distmap.relay.cli; "
        "print([name for name in sys.modules if name.startswith('distmap.') and name.count('.') == 1 "
        "or name in ('cloudpickle', 'pickle', 'cryptography')])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=15, check=True).stdout
    loaded = {name.strip("' \n") for name in out.strip("[]\n").split(",")}
    assert loaded <= {
        "distmap._version", "distmap.core", "distmap.errors", "distmap.relay", "distmap.tasks", "distmap.wire"
    }  # fmt: skip
