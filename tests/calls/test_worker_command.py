"""Tests of distmap/calls/worker_command.py."""

from __future__ import annotations

import pytest

from distmap import Pool
from distmap.calls.jupyter_server import JupyterServer
from distmap.calls.worker_command import SCRIPTS, CommandText, script_of, text_of, token_words, way_to
from distmap.transport.token import Secret, load_token
from distmap.transport.url import parse_url

HUB = JupyterServer(parse_url("https://hub.example/user/ann"))
URL = "wss://hub.example/user/ann/proxy/41234"


@pytest.fixture(autouse=True)
def nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a hub nor SSH runs these tests."""
    for name in ("JUPYTERHUB_SERVICE_PREFIX", "SSH_CONNECTION"):
        monkeypatch.delenv(name, raising=False)


def test_behind_a_hub() -> None:
    """The line is exact; the notes say where each of the two tokens comes from."""
    text = text_of(way_to(URL, HUB, "TOKEN WORDS"))
    lines = text.splitlines()
    assert lines[0] == f"distmap-worker {URL}"
    assert len(lines) == 4
    assert all(line.startswith("# ") for line in lines[1:])
    assert "https://hub.example/hub/token with the scope `access:servers!server=ann/" in lines[1]
    assert "TOKEN WORDS" in lines[2]


def test_at_a_relay() -> None:
    """The line and a job script have the option, and the room is quoted for the shell."""
    url, line = "wss://relay.example:443?room=a", "distmap-worker --relay 'wss://relay.example:443?room=a'"
    assert way_to(url, None, "", at_relay=True).lines == (line,)
    for kind in SCRIPTS:
        # Quoted once more where the script is one argument of a shell.
        assert line.replace("'", "") in script_of(kind, url, {}, at_relay=True).replace("'", "").replace('"', "")


def test_behind_a_hub_whose_host_is_not_known() -> None:
    """What stands for the host is explained, with the call that fills it in."""
    server = JupyterServer(HUB.address, known=False)
    assert "copied from the browser" in way_to(URL, server, "").notes[-1]


def test_behind_a_jupyter_server_of_this_machine() -> None:
    """Who sees localhost in the line reads what to do for another machine."""
    server = JupyterServer(parse_url("http://localhost:8888/"))
    notes = way_to("ws://localhost:8888/proxy/1", server, "").notes
    assert "`jupyter server list`" in notes[0]
    assert "is this machine" in notes[-1]


def test_a_pool_that_listens(token_file: object) -> None:
    """The command is the line for the other machine; where the token is, and not the token, follows."""
    with Pool(listen="wss://127.0.0.1:0") as pool:
        text = pool.worker_command()
        assert text.startswith(f"distmap-worker {pool.url}\n")
        assert f"cat {token_file}" in text
        assert load_token().reveal() not in text
        assert repr(text) == text


def test_a_laptop() -> None:
    """A pool that does not listen gives the two lines that connect it to a worker."""
    with Pool(1) as pool:
        assert pool.worker_command().splitlines()[0].startswith("distmap-worker --host 0.0.0.0")
        assert 'pool.add("wss://THAT-HOST:8786")' in pool.worker_command()


def test_where_the_kernel_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind SSH a worker is started by ssh; on a hub the pool has to listen first."""
    monkeypatch.setenv("SSH_CONNECTION", "10.0.0.1 5 10.0.0.2 22")
    assert 'pool.add("ssh://THAT-HOST")' in way_to(None, None, "").lines[0]
    monkeypatch.setenv("JUPYTERHUB_SERVICE_PREFIX", "/user/ann/")
    assert "Pool(listen=True)" in way_to(None, None, "").lines[0]


def test_a_job_script_is_made_around_the_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kind gives the script that its entry makes of the line, with the options."""
    monkeypatch.setitem(SCRIPTS, "batch", lambda line, *, jobs: f"{jobs} x {line}")
    assert script_of("batch", URL, {"jobs": 3}) == f"3 x distmap-worker {URL}"
    assert isinstance(script_of("batch", URL, {"jobs": 3}), CommandText)


def test_an_unknown_kind_and_a_pool_that_cannot_be_reached() -> None:
    """Both are errors that say what is known, and what to do."""
    with pytest.raises(ValueError, match="'lsf'"):
        script_of("lsf", URL, {})
    with Pool(1) as pool, pytest.raises(ValueError, match="knows"):
        pool.worker_command("lsf")


def test_a_batch_job_needs_a_pool_that_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker in a job can only dial in."""
    monkeypatch.setitem(SCRIPTS, "batch", str)
    with pytest.raises(ValueError, match="listen="):
        script_of("batch", None, {})


def test_where_the_token_is(token_file: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """A token that was given is not looked for in files; that of the environment has no file."""
    assert str(token_file) in token_words(None)
    assert "gave" in token_words(Secret(b"t" * 32))
    monkeypatch.delenv("DISTMAP_TOKEN_FILE")
    monkeypatch.setenv("DISTMAP_TOKEN", "x")
    assert "DISTMAP_TOKEN" in token_words(None)
