"""Maps of a real pool and a real worker over connections that are sliced, slow, damaged or cut in two."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from distmap import Pool
from distmap.core.limits import LIMITS
from distmap.testing.relay import Relay
from distmap.testing.workers import WorkerProcess
from distmap.transport.frame_queue import FrameQueue
from distmap.transport.websocket import WebSocketChannel

DEADLINE = 30.0


@pytest.fixture
def relay(token_file: object) -> Iterator[Relay]:
    """A relay before a worker of two slots."""
    with WorkerProcess("--port", "0", "--slots", "2") as worker, Relay.before(worker.url, seed=1) as relay:
        yield relay


@pytest.fixture
def noted(tmp_path: Path) -> tuple[Callable[[int], bytes], Callable[[], list[int]]]:
    """A function that notes each of its runs, and what has run so far."""
    path = str(tmp_path / "ran")

    def work(item: int) -> bytes:
        with open(path, "ab", buffering=0) as file:
            file.write(b"%d\n" % item)
        return bytes([item]) * 500

    def ran() -> list[int]:
        return sorted(map(int, Path(path).read_text().split())) if os.path.exists(path) else []

    return work, ran


RESULTS = [bytes([item]) * 500 for item in range(20)]


def test_bytes_that_come_one_by_one_change_nothing(relay: Relay, noted: Any) -> None:
    """TLS, proof, requests and results pass in writes of one to three bytes."""
    work, ran = noted
    relay.shape(slice=3)
    with Pool(relay.url) as pool:
        assert pool.map(work, range(20)) == RESULTS
    assert ran() == list(range(20))


def test_a_slow_link_is_no_dead_worker(relay: Relay, noted: Any) -> None:
    """With latency, jitter and 100 kbit/s a map completes, and nobody is suspected, lost or asked twice."""
    work, ran = noted
    relay.shape(latency=0.05, jitter=0.05, bandwidth=12_500)
    with Pool(relay.url) as pool:
        job = pool.map_async(work, range(20))
        assert job.result(DEADLINE) == RESULTS
        assert job.stats["losses"] == job.stats["requeued"] == 0
        assert [one.state for one in pool.workers] == ["ready"]
        relay.shape()  # or the goodbye is slow, too
    assert ran() == list(range(20))


def test_no_message_is_larger_than_what_proxies_take(relay: Relay, monkeypatch: pytest.MonkeyPatch) -> None:
    """Megabytes travel both ways in WebSocket messages of at most 256 KB; the smallest known cap is 10 MiB."""
    sizes = []
    write, put = WebSocketChannel.write, FrameQueue.put

    def counting_write(self: WebSocketChannel, frames: Any) -> None:
        sizes.extend(sum(map(len, frame)) for frame in frames)
        write(self, frames)

    def counting_put(self: FrameQueue, frame: Any) -> None:
        sizes.append(len(frame))
        put(self, frame)

    monkeypatch.setattr(WebSocketChannel, "write", counting_write)
    monkeypatch.setattr(FrameQueue, "put", counting_put)
    with Pool(relay.url) as pool:
        block = bytes(5_000_000)
        assert pool.map(lambda x: x + b"1", [block]) == [block + b"1"]
    assert sum(sizes) > 10_000_000
    assert max(sizes) <= LIMITS.frame_bytes == 256 << 10
