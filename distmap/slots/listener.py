"""The port between task processes and whoever is responsible for them.

Owns the protocol only. The driver's `WorkerEntry` takes these calls for the slots of this machine, a worker's
`PoolSession` for those of a remote host. All calls come on the loop's thread and must not block.
"""

from __future__ import annotations

from typing import Protocol

from distmap.tasks._typing import Buffer
from distmap.wire.messages import Died, Output, Ready, Refused, Report


class SlotListener(Protocol):
    """Takes what slots report. Whoever is called owns the parts from then on."""

    def reported(self, report: Report, parts: list[Buffer]) -> None:
        """A slot finished some items of an attempt, or ended it."""

    def printed(self, output: Output, parts: list[Buffer]) -> None:
        """Items of an attempt printed something; it comes before the report of the last of them."""

    def refused(self, refused: Refused, parts: list[Buffer]) -> None:
        """An attempt cannot be run; the part holds the reason."""

    def died(self, died: Died) -> None:
        """The process of a slot ended, so all attempts that the slot held are void."""

    def ready(self, ready: Ready) -> None:
        """A slot whose process died has a new one."""
