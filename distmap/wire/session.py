"""A conversation in frames: cutting, interleaving, credits, reassembly, acknowledgements, liveness.

Owns what both ends of a connection do alike, whoever dialled. It must not know sockets, clocks or what is in a part:
time enters as an argument, frames go in and come out. Read by `transport/conversation.py`. What may overtake what is
decided in `order.py`.

Sending. A message and its parts are one *stream*, cut into frames of at most FRAME bytes; what fits into one frame
travels in one. Three queues, in this order:

1. signals (ping, pong) and messages without parts ("control"): before all data, not limited by credits;
2. messages with parts ("data"), while fewer than `window` of their bytes are unacknowledged. Turns alternate between
   the oldest stream and the one with the least left: a small message does not wait behind a large one, equal ones
   follow each other (the first of four tasks starts after one task's time, not after four), and none starves;
3. a bare acknowledgement, when enough has come in and nothing went out that could have carried it.

Receiving. Sizes are announced and checked against limits before memory is taken; pieces are copied once, into memory
that the result owns. A message is given out when its last byte is there.

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
from collections.abc import Callable, Sequence
from typing import Literal

from distmap.errors import PayloadError, ProtocolError
from distmap.wire.codec import decode, encode
from distmap.wire.messages import Bye, Message, Output
from distmap.wire.order import Order

Buffer = bytes | bytearray | memoryview
State = Literal["fine", "suspect", "lost"]

#: What may follow what: state -> what happens -> next state. `closing`: Bye was sent, and nothing can be sent after it.
#: `failed`: the other side sent something malformed, so that nobody knows where the next frame belongs: none is taken,
#: and none is given out.
TABLE = {
    "open": {"Bye": "closing", "error": "failed"},
    "closing": {"error": "failed"},
    "failed": {},
}

#: Largest frame. 256 KB is on the plateau of throughput and keeps the loop's stalls at milliseconds.
FRAME = 256 << 10
#: Data bytes that may be unacknowledged: 32 MB keep 2.5 Gbit/s busy over a round trip of 100 ms.
WINDOW = 32 << 20
#: An acknowledgement of its own is sent after so many bytes or frames, if none could ride on another frame.
ACK_BYTES = 2 << 20
ACK_FRAMES = 64
#: Largest message that is accepted, all parts together.
MAX_MESSAGE = 8 << 30
#: Largest meta block that is accepted: a report that names a million failed items needs 4 MB.
MAX_META = 16 << 20
#: Messages that may be incomplete at once.
MAX_STREAMS = 1024

_OPEN, _MORE, _ACK, _PING, _PONG = 1, 2, 3, 4, 5
_HEAD = struct.Struct("<B3xIQQ")
_META = struct.Struct("<I")
_TIME = struct.Struct("<d")
_ROOM = FRAME - _HEAD.size - _META.size


class _Outgoing:
    """A message on its way out: what is left of it, and what waits for its last frame."""

    __slots__ = ("_at", "_pieces", "begun", "control", "left", "meta", "printed", "stream")

    def __init__(self, stream: int, header: bytes, parts: Sequence[Buffer]) -> None:
        views = [_flat(part) for part in parts]
        meta = struct.pack(f"<I{len(views)}Q", len(views), *map(len, views)) + header
        self.stream = stream
        self.meta = len(meta)
        self.left = len(meta) + sum(map(len, views))
        self.begun = False
        self.control = not views and len(meta) <= _ROOM
        #: Bytes of what tasks printed.
        self.printed = 0
        if self.left > MAX_MESSAGE:
            raise PayloadError(f"a message of {self.left} bytes is too large to be sent; {MAX_MESSAGE} are allowed")
        self._pieces: deque[Buffer] = deque((meta, *views))
        self._at = 0

    def cut(self) -> list[Buffer]:
        """The next bytes, at most one frame of them, without copying."""
        if self.left <= _ROOM and not self._at:
            self.left = 0
            return list(self._pieces)
        room, taken = _ROOM, list[Buffer]()
        while room and self._pieces:
            piece = self._pieces[0]
            size = min(room, len(piece) - self._at)
            taken.append(memoryview(piece)[self._at : self._at + size])
            room -= size
            self._at += size
            if self._at == len(piece):
                self._pieces.popleft()
                self._at = 0
        self.left -= _ROOM - room
        return taken


class _Incoming:
    """A message on its way in: memory for all of it, filled in order."""

    __slots__ = ("_allocate", "_at", "_limit", "_targets", "_turn", "message", "meta", "parts")

    def __init__(self, meta: int, limit: int, allocate: Callable[[int], Buffer]) -> None:
        if not _META.size <= meta <= MAX_META:
            raise ProtocolError(f"a message announces a meta block of {meta} bytes; {MAX_META} are allowed")
        self.meta = bytearray(meta)
        self.message: Message | None = None
        self.parts: list[Buffer] = []
        self._targets = [memoryview(self.meta)]
        self._turn = self._at = 0
        self._limit = limit
        self._allocate = allocate

    def feed(self, data: memoryview) -> bool:
        """Take the next bytes; True when the message is complete."""
        while self._turn < len(self._targets):
            target = self._targets[self._turn]
            size = min(len(data), len(target) - self._at)
            target[self._at : self._at + size] = data[:size]
            data = data[size:]
            self._at += size
            if self._at < len(target):
                return False
            self._turn += 1
            self._at = 0
            if self.message is None:
                self._announced()
        if data:
            raise ProtocolError(f"a message has {len(data)} bytes more than it announced")
        return True

    def _announced(self) -> None:
        """The meta block is there: check the sizes, then take the memory."""
        (count,) = _META.unpack_from(self.meta)
        sized = _META.size + 8 * count
        if sized > len(self.meta):
            raise ProtocolError(f"a message announces {count} parts in a meta block of {len(self.meta)} bytes")
        sizes = struct.unpack_from(f"<{count}Q", self.meta, _META.size)
        if sum(sizes) > self._limit:
            raise ProtocolError(f"a message announces {sum(sizes)} bytes; {self._limit} are allowed")
        self.message = decode(memoryview(self.meta)[sized:])
        self.parts = [self._allocate(size) for size in sizes]
        self._targets.extend(map(memoryview, self.parts))


class Session:
    """One end of a conversation. Pure: `outgoing` gives the frames to write, `incoming` takes those that came.

    Args:
        now: The time of the clock that all other calls will use, in seconds; it is never compared with the peer's.
        window: Data bytes that may be unacknowledged in our direction.
        max_message: Larger messages are refused before memory is taken for them.
        allocate: Makes writable memory of a given size for a received part.
        beat_every: See `beat_due`.
        suspect_after: See `state`.
        lost_after: See `state`.
    """

    def __init__(
        self,
        now: float,
        *,
        window: int = WINDOW,
        max_message: int = MAX_MESSAGE,
        allocate: Callable[[int], Buffer] = bytearray,
        beat_every: float = 5.0,
        suspect_after: float = 10.0,
        lost_after: float = 30.0,
    ) -> None:
        self._window = window
        self._max_message = max_message
        self._allocate = allocate
        # sending
        #: A state of TABLE.
        self.phase = "open"
        self._stream = 0
        #: Bytes of Outputs that no frame has been cut of: a link that is slower than the tasks print shows here.
        self.printed = 0
        self._order: Order[_Outgoing] = Order(self._ready)
        self._signals: deque[bytes] = deque()
        self._control: deque[_Outgoing] = deque()
        #: Data, twice: by age and by what is left. An entry that the other queue finished or moved on is stale.
        self._by_age: deque[_Outgoing] = deque()
        self._by_left: list[tuple[int, int, _Outgoing]] = []
        self._oldest_next = True
        self._seq = 0
        self._unacked: deque[tuple[int, int, list[Buffer]]] = deque()
        self._in_flight = 0
        # receiving
        self._received = 0
        self._owed_bytes = self._owed_frames = 0
        self._ack_now = False
        self._streams: dict[int, _Incoming] = {}
        # liveness
        self._beat_every, self._suspect_after, self._lost_after = beat_every, suspect_after, lost_after
        self._heard = self._looked = now
        self._beat = now
        self._round_trips: deque[float] = deque(maxlen=6)

    # --- sending -----------------------------------------------------------------------------------------------------

    def send(self, message: Message, parts: Sequence[Buffer] = ()) -> None:
        """Queue a message. The parts are kept by reference until they are acknowledged: do not change them.

        Nothing can follow a Bye or an error; what is sent after them is dropped.
        """
        if self.phase != "open":
            return
        self._stream = (self._stream + 1) & 0xFFFFFFFF
        entry = _Outgoing(self._stream, encode(message), parts)
        if isinstance(message, Output):
            entry.printed = entry.left
            self.printed += entry.left
        if isinstance(message, Bye):
            self.phase = TABLE[self.phase]["Bye"]
            self._order.add_last(entry)
        else:
            self._order.add(entry, message)

    def _ready(self, entry: _Outgoing) -> None:
        """Everything that the entry follows has been cut."""
        if entry.control:
            self._control.append(entry)
        else:
            self._by_age.append(entry)
            heapq.heappush(self._by_left, (entry.left, entry.stream, entry))

    def outgoing(self) -> Sequence[Buffer] | None:
        """The next frame to write, as buffers to concatenate; None while there is nothing or no credit."""
        if self.phase == "failed":
            return None
        if self._signals:
            signal = self._signals.popleft()
            return [self._head(signal[0], 0, 0) + signal[1:]]
        if self._control:
            return self._cut(self._control.popleft())
        if self._in_flight < self._window and (entry := self._next_data()) is not None:
            return self._cut(entry)
        if self._ack_due():
            return [self._head(_ACK, 0, 0)]
        return None

    def _next_data(self) -> _Outgoing | None:
        while self._by_age and not self._by_age[0].left:
            self._by_age.popleft()
        while self._by_left and self._by_left[0][0] != self._by_left[0][2].left:
            heapq.heappop(self._by_left)
        if not self._by_age:
            return None
        self._oldest_next = not self._oldest_next
        return self._by_left[0][2] if self._oldest_next else self._by_age[0]

    def _cut(self, entry: _Outgoing) -> Sequence[Buffer]:
        before, opening = entry.left, not entry.begun
        entry.begun = True
        taken = entry.cut()
        self._seq += 1
        head = self._head(_OPEN if opening else _MORE, entry.stream, self._seq)
        frame: list[Buffer] = [head + _META.pack(entry.meta) if opening else head, *taken]
        size = 0 if entry.control else before - entry.left
        self._unacked.append((self._seq, size, frame))
        self._in_flight += size
        if not entry.left:
            self.printed -= entry.printed
            self._order.done(entry)
        else:
            heapq.heappush(self._by_left, (entry.left, entry.stream, entry))
        return frame

    def _head(self, kind: int, stream: int, seq: int) -> bytes:
        self._owed_bytes = self._owed_frames = 0
        self._ack_now = False
        return _HEAD.pack(kind, stream, seq, self._received)

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
            or (self._by_age and self._in_flight < self._window)
            or self._ack_due()
        )  # fmt: skip

    @property
    def written(self) -> bool:
        """Whether all that was sent has been given out by `outgoing`."""
        return not self._order.unfinished

    @property
    def settled(self) -> bool:
        """Whether all that was sent has been given out, and acknowledged by the other side."""
        return not self._unacked and not self._order.unfinished

    def _ack_due(self) -> bool:
        return self._ack_now or self._owed_bytes >= ACK_BYTES or self._owed_frames >= ACK_FRAMES

    # --- receiving ---------------------------------------------------------------------------------------------------

    def incoming(self, frame: Buffer, now: float) -> list[tuple[Message, list[Buffer]]]:
        """Take one frame; gives the messages that it completed. Raises ProtocolError for anything malformed.

        After an error no frame is taken any more; nothing of the bad one was given out.
        """
        if self.phase == "failed":
            raise ProtocolError("the session has failed before; it takes no frame any more")
        try:
            return self._take(frame, now)
        except BaseException:
            self.phase = TABLE[self.phase]["error"]
            raise

    def _take(self, frame: Buffer, now: float) -> list[tuple[Message, list[Buffer]]]:
        self.heard(now)
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
            if stream in self._streams or len(body) < _META.size or len(self._streams) >= MAX_STREAMS:
                raise ProtocolError(f"stream {stream} cannot begin here: {len(self._streams)} are under way")
            (meta,) = _META.unpack_from(body)
            entry = self._streams[stream] = _Incoming(meta, self._max_message, self._allocate)
            body = body[_META.size :]
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
            # Our own clock, echoed; a peer that lies can only harm its own figure.
            self._round_trips.append(max(0.0, now - _TIME.unpack(body)[0]))

    # --- liveness ----------------------------------------------------------------------------------------------------

    def ping(self, now: float) -> None:
        """Queue a ping; its answer measures the round trip."""
        self._signals.append(bytes((_PING,)) + _TIME.pack(now))

    @property
    def rtt(self) -> float | None:
        """The shortest of the last round trips in seconds (the others waited behind data); None before the first."""
        return min(self._round_trips) if self._round_trips else None

    def heard(self, now: float) -> None:
        """Something came in at that time; any byte is life."""
        self._heard = max(self._heard, now)

    def state(self, now: float) -> State:
        """How the other side is doing. Ask more often than every `beat_every`.

        An asker who comes late was starved itself, and what the peer sent meanwhile may still wait in the socket: the
        silence is then counted afresh.
        """
        if now - self._looked > self._beat_every:
            self.heard(now)
        self._looked = now
        silence = now - self._heard
        if silence >= self._lost_after:
            return "lost"
        return "suspect" if silence >= self._suspect_after else "fine"

    def beat_due(self, now: float) -> bool:
        """Whether it is time for a heartbeat; True once every `beat_every`."""
        if now - self._beat < self._beat_every:
            return False
        self._beat = now
        return True


def _flat(part: Buffer) -> Buffer:
    """The part as one dimension of bytes, so that len() counts bytes."""
    if isinstance(part, memoryview) and (part.ndim != 1 or part.itemsize != 1):
        # cast() refuses views with a zero in their shape.
        return part.cast("B") if part.nbytes else b""
    return part
