"""Frames that the other side has not acknowledged: what a new channel has to be given again.

Owns the numbers of the frames of one direction, and the frames, by reference to the sender's parts. It must not know
what is in a frame. Read by `session.py`, which bounds the bytes that are kept here.
"""

from __future__ import annotations

from collections import deque

from distmap.errors import ProtocolError
from distmap.tasks._typing import Buffer


class FrameLog:
    """Numbered frames, from the first that is not acknowledged to the last that was given out."""

    __slots__ = ("_frames", "acked", "behind", "in_flight", "nbytes", "sent")

    def __init__(self) -> None:
        #: Number of the last frame that was given out; the first has 1.
        self.sent = 0
        #: Bytes of the frames in the log, and those of data among them, which the credit bounds.
        self.nbytes = self.in_flight = 0
        #: Number of the last frame that the other side has taken, as far as it said so.
        self.acked = 0
        # Number, bytes, bytes of data, buffers.
        self._frames: deque[tuple[int, int, int, list[Buffer]]] = deque()
        #: Those of them that the present channel has not been given; some may be acknowledged already.
        self.behind: deque[tuple[int, int, int, list[Buffer]]] = deque()

    def __len__(self) -> int:
        return len(self._frames)

    @property
    def oldest(self) -> int | None:
        """Number of the oldest frame in the log; None if all that was given out is acknowledged."""
        return self.acked + 1 if self._frames else None

    def add(self, frame: list[Buffer], nbytes: int, data: int) -> None:
        """Keep the frame with the number after `sent`."""
        self.sent += 1
        self.nbytes += nbytes
        self.in_flight += data
        self._frames.append((self.sent, nbytes, data, frame))

    def acknowledge(self, ack: int) -> None:
        """The other side has taken all frames up to this number. An older number, which came late, changes nothing."""
        if ack <= self.acked:
            return
        if ack > self.sent:
            raise ProtocolError(f"frame {ack} was acknowledged, but only {self.sent} were sent")
        self.acked = ack
        frames = self._frames
        while frames and frames[0][0] <= ack:
            _, nbytes, data, _ = frames.popleft()
            self.nbytes -= nbytes
            self.in_flight -= data

    def rewind(self, received: int) -> None:
        """A new channel: the other side has taken the frames up to `received`; the later ones go out again.

        Raises ProtocolError, and changes nothing, for a number that this log's other side cannot have.
        """
        if received < self.acked:
            raise ProtocolError(f"the other side has {received} frames now, and acknowledged {self.acked} before")
        self.acknowledge(received)
        self.behind = self._frames.copy()

    def again(self) -> list[Buffer] | None:
        """The next frame to give out again, with its old head; None when all have been."""
        while self.behind:
            seq, _, _, frame = self.behind.popleft()
            if seq > self.acked:
                return frame
        return None
