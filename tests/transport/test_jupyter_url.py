"""Tests of distmap/transport/jupyter_url.py."""

from __future__ import annotations

import pytest

from distmap.transport.jupyter_url import behind, hub_of, is_page, proxied_port, server_of, web
from distmap.transport.url import parse_url


@pytest.mark.parametrize(
    ("page", "server"),
    [
        ("https://hub.example/user/ann/lab", "wss://hub.example/user/ann"),
        ("https://hub.example/user/ann/lab/tree/a/proxy/b.ipynb?reset", "wss://hub.example/user/ann"),
        ("https://hub.example/user/lab/lab/workspaces/x", "wss://hub.example/user/lab"),
        ("https://hub.example/base/user/ann/gpu/tree/x", "wss://hub.example/base/user/ann/gpu"),
        ("https://hub.example/user/ann/notebooks/x.ipynb", "wss://hub.example/user/ann"),
        ("https://hub.example/user/ann/", "wss://hub.example/user/ann"),
        ("https://hub.example/user/ann/proxy/41234/", "wss://hub.example/user/ann"),
        ("http://lab7:8888/lab", "ws://lab7:8888"),
        ("http://lab7:8888/here/doc/x.ipynb", "ws://lab7:8888/here"),
        ("http://lab7:8888/here/edit/x.py", "ws://lab7:8888/here"),
        ("http://lab7:8888/retro/tree", "ws://lab7:8888"),
    ],
)
def test_the_server_of_a_page(page: str, server: str) -> None:
    """An address copied from a browser is cut where the page begins, also for a user whose name is that of a page."""
    assert str(server_of(parse_url(page))) == server


@pytest.mark.parametrize(
    ("url", "port"),
    [
        ("wss://hub.example/user/ann/proxy/41234", 41234),
        ("wss://hub.example/user/ann/proxy/absolute/41234/", 41234),
        ("wss://hub.example/user/proxy/lab", None),
        ("wss://hub.example/user/ann/lab", None),
        ("wss://gpu1:8786", None),
        ("wss://host/prefix", None),
    ],
)
def test_the_port_behind_the_proxy(url: str, port: int | None) -> None:
    """Only a path of jupyter-server-proxy leads to a port; a user may be called proxy."""
    assert proxied_port(parse_url(url)) == port


@pytest.mark.parametrize(
    ("url", "page"),
    [
        ("https://hub.example/user/ann/lab/tree/x", True),
        ("https://hub.example/user/ann", True),
        ("https://hub.example/hub/home", True),
        ("http://lab7:8888/lab", True),
        ("wss://hub.example/user/ann/proxy/41234", False),
        ("wss://gpu1:8786", False),
        ("wss://host/prefix/of/nginx", False),
        ("wss://host/labs", False),
    ],
)
def test_pages_are_known_as_such(url: str, page: bool) -> None:
    """The address of a page, of a hub or of a whole server is none of a pool; other paths may be."""
    assert is_page(parse_url(url)) is page


def test_the_address_of_a_port() -> None:
    """A port of a server's machine is dialled through the server."""
    server = parse_url("https://hub.example/user/ann")
    assert str(behind(server, 41234)) == "wss://hub.example/user/ann/proxy/41234"
    assert web(server) == "https://hub.example/user/ann"


@pytest.mark.parametrize(
    ("url", "hub"),
    [
        ("wss://hub.example/user/ann/proxy/1", ("https://hub.example/hub", "ann/")),
        ("wss://hub.example/base/user/ann%40x.org/gpu/proxy/1", ("https://hub.example/base/hub", "ann@x.org/gpu")),
        ("ws://lab7:8888/proxy/1", None),
    ],
)
def test_the_hub_and_the_name_of_a_server(url: str, hub: tuple[str, str] | None) -> None:
    """A hub's server has a name as the scopes of the hub have it: the user, and that of a named server."""
    assert hub_of(parse_url(url)) == hub
