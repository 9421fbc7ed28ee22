"""A conversation in frames: cutting, interleaving, credits, reassembly, acknowledgements.

Owns what both ends of a connection do alike, whichever dialled. It must not know sockets, clocks or what is in a part:
time enters as an argument, frames go in and come out. Read by `transport/conversation.py`. What may overtake what is
decided in `order.py`; how one message is cut and put together is in `streams.py`; silence and heartbeats are in
`liveness.py`.

Sending. A message and its parts are one *stream*, cut into frames of at most `frame_bytes`; what fits into one frame
travels in one. Three queues, in this order:

1. signals (ping, pong) and messages without parts ("control"): before all data, not limited by credits;
2. messages with parts ("data"), while fewer than `credit_bytes` of them are unacknowledged. Turns alternate between
   the oldest stream and the one with the least left: a small message does not wait behind a large one, equal ones
   follow each other (the first of four tasks starts after one task's time, not after four), and none starves;
3. an acknowledgement in a frame of its own, when enough has come in and nothing went out that could have carried it.

Receiving. Sizes are announced and checked against limits before memory is taken. A message is given out when its last
byte is there.

Resuming (later) needs no other format: frames carry sequence numbers, unacknowledged ones are kept (as references to
the sender's parts, not as copies), repeated ones are dropped.

A frame: kind, stream, seq, ack, then by kind. OPEN: size of the meta block, then bytes. MORE: bytes. ACK: nothing.
PING and PONG: the sender's own time, which the other side only echoes. The bytes of a stream are its meta block
(number of parts, their sizes, header) and its parts. ACK, PING and PONG are not numbered.
"""

from __future__ import annotations

import heapq
import struct
from collections import deque
from collections.abc import Callable, Mapping, Sequence

from distmap.core.limits import LIMITS, Limits
from distmap.errors import PayloadError, ProtocolError
from distmap.tasks._typing import Buffer
from distmap.wire.codec import encode
from distmap.wire.liveness import PeerClock
from distmap.wire.messages import Bye, Message, Output
from distmap.wire.order import Order
from distmap.wire.streams import COUNT, Incoming, Outgoing

#: All transitions of a session: state -> what happens -> next state. What is not listed is not allowed.
#:
#: `open`: messages travel in both directions. `left`: the other side sent Bye, so no message of it may follow.
#: `closing`: our Bye is queued, so no message can follow it; what comes in is acknowledged and dropped.
#: `closed`: our Bye has been cut, or the caller ended the session; frames that are still under way are ignored.
#: `failed`: the other side sent something malformed, so that its next frames cannot be trusted.
TABLE: Mapping[str, Mapping[str, str]] = {
    "open": {
        "send": "open",
        "send Bye": "closing",
        "frame out": "open",
        "frame in": "open",
        "message in": "open",
        "Bye in": "left",
        "end": "closed",
        "error": "failed",
    },
    "left": {
        "send": "left",
        "send Bye": "closing",
        "frame out": "left",
        "frame in": "left",
        "end": "closed",
        "error": "failed",
    },
    "closing": {
        "frame out": "closing",
        "Bye out": "closed",
        "frame in": "closing",
        "message in": "closing",
        "Bye in": "closing",
        "end": "closed",
        "error": "failed",
    },
    "closed": {
        "frame in": "closed",
    },
    "failed": {},
}

_OPEN, _MORE, _ACK, _PING, _PONG = 1, 2, 3, 4, 5
_HEAD = struct.Struct("<B3xIQQ")
_TIME = struct.Struct("<d")


