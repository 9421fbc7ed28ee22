"""What functions print, warn and log lands where the call was made: tagged, in order, bounded, never silently gone."""

from __future__ import annotations

import asyncio
import contextvars
import io
import os
import re
import sys
import threading
import warnings
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context, resource_tracker

import pytest

import distmap

CELL: contextvars.ContextVar[str] = contextvars.ContextVar("cell", default="none")


class Screen(io.StringIO):
    """Stands for both streams of a notebook: notes of each line in which context it was written."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[tuple[str, str]] = []

    def write(self, text: str) -> int:
        self.lines += [(CELL.get(), line) for line in text.splitlines()]
        return super().write(text)


@pytest.fixture(autouse=True, scope="module")
def tracker():
    """multiprocessing's tracker of named resources stays once it was started; that is not a test's leak."""
    resource_tracker.ensure_running()


@pytest.fixture(scope="module")
def pool2(pool2):
    """The thread that runs callbacks, and shows what submitted items print, stays as long as the pool."""
    pool2.apply_async(abs, (1,), callback=lambda value: None).get(10)
    return pool2


def in_cell(name, function, *args, **options):
    """Call it as the cell of that name would."""

    def call():
        CELL.set(name)
        return function(*args, **options)

    return contextvars.copy_context().run(call)


def put_up(monkeypatch, screen):
    """Make it both standard streams; in the test itself, as pytest puts its own there before each phase."""
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setattr(sys, "stderr", screen)
    return screen


def test_prints_of_a_map(pool2, capsys):
    """Each line comes once, with its worker, in order within an item, and is there when `map` returns."""

    def talk(x):
        print("one", x)
        print("two", x)
        return x

    assert pool2.map(talk, range(20)) == list(range(20))
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert err == ""
    assert sorted(lines) == sorted(f"[local] {word} {x}" for x in range(20) for word in ("one", "two"))
    for x in range(20):
        assert lines.index(f"[local] one {x}") < lines.index(f"[local] two {x}")


def test_the_item_is_named_where_it_is_asked_for(pool2, capsys):
    """`output="item"` puts the item's index behind the worker's name, across chunks."""
    pool2.map(lambda x: print("is", x), range(100, 150), output="item", chunksize=7)
    assert sorted(capsys.readouterr().out.splitlines()) == sorted(f"[local #{n}] is {100 + n}" for n in range(50))


def test_output_can_be_turned_off(pool2, capfd):
    """`output=False` shows nothing, neither here nor on the real streams, and the next call prints again."""

    def talk(x):
        print("out")
        print("err", file=sys.stderr)

    pool2.map(talk, range(5), output=False)
    assert capfd.readouterr() == ("", "")
    pool2.map(talk, [1])
    assert capfd.readouterr() == ("[local] out\n", "[local] err\n")
    with pytest.raises(ValueError, match="output must be"):
        pool2.map(talk, [1], output="off")


def test_warnings_and_logging_come_too(pool2, capsys):
    """A warning, a log record nobody configured, and a configured one from a module's own handler."""

    def talk(x):
        import logging
        import warnings

        warnings.warn("careful", stacklevel=1)
        logging.getLogger("mine").warning("unconfigured %d", x)
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(levelname)s:%(message)s"))
        mine = logging.getLogger("mine.too")
        mine.propagate = False
        mine.addHandler(handler)
        mine.error("configured %d", x)
        mine.removeHandler(handler)

    with warnings.catch_warnings():
        warnings.simplefilter("default")  # the filters of the call hold in its tasks
        pool2.map(talk, [7])
    out, err = capsys.readouterr()
    assert out == ""
    assert re.search(r"^\[local\] .*UserWarning: careful$", err, re.MULTILINE)
    assert "[local] unconfigured 7\n[local] ERROR:configured 7\n" in err


def test_a_flood_is_bounded_and_says_so(pool2, capsys):
    """Of a flood a part is shown, one line a second and at the end says how many lines are missing: together all."""

    def flood(x):
        for number in range(50_000):
            print("line", number)
        return x

    assert pool2.map(flood, range(4), chunksize=1) == [0, 1, 2, 3]
    out, err = capsys.readouterr()
    told = re.findall(r"^\[distmap\] \u2026 ([\d\u202f]+) lines? of output dropped \(more than 200 kB/s\)$", err, re.M)
    assert len(told) == err.count("\n") > 0
    missing = sum(int(number.replace("\u202f", "")) for number in told)
    assert len(out) < 4_000_000
    # A line whose end was too much is shown and counted.
    assert 200_000 <= out.count("\n") + missing <= 200_200


