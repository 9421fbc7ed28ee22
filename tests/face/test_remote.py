"""Workers over WebSocket, both ways round, with real `distmap-worker` processes and TLS on the loopback interface."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

import distmap

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="sends signals")


def listening(worker, *args):
    """A worker that listens on a free port, and its URL."""
    started = worker("--port", "0", "--slots", "1", *args)
    return started, started.expect(r"listening on (wss://\S+)")[1]


def test_workers_that_listen(worker):
    """Two listening workers serve one pool: results, errors that name the worker, arrays, and a readable repr."""
    first, url1 = listening(worker, "--name", "ann")
    second, url2 = listening(worker, "--name", "bob")
    with distmap.Pool([url1, url2]) as pool:
        pool.wait_for_workers(2, 15)
        assert sorted(one.name for one in pool.workers) == ["ann", "bob"]
        assert all(one.slots == 1 for one in pool.workers)
        assert "ann" in repr(pool) + repr(pool.workers)
        k = 3
        assert pool.map(lambda x: k * x, range(1000)) == [3 * x for x in range(1000)]
        assert sorted(pool.run(os.getpid)) == ["ann", "bob"]
        second.expect("job [0-9a-f]{8} getpid: function received")
        with pytest.raises(ZeroDivisionError) as caught:
            pool.map(lambda x: 1 // (x - 5), range(20))
        assert any(name in "".join(caught.value.__notes__) for name in ("ann", "bob"))
        data = [bytes([x]) * 1_000_000 for x in range(6)]
        assert pool.map(lambda block: block[:1] * 700_000, data) == [bytes([x]) * 700_000 for x in range(6)]
        token = Path(os.environ["DISTMAP_TOKEN_FILE"]).read_text().strip()
        assert token not in repr(pool) + repr(pool.workers) + "".join(first.log + second.log)
    assert first.process.poll() is None


def test_workers_that_dial_in(worker):
    """Workers register with a listening pool and serve it."""
    with distmap.Pool(listen="wss://127.0.0.1:0") as pool:
        assert pool.url.startswith("wss://127.0.0.1:")
        for name in ("ann", "bob"):
            worker(pool.url, "--slots", "1", "--name", name).expect("registered with wss://")
        pool.wait_for_workers(2, 15)
        assert pool.map(lambda x: x, range(40), chunksize=1) == list(range(40))
        assert sorted(one.name for one in pool.workers) == ["ann", "bob"]


def test_a_port_for_a_proxy_of_this_machine(worker):
    """`listen=True`: a port without TLS of its own, whose two ends speak TLS inside the messages, and say so."""
    with distmap.Pool(listen=True) as pool:
        assert pool.url.startswith("ws://127.0.0.1:")
        started = worker(pool.url, "--slots", "1", "--name", "ann")
        started.expect("pool .* joined .*, end to end through a proxy")
        started.expect("registered with ws://")
        pool.wait_for_workers(1, 15)
        assert [one.way for one in pool.workers] == ["end to end through a proxy"]
        assert "end to end through a proxy" in repr(pool.workers)
        data = [bytes([x]) * 1_000_000 for x in range(4)]
        assert pool.map(lambda block: block[:1] * 700_000, data) == [bytes([x]) * 700_000 for x in range(4)]


def test_a_worker_behind_a_path(worker):
    """`--base-path`: a worker that a proxy leads to; its banner has the path, and it takes TLS inside the messages."""
    started = worker("--port", "0", "--slots", "1", "--base-path", "/lab/")
    url = started.expect(r"listening on (ws://\S+)")[1]
    assert url.endswith("/lab")
    with distmap.Pool(url) as pool:
        assert pool.map(str, range(3)) == ["0", "1", "2"]
        assert [one.way for one in pool.workers] == ["end to end through a proxy"]


def test_a_worker_that_is_killed(worker, gate, until):
    """A worker that is killed in the middle of a map loses nothing: nothing listens there any more."""
    started = {name: listening(worker, "--name", name) for name in ("ann", "bob")}
    with distmap.Pool([url for _, url in started.values()]) as pool:
        pool.wait_for_workers(2, 15)
        wait = gate.wait
        job = pool.map_async(lambda x: wait(x) if x in (0, 1) else x, range(40), chunksize=1)
        until(lambda: len(gate.waiting()) == 2)
        started["ann"][0].process.send_signal(signal.SIGKILL)
        until(lambda: [one.state for one in pool.workers if one.name == "ann"] == ["reconnecting"])
        gate.open()
        assert job.result(18) == list(range(40))
        assert dict(job.stats)["losses"] == 1
        until(lambda: [one.name for one in pool.workers if one.state != "lost"] == ["bob"])
        assert pool.map(abs, range(10)) == list(range(10))


def test_a_worker_joins_while_a_map_runs(worker, gate, until):
    """A worker that joins while a map runs takes part in it."""
    with distmap.Pool(listen="wss://127.0.0.1:0") as pool:
        wait = gate.wait

        def where(x):
            import os

            wait(x)
            return os.getpid()

        worker(pool.url, "--slots", "1")
        pool.wait_for_workers(1, 15)
        job = pool.map_async(where, range(20), chunksize=1)
        until(lambda: len(gate.waiting()) == 1, 15)
        worker(pool.url, "--slots", "1")
        until(lambda: len(gate.waiting()) == 2, 15)
        gate.open()
        assert len(set(job.result(15))) == 2


def test_sigterm_drains_a_worker(worker, gate, until):
    """SIGTERM: what runs finishes, nothing is lost or charged, the process ends well."""
    first, url1 = listening(worker, "--name", "ann")
    _, url2 = listening(worker, "--name", "bob")
    with distmap.Pool([url1, url2]) as pool:
        pool.wait_for_workers(2, 15)
        wait = gate.wait
        job = pool.map_async(lambda x: wait(x) if x in (0, 1) else x, range(40), chunksize=1)
        until(lambda: len(gate.waiting()) == 2)
        first.process.send_signal(signal.SIGTERM)
        until(lambda: [one.state for one in pool.workers if one.name == "ann"] in (["draining"], []))
        gate.open()
        assert job.result(15) == list(range(40))
        assert first.process.wait(10) == 0
        assert dict(job.stats)["requeued"] <= 1
        assert pool.map(abs, range(10)) == list(range(10))


def test_a_second_pool_is_told_who_is_served(worker):
    """One worker serves one pool at a time; a second is told so in one sentence."""
    _, url = listening(worker, "--name", "ann")
    with distmap.Pool(url) as pool:
        assert pool.map(abs, [-1]) == [1]
        with (
            pytest.raises(distmap.DistmapError, match=r"(?i)busy|serves"),
            distmap.Pool(url, connect_timeout=5) as other,
        ):
            other.wait_for_workers(1, 5)
        assert pool.map(abs, [-2]) == [2]


def test_a_worker_serves_the_next_pool(worker):
    """When a pool ends, its workers serve the next one."""
    _, url = listening(worker)
    for k in range(2):
        with distmap.Pool(url) as pool:
            pool.wait_for_workers(1, 15)
            assert pool.map(lambda x, k=k: x + k, range(3)) == [k, k + 1, k + 2]


def test_a_wrong_token_is_refused_on_both_sides(worker, tmp_path):
    """A pool with another token is refused; both sides say so in one sentence, without the token."""
    from distmap.transport.token import Secret

    started, url = listening(worker)
    wrong = Secret.generate()
    with (
        pytest.raises(distmap.DistmapError, match=r"(?i)token") as caught,
        distmap.Pool(url, token=wrong, connect_timeout=5) as pool,
    ):
        pool.wait_for_workers(1, 5)
    assert wrong.reveal() not in str(caught.value)
    assert "\n" not in str(caught.value).strip()
    started.expect(r"(?i)token")
    assert started.process.poll() is None


def test_local_slots_and_a_worker_in_one_pool(worker):
    """`Pool([url, 1])` uses both; modules, classes and exceptions of this process travel to both."""
    _, url = listening(worker, "--name", "ann")
    with distmap.Pool([url, 1]) as pool:
        pool.wait_for_workers(2, 15)

        class Thing:
            def __init__(self, v):
                self.v = v

        got = pool.map(lambda x: __import__("time").sleep(0.01) or Thing(x), range(20), chunksize=1)
        assert [type(one) is Thing and one.v for one in got] == list(range(20))
        assert sorted(pool.run(os.getpid)) == ["ann", "local"]