class Session:
    """One end of a conversation. Pure: `outgoing` gives the frames to write, `incoming` takes those that came.

    Args:
        now: The time of the clock that all other calls will use, in seconds; it is never compared with the peer's.
        limits: Sizes of frames, messages and credit; times of `peer`.
        allocate: Makes writable memory of a given size for a received part.
    """

    def __init__(
        self,
        now: float,
        *,
        limits: Limits = LIMITS,
        allocate: Callable[[int], Buffer] = bytearray,
    ) -> None:
        self._limits = limits
        self._allocate = allocate
        #: A state of TABLE.
        self.state = "open"
        #: The reason in the other side's Bye.
        self.farewell = ""
        # sending
        self._room = limits.frame_bytes - _HEAD.size - COUNT.size
        self._stream = 0
        #: Bytes of Outputs that no frame has been cut of: a link that is slower than the tasks print shows here.
        self.printed = 0
        self._order: Order[Outgoing] = Order(self._ready)
        self._signals: deque[bytes] = deque()
        self._control: deque[Outgoing] = deque()
        #: Data, twice: by age and by what is left. An entry that the other queue finished or moved on is stale.
        self._by_age: deque[Outgoing] = deque()
        self._by_left: list[tuple[int, int, Outgoing]] = []
        self._oldest_next = True
        self._seq = 0
        self._unacked: deque[tuple[int, int, list[Buffer]]] = deque()
        self._in_flight = 0
        # receiving
        self._received = 0
        self._owed_bytes = self._owed_frames = 0
        self._ack_now = False
        self._streams: dict[int, Incoming] = {}
        #: Liveness of the other side, heartbeats and round trips.
        self.peer = PeerClock(now, limits)

    def __repr__(self) -> str:
        return (
            f"<Session {self.state}: {self._seq} frames out, {len(self._unacked)} of them unacknowledged, "
            f"{self._order.unfinished} messages to write; {self._received} frames in, "
            f"{len(self._streams)} messages incomplete>"
        )

    # --- state -------------------------------------------------------------------------------------------------------

    def _step(self, trigger: str) -> bool:
        """Take the transition of TABLE; False, and no change, if it has none."""
        following = TABLE[self.state].get(trigger)
        if following is None:
            return False
        self.state = following
        return True

    @property
    def over(self) -> bool:
        """Whether the session gives out no message any more."""
        return "send" not in TABLE[self.state]

    def end(self) -> None:
        """Give out nothing any more, neither frames nor messages. Ending twice is fine."""
        self._step("end")

    # --- sending -----------------------------------------------------------------------------------------------------

    def send(self, message: Message, parts: Sequence[Buffer] = ()) -> None:
        """Queue a message. The parts are kept by reference until they are acknowledged: do not change them.

        Nothing can follow a Bye or an error: what is sent after them is dropped.
        """
        if not self._step("send Bye" if isinstance(message, Bye) else "send"):
            return
        self._stream = (self._stream + 1) & 0xFFFFFFFF
        entry = Outgoing(self._stream, encode(message), parts, self._room)
        if entry.left > self._limits.message_bytes:
            raise PayloadError(
                f"a message of {entry.left} bytes is too large to be sent; {self._limits.message_bytes} are allowed"
            )
        if isinstance(message, Output):
            entry.printed = entry.left
            self.printed += entry.left
        if isinstance(message, Bye):
            self._order.add_last(entry)
        else:
            self._order.add(entry, message)

    def _ready(self, entry: Outgoing) -> None:
        """Everything that the entry follows has been cut."""
        if entry.control:
            self._control.append(entry)
        else:
            self._by_age.append(entry)
            heapq.heappush(self._by_left, (entry.left, entry.stream, entry))

    def outgoing(self) -> Sequence[Buffer] | None:
        """The next frame to write, as buffers to concatenate; None while there is nothing or no credit."""
        if not self._step("frame out"):
            return None
        if self._signals:
            signal = self._signals.popleft()
            return [self._head(signal[0], 0, 0) + signal[1:]]
        if self._control:
            return self._cut(self._control.popleft())
        if self._in_flight < self._limits.credit_bytes and (entry := self._next_data()) is not None:
            return self._cut(entry)
        if self._ack_due():
            return [self._head(_ACK, 0, 0)]
        return None

    def _next_data(self) -> Outgoing | None:
        while self._by_age and not self._by_age[0].left:
            self._by_age.popleft()
        while self._by_left and self._by_left[0][0] != self._by_left[0][2].left:
            heapq.heappop(self._by_left)
        if not self._by_age:
            return None
        self._oldest_next = not self._oldest_next
        return self._by_left[0][2] if self._oldest_next else self._by_age[0]

    def _cut(self, entry: Outgoing) -> Sequence[Buffer]:
        before, opening = entry.left, entry.opening
        entry.opening = b""
        taken = entry.cut()
        self._seq += 1
        head = self._head(_OPEN if opening else _MORE, entry.stream, self._seq)
        frame: list[Buffer] = [head + opening, *taken]
        size = 0 if entry.control else before - entry.left
        self._unacked.append((self._seq, size, frame))
        self._in_flight += size
        if not entry.left:
            self.printed -= entry.printed
            self._order.done(entry)
            if not self._order.unfinished and self.state == "closing":
                # Bye follows everything, so it was the last.
                self._step("Bye out")
        else:
            heapq.heappush(self._by_left, (entry.left, entry.stream, entry))
        return frame

    def _head(self, kind: int, stream: int, seq: int) -> bytes:
        self._owed_bytes = self._owed_frames = 0
        self._ack_now = False
        return _HEAD.pack(kind, stream, seq, self._received)

    def ping(self, now: float) -> None:
        """Queue a ping; its answer measures the round trip."""
        self._signals.append(bytes((_PING,)) + _TIME.pack(now))

    def acknowledge(self) -> bool:
        """Have what came in acknowledged by the next frame, if need be by one of its own; True if anything is owed.

        Called a little after something came in, so that the other side does not keep it for long.
        """
        self._ack_now = self._owed_frames > 0
        return self._ack_now

    @property
    def owes(self) -> bool:
        """Whether something came in that no frame has acknowledged yet."""
        return self._owed_frames > 0

    @property
    def wants_to_write(self) -> bool:
        """Whether `outgoing` has something to give; may be true for nothing, never false for something."""
        return bool(
            self._signals
            or self._control
            or (self._by_age and self._in_flight < self._limits.credit_bytes)
            or self._ack_due()
        )  # fmt: skip

    @property
    def settled(self) -> bool:
        """Whether all that was sent has been given out, and acknowledged by the other side."""
        return not self._unacked and not self._order.unfinished

    def _ack_due(self) -> bool:
        return (
            self._ack_now or self._owed_bytes >= self._limits.ack_bytes or self._owed_frames >= self._limits.ack_frames
        )

    # --- receiving ---------------------------------------------------------------------------------------------------

    def incoming(self, frame: Buffer, now: float) -> list[tuple[Message, list[Buffer]]]:
        """Take one frame; gives the messages that it completed. Raises ProtocolError for anything malformed.

        After an error no frame is taken any more; nothing of the bad one was given out.
        """
        if not self._step("frame in"):
            raise ProtocolError("the session failed before; it takes no frame any more")
        if self.state == "closed":
            return []
        try:
            given = self._take(frame, now)
            for message, _ in given:
                self._message_in(message)
        except BaseException:
            self._step("error")
            raise
        return [] if self.over else given

    def _message_in(self, message: Message) -> None:
        if not self._step("Bye in" if isinstance(message, Bye) else "message in"):
            raise ProtocolError(f"a {type(message).__name__} came after Bye")
        if isinstance(message, Bye):
            self.farewell = message.reason

    def _take(self, frame: Buffer, now: float) -> list[tuple[Message, list[Buffer]]]:
        self.peer.heard(now)
        view = memoryview(frame)
        if len(view) < _HEAD.size:
            raise ProtocolError(f"a frame of {len(view)} bytes is too short")
        kind, stream, seq, ack = _HEAD.unpack_from(view)
        self._acknowledged(ack)
        body = view[_HEAD.size :]
        if kind in (_OPEN, _MORE):
            return self._numbered(kind, stream, seq, body)
        if kind in (_PING, _PONG):
            self._signal(kind, body, now)
        elif kind != _ACK or body:
            raise ProtocolError(f"a frame of kind {kind} with {len(body)} bytes is unknown")
        return []

    def _numbered(self, kind: int, stream: int, seq: int, body: memoryview) -> list[tuple[Message, list[Buffer]]]:
        if seq <= self._received:
            # Repeated after a reconnect.
            return []
        if seq != self._received + 1:
            raise ProtocolError(f"frame {seq} came after frame {self._received}")
        self._received = seq
        self._owed_frames += 1
        self._owed_bytes += len(body)
        if kind == _OPEN:
            if stream in self._streams or len(body) < COUNT.size or len(self._streams) >= self._limits.streams:
                raise ProtocolError(f"stream {stream} cannot begin here: {len(self._streams)} are under way")
            (meta,) = COUNT.unpack_from(body)
            entry = self._streams[stream] = Incoming(meta, self._limits, self._allocate)
            body = body[COUNT.size :]
        else:
            found = self._streams.get(stream)
            if found is None:
                raise ProtocolError(f"stream {stream} goes on without having begun")
            entry = found
        if not entry.feed(body):
            return []
        del self._streams[stream]
        assert entry.message is not None
        return [(entry.message, entry.parts)]

    def _acknowledged(self, ack: int) -> None:
        if ack > self._seq:
            raise ProtocolError(f"frame {ack} was acknowledged, but only {self._seq} were sent")
        while self._unacked and self._unacked[0][0] <= ack:
            self._in_flight -= self._unacked.popleft()[1]

    def _signal(self, kind: int, body: memoryview, now: float) -> None:
        if len(body) != _TIME.size:
            raise ProtocolError(f"a ping of {len(body)} bytes")
        if kind == _PING:
            self._signals.append(bytes((_PONG,)) + body)
        else:
            self.peer.returned(_TIME.unpack(body)[0], now)
