"""A WorkerListener that notes what an engine reports, for tests of engines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from distmap.core import events as ev
from distmap.tasks._typing import Buffer
from distmap.wire.messages import DeathReason, Died, Output, Ready, Refused, Report


class Notes:
    """Notes each report: its kind, and its arguments or the event that it becomes."""

    def __init__(self, id: int, note: Callable[[str, Any], None]) -> None:
        self.id = id
        self._note = note

    def reported(self, report: Report, parts: list[Buffer]) -> None:
        self._note("report", (report, parts))

    def printed(self, output: Output, parts: list[Buffer]) -> None:
        self._note("printed", (output, parts))

    def refused(self, refused: Refused, parts: list[Buffer]) -> None:
        self._note("refused", (refused.attempt, parts))

    def died(self, died: Died) -> None:
        self._note("died", died)

    def ready(self, ready: Ready) -> None:
        self._note("event", ev.SlotReady(self.id, ready.slot))

    def broke(self, attempt: int, at: int | None, text: str, reason: DeathReason = "died") -> None:
        self._note("broke", (attempt, at, text) if reason == "died" else (attempt, at, text, reason))

    def progressed(self, attempt: int, at: int) -> None:
        self._note("event", ev.AttemptProgressed(attempt, at))

    def watched(self, slots: Sequence[tuple[int, int, float]], states: str) -> None:
        self._note("watched", (tuple(slots), states))

    def measured(self, rtt: float, cpu: float, memory: float, ahead: float = 0.0) -> None:
        self._note("event", ev.WorkerMeasured(self.id, rtt, cpu, memory, ahead))

    def devices_used(self, use: Sequence[tuple[float, float]]) -> None:
        self._note("devices_used", tuple(use))

    def suspected(self) -> None:
        self._note("event", ev.WorkerSuspected(self.id))

    def trusted(self) -> None:
        self._note("event", ev.WorkerTrusted(self.id))

    def disconnected(self, sentence: str) -> None:
        assert sentence
        self._note("disconnected", sentence)

    def resumed(self, seconds: float, results: int) -> None:
        self._note("resumed", (seconds, results))

    def draining(self) -> None:
        self._note("event", ev.WorkerDraining(self.id))

    def lost(self, charged: bool, reason: str) -> None:
        assert reason
        self._note("event", ev.WorkerLost(self.id, charged))
