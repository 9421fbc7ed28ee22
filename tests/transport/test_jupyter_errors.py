"""Tests of distmap/transport/jupyter_errors.py; what real servers answer is in tests/reach/."""

from __future__ import annotations

import pytest

from distmap.transport.jupyter_errors import jupyter_answered, nobody_listens, page_sentence, unknown_host, wants_login
from distmap.transport.url import parse_url

HUB = parse_url("wss://hub.example/user/ann/gpu/proxy/41234")
SERVER = parse_url("ws://lab7:8888/proxy/41234")


@pytest.mark.parametrize(
    ("status", "location", "headers", "says"),
    [
        (403, "", False, "wants a token: make one at https://hub.example/hub/token with the scope "
                         "access:servers!server=ann/gpu"),
        (403, "", True, "does not accept the token"),
        (302, "/hub/api/oauth2/authorize?client_id=x", False, "wants a token"),
        (302, "https://hub.example/hub/user/ann/gpu/proxy/41234", True, "ann (gpu) is not running"),
        (424, "", True, "is not running, or is starting"),
        (503, "", True, "is not running, or is starting"),
        (404, "", True, "has no jupyter-server-proxy"),
    ],
)  # fmt: skip
def test_what_a_hub_answers(status: int, location: str, headers: bool, says: str) -> None:
    """Each answer of a hub is told apart, with what to do."""
    assert says in str(jupyter_answered(HUB, status, location, headers))


def test_what_a_jupyter_server_answers() -> None:
    """A Jupyter server without a hub wants its own token."""
    assert "`jupyter server list`" in str(jupyter_answered(SERVER, 403, "", False))
    assert "the Jupyter server there has no jupyter-server-proxy" in str(jupyter_answered(SERVER, 404, "", True))


def test_other_servers_are_left_to_others() -> None:
    """Where no path of a Jupyter server was dialled nothing is said, and of statuses that mean nothing here."""
    assert jupyter_answered(parse_url("wss://host/prefix"), 403, "", False) is None
    assert jupyter_answered(HUB, 500, "", True) is None
    assert nobody_listens(parse_url("wss://host/prefix")) is None


def test_the_address_of_a_page_says_what_to_paste() -> None:
    """Who dials a page reads which call prints the right line."""
    page = parse_url("https://hub.example/user/ann/lab/tree/x")
    said = page_sentence(page)
    assert said == jupyter_answered(page, 200, "", False)
    assert "https://hub.example/user/ann/lab/tree/x is the address of a page" in said
    assert "pool.worker_command()" in said
    assert "wss://hub.example/user/ann/proxy/41234" in said


def test_a_host_that_was_left_open() -> None:
    """The word that stands for an unknown host is known when it comes back."""
    assert "stands for the host of your hub" in str(unknown_host(parse_url("wss://YOUR-HUB/user/ann/proxy/1")))
    assert unknown_host(HUB) is None


def test_a_port_where_nobody_listens() -> None:
    """The port is named, and the call that opens it again."""
    said = str(nobody_listens(HUB))
    assert "41234" in said
    assert "Pool(listen=True)" in said


@pytest.mark.parametrize(
    ("status", "location", "wanted"),
    [(401, "", True), (403, "", True), (302, "/login?next=x", True), (302, "/hub/user/ann", False), (404, "", False)],
)
def test_whether_a_token_is_wanted(status: int, location: str, wanted: bool) -> None:
    """A refusal, or the way to a login, means that a token is missing."""
    assert wants_login(status, location) is wanted
