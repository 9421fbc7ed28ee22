"""Many workers in one process: real ones (their dialling, proofs, sessions) but for their task processes.

`python -m chaos.simulated URL COUNT` meets a pool at a relay, until standard input ends.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import Any

from chaos.shortened import VARIABLE, shorten

if __name__ == "__main__":
    shorten(**json.loads(os.environ.get(VARIABLE, "{}")))

from distmap.tasks.payload import Payload
from distmap.tasks.runner import Runner
from distmap.wire import messages as msg

#: What each item takes.
SECONDS = 0.5


class SimulatedSlots:
    """In place of the task processes of a worker: each attempt runs in this process when its time has passed."""

    def __init__(self, count: int, listener: Any, **_: Any) -> None:
        self._listener = listener
        self._runner = Runner()
        self._waiting: dict[int, tuple[asyncio.TimerHandle, msg.Task]] = {}
        # Loop time until which the slot is busy: it runs one attempt after the other.
        self._busy = 0.0

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def put(self, digest: bytes, kind: msg.BlobKind, parts: Any) -> None:
        self._runner.put(digest, kind, Payload(parts[0], tuple(parts[1:])))

    def drop(self, digest: bytes) -> None:
        self._runner.drop(digest)

    def assign(self, task: msg.Task, parts: Any) -> None:
        self._busy = max(self._busy, self._loop.time()) + SECONDS * (task.hi - task.lo)
        self._waiting[task.attempt] = self._loop.call_at(self._busy, self._run, task, parts), task

    def _run(self, task: msg.Task, parts: Any) -> None:
        del self._waiting[task.attempt]
        self._runner.run(task, Payload(parts[0], tuple(parts[1:])), [-1] * 8, self._emit)

    def _emit(self, message: Any, payload: Payload) -> None:
        parts = [bytearray(part) for part in payload.parts]
        if isinstance(message, msg.Report):
            self._listener.reported(message, parts)
        elif isinstance(message, msg.Refused):
            self._listener.refused(message, parts)

    def revoke(self, slot: int, attempt: int, stop: int) -> None:
        if attempt in self._waiting:
            waiting, task = self._waiting.pop(attempt)
            waiting.cancel()
            report = msg.Report(slot, attempt, task.lo, task.lo, 0.0, True, ())
            self._loop.call_soon(self._listener.reported, report, [b""])

    def interrupt(self, slot: int, attempt: int) -> None:
        self.revoke(slot, attempt, 0)

    def kill(self, slot: int) -> None:
        raise AssertionError("nothing in this script is killed")

    def progress(self) -> list[tuple[int, int, float]]:
        return [(-1, 0, 0.0)]

    def states(self) -> str:
        return ""

    def hold(self, held: bool) -> None:
        pass

    async def close(self, *, now: bool) -> None:
        for waiting, _ in self._waiting.values():
            waiting.cancel()


def simulate(url: str, count: int) -> None:
    """Be so many workers, until standard input ends."""
    from distmap.transport.first_hop import FirstHop
    from distmap.transport.room import parse_relay, worker_room
    from distmap.transport.token import load_token
    from distmap.worker import serving
    from distmap.worker.supervisor import Settings, Supervisor

    serving.Slots = SimulatedSlots  # type: ignore[misc, assignment]

    async def main() -> None:
        relay, token = parse_relay(url), load_token()
        workers = []
        for number in range(count):
            hop = FirstHop(room=worker_room(token, relay, None))
            settings = Settings(f"w{number}", 1, token, hop=hop)
            workers.append(Supervisor(settings, announce=lambda line: None))
        loop = asyncio.get_running_loop()
        dialling = [loop.create_task(worker.dial(relay)) for worker in workers]
        await loop.run_in_executor(None, sys.stdin.read)
        for worker in workers:
            worker.terminate("the end")
        await asyncio.gather(*dialling)

    asyncio.run(main())


if __name__ == "__main__":
    simulate(sys.argv[1], int(sys.argv[2]))
