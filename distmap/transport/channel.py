"""The port between a conversation and what carries its frames.

Owns the protocol that every channel keeps, its close codes, and the one exception it raises. A channel moves whole
frames in order in both directions and must not look into them. `distmap.testing.channels` has the contract as tests.

A handshake sends and waits for one frame after the other: `send`, `recv`. What follows must not wait: `start` names a
receiver, which is called with each frame as the loop reads it from the socket; and `write` writes at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from distmap.tasks._typing import Buffer

# Close codes of WebSocket: 1000, and 4000 to 4999, which are the application's. One code for every failed proof, and no
# reason with it: what was wrong is shown to the user of this side only.
CLOSE_NORMAL, CLOSE_PROTOCOL, CLOSE_TOKEN, CLOSE_REFUSED, CLOSE_UNWANTED = 1000, 4400, 4401, 4409, 4410
#: Of a channel that no side has ended (RFC 6455, 7.4.1).
CLOSE_BROKEN = 1006


class ChannelClosed(ConnectionError):
    """The channel is over. `code` and `reason` are those of the side that ended it (1006: it just broke)."""

    def __init__(self, code: int, reason: str = "") -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason

    def __str__(self) -> str:
        return self.reason or f"the connection ended (code {self.code})"


class Receiver(Protocol):
    """Who is called by a channel from its `start` on. Must not block and must not raise."""

    def take(self, frame: Buffer) -> None:
        """A frame has come. Its memory is used again after the return."""

    def pump(self) -> None:
        """What came by one read has been given, or there is room for frames again: the time to write."""

    def end(self, closed: ChannelClosed) -> None:
        """The channel is over; called once, after the last frame."""


class Channel(Protocol):
    """One live connection that moves frames. All of it belongs to one event loop."""

    #: Who is at the other end, for people: an address or a name.
    peer: str

    @property
    def last_heard(self) -> float:
        """Loop time of the last byte that came in; any byte counts, also of a frame that is not complete."""

    async def send(self, frame: Sequence[Buffer]) -> None:
        """Write one frame, given as buffers to concatenate; returns when there is room for the next.

        Raises ChannelClosed when the channel is over. Do not cancel it: a frame is written whole or not at all.
        """

    async def recv(self) -> Buffer:
        """The next frame. Frames that came before the end are given out first, then ChannelClosed is raised.

        Safe to cancel: no frame is lost.
        """

    def start(self, receiver: Receiver) -> None:
        """From now on the receiver gets what comes, beginning with what is here already; `recv` must not be called."""

    @property
    def room(self) -> bool:
        """Whether a frame can be written that does not wait behind others. If not, `Receiver.pump` is called later."""

    def write(self, frames: Sequence[Sequence[Buffer]]) -> None:
        """Write frames at once, each as for `send`, together if they are small. Raises ChannelClosed as that does."""

    async def close(self, code: int = CLOSE_NORMAL, reason: str = "") -> None:
        """End the channel politely and wait, for a bounded time, until it is over. Closing twice is fine."""

    def abort(self) -> None:
        """End the channel at once, whatever is in flight. Aborting twice is fine."""


@dataclass(slots=True)
class Connection:
    """A channel whose two ends have proved that they hold the same token, with the INFO of the other end."""

    channel: Channel
    peer_info: Mapping[str, object]
    #: Round trip of the handshake in seconds: a first estimate.
    rtt: float = 0.0
    #: The id of a session that begins here; both ends have the same.
    session: str = ""
    #: Address of the other end as its socket has it (of a proxy, if there is one); None: it has none.
    remote: tuple[Any, ...] | None = None
    #: Whether TLS of the connection ends on the way, at a proxy, and the two ends speak TLS inside the messages.
    through_hop: bool = False