def test_what_was_printed_before_an_error_is_shown(pool2, capsys):
    """The output of an item that raises, crashes or is cut off by another's error is there when the error is."""

    def fail(x):
        print("before", x)
        raise ValueError(x)

    def crash(x):
        print("before", x)
        os._exit(1)

    with pytest.raises(ValueError, match="3"):
        pool2.map(fail, [3])
    assert capsys.readouterr().out == "[local] before 3\n"
    with distmap.Pool(1) as pool, pytest.raises(distmap.PoisonItemError):
        pool.map(crash, [4])
    assert capsys.readouterr().out == "[local] before 4\n" * 3  # each of its runs


def test_while_it_runs(pool2, gate, until, monkeypatch):
    """Lines are shown while the item still runs, of a job in the background too."""
    screen = put_up(monkeypatch, Screen())
    wait = gate.wait

    def talk(x):
        print("begun")
        wait(x)

    job = pool2.map_async(talk, [1])
    until(lambda: ("none", "[local] begun") in screen.lines)
    assert not job.ready()
    gate.open()
    job.result(10)


def test_two_jobs_at_once_print_each_where_it_was_started(pool2, gate, monkeypatch):
    """Lines of jobs that overlap go to their own cells, while a third one runs and after they have ended."""
    screen = put_up(monkeypatch, Screen())
    wait = gate.wait

    def talk(x):
        wait(x)
        print("item", x)

    first = in_cell("cell 1", pool2.map_async, talk, ["a"])
    second = in_cell("cell 2", pool2.map_async, talk, ["b"])
    gate.open()
    first.wait(10)
    second.wait(10)
    assert sorted(screen.lines) == [("cell 1", "[local] item a"), ("cell 2", "[local] item b")]


def test_streams_print_where_they_were_made(pool2, monkeypatch):
    """Lines of an `imap` are there with its results, whoever takes those."""
    screen = put_up(monkeypatch, Screen())

    def talk(x):
        print("item", x)
        return x

    results = in_cell("cell 1", pool2.imap, talk, range(10), chunksize=2)
    for x in results:
        assert ("cell 1", f"[local] item {x}") in screen.lines
    assert sorted(screen.lines) == sorted(("cell 1", f"[local] item {x}") for x in range(10))


def test_submitted_items_print_where_each_was_submitted(gate, monkeypatch, until):
    """Futures of one function from several cells, in one chunk or not, print each in its own; before the result."""
    screen = put_up(monkeypatch, Screen())
    wait = gate.wait

    def talk(x):
        wait("all")
        print("item", x)
        return x

    with distmap.Pool(2) as pool:
        futures = [in_cell(f"cell {n}", pool.submit, talk, n) for n in range(20)]
        gate.open()
        for n, future in enumerate(futures):
            assert future.result(10) == n
            assert (f"cell {n}", f"[local] item {n}") in screen.lines
        assert len(screen.lines) == 20
        assert in_cell("applied", pool.apply, talk, ("x",)) == "x"
        assert screen.lines[20:] == [("applied", "[local] item x")]
        # Nobody asks for this one's result: a thread of the pool shows it.
        in_cell("forgotten", pool.apply_async, talk, ("y",))
        until(lambda: ("forgotten", "[local] item y") in screen.lines)


def test_awaited_jobs_print_too(pool2, monkeypatch):
    """In a coroutine, with `await` and `async for`."""
    screen = put_up(monkeypatch, Screen())

    def talk(x):
        print("item", x)
        return x

    async def main():
        await pool2.map_async(talk, ["a"])
        return [x async for x in pool2.imap(talk, ["b"])]

    assert asyncio.run(main()) == ["b"]
    assert screen.lines == [("none", "[local] item a"), ("none", "[local] item b")]


def test_other_calls_print_too(capsys):
    """`starmap`, `map_reduce`, `map_batches`, `run` and the executor."""

    def talk(*args):
        print("got", *args)
        return 1

    with distmap.Pool(2) as pool:
        pool.starmap(talk, [(1, 2)])
        pool.map_reduce(talk, [3], max)
        pool.map_batches(lambda batch: talk(*batch) and batch, [4, 5], batch_size=2)
        pool.run(talk)
        with pool.executor() as executor:
            executor.submit(talk, 6).result()
            list(executor.map(talk, [7]))
    assert capsys.readouterr().out.splitlines() == [
        "[local] got 1 2",
        "[local] got 3",
        "[local] got 4 5",
        "[local] got",
        "[local] got",
        "[local] got 6",
        "[local] got 7",
    ]


