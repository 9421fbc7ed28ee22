"""Addresses of the form ssh://user@host."""

from __future__ import annotations

import pytest

from distmap.errors import ConnectError
from distmap.transport.ssh_url import SSHTarget, parse_ssh


def test_all_parts_of_a_url() -> None:
    """User, host, port, path and options are read; a name keeps its capitals, and a user may have an @."""
    target = parse_ssh(" ssh://ann%40uni.edu@Lab7:2222/run/pool.sock?slots=8 ", ["slots"])
    assert target == SSHTarget("Lab7", "ann@uni.edu", 2222, "/run/pool.sock", {"slots": "8"})
    assert str(target) == "ssh://ann@uni.edu@Lab7:2222/run/pool.sock"
    assert target.arguments() == ["-l", "ann@uni.edu", "-p", "2222", "--", "Lab7"]
    assert target.login == "-p 2222 ann@uni.edu@Lab7"
    assert str(target.url) == str(target)


def test_a_host_is_enough() -> None:
    """Everything else is what the settings of ssh say."""
    assert parse_ssh("ssh://lab7/").arguments() == ["--", "lab7"]
    assert str(parse_ssh("ssh://[::1]:22")) == "ssh://[::1]:22"
    assert parse_ssh("ssh://[::1]").host == "::1"


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("ssh://ann:pw@lab7", "holds a password"),
        ("ssh://ann:pw@lab7:port", "holds a password"),
        ("ssh://", "no possible host"),
        ("ssh://-oProxyCommand=x", "no possible host"),
        ("ssh://a b", "no possible host"),
        ("ssh://lab7;id", "no possible host"),
        ("ssh://-l@lab7", "no possible user"),
        ("ssh://a%20b@lab7", "no possible user"),
        ("ssh://lab7:port", "is no ssh:// URL"),
        ("ssh://lab7/a'b", "a path that ssh cannot take"),
        ("ssh://lab7?slot=8", "option 'slot' that is not known; it takes slots"),
    ],
)
def test_what_is_no_address(url: str, words: str) -> None:
    """What ssh, or a shell behind it, would take for something else is refused."""
    with pytest.raises(ConnectError, match=words) as caught:
        parse_ssh(url, ["slots"])
    assert ":pw@" not in str(caught.value)


def test_an_option_where_none_is_known() -> None:
    """The sentence says that there are none."""
    with pytest.raises(ConnectError, match="it takes none"):
        parse_ssh("ssh://lab7?slots=8")
