"""What a worker's messages and connections become for its listener; the rest is in test_hub.py, with real workers."""

from __future__ import annotations

import asyncio
from typing import Any

from support.notes import Notes

from distmap.core.events import WorkerLost, WorkerMeasured, WorkerSuspected, WorkerTrusted
from distmap.core.limits import LIMITS
from distmap.engine.remote_worker import RemoteWorker
from distmap.transport.identity import worker_info
from distmap.transport.memory import connect
from distmap.wire.messages import Beat, Died, Revoke, Task

WORKER = worker_info(name="ann", slots=2, tags=frozenset())


def joined(heard: list[tuple[str, Any]]) -> tuple[RemoteWorker, Any]:
    """A worker of the pool, and its own end of the connection."""
    to_worker, to_pool = connect({"name": "nb"}, WORKER)
    worker = RemoteWorker(to_worker, "wss://ann", on_gone=lambda worker: True, limits=LIMITS)
    worker.listener = Notes(7, lambda kind, message: heard.append((kind, message)))
    worker.conversation.start()
    return worker, to_pool


def test_an_outage_is_told_as_silence_and_as_what_it_is() -> None:
    """The scheduler hears that the worker is suspect and trusted again; its status has what the worker kept."""

    async def main() -> None:
        heard: list[tuple[str, Any]] = []
        worker, _ = joined(heard)
        worker.conversation.detach("the cable was pulled")
        for kept in (3, "many", -1):
            info = {**WORKER, "kept": kept}
            worker.conversation.attach(connect({"name": "nb"}, info)[0], 0)
            worker.conversation.detach("again")
        told = [message for kind, message in heard if kind in ("disconnected", "resumed")]
        assert told[0] == "the cable was pulled"
        assert [message[1] for message in told[1::2]] == [3, 0, 0]
        events = [message for kind, message in heard if kind == "event" and not isinstance(message, WorkerMeasured)]
        assert events == [WorkerSuspected(7), WorkerTrusted(7)] * 3 + [WorkerSuspected(7)]
        worker.lost("a test", charged=True)
        worker.lost("a test", charged=False)
        worker.conversation.give_up("late")
        assert heard[-1] == ("event", WorkerLost(7, charged=True))

    asyncio.run(main())


def test_an_outage_has_more_work_sent_ahead() -> None:
    """The scheduler hears how long the outage was before it sends the worker anything again."""

    async def main() -> None:
        heard: list[tuple[str, Any]] = []
        worker, _ = joined(heard)
        worker.conversation.detach("the cable was pulled")
        worker._broke_at -= 6.0
        worker.conversation.attach(connect({"name": "nb"}, WORKER)[0], 0)
        suspected, measured, trusted = [message for kind, message in heard if kind == "event"]
        assert (suspected, trusted) == (WorkerSuspected(7), WorkerTrusted(7))
        assert 6.0 <= measured.ahead < 7.0
        worker.conversation.abort()

    asyncio.run(main())


def test_attempts_on_the_way_to_a_dead_process_are_taken_back() -> None:
    """They would run in the fresh one, although the driver gives them to others."""

    async def main() -> None:
        heard: list[tuple[str, Any]] = []
        worker, _ = joined(heard)
        sent: list[Any] = []
        worker.conversation.send = lambda message, parts=(): sent.append(message)  # type: ignore[method-assign]
        for attempt in (1, 2):
            worker.assign(Task(0, attempt, b"c" * 16, (), 0, 1, 0, 0.0), ())
        worker._on_message(Died(0, 1, 0, "died", "a test"), [])
        assert sent[2:] == [Revoke(0, 2, 0)]
        assert heard == [("died", Died(0, 1, 0, "died", "a test"))]
        worker.conversation.abort()

    asyncio.run(main())


def test_a_heartbeat_tells_how_busy_gpus_are() -> None:
    """Who the GPUs are is known from the beginning, how busy they are from each heartbeat."""

    async def main() -> None:
        heard: list[tuple[str, Any]] = []
        devices = [("0", "A100"), ("1", "A100")]
        info = worker_info(name="ann", slots=2, tags=frozenset({"gpu"}), devices=devices)
        to_worker, _ = connect({"name": "nb"}, info)
        worker = RemoteWorker(to_worker, "wss://ann", on_gone=lambda worker: True, limits=LIMITS)
        worker.listener = Notes(7, lambda kind, message: heard.append((kind, message)))
        assert worker.info.devices == tuple(devices)
        worker._on_message(Beat(0.5, 0.5, ((-1, 0, 0.0),) * 2, "", ((0.5, 0.25), (-1.0, 1.0))), [])
        assert ("devices_used", ((0.5, 0.25), (-1.0, 1.0))) in heard

    asyncio.run(main())