def test_threads_of_a_task_print_too(pool2, capsys):
    """Output of the threads that an item starts is its own."""

    def talk(x):
        threads = [threading.Thread(target=sys.stdout.write, args=(f"thread {n}\n",)) for n in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    pool2.map(talk, ["x"], output="item")
    assert sorted(capsys.readouterr().out.splitlines()) == [f"[local #0] thread {n}" for n in range(5)]


def test_a_worker_cannot_steer_the_terminal(pool2, capsys):
    """Escape sequences and bells are shown as text; a progress bar of the task is its last state."""

    def talk(x):
        print("\x1b[2J\x07gone?")
        for percent in (10, 50, 100):
            sys.stdout.write(f"\r{percent}%")
        print()

    pool2.map(talk, [0])
    assert capsys.readouterr().out == "[local] \\x1b[2J\\x07gone?\n[local] 100%\n"


def test_standard_output_that_is_gone_stops_nothing(pool2, monkeypatch):
    """A closed pipe for standard output costs the output, not the results."""

    class Gone(io.StringIO):
        def write(self, text):
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stdout", Gone())
    assert pool2.map(lambda x: print(x) or x, range(50)) == list(range(50))
    assert list(pool2.imap(lambda x: print(x) or x, range(50))) == list(range(50))
    assert pool2.submit(lambda: print("x") or 7).result(10) == 7


def test_a_bar_in_a_terminal_makes_room(pool2, monkeypatch, gate):
    """With a bar shown, lines stand above it."""

    class Tty(io.StringIO):
        def isatty(self):
            return True

    tty = put_up(monkeypatch, Tty())
    wait = gate.wait

    def talk(x):
        wait(x)
        print("item", x)
        return x

    shown = threading.Thread(target=lambda: (wait_for_bar(tty), gate.open()))
    shown.start()
    assert pool2.map(talk, range(3), progress=True, desc="score") == [0, 1, 2]
    shown.join(10)
    pieces = re.split(r"[\r\n]", tty.getvalue())
    for x in range(3):
        assert f"[local] item {x}" in pieces  # on a line of its own
    assert "score: 100%" in [piece for piece in pieces if piece.strip()][-1]


def wait_for_bar(tty):
    for _ in range(2000):
        if "score:" in tty.getvalue():
            return
        threading.Event().wait(0.005)


def test_workers_far_away(worker, capsys, gate, until):
    """Over TLS: lines come with the worker's name, while its item runs, with the item, in order, bounded; or not."""
    started = worker("--port", "0", "--slots", "2", "--name", "gpu1")
    wait = gate.wait

    def talk(x):
        for number in range(3):
            print("line", number, "of", x)
        return x

    def slow(x):
        print("begun", x)
        wait(x)

    def flood(x):
        for number in range(100_000):
            print("line", number)

    with distmap.Pool(started.expect(r"listening on (wss://\S+)")[1]) as pool:
        assert pool.map(talk, range(10), output="item") == list(range(10))
        lines = capsys.readouterr().out.splitlines()
        assert len(lines) == 30
        for x in range(10):
            mine = [line for line in lines if line.startswith(f"[gpu1 #{x}] ")]
            assert mine == [f"[gpu1 #{x}] line {number} of {x}" for number in range(3)]
        job = pool.map_async(slow, ["far"])
        heard = []
        until(lambda: heard.append(capsys.readouterr().out) or "[gpu1] begun far\n" in "".join(heard))
        assert not job.ready()
        gate.open()
        job.result(10)
        pool.map(talk, range(10), output=False)
        assert capsys.readouterr().out == ""
        pool.map(flood, [0])
        out, err = capsys.readouterr()
        told = re.findall(r"\u2026 ([\d\u202f]+) lines? of output dropped", err)
        missing = sum(int(number.replace("\u202f", "")) for number in told)
        assert missing > 0
        assert 100_000 <= out.count("\n") + missing <= 100_100
        assert pool.submit(talk, "s").result(10) == "s"
        assert capsys.readouterr().out == "".join(f"[gpu1] line {number} of s\n" for number in range(3))


def test_executors_of_others(capsys):
    """In processes of another executor lines come with each report; threads of this process print directly."""

    def talk(x):
        print("item", x)
        return x

    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as processes, distmap.Pool(processes) as pool:
        assert pool.map(talk, range(3), output="item") == [0, 1, 2]
        assert capsys.readouterr().out == "".join(f"[ProcessPoolExecutor #{x}] item {x}\n" for x in range(3))
        pool.map(talk, range(3), output=False)
        assert capsys.readouterr().out == ""
    with ThreadPoolExecutor(1) as threads, distmap.Pool(threads) as pool:
        pool.map(talk, range(3))
        assert capsys.readouterr().out == "item 0\nitem 1\nitem 2\n"
    with distmap.Pool("inline") as pool:
        pool.map(talk, range(3))
        assert capsys.readouterr().out == "item 0\nitem 1\nitem 2\n"
