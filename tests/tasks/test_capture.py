"""What tasks print, gathered: lines, bounds, counts, and streams that stand what user code does to them."""

from __future__ import annotations

import logging
import sys
import threading

import pytest
from support.captured import DEADLINE, Captured

from distmap.tasks import capture as module
from distmap.tasks.capture import OutputCapture
from distmap.tasks.streams import RedirectedStream
from distmap.wire.messages import OUTPUT_BYTES, OUTPUT_PIECES, Output

MUCH = OUTPUT_BYTES // 4


def test_a_line_goes_at_once(far: Captured) -> None:
    """A whole line is passed on before `print` returns, with its stream and item."""
    far.cells[1] = 4
    print("hello", 1, file=far.out)
    assert far.found == [(4, 0, "hello 1\n")]
    far.cells[1] = 5
    print("a\nb", file=far.err)
    assert far.found[1:] == [(5, 1, "a\n"), (5, 1, "b\n")]
    assert far.dropped == 0


def test_a_line_that_is_not_complete_waits(far: Captured) -> None:
    """Until its end, the end of its item, or a report; its neighbours on the other stream do not wait."""
    far.cells[1] = 0
    print("one ", end="", file=far.out)
    print("err", file=far.err)
    assert far.found == [(0, 1, "err\n")]
    print("two", file=far.out)
    assert far.found[1:] == [(0, 0, "one two\n")]
    far.out.write("left")
    far.cells[1] = 1
    print("next", file=far.out)
    assert far.found[2:] == [(0, 0, "left\n"), (1, 0, "next\n")]
    far.out.write("last")
    with far.capture.lock:
        far.capture.flush()
    assert far.found[4:] == [(1, 0, "last\n")]


def test_flush_shows_what_is_there_but_not_too_often(far: Captured) -> None:
    """The first flush of an incomplete line shows it; dots that are flushed one by one do not fill the cell."""
    print("loading", end="...", flush=True, file=far.out)
    assert far.text == "loading...\n"
    for _ in range(5):
        print(".", end="", flush=True, file=far.out)
    assert far.text == "loading...\n"
    far.now = 11.0
    far.out.flush()
    assert far.text == "loading...\n.....\n"
    print("done", flush=True, file=far.out)
    assert far.text == "loading...\n.....\ndone\n"


def test_of_an_overwritten_line_the_last_is_kept(far: Captured) -> None:
    """A progress bar of the task is a line now and then, not one each time it moves; line ends of DOS are line ends."""
    for percent in range(0, 101, 10):
        far.err.write(f"\r{percent}%")
        far.err.flush()
    assert far.text == "0%\n"
    far.err.write("\n")
    assert far.text == "0%\n100%\n"
    far.err.write("half\r")
    far.err.write("\r    \r")
    far.end()
    assert far.text == "0%\n100%\n"
    far.begin()
    far.out.write("dos\r\nunix\nbar 1\rbar 2\rend\n50%\r")
    far.out.write("60%")
    far.end()
    assert far.text[len("0%\n100%\n") :] == "dos\nunix\nend\n60%\n"


def test_many_lines_are_gathered(far: Captured) -> None:
    """The first lines go one by one, the rest together, a little later and all of it: nothing waits for a next line."""
    for number in range(1000):
        print(number, file=far.out)
    gathered = len(far.outputs)
    assert gathered <= 21
    far.now = 1.0
    far.until(lambda: far.text.count("\n") == 1000)
    assert far.text == "".join(f"{number}\n" for number in range(1000))
    assert len(far.outputs) <= gathered + 2
    assert far.dropped == 0


def test_too_much_is_dropped_and_counted(far: Captured) -> None:
    """Beyond the bound of bytes lines are left out, each of them counted; time makes room again."""
    for number in range(100_000):
        far.out.write(f"{number} {'x' * 20}\n")
    far.end()
    shown = far.text.count("\n")
    assert MUCH - 50 < len(far.text) <= MUCH
    assert shown + far.dropped == 100_000
    far.begin()
    far.now = 1.0
    print("later", file=far.out)
    far.end()
    assert far.text.endswith("later\n")
    assert shown + 1 + far.dropped == 100_001


