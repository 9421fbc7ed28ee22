"""Calls with `checkpoint=`: run again, they go on where they were."""

from __future__ import annotations

import gc
import itertools
import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path

import numpy as np
import pytest

import distmap
from distmap import CheckpointChanged, CheckpointError, CheckpointInUse
from distmap.calls.job import serving_of
from distmap.checkpoint.store import close_store, open_store
from distmap.core.limits import LIMITS


class Ran:
    """Counts the items that a function was called for, in whatever process."""

    def __init__(self, folder: Path) -> None:
        self.path = str(folder / "ran")

    def note(self, item: object) -> None:
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(f"{item!r}\n")

    def new(self) -> list[str]:
        """The items since the last look, sorted."""
        path = Path(self.path)
        lines = path.read_text(encoding="utf-8").split("\n")[:-1] if path.exists() else []
        path.unlink(missing_ok=True)
        return sorted(lines)


@pytest.fixture
def ran(tmp_path):
    return Ran(tmp_path)


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "scores.sqlite")


def fails_for(items, note):
    """A function that notes its items, and raises for some."""

    def score(x):
        note(x)
        if x in items:
            raise ValueError(f"no {x}")
        return x * 10

    return score


def test_a_map_goes_on_where_it_failed(pool2, ran, path):
    """Run again, only items without a result run; a failed one is tried again, and the card says what was known."""
    note = ran.note
    with pytest.raises(ValueError, match="no 7"):
        pool2.map(fails_for({7}, note), range(12), checkpoint=path, chunksize=2)
    first = ran.new()
    assert "7" in first

    def score(x):
        note(x)
        return x * 10

    def ten_times(x):
        return score(x)

    assert pool2.map(ten_times, range(12), checkpoint=path) == list(range(0, 120, 10))
    ran.new()
    assert pool2.map(ten_times, range(14), checkpoint=path) == list(range(0, 140, 10))
    assert ran.new() == ["12", "13"]
    last = pool2.last.progress
    assert (last.known, last.done, last.total, last.checkpoint) == (12, 14, 14, "scores.sqlite")
    assert "12 of 14 from scores.sqlite" in pool2.last._repr_mimebundle_()["text/html"]


def test_failed_items_are_tried_again(pool2, ran, path):
    """With on_error="return" the others are kept; the next run computes the failed ones only, at their places."""
    bad = {3, 8}
    score = fails_for(bad, ran.note)
    found = pool2.map(score, range(10), checkpoint=path, on_error="return", chunksize=3)
    assert [at for at, value in enumerate(found) if isinstance(value, ValueError)] == [3, 8]
    ran.new()
    found = pool2.map(score, range(10), checkpoint=path, on_error="skip")
    assert found == [x * 10 for x in range(10) if x not in bad]
    assert ran.new() == ["3", "8"]
    assert [index for index, _ in pool2.last.failures] == [3, 8]


def test_every_call_takes_the_results_of_every_other(pool2, ran, path):
    """Calls with the same function share results; each gives them in its own way."""
    note = ran.note

    def square(x):
        note(x)
        return x * x

    expected = [x * x for x in range(20)]
    assert pool2.map(square, range(20), checkpoint=path) == expected
    ran.new()
    assert list(pool2.imap(square, range(20), checkpoint=path)) == expected
    assert sorted(pool2.imap_unordered(square, (x for x in range(20)), checkpoint=path)) == expected
    assert pool2.map_reduce(square, list(range(20)), lambda a, b: [*a, b], initial=[], checkpoint=path) == expected
    job = pool2.map_async(square, range(20), checkpoint=path)
    assert list(job) == expected
    assert job.result(20) == expected
    assert ran.new() == []


def test_starmap_has_results_of_its_own(pool2, ran, path):
    """`starmap` and several iterables give arguments; a tuple as the one argument is another call."""
    note = ran.note

    def both(*args):
        note(args)
        return len(args)

    data = [(1, 2), (3, 4)]
    assert pool2.starmap(both, data, checkpoint=path) == [2, 2]
    assert pool2.map(both, [1, 3], [2, 4], checkpoint=path) == [2, 2]
    assert len(ran.new()) == 2
    assert pool2.map(both, data, checkpoint=path) == [1, 1]


def test_batches_are_cut_as_before(pool2, ran, path):
    """Without batch_size= the batches are those of the first call, on any number of slots."""
    note = ran.note
    data = np.arange(40.0)

    def twice(part):
        note(len(part))
        return 2 * part

    assert (pool2.map_batches(twice, data, batch_size=7, checkpoint=path) == 2 * data).all()
    ran.new()
    assert (pool2.map_batches(twice, data, checkpoint=path) == 2 * data).all()
    assert ran.new() == []
    with pytest.raises(CheckpointChanged, match="batch_size= was 7 and is 8"):
        pool2.map_batches(twice, data, batch_size=8, checkpoint=path)


