"""The reader of a job's messages.

Owns `JobReader`, which dispatches each message of the driver to a method of its own, and the `Mailbox` through which
messages go from the loop to the thread that reads them. Maps, streams, submissions and set-ups are readers. Must not
know what a user may ask of a job.
"""

from __future__ import annotations

import queue
from collections import deque

from distmap.calls.results import Recalled
from distmap.driver.driver import Driver
from distmap.driver.messages import Finished, Incident, JobMessage, Landed, Lost, Placed, Printed, ReadRequest
from distmap.driver.portal import Portal
from distmap.tasks._typing import NamedTuple


class JobContext(NamedTuple):
    """The loop and the driver of a pool, which every job of it uses."""

    portal: Portal
    driver: Driver


class JobReader:
    """Handles the messages of one job. A reader overrides the methods of the messages that concern it."""

    def handle(self, message: JobMessage | Recalled) -> None:
        """Call the method for this kind of message, in the thread that reads."""
        match message:
            case Landed():
                self.landed(message)
            case Lost():
                self.lost(message)
            case Recalled():
                self.recalled(message)
            case ReadRequest():
                self.read(message)
            case Printed():
                self.printed()
            case Incident():
                self.incident(message)
            case Placed():
                self.placed(message)
            case Finished():
                self.finished(message)

    def landed(self, message: Landed) -> None:
        """Results arrived."""

    def lost(self, message: Lost) -> None:
        """An item failed without a report of its own."""

    def recalled(self, message: Recalled) -> None:
        """Results of an earlier call are there."""

    def read(self, message: ReadRequest) -> None:
        """The driver wants the next items."""

    def printed(self) -> None:
        """The job's output has something to show."""

    def incident(self, message: Incident) -> None:
        """Something went wrong that the job survives."""

    def placed(self, message: Placed) -> None:
        """A call of a set-up got its worker and slot."""

    def finished(self, message: Finished) -> None:
        """The job is over: this is its last message."""


class Mailbox:
    """Messages from the loop to the threads that read them; a reader removes a message once it has handled it.

    `put` rings the bell once for each message. For a reader that is awake this costs nothing (ringing once for a batch
    was not measurably faster), and with several readers none of them sleeps while a message waits.
    """

    def __init__(self) -> None:
        self._messages: deque[JobMessage | Recalled] = deque()
        self._bell: queue.SimpleQueue[None] = queue.SimpleQueue()

    def put(self, message: JobMessage | Recalled) -> None:
        """Add a message; from any thread."""
        self._messages.append(message)
        self._bell.put(None)

    def first(self, timeout: float | None = None) -> JobMessage | Recalled:
        """Return the first message and leave it there. Raises queue.Empty after `timeout` seconds without one."""
        while not self._messages:
            self._bell.get(timeout=timeout)
        return self._messages[0]

    def drop(self) -> None:
        """Remove the first message."""
        self._messages.popleft()

    # For several readers, which take turns: each waits, then peeks.

    def wait(self, timeout: float | None = None) -> None:
        """Wait until there may be a message. Raises queue.Empty after `timeout` seconds."""
        if not self._messages:
            self._bell.get(timeout=timeout)

    def peek(self) -> JobMessage | Recalled | None:
        """Return the first message and leave it there; None if there is none."""
        return self._messages[0] if self._messages else None

    def ring(self) -> None:
        """Wake one reader that waits, without a message."""
        self._bell.put(None)
