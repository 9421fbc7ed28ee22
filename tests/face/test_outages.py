"""What a bad network costs: real workers behind a relay that resets, silences or corrupts their connections."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections import Counter

import pytest

import distmap
from distmap.testing.relay import Relay

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="sends signals")

ITEMS = 60


@pytest.fixture
def runs(tmp_path):
    """A function that notes each of its runs, and what was noted: item -> runs."""
    notes = tmp_path / "runs"
    path = str(notes)

    def run(item):
        import os
        import time

        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(descriptor, b"%d\n" % item)
        os.close(descriptor)
        time.sleep(0.03)
        return -item

    run.seen = lambda: Counter(map(int, notes.read_text().split())) if notes.exists() else Counter()
    return run


def work_through(pool, runs, until, faults):
    """A map during which each fault happens when some more items were begun; every item ran once, nobody was lost."""
    noted, seen = runs, runs.seen
    del noted.seen
    job = pool.map_async(noted, range(ITEMS), chunksize=2)
    for number, fault in enumerate(faults, 1):
        until(lambda number=number: len(seen()) >= 8 * number)
        fault()
    assert job.result(18) == [-item for item in range(ITEMS)]
    assert set(seen().values()) == {1}
    stats = dict(job.stats)
    assert (stats["losses"], stats["requeued"]) == (0, 0)
    assert [one.state for one in pool.workers] == ["ready"]


@pytest.mark.parametrize("dials", ["the pool dials", "the worker dials"])
def test_resets_cost_nothing(dials, worker, runs, until):
    """The session goes on over a new connection, whoever dialled: no item runs twice, the function is sent once."""
    if dials == "the pool dials":
        started = worker("--port", "0", "--slots", "2", "--name", "ann")
        with Relay.before(started.expect(r"listening on (\S+)")[1]) as relay, distmap.Pool(relay.url) as pool:
            work_through(pool, runs, until, [relay.reset] * 3)
            assert 1 <= pool.last.stats["resumes"] <= 3
    else:
        with distmap.Pool(listen="wss://127.0.0.1:0") as pool, Relay.before(pool.url) as relay:
            started = worker(relay.url, "--slots", "2", "--name", "ann")
            pool.wait_for_workers(1, 15)
            work_through(pool, runs, until, [relay.reset] * 3)
            assert 1 <= pool.last.stats["resumes"] <= 3
    started.expect(r"pool .* is out of reach")
    started.expect(r"pool .* is back after .* s; \d+ kept results? sent")
    assert sum("run: function received" in line for line in started.log) == 1


def test_a_path_that_is_gone_for_a_while(worker, runs, until):
    """The worker goes on with what it has, and what it finished comes once the path is back."""
    started = worker("--port", "0", "--slots", "2", "--name", "ann")
    with Relay.before(started.expect(r"listening on (\S+)")[1]) as relay, distmap.Pool(relay.url) as pool:
        seen = runs.seen

        def gone():
            before = len(seen())
            relay.silence()
            relay.reset()
            until(lambda: [one.state for one in pool.workers] == ["reconnecting"])
            until(lambda: len(seen()) > before)  # what had been given before went on
            relay.speak()

        work_through(pool, runs, until, [gone])


def test_a_corrupt_byte_costs_nothing(worker, runs, until):
    """TLS notices it and ends the connection; the session goes on over another one."""
    started = worker("--port", "0", "--slots", "2", "--name", "ann")
    with Relay.before(started.expect(r"listening on (\S+)")[1]) as relay, distmap.Pool(relay.url) as pool:
        faults = [lambda: relay.flip("to_client", 100).wait(10), lambda: relay.flip("to_target", 100).wait(10)]
        work_through(pool, runs, until, faults)


def test_a_new_kernel_has_the_workers_of_the_one_that_was_killed(worker, tmp_path, until):
    """It listens where the old one did, with the same token; what ran for the old one has ended."""
    script = textwrap.dedent("""
        import sys, time, os, distmap

        def hang(path):
            open(path, "w").write(str(os.getpid()))
            time.sleep(600)

        pool = distmap.Pool(listen=sys.argv[1])
        print(pool.url, flush=True)
        pool.map(hang, [sys.argv[2]])
    """)
    command = [sys.executable, "-c", script, "wss://127.0.0.1:0", str(tmp_path / "pid")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as old:
        assert old.stdout is not None
        url = old.stdout.readline().strip()
        started = worker(url, "--slots", "1", "--name", "ann")
        pid = int(until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text(), 15))
        old.send_signal(signal.SIGKILL)
    with distmap.Pool(listen=url) as pool:
        pool.wait_for_workers(1, 15)
        assert pool.map(abs, [-1, -2]) == [1, 2]
        until(lambda: not alive(pid))
        started.expect(r"pool .* is out of reach")
        started.expect(r"registered again with")


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