def test_arrays_of_an_iterator_are_taken_as_they_come(pool2, ran, path):
    """A generator that fills one array again and again gives what it would give without a checkpoint."""
    note = ran.note

    def total(x):
        note(float(x[0]))
        return float(x.sum())

    def frames(count):
        frame = np.empty(3)
        for at in range(count):
            frame[:] = at
            yield frame

    assert list(pool2.imap(total, frames(6), checkpoint=path)) == [0, 3, 6, 9, 12, 15]
    ran.new()
    assert pool2.map(total, frames(9), checkpoint=path) == [3 * at for at in range(9)]
    assert ran.new() == ["6.0", "7.0", "8.0"]


def test_random_numbers_are_those_of_the_item(pool2, path):
    """With seed= an item draws the same numbers, whether those before it are known or not."""

    def draw(x):
        return x, int(distmap.rng().integers(1 << 40))

    expected = pool2.map(draw, range(12), seed=5)
    assert pool2.map(draw, range(5), seed=5, checkpoint=path) == expected[:5]
    assert pool2.map(draw, range(12), seed=5, checkpoint=path) == expected
    assert pool2.map(draw, range(12), seed=5, checkpoint=path) == expected
    with pytest.raises(CheckpointChanged, match="seed= was 5 and is 6"):
        pool2.map(draw, range(12), seed=6, checkpoint=path)


def test_errors_name_the_item_of_the_input(pool2, ran, path):
    """Behind known items an error names the index in the input."""
    score = fails_for({15}, ran.note)
    pool2.map(score, range(10), checkpoint=path)
    with pytest.raises(ValueError, match="no 15") as caught:
        pool2.map(score, range(20), checkpoint=path)
    assert any("item 15" in note for note in caught.value.__notes__)


def test_a_stream_reads_ahead_of_its_consumer_only_so_far(pool2, path):
    """Known items of an endless input are read as they are taken."""

    def same(x):
        return x

    pool2.map(same, range(3000), checkpoint=path)
    read = itertools.count()
    last = [0]

    def numbers():
        for at in read:
            last[0] = at
            yield at

    with_buffer = pool2.imap(same, numbers(), checkpoint=path, buffer=20)
    assert [next(with_buffer) for _ in range(100)] == list(range(100))
    with_buffer.close()
    assert last[0] <= 100 + 20 + LIMITS.checkpoint_look_items
    stream = pool2.imap(same, itertools.count(), checkpoint=path)
    assert [next(stream) for _ in range(3100)] == list(range(3100))
    stream.close()


def test_a_changed_function_is_an_error_by_default(pool2, path):
    """The sentence names what changed; "keep" takes the old results and warns, "restart" computes anew."""
    scale = 2

    def score(x):
        return x * scale

    assert pool2.map(score, [1, 2], checkpoint=path) == [2, 4]
    scale = 3
    with pytest.raises(CheckpointChanged, match=r"the captured value scale changed since 2 results of .*score in"):
        pool2.map(score, [1, 2], checkpoint=path)
    with pytest.warns(UserWarning, match="the captured value scale changed .* are kept"):
        assert pool2.map(score, [1, 2, 3], checkpoint=path, on_change="keep") == [2, 4, 9]
    scale = 5
    with pytest.warns(UserWarning, match="computed anew"):
        assert pool2.map(score, [1, 2], checkpoint=path, on_change="restart") == [5, 10]
    assert pool2.map(score, [1, 2], checkpoint=path) == [5, 10]


def test_changed_data_is_an_error_by_default(pool2, ran, path):
    """A replaced item is named, and nothing is computed before that is said; more items are no change."""
    score = fails_for((), ran.note)
    pool2.map(score, [1, 2, 3], checkpoint=path)
    ran.new()
    with pytest.raises(CheckpointChanged, match="item 1 of the data is 7"):
        pool2.map(score, [1, 7, 3], checkpoint=path)
    with pytest.warns(UserWarning, match="item 1 of the data is 7"):
        assert pool2.map(score, [1, 7, 3], checkpoint=path, on_change="keep") == [10, 70, 30]
    assert ran.new() == ["7"]
    assert pool2.map(score, [9, 1, 7, 3, 4], checkpoint=path) == [90, 10, 70, 30, 40]
    assert ran.new() == ["4", "9"]


