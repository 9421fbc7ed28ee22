"""The words of a channel's end."""

from __future__ import annotations

import asyncio

import pytest

from distmap.transport.channel import CLOSE_TOKEN, ChannelClosed, Connection, handshake_frame, last_word
from distmap.transport.memory import MemoryChannel, pair


def test_the_reason_is_what_people_read() -> None:
    """With a reason, that; without one, the code."""
    assert str(ChannelClosed(1001, "going away")) == "going away"
    assert str(ChannelClosed(1006)) == "the connection ended (code 1006)"
    closed = ChannelClosed(4401, "no")
    assert (closed.code, closed.reason) == (4401, "no")
    assert isinstance(closed, ConnectionError)


def test_a_connection_holds_what_the_handshake_found() -> None:
    """Channel, what the other side said of itself, first round trip."""
    channel = object.__new__(MemoryChannel)
    connection = Connection(channel, {"name": "gpu1"})
    assert connection.channel is channel
    assert connection.peer_info["name"] == "gpu1"
    assert connection.rtt == 0.0


def test_the_last_word_of_a_handshake_ends_it_with_its_code() -> None:
    """A refusal is a frame too, so that a proxy that drops the code of a close does not hide it; others pass."""

    async def main() -> None:
        ours, theirs = pair()
        await theirs.send([last_word(CLOSE_TOKEN)])
        with pytest.raises(ChannelClosed) as closed:
            await handshake_frame(ours)
        assert closed.value.code == CLOSE_TOKEN
        for frame in (b"close 4401 ", b"close", bytes(32)):
            await theirs.send([frame])
            assert await handshake_frame(ours) == frame

    asyncio.run(main())
