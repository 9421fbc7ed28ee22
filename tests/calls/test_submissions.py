"""submit: items of one function travel together."""

from __future__ import annotations

import concurrent.futures
import operator
import os
import threading
import time

import numpy as np
import pytest

from distmap import JobCancelled, Pool, PoolClosed
from distmap.calls import submissions
from distmap.core.limits import LIMITS


@pytest.fixture(scope="module")
def pool():
    """Two slots."""
    with Pool(2) as pool:
        # The thread that runs callbacks stays as long as the pool.
        pool.apply_async(abs, (1,), callback=lambda value: None).get(10)
        yield pool


def test_many_submits_become_few_chunks(pool):
    """Items that wait for the same function are sent together."""
    futures = [pool.submit(pow, n, 2) for n in range(5000)]
    assert [future.result(30) for future in futures] == [n * n for n in range(5000)]


def announcements(pool, since):
    """How often the scheduler was told of submitted items."""
    return [type(what).__name__ for when, what, _ in pool.trace() if when > since].count("ItemsAdded")


def test_submits_that_follow_each_other_are_told_together(pool, monkeypatch, tmp_path, until):
    """The first at once, as is one that is alone; the others after a while, or as soon as somebody waits for one."""
    monkeypatch.setattr(submissions, "LIMITS", LIMITS._replace(submit_together=3600.0))
    before = pool.trace()[-1][0]
    for n in range(5):
        assert pool.submit(operator.neg, n).result(10) == -n
    assert announcements(pool, before) == 5
    folder = str(tmp_path)

    def hold(at):
        open(f"{folder}/at-{at}", "w").close()
        deadline = time.monotonic() + 15
        while not os.path.exists(f"{folder}/open") and time.monotonic() < deadline:
            time.sleep(0.005)
        return at

    before, futures = pool.trace()[-1][0], []
    for at in range(2):
        futures.append(pool.submit(hold, at))
        until((tmp_path / f"at-{at}").exists)
    # The second was not alone: from now on the next look would be in an hour.
    futures += [pool.submit(hold, at) for at in range(2, 50)]
    (tmp_path / "open").touch()
    assert concurrent.futures.wait(futures[-1:], 10).done
    assert [future.result(10) for future in futures] == list(range(50))
    assert announcements(pool, before) == 3


def test_submits_that_nobody_waits_for_run_soon(pool, until):
    """What was held back for a moment is sent though nobody asks for it."""
    futures = [pool.submit(operator.inv, n) for n in range(50)]
    until(lambda: all(future.done() for future in futures))
    assert all(future._made is None for future in futures)


@pytest.mark.filterwarnings("ignore:each submit looks through")  # which takes long on a busy machine
def test_a_captured_array_is_sent_once(pool):
    """However many submits of a function follow each other, it is one job, and its array is pickled into it once."""
    captured = np.arange(500_000)

    def pick(at):
        return int(captured[at])

    before = pool.trace()[-1][0]
    assert [future.result(10) for future in [pool.submit(pick, at) for at in range(100)]] == list(range(100))
    assert [type(what).__name__ for when, what, _ in pool.trace() if when > before].count("JobSubmitted") == 1


def test_callbacks_do_not_run_on_the_loop(pool):
    """A callback may take its time, or use the pool itself."""
    where, over = [], threading.Event()

    def callback(future):
        where.append((threading.current_thread().name, pool.map(abs, [-future.result()])))
        over.set()

    def late(x):
        time.sleep(0.2)  # it must not be done before it has its callback, which would then run here
        return x

    pool.submit(late, 4).add_done_callback(callback)
    assert over.wait(10)
    assert where == [("distmap-callbacks", [4])]
    over.clear()
    future = pool.submit(late, 5)
    future.add_done_callback(callback)
    # As if the loop had looked just before the callback was added.
    future._submission.hooked = False
    assert over.wait(10)
    assert where[1:] == [("distmap-callbacks", [5])]


def test_a_change_of_a_global_is_seen_by_the_next_submit(pool):
    """The function is looked at again at each submit."""
    scope = {"scale": 2}
    exec("def times(x):\n    return scale * x", scope)
    assert pool.submit(scope["times"], 5).result(10) == 10
    scope["scale"] = 3
    assert pool.submit(scope["times"], 5).result(10) == 15


def test_close_lets_submitted_items_finish():
    """close takes no more; join waits for what was submitted."""
    with Pool(1) as pool:
        futures = [pool.submit(pow, n, 2) for n in range(20)]
        pool.close()
        with pytest.raises(PoolClosed, match="not running"):
            pool.submit(pow, 1, 1)
        pool.join()
        assert [future.result(0) for future in futures] == [n * n for n in range(20)]


def test_terminate_resolves_what_is_left():
    """Nobody waits for ever for a pool that is gone."""
    with Pool(1) as pool:
        future = pool.submit(time.sleep, 60)
        waiting = [pool.submit(time.sleep, 60) for _ in range(5)]
    for one in [future, *waiting]:
        assert isinstance(one.exception(10), JobCancelled)


def test_lines_that_an_item_dropped_are_told_of(capsys):
    """The count comes with the end of the job, though nobody asks for it."""

    def flood(x):
        for number in range(100_000):
            print("line", number)

    with Pool(1) as pool:
        pool.submit(flood, 1).result(10)
        pool.close()
        pool.join()
    assert "lines of output dropped" in capsys.readouterr().err