def test_items_without_content_are_known_by_their_index(pool2, path):
    """What does not pickle twice alike is known by its place, and that is said once."""

    class Unstable:
        def __init__(self):
            self.at = 1

        def __getstate__(self):
            return {"at": 1, "when": os.urandom(4)}

    def one(x):
        return x.at

    with pytest.warns(UserWarning, match="known to the checkpoint by their index only"):
        assert pool2.map(one, [Unstable(), Unstable()], checkpoint=path) == [1, 1]
    with pytest.warns(UserWarning, match="index only"):
        assert pool2.map(one, [Unstable(), Unstable(), Unstable()], checkpoint=path) == [1, 1, 1]
    assert pool2.last.progress.known == 2


def test_the_file_of_another_kernel_is_refused_by_name(pool2, path):
    """While another process uses the checkpoint, a call names it; when that has ended, the call works."""
    program = (
        "import sys; from distmap.checkpoint.store import open_store; open_store(sys.argv[1]); "
        "print('open', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "open\n"
        with pytest.raises(CheckpointInUse, match=f"in use by process {other.pid} on"):
            pool2.map(abs, [1], checkpoint=path)
        other.kill()
    assert pool2.map(abs, [-1], checkpoint=path) == [1]


def test_a_file_that_is_no_checkpoint_is_left_alone(pool2, tmp_path):
    """A table of the user's is not overwritten."""
    path = tmp_path / "scores.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(distmap.CheckpointError, match="no checkpoint of distmap"):
        pool2.map(abs, [1], checkpoint=path)
    assert path.read_text() == "a,b\n1,2\n"


def test_an_interrupt_keeps_what_was_finished(pool2, ran, path, gate):
    """What was done when the call was cancelled is in the file."""
    wait, note = gate.wait, ran.note

    def slow(x):
        note(x)
        return wait(x) if x == 9 else x

    job = pool2.map_async(slow, range(20), checkpoint=path, chunksize=1)
    while len(job.partial) < 5:
        job.wait(0.01)
    job.cancel()
    assert job.wait(20)
    gate.open()
    done = len(job.partial)
    ran.new()
    assert pool2.map(slow, range(20), checkpoint=path) == list(range(20))
    assert len(ran.new()) <= 20 - done


def test_a_call_that_is_interrupted_twice_gives_its_file_back(pool2, path, gate, until):
    """The second interrupt waits for no item; all the same what came is in the file, which others may then use."""
    wait, before = gate.wait, pool2.last

    def stubborn(x):
        while x:
            try:
                return wait(x)
            except KeyboardInterrupt:
                continue
        return x

    def interrupt():
        until(lambda: pool2.last is not before and pool2.last.partial)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        until(lambda: serving_of(pool2.last).display.interrupted)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    helper = threading.Thread(target=interrupt)
    helper.start()
    with pytest.raises(KeyboardInterrupt):
        pool2.map(stubborn, range(2), checkpoint=path, chunksize=1)
    helper.join(30)
    until(lambda: not [one for one in threading.enumerate() if "journal" in one.name])
    gate.open()
    assert distmap.checkpoint_info(path).owner == ""
    assert dict(distmap.Checkpoint(path).results())[0] == 0


def test_a_failed_call_can_be_cancelled_while_its_disk_is_full(pool2, path, gate, until, caplog):
    """Nothing else would end it: its work is over, and there is no room for what it computed."""
    wait, begun = gate.wait, str(Path(path).with_name("at-1"))

    def fails(x):
        if x:
            wait(x)
            raise ValueError("no room, no result")
        while not os.path.exists(begun):
            time.sleep(0.005)
        return os.urandom(200_000)

    store = open_store(path)
    try:
        (pages,) = store._db.execute("PRAGMA page_count").fetchone()
        store._db.execute(f"PRAGMA max_page_count={pages}")
        job = pool2.map_async(fails, range(2), checkpoint=path, chunksize=1)
        until(lambda: "cannot be written" in caplog.text)
        gate.open()
        until(lambda: job.id not in pool2._driver._jobs)
        job.cancel()
        assert job.wait(20)
        with pytest.raises(CheckpointError, match="could not be written"):
            job.result()
    finally:
        close_store(store)


def test_nothing_of_it_stays(pool2, path, until):
    """When a call is over its file is free, its threads are gone, and the handle does not keep the input."""

    items = [np.zeros(3), np.ones(3)]
    seen = [weakref.ref(item) for item in items]
    job = pool2.map_async(np.sum, items[:1], checkpoint=path)
    assert job.result(20) == [0]
    assert list(pool2.imap(np.sum, items, checkpoint=path)) == [0, 3]
    del items
    until(lambda: gc.collect() >= 0 and all(ref() is None for ref in seen), 10)  # threads of the calls are on their way
    assert job.successful()
    until(lambda: not [thread.name for thread in threading.enumerate() if "journal" in thread.name], 10)
    db = sqlite3.connect(path)
    assert db.execute("SELECT * FROM owner").fetchall() == []
    assert json.loads(db.execute("SELECT options FROM function").fetchone()[0]) == {}
    db.close()