def test_a_huge_text_is_cut(far: Captured) -> None:
    """Of one enormous line its beginning is shown; of many lines at once those that fit."""
    far.out.write("y" * 50_000_000)
    far.end()
    assert far.text == "y" * MUCH
    assert far.dropped == 1
    far.begin()
    far.found.clear()
    far.now = 100.0
    far.out.write("line\n" * 1_000_000)
    far.end()
    assert far.text == "line\n" * (MUCH // 5)
    assert far.dropped == 1 + 1_000_000 - MUCH // 5


def test_four_byte_characters_fit(far: Captured) -> None:
    """The bound of an Output in bytes holds for characters of any length, and for what is no character."""
    far.out.write("\N{SLIGHTLY SMILING FACE}" * MUCH)
    far.end()
    assert len(far.text) == MUCH
    far.begin()
    far.now = 10.0
    print("a\udcffb", file=far.out)
    far.end()
    assert far.text.endswith("a?b\n")


def test_the_number_of_pieces_is_bounded(far: Captured) -> None:
    """Many items that print little each: as many as an Output may name, the rest counted."""
    far.ready = lambda output: False
    far.capture._flushing = True  # nobody else passes anything on
    for number in range(OUTPUT_PIECES + 100):
        far.cells[1] = number
        print("x", file=far.out)
    far.end()
    assert len(far.found) == OUTPUT_PIECES
    assert far.dropped == 100


def test_what_cannot_go_at_once_goes_by_another_thread(far: Captured) -> None:
    """Where the connection is full the task does not wait, and nothing is lost."""
    far.ready = lambda output: False
    print("one", file=far.out)
    far.until(lambda: far.text == "one\n")
    print("two", file=far.out)
    far.until(lambda: far.text == "one\ntwo\n")
    assert far.dropped == 0


def test_a_lock_that_is_held_keeps_nobody_waiting(far: Captured) -> None:
    """While another thread passes something on, a print only leaves its text; what is far too much is counted."""
    with far.capture.lock:
        thread = threading.Thread(target=lambda: [print("z" * 99, file=far.out) for _ in range(10_000)])
        thread.start()
        thread.join(DEADLINE)
        assert not thread.is_alive()
        assert far.outputs == []
    far.end()
    # Of one line the text may have been taken and its end refused.
    assert 10_000 <= far.text.count("\n") + far.dropped <= 10_001
    assert far.dropped > 0


def test_a_print_in_the_middle_of_a_print(far: Captured) -> None:
    """A finalizer that prints while something is passed on neither waits for itself nor gets lost."""

    def interrupting(output: Output) -> bool:
        far.ready = lambda output: True
        print("inner", file=far.err)
        return True

    far.ready = interrupting
    print("outer", file=far.out)
    far.until(lambda: "inner" in far.text)
    assert far.found == [(-1, 0, "outer\n"), (-1, 1, "inner\n")]


def test_an_exception_in_the_middle_of_a_print(far: Captured) -> None:
    """A signal handler of the task's that raises leaves everything usable, and no text gone."""

    def timeout(output: Output) -> bool:
        far.ready = lambda output: True
        raise TimeoutError

    far.ready = timeout
    with pytest.raises(TimeoutError):
        print("one", file=far.out)
    print("two", file=far.out)
    far.end()
    assert far.text == "one\ntwo\n"


def test_a_lock_that_was_left_held_is_let_go(far: Captured) -> None:
    """Should an exception have kept the lock, the next attempt lets it go."""
    far.capture.lock.acquire()
    far.capture.lock.acquire()
    far.begin()
    threading.Thread(target=print, args=("free",), kwargs={"file": far.out}).start()
    far.until(lambda: far.text == "free\n")


def test_whoever_asks_is_called_after_a_print(far: Captured) -> None:
    """A signal that came in the middle of a print can be seen to afterwards, at the frame that printed."""
    frames = []

    def again(frame: object) -> None:
        far.capture.after_write = None
        frames.append(frame)

    far.capture.after_write = again
    print("x", file=far.out)
    print("y", file=far.out)
    assert frames == [sys._getframe()]


def test_threads_print_whole_lines(far: Captured) -> None:
    """Lines written in one piece by many threads stay whole, and none is lost."""

    def work(name: str) -> None:
        for number in range(200):
            far.out.write(f"{name} {number}\n")

    threads = [threading.Thread(target=work, args=(str(n) * 10,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
    far.end()
    lines = far.text.splitlines()
    assert sorted(lines) == sorted(f"{str(n) * 10} {number}" for n in range(8) for number in range(200))


def test_nothing_is_kept_where_nothing_is_wanted(far: Captured) -> None:
    """A task whose output is not wanted prints to nobody, at no cost; the next one prints again."""
    far.begin(output=False)
    print("x" * 1000, file=far.out, flush=True)
    assert far.out.write("abc") == 3
    far.end()
    assert far.outputs == []
    far.begin()
    print("y", file=far.out)
    assert far.text == "y\n"
    assert far.dropped == 0


def test_what_comes_after_the_end_is_not_the_next_attempts(far: Captured) -> None:
    """Text that a thread left while the last report was sent is counted, not shown under a wrong name."""
    with far.capture.lock:
        far.capture.flush()
        print("late", file=far.out)
        far.capture._task = None
    far.begin()
    print("early", file=far.out)
    far.end()
    assert far.text == "early\n"
    assert far.dropped == 1


def test_an_end_that_is_not_there_costs_nothing(far: Captured) -> None:
    """Where the connection is gone the gathering thread leaves quietly."""
    far.ready = lambda output: False

    def gone(output: Output, text: bytes, wait: bool) -> bool:
        if wait:
            with far.news:
                far.news.notify_all()
            raise BrokenPipeError
        return False

    far.capture._emit = gone
    with far.news:
        print("x", file=far.out)
        assert far.news.wait(DEADLINE)
    far.capture._emit = far.take
    far.end()
    assert far.text == "x\n"


def test_without_a_thread_to_be_had_nothing_is_lost(far: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    """What no thread can pass on goes with the report."""

    def refuse(*_: object) -> int:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(module, "start_new_thread", refuse)
    for number in range(100):
        print(number, file=far.out)
    far.end()
    assert far.text == "".join(f"{number}\n" for number in range(100))


def test_a_capture_that_is_not_live_waits_for_the_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing can be passed on in between, all of it comes with the flush, within the same bounds."""
    far = Captured(monkeypatch)
    far.capture = OutputCapture(far.take, live=False)
    stream = RedirectedStream(0, None, far.capture.current)
    far.begin()
    for number in range(100):
        print(number, file=stream)
    assert far.outputs == []
    far.end()
    assert far.text == "".join(f"{number}\n" for number in range(100))


# --- the stream as user code knows it --------------------------------------------------------------------------------


def test_a_handler_made_in_one_attempt_works_in_the_next(far: Captured) -> None:
    """`logging` set up at import time writes to the attempt that runs, whichever that is."""
    handler = logging.StreamHandler(far.err)
    far.end()
    far.begin()
    handler.emit(logging.makeLogRecord({"msg": "logged"}))
    assert far.found == [(-1, 1, "logged\n")]
