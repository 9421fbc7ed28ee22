"""A conversation in frames: cutting, interleaving, credits, reassembly, acknowledgements, and resuming.

Owns what both ends of a connection do alike, whichever dialled. It must not know sockets, clocks or what is in a part:
time enters as an argument, frames go in and come out. Read by `transport/conversation.py`. What may overtake what is
decided in `order.py`, whose turn it is in `turns.py`; how one message is cut and put together is in `streams.py`; what
is not acknowledged is in `frame_log.py`; the states are in `states.py`; silence and heartbeats are in `liveness.py`.

Sending. A message and its parts are one *stream*, cut into frames of at most `frame_bytes`; what fits into one frame
travels in one. Four kinds, in this order:

1. signals (ping, pong);
2. frames of the log that the present channel has to be given again;
3. messages without parts ("control"), then messages with parts ("data") while fewer than `credit_bytes` of them are
   unacknowledged; of both none while the log holds `log_bytes` or more;
4. an acknowledgement in a frame of its own, when enough has come in and nothing went out that could have carried it.

Receiving. Sizes are announced and checked against limits before memory is taken. A message is given out when its last
byte is there.

Resuming. A session outlives its channels. Frames carry numbers, and those that are not acknowledged are kept, as
references to the sender's parts. When the channel has gone (`detached`), each side tells the other the number of the
last frame that it took (`received`), over a new channel that both have proved, and `resume` gives out again what came
later, under the old numbers; a frame that comes twice is dropped by its number. So both sides see one ordered stream.

A frame: kind, stream, seq, ack, then by kind. OPEN: size of the meta block, then bytes. MORE: bytes. ACK: nothing.
PING and PONG: the sender's own time, which the other side only echoes. The bytes of a stream are its meta block
(number of parts, their sizes, header) and its parts. ACK, PING and PONG are not numbered.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable, Sequence

from distmap.core.limits import LIMITS, Limits
from distmap.errors import PayloadError, ProtocolError
from distmap.tasks._typing import Buffer
from distmap.wire.codec import encode
from distmap.wire.frame_log import FrameLog
from distmap.wire.liveness import PeerClock
from distmap.wire.messages import Bye, Message, Output
from distmap.wire.order import Order
from distmap.wire.states import TABLE
from distmap.wire.streams import COUNT, Incoming, Outgoing
from distmap.wire.turns import Turns

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
        #: Whether there is a channel: False from `detached` to `resume`.
        self.attached = True
        #: Whether our Bye has been given out; it may still be under way.
        self.said_bye = False
        #: How often a new channel was taken, how many frames were given out again, and how many came twice and were
        #: dropped.
        self.resumes = self.replayed = self.repeated = 0
        # sending
        self._room = limits.frame_bytes - _HEAD.size - COUNT.size
        self._stream = 0
        #: Bytes that were sent and no frame has been cut of.
        self.queued_bytes = 0
        #: The same of Outputs: a link that is slower than the tasks print shows here.
        self.printed = 0
        self._turns = Turns()
        self._order: Order[Outgoing] = Order(self._turns.add)
        self._signals: deque[bytes] = deque()
        #: What was given out and is not acknowledged; for others to read only.
        self.log = FrameLog()
        # receiving
        #: Number of the last frame that was taken. Tell it to the other side for its `resume`; `detached` comes first.
        self.received = 0
        self._owed_bytes = self._owed_frames = 0
        self._ack_now = False
        self._streams: dict[int, Incoming] = {}
        #: Liveness of the other side, heartbeats and round trips.
        self.peer = PeerClock(now, limits)

    def __repr__(self) -> str:
        return (
            f"<Session {self.state}{'' if self.attached else ', detached'}: {self.log.sent} frames out, "
            f"{len(self.log)} of them unacknowledged, {self._order.unfinished} messages to write; "
            f"{self.received} frames in, {len(self._streams)} messages incomplete>"
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

    # --- the channel -------------------------------------------------------------------------------------------------

    def detached(self) -> None:
        """The channel has gone. What it carried unacknowledged is kept, and messages can still be sent.

        Frames of the old channel that come in now are not taken: they come again over the next one.
        """
        self.attached = False
        # Their times mean nothing on another channel.
        self._signals.clear()
        # The number that the other side is told for its `resume` acknowledges it.
        self._owed_bytes = self._owed_frames = 0
        self._ack_now = False

    def can_resume(self, received: int) -> bool:
        """Whether `resume` takes this number. No for one that is out of date, as that of a dial which came too late."""
        return "resume" in TABLE[self.state] and self.log.acked <= received <= self.log.sent

    def resume(self, received: int, now: float) -> None:
        """Go on over a new channel, on which the other side proved who it is.

        Args:
            received: Number of the last frame that the other side has taken; later ones are given out again, first.
            now: The time; a new channel is a sign of life.

        Raises ProtocolError if the session has ended, or the other side cannot have taken that many frames or that few:
        then it is not this session's other side. Nothing is changed then.
        """
        if not self._step("resume"):
            raise ProtocolError(f"the session is {self.state} and cannot be resumed")
        self.log.rewind(received)
        self._acknowledged(received)
        self.detached()
        self.attached = True
        self.resumes += 1
        self.peer.heard(now)

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
        self.queued_bytes += entry.left
        if isinstance(message, Output):
            entry.printed = entry.left
            self.printed += entry.left
        if isinstance(message, Bye):
            self._order.add_last(entry)
        else:
            self._order.add(entry, message)

    def outgoing(self) -> Sequence[Buffer] | None:
        """The next frame to write, as buffers to concatenate; None while there is nothing or no credit."""
        if not self.attached or not self._step("frame out"):
            return None
        if self._signals:
            signal = self._signals.popleft()
            return [self._head(signal[0], 0, 0) + signal[1:]]
        log, limits = self.log, self._limits
        if log.behind and (old := log.again()) is not None:
            self.replayed += 1
            kind, stream, seq, _ = _HEAD.unpack_from(old[0])
            return [self._head(kind, stream, seq) + old[0][_HEAD.size :], *old[1:]]
        if log.nbytes < limits.log_bytes:
            entry = self._turns.next(data=log.in_flight < limits.credit_bytes)
            if entry is not None:
                return self._cut(entry)
        if self._ack_due():
            return [self._head(_ACK, 0, 0)]
        return None

    def _cut(self, entry: Outgoing) -> Sequence[Buffer]:
        before, opening = entry.left, entry.opening
        entry.opening = b""
        taken = entry.cut()
        log = self.log
        head = self._head(_OPEN if opening else _MORE, entry.stream, log.sent + 1) + opening
        frame: list[Buffer] = [head, *taken]
        size = before - entry.left
        self.queued_bytes -= size
        log.add(frame, len(head) + size, 0 if entry.control else size)
        if not entry.left:
            self.printed -= entry.printed
            self._order.done(entry)
            if self.state == "closing" and not self._order.unfinished:
                # Bye follows everything, so it was the last.
                self._step("Bye out")
                self.said_bye = True
        else:
            self._turns.put_back(entry)
        return frame

    def _head(self, kind: int, stream: int, seq: int) -> bytes:
        self._owed_bytes = self._owed_frames = 0
        self._ack_now = False
        return _HEAD.pack(kind, stream, seq, self.received)

    def ping(self, now: float) -> None:
        """Queue a ping; its answer measures the round trip. It is forgotten if the channel changes before."""
        self._signals.append(bytes((_PING,)) + _TIME.pack(now))

    def acknowledge(self) -> bool:
        """Have what came in acknowledged by the next frame, if need be by one of its own; True if anything is owed.

        Called a little after something came in, so that the other side does not keep it for long.
        """
        self._ack_now = self._ack_now or self._owed_frames > 0
        return self._ack_now

    @property
    def owes(self) -> bool:
        """Whether something came in that no frame has acknowledged yet."""
        return self._owed_frames > 0

    @property
    def wants_to_write(self) -> bool:
        """Whether `outgoing` has something to give; may be true for nothing, never false for something."""
        if not self.attached:
            return False
        log, limits = self.log, self._limits
        return bool(
            self._signals
            or log.behind
            or (log.nbytes < limits.log_bytes and self._turns.waiting(data=log.in_flight < limits.credit_bytes))
            or self._ack_due()
        )

    @property
    def settled(self) -> bool:
        """Whether all that was sent has been given out, and acknowledged by the other side."""
        return not self.log and not self._order.unfinished

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
        if self.state == "closed" or not self.attached:
            return []
        try:
            given = self._take(frame, now)
            if given and self.state != "closed":  # it may have acknowledged our Bye
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
        if ack > self.log.acked:
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
        if seq <= self.received:
            # It came before. Its sender learns so, and keeps it no longer.
            self.repeated += 1
            self._ack_now = True
            return []
        if seq != self.received + 1:
            raise ProtocolError(f"frame {seq} came after frame {self.received}")
        self.received = seq
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
        self.log.acknowledge(ack)
        if self.state == "parting" and not self.log:
            self._step("Bye acknowledged")

    def _signal(self, kind: int, body: memoryview, now: float) -> None:
        if len(body) != _TIME.size:
            raise ProtocolError(f"a ping of {len(body)} bytes")
        if kind == _PING:
            self._signals.append(bytes((_PONG,)) + body)
        else:
            self.peer.returned(_TIME.unpack(body)[0], now)
