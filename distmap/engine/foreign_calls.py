"""The calls to one member of a foreign engine: how they are made, and what is said to their far ends.

Owns which function of ours runs there, with what it needs, the side channel to it, and errors in words. What is behind
the adapter is foreign code: nothing but `submit` raises here.
"""

from __future__ import annotations

import itertools
import os
from functools import partial

from distmap.engine import foreign_host
from distmap.engine.adapter import Adapter, Call, Fate, Run
from distmap.engine.attempt import run_here, run_there
from distmap.engine.foreign_payloads import ForeignPayloads
from distmap.engine.foreign_queue import ForeignAttempt
from distmap.engine.side_channel import UNNUMBERED, Origin, pack
from distmap.engine.traits import call_or_default
from distmap.wire.messages import Interrupt, Kill, Revoke


class ForeignCalls:
    """Makes the calls to one member.

    Args:
        key: the member's.
        slots: how many calls it runs at once.
    """

    def __init__(self, adapter: Adapter, key: str, slots: int, payloads: ForeignPayloads) -> None:
        #: Names the calls where they run.
        self.id = os.urandom(8)
        self._adapter = adapter
        self._key = key
        self._slots = slots
        self._payloads = payloads
        self._numbers = itertools.count(1)

    def submit(self, entry: ForeignAttempt, *, everything: bool) -> Call:
        """Have an attempt run there.

        Args:
            entry: the attempt.
            everything: send all payloads with it, as they are missing there.

        Raises:
            Exception: See `fate`.
        """
        payloads, needed = self._payloads, entry.needed
        blobs = payloads.blobs(needed) if everything else payloads.small(needed)
        handles = [] if everything else payloads.handles(needed)
        entry.number = next(self._numbers)
        run: Run = run_there
        if self._adapter.here:
            run = partial(run_here, entry.cells)
        elif self._adapter.isolated:
            run = partial(foreign_host.run, self._slots, Origin(self.id, entry.number))
        entry.call = self._adapter.submit(self._key, run, entry.task, blobs, handles, entry.parts)
        return entry.call

    def fate(self, error: BaseException) -> Fate:
        """What the error of a call means."""
        return call_or_default(lambda: self._adapter.fate(error), "failed")

    def cancel(self, call: Call) -> bool:
        """Whether it has certainly not begun, and never will."""
        return call_or_default(lambda: self._adapter.cancel(call), False)

    def forget(self, call: Call) -> None:
        """Nobody waits for it any more."""
        call_or_default(lambda: self._adapter.forget(call), None)

    def wish(self, entry: ForeignAttempt, message: Revoke | Interrupt | Kill) -> None:
        """Tell the far end of an attempt, if there is a way. What cannot be told is finished there."""
        if self._adapter.isolated and entry.call is not None:
            wish = pack(Origin(self.id, entry.number), UNNUMBERED, message)
            call_or_default(lambda: self._adapter.send(self._key, wish), False)

    def unanswering(self) -> str | None:
        """Why nothing is run there any more; None if calls are taken."""
        return call_or_default(lambda: self._adapter.unanswering(self._key), None)


def exit_text(error: BaseException) -> str:
    """How a process ended, in a line: that of the exit codes if there is one."""
    lines = str(error).splitlines()
    line = next((line for line in lines if "exit code" in line), lines[0] if lines else "")
    return f"{type(error).__name__}: {line[:200]}".strip(": ")


def ended_because(name: str, error: BaseException, *, broken: bool) -> str:
    """In one sentence: it is no more, and what to do."""
    if broken:
        return (
            f"{name} is broken: one of its processes ended ({exit_text(error)}). "
            "It cannot be mended: make a new one, and a new Pool with it"
        )
    return f"{name} takes nothing any more ({exit_text(error)})"
