"""What a pool is told about workers elsewhere."""

from __future__ import annotations

from typing import Any

import pytest

from distmap.calls.remote import remote
from distmap.errors import ConnectError
from distmap.transport.token import Secret


def given(**changed: Any) -> Any:
    nothing = dict.fromkeys(("listen", "token", "tls_cert", "tls_key", "headers", "ca", "proxy", "connect_timeout"))
    return remote(**{**nothing, **changed})


@pytest.mark.parametrize(
    ("listen", "where"),
    [(None, None), (False, None), (True, "ws://127.0.0.1:0"), ("wss://0.0.0.0:1", "wss://0.0.0.0:1")],
)
def test_where_the_pool_listens(listen: Any, where: str | None) -> None:
    """True: on a port of this machine that a proxy here leads to."""
    assert given(listen=listen).listen == where


@pytest.mark.parametrize(("listen", "seconds"), [(None, 10.0), (True, 60.0), ("wss://0.0.0.0:1", 60.0)])
def test_how_long_workers_may_take(listen: Any, seconds: float) -> None:
    """Longer where they have to be started by hand; what is given counts."""
    assert given(listen=listen).connect_timeout == seconds
    assert given(listen=listen, connect_timeout=3).connect_timeout == 3


@pytest.mark.parametrize("listen", [None, "wss://0.0.0.0:1"])
def test_a_relay(listen: Any) -> None:
    """Workers dial the relay, or the pool itself if it listens too; they may take as long as if it did."""
    found = given(listen=listen, relay="wss://relay.example/?room=a")
    assert found.dialled == (listen or "wss://relay.example/?room=a")
    assert found.at_relay is (listen is None)
    assert found.connect_timeout == 60.0
    with pytest.raises(ValueError, match="relay"):
        given(relay="")
    with pytest.raises(ConnectError, match=r"takes \?room=NAME and nothing else"):
        given(token=Secret.generate(), relay="wss://relay.example/?r=a").hub([])


def test_what_is_wrong_is_said_before_anything_starts() -> None:
    """Types at once, addresses and files when the hub is made; values of headers are never shown."""
    with pytest.raises(TypeError, match="headers"):
        given(headers=5)
    with pytest.raises(TypeError, match="listen"):
        given(listen=5)
    with pytest.raises(ConnectError, match="names no host"):
        given(token=Secret.generate()).hub(["wss://"])
    with pytest.raises(ConnectError, match="the value of the header Authorization") as caught:
        given(token=Secret.generate(), headers={"Authorization": "token\n"}).hub([])
    assert "token\n" not in str(caught.value)


def test_secrets_are_not_shown() -> None:
    """A token, values of headers and the password of a proxy are not in the text of what holds them."""
    held = given(token="s3cret", headers={"Authorization": "s3cret"}, proxy="http://ann:s3cret@proxy:1")
    assert "s3cret" not in repr(held) + str(held)
