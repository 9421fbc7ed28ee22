"""Which proxy a connection goes out through."""

from __future__ import annotations

import urllib.request

import pytest

from distmap.transport.proxies import address_of, proxy_for, shown_proxy
from distmap.transport.url import parse_url

URL = parse_url("wss://gpu1.example:8786")


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment without proxies."""
    for name in ("wss", "ws", "socks", "https", "http", "all", "no"):
        for variable in (f"{name}_proxy", f"{name}_proxy".upper()):
            monkeypatch.delenv(variable, raising=False)


@pytest.mark.parametrize(
    ("variables", "proxy"),
    [
        ({}, None),
        ({"HTTPS_PROXY": "http://p:3128"}, "http://p:3128"),
        ({"https_proxy": "p:3128"}, "http://p:3128"),
        ({"ALL_PROXY": "socks5h://s:1080"}, "socks5h://s:1080"),
        ({"ALL_PROXY": "socks5h://s:1080", "HTTPS_PROXY": "http://p:3128"}, "http://p:3128"),
        ({"WSS_PROXY": "http://w:1", "HTTPS_PROXY": "http://p:3128"}, "http://w:1"),
        ({"HTTP_PROXY": "http://p:3128"}, None),
    ],
)
def test_the_environment_names_it(
    variables: dict[str, str], proxy: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The variable for WebSockets counts first, then that for https, then that for everything; as curl reads them."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert proxy_for(URL) == proxy


@pytest.mark.parametrize(
    ("url", "excluded"),
    [
        ("wss://gpu1.example:8786", True),
        ("wss://lab.example:8786", False),
        ("wss://a.lab.internal:1", True),
        ("wss://10.1.2.3:8786", True),
        ("wss://11.1.2.3:8786", False),
        ("wss://[fd00::7]:8786", True),
        ("wss://127.0.0.1:8786", True),
        ("wss://localhost:8786", True),
    ],
)
def test_no_proxy_excludes_hosts_and_networks(url: str, excluded: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """By name, by the end of a name, by network; this machine is never reached through a proxy of the environment."""
    monkeypatch.setenv("HTTPS_PROXY", "http://p:3128")
    monkeypatch.setenv("NO_PROXY", "gpu1.example, .internal,10.0.0.0/8, fd00::/8,no/network")
    assert (proxy_for(parse_url(url)) is None) is excluded


def test_what_the_user_says_counts_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy that is given is used for every URL, this machine's own too; the empty text is none."""
    monkeypatch.setenv("HTTPS_PROXY", "http://p:3128")
    monkeypatch.setenv("NO_PROXY", "*")
    assert proxy_for(URL) is None
    assert proxy_for(URL, "http://q:1") == "http://q:1"
    assert proxy_for(parse_url("wss://127.0.0.1:1"), "q:1") == "http://q:1"
    monkeypatch.delenv("NO_PROXY")
    assert proxy_for(URL, "") is None


def test_the_settings_of_macos_are_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its SOCKS proxy, which the standard library gives with another scheme, is one that resolves names."""
    monkeypatch.setattr(urllib.request, "getproxies", lambda: {"socks": "http://s:1080"})
    assert proxy_for(URL) == "socks5h://s:1080"


@pytest.mark.parametrize("proxy", ["http://ann:s3cret@p:1", "socks5h://ann:s3@cret@p:1", "ann:s3cret@p:1"])
def test_people_see_no_password(proxy: str) -> None:
    """What is shown of a proxy is where it is."""
    assert "cret" not in shown_proxy(proxy)
    assert "ann" not in shown_proxy(proxy)
    assert shown_proxy(proxy).endswith("p:1")


@pytest.mark.parametrize(
    ("proxy", "address"),
    [
        ("http://p:3128", ("p", 3128)),
        ("http://ann:secret@p", ("p", 80)),
        ("https://p", ("p", 443)),
        ("socks5h://s", ("s", 1080)),
    ],
)
def test_where_a_proxy_is(proxy: str, address: tuple[str, int]) -> None:
    """Host and port; without one, the usual port of its kind."""
    assert address_of(proxy) == address


@pytest.mark.parametrize("proxy", ["gopher://p", "http://", "http://p:port"])
def test_an_address_that_is_none(proxy: str) -> None:
    """A proxy that cannot be meant is refused."""
    with pytest.raises(ValueError, match=r"address|port"):
        address_of(proxy)
