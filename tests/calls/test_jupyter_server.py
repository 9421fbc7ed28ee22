"""Tests of distmap/calls/jupyter_server.py; real servers are in tests/reach/."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest
from support.optional import needs, optional

from distmap.calls.jupyter_server import find_server, own_headers, port_of_notebook, server_at
from distmap.errors import ConnectError

NAMES = ("JUPYTERHUB_SERVICE_PREFIX", "JUPYTERHUB_PUBLIC_URL", "JUPYTERHUB_HOST", "JPY_SESSION_NAME", "JPY_PARENT_PID")


@pytest.fixture(autouse=True)
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No server that runs the tests counts; the folder where servers note themselves."""
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path))
    return tmp_path


def test_a_hub_that_knows_its_address(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub says where it is reached; its server has a name there."""
    monkeypatch.setenv("JUPYTERHUB_SERVICE_PREFIX", "/user/ann/")
    monkeypatch.setenv("JUPYTERHUB_PUBLIC_URL", "https://hub.example/user/ann/")
    server = find_server()
    assert server is not None
    assert str(server.address) == "wss://hub.example/user/ann"
    assert server.hub == ("https://hub.example/hub", "ann/")
    assert server.known


def test_a_hub_with_a_host_for_each_user(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the hub gives the host, it is taken."""
    monkeypatch.setenv("JUPYTERHUB_SERVICE_PREFIX", "/user/ann/")
    monkeypatch.setenv("JUPYTERHUB_HOST", "https://ann.hub.example")
    server = find_server()
    assert server is not None
    assert str(server.address) == "wss://ann.hub.example/user/ann"


def test_a_hub_that_does_not_tell_its_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """A word stands for the host, and is known not to be one."""
    monkeypatch.setenv("JUPYTERHUB_SERVICE_PREFIX", "/user/ann/gpu/")
    server = find_server()
    assert server is not None
    assert str(server.address) == "wss://YOUR-HUB/user/ann/gpu"
    assert not server.known


def test_the_server_that_started_this_process(runtime: Path) -> None:
    """Of the servers that note themselves, the one that is the parent counts; broken notes are passed over."""
    optional("jupyter_core", needs)
    (runtime / "jpserver-1.json").write_text(json.dumps({"pid": 1, "url": "http://other:8888/"}))
    (runtime / "jpserver-2.json").write_text("{")
    assert find_server() is None
    (runtime / "jpserver-3.json").write_text(json.dumps({"pid": os.getppid(), "url": "http://lab7:8888/here/"}))
    server = find_server()
    assert server is not None
    assert str(server.address) == "ws://lab7:8888/here"
    assert server.hub is None


def test_an_address_from_the_browser(monkeypatch: pytest.MonkeyPatch) -> None:
    """The page is cut off; a port behind the proxy is told."""
    assert [str(one) for one in (server_at("http://lab7:8888/lab/tree/x#cell-2")[0].address,)] == ["ws://lab7:8888"]
    assert server_at("https://hub.example/user/ann/proxy/8786/")[1] == 8786
    with pytest.raises(ConnectError, match="token"):
        server_at("http://lab7:8888/lab?token=abc")


@pytest.mark.parametrize(
    ("page", "address"),
    [
        ("https://hub.example/front/user/ann/lab", "wss://hub.example/front/user/ann"),
        ("https://hub.example/hub/home", "wss://hub.example/user/ann"),
        ("https://hub.example/user/ann/", "wss://hub.example/user/ann"),
    ],
)
def test_any_page_of_the_hub_gives_its_host(page: str, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel on a hub knows its own path, so the host of any page there is enough."""
    monkeypatch.setenv("JUPYTERHUB_SERVICE_PREFIX", "/user/ann/")
    assert str(server_at(page)[0].address) == address


def test_a_notebook_keeps_its_port(monkeypatch: pytest.MonkeyPatch) -> None:
    """The port is that of the notebook's name, unless it is taken; without a name, none is chosen."""
    assert port_of_notebook() == 0
    monkeypatch.setenv("JPY_SESSION_NAME", "/home/ann/fit.ipynb")
    port = port_of_notebook()
    assert 20_000 <= port < 30_000
    assert port_of_notebook() == port
    with socket.create_server(("127.0.0.1", port)):
        assert port_of_notebook() == 0
    monkeypatch.setenv("JPY_SESSION_NAME", "/home/ann/other.ipynb")
    assert port_of_notebook() != port


def test_the_token_that_a_kernel_has(runtime: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a hub the one that the hub gave to the server, elsewhere that of the server itself; none is fine."""
    optional("jupyter_core", needs)
    monkeypatch.setenv("JUPYTERHUB_API_TOKEN", "of-hub")
    assert own_headers() == {}
    note = runtime / "jpserver-3.json"
    note.write_text(json.dumps({"pid": os.getppid(), "url": "http://lab7:8888/", "token": "of-server"}))
    assert own_headers() == {"Authorization": "token of-server"}
    note.write_text(json.dumps({"pid": os.getppid(), "url": "http://lab7:8888/", "token": ""}))
    assert own_headers() == {}
    monkeypatch.setenv("JUPYTERHUB_SERVICE_PREFIX", "/user/ann/")
    assert own_headers() == {"Authorization": "token of-hub"}
