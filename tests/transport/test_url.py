"""Addresses of workers and pools, and what is none."""

from __future__ import annotations

import pytest

from distmap.errors import ConnectError
from distmap.transport.url import DEFAULT_PORT, WorkerURL, parse_url


@pytest.mark.parametrize(
    ("text", "expected", "shown"),
    [
        ("wss://gpu1:9000", WorkerURL("gpu1", 9000), "wss://gpu1:9000"),
        ("wss://gpu1", WorkerURL("gpu1", DEFAULT_PORT), "wss://gpu1:8786"),
        ("WSS://GPU1.Lab/", WorkerURL("gpu1.lab", DEFAULT_PORT), "wss://gpu1.lab:8786"),
        ("wss://[::1]:9000", WorkerURL("::1", 9000), "wss://[::1]:9000"),
        (" wss://gpu_1.lab.:1\n", WorkerURL("gpu_1.lab.", 1), "wss://gpu_1.lab.:1"),
        ("wss://größe.example", WorkerURL("größe.example", 8786), "wss://größe.example:8786"),
        ("wss://[fe80::1%eth0]:1", WorkerURL("fe80::1%eth0", 1), "wss://[fe80::1%eth0]:1"),
        (
            "wss://hub.org/user/ann/proxy/9/",
            WorkerURL("hub.org", 443, {}, "/user/ann/proxy/9"),
            "wss://hub.org/user/ann/proxy/9",
        ),
        ("wss://hub.org:8443/dm", WorkerURL("hub.org", 8443, {}, "/dm"), "wss://hub.org:8443/dm"),
        ("https://hub.org/dm", WorkerURL("hub.org", 443, {}, "/dm"), "wss://hub.org/dm"),
        ("https://gpu1", WorkerURL("gpu1", 443), "wss://gpu1:443"),
        ("http://hub.org/dm", WorkerURL("hub.org", 80, {}, "/dm", "ws"), "ws://hub.org/dm"),
        ("ws://gpu1", WorkerURL("gpu1", DEFAULT_PORT, {}, "", "ws"), "ws://gpu1:8786"),
        ("ws://127.0.0.1:9/a/b", WorkerURL("127.0.0.1", 9, {}, "/a/b", "ws"), "ws://127.0.0.1:9/a/b"),
        ("wss://gpu1:1?name=big&tags=gpu", WorkerURL("gpu1", 1, {"name": "big", "tags": "gpu"}), "wss://gpu1:1"),
    ],
)
def test_addresses(text: str, expected: WorkerURL, shown: str) -> None:
    """Host, port (8786 if none; 443 or 80 with a path, and for https and http), path, options."""
    assert parse_url(text) == expected
    assert str(parse_url(text)) == shown
    assert str(parse_url(shown)) == shown


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "'' is no wss:// URL"),
        ("gpu1:8786", "'gpu1:8786' is no wss:// URL; a worker's address looks like wss://host:8786"),
        ("ftp://gpu1", "is no wss:// URL"),
        ("wss://", "names no host"),
        ("wss://:8786", "names no host"),
        ("wss://gpu1:port", "is no wss:// URL"),
        ("wss://gpu1:70000", "is no wss:// URL"),
        ("wss://[::1", "is no wss:// URL"),
        ("wss://gpu1:0", "port 0"),
        ("wss://gpu 1", "'wss://gpu 1' is no wss:// URL: there is a space or control character in it"),
        ("wss://gpu\t1", "is no wss:// URL: there is a space"),
        ("wss://gpu\x001", "is no wss:// URL: there is a space or control"),
        ("wss://gpu..1", "'wss://gpu..1' names no possible host"),
        ("wss://.", "names no possible host"),
        (f"wss://{'g' * 64}", "names no possible host"),
        ("wss://*:8786", "names no possible host"),
        ("wss://gpu1,gpu2", "names no possible host"),
        ("wss://gpu1/#x", "has a fragment"),
        ("wss://user:pw@gpu1", "holds a user name or password"),
        ("wss://user:pw@gpu1:port", "holds a user name or password"),
        ("ftp://user:p@pw@gpu1", "holds a user name or password"),
        ("wss://gpu1?token=abc", "holds a token"),
        ("wss://dm1_00000000_abc@gpu1", "holds a token"),
    ],
)
def test_what_is_no_address(text: str, sentence: str) -> None:
    """One sentence that names it, unless it holds a secret."""
    with pytest.raises(ConnectError) as caught:
        parse_url(text)
    assert sentence in str(caught.value)
    assert "pw" not in str(caught.value)
    assert "abc" not in str(caught.value)


def test_port_0_is_for_listening() -> None:
    """There it picks a free one."""
    assert parse_url("wss://127.0.0.1:0", listening=True).port == 0


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("localhost", True),
        ("127.0.0.1", True),
        ("127.1.2.3", True),
        ("::1", True),
        ("10.0.0.1", False),
        ("gpu1", False),
    ],
)
def test_loopback(host: str, loopback: bool) -> None:
    """Only what can be nothing but this machine."""
    assert WorkerURL(host, 1).is_loopback is loopback
