"""The words of a channel's end."""

from __future__ import annotations

from distmap.transport.channel import ChannelClosed, Connection
from distmap.transport.memory import MemoryChannel


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
