"""What tasks print, gathered: lines, bounds, counts, and streams that stand what user code does to them."""

from __future__ import annotations

import copy
import io
import logging
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator

import pytest

from distmap.tasks import capture as module
from distmap.tasks.capture import OutputCapture, RedirectedStream, install
from distmap.wire.messages import OUTPUT_BYTES, OUTPUT_PIECES, Output, Task

DEADLINE = 10.0
MUCH = OUTPUT_BYTES // 4


class Far:
    """What an attempt's capture passes on, and a clock that stands still unless told otherwise."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(module, "monotonic", lambda: self.now)
        self.outputs: list[Output] = []
        self.found: list[tuple[int, int, str]] = []
        #: Whether something can go without waiting; called with each Output.
        self.ready: Callable[[Output], bool] = lambda output: True
        self.news = threading.Condition()
        self.capture = OutputCapture(self.take)
        self.cells = [-1] * 8
        self.out = RedirectedStream(0, None, self.capture.current)
        self.err = RedirectedStream(1, None, self.capture.current)
        self.begin()

    def begin(self, **fields: bool) -> None:
        self.capture.begin(Task(3, 9, b"c" * 16, (), 0, 10, 0, 0.0)._replace(**fields), self.cells)

    def take(self, output: Output, text: bytes, wait: bool) -> bool:
        if not wait and not self.ready(output):
            return False
        assert (output.slot, output.attempt) == (3, 9)
        assert output.spells(len(text))
        with self.news:
            self.outputs.append(output)
            lo = 0
            for at, stream, size in output.pieces:
                self.found.append((at, stream, text[lo : lo + size].decode()))
                lo += size
            self.news.notify_all()
        return True

    def end(self) -> None:
        with self.capture.lock:
            self.capture.end()

    @property
    def text(self) -> str:
        return "".join(text for _, _, text in self.found)

    @property
    def dropped(self) -> int:
        return sum(output.dropped for output in self.outputs)

    def until(self, happened: Callable[[], object]) -> None:
        with self.news:
            assert self.news.wait_for(happened, DEADLINE), self.outputs


@pytest.fixture
def far(monkeypatch: pytest.MonkeyPatch) -> Iterator[Far]:
    far = Far(monkeypatch)
    yield far
    far.end()


def test_a_line_goes_at_once(far: Far) -> None:
    """A whole line is passed on before `print` returns, with its stream and item."""
    far.cells[1] = 4
    print("hello", 1, file=far.out)
    assert far.found == [(4, 0, "hello 1\n")]
    far.cells[1] = 5
    print("a\nb", file=far.err)
    assert far.found[1:] == [(5, 1, "a\n"), (5, 1, "b\n")]
    assert far.dropped == 0


def test_a_line_that_is_not_complete_waits(far: Far) -> None:
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


def test_flush_shows_what_is_there_but_not_too_often(far: Far) -> None:
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


def test_of_an_overwritten_line_the_last_is_kept(far: Far) -> None:
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


def test_many_lines_are_gathered(far: Far) -> None:
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


def test_too_much_is_dropped_and_counted(far: Far) -> None:
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


def test_a_huge_text_is_cut(far: Far) -> None:
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


def test_four_byte_characters_fit(far: Far) -> None:
    """The bound of an Output in bytes holds for characters of any length, and for what is no character."""
    far.out.write("\N{SLIGHTLY SMILING FACE}" * MUCH)
    far.end()
    assert len(far.text) == MUCH
    far.begin()
    far.now = 10.0
    print("a\udcffb", file=far.out)
    far.end()
    assert far.text.endswith("a?b\n")


def test_the_number_of_pieces_is_bounded(far: Far) -> None:
    """Many items that print little each: as many as an Output may name, the rest counted."""
    far.ready = lambda output: False
    far.capture._flushing = True  # nobody else passes anything on
    for number in range(OUTPUT_PIECES + 100):
        far.cells[1] = number
        print("x", file=far.out)
    far.end()
    assert len(far.found) == OUTPUT_PIECES
    assert far.dropped == 100


def test_what_cannot_go_at_once_goes_by_another_thread(far: Far) -> None:
    """Where the connection is full the task does not wait, and nothing is lost."""
    far.ready = lambda output: False
    print("one", file=far.out)
    far.until(lambda: far.text == "one\n")
    print("two", file=far.out)
    far.until(lambda: far.text == "one\ntwo\n")
    assert far.dropped == 0


def test_a_lock_that_is_held_keeps_nobody_waiting(far: Far) -> None:
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


def test_a_print_in_the_middle_of_a_print(far: Far) -> None:
    """A finalizer that prints while something is passed on neither waits for itself nor gets lost."""

    def interrupting(output: Output) -> bool:
        far.ready = lambda output: True
        print("inner", file=far.err)
        return True

    far.ready = interrupting
    print("outer", file=far.out)
    far.until(lambda: "inner" in far.text)
    assert far.found == [(-1, 0, "outer\n"), (-1, 1, "inner\n")]


def test_an_exception_in_the_middle_of_a_print(far: Far) -> None:
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


def test_a_lock_that_was_left_held_is_let_go(far: Far) -> None:
    """Should an exception have kept the lock, the next attempt lets it go."""
    far.capture.lock.acquire()
    far.capture.lock.acquire()
    far.begin()
    threading.Thread(target=print, args=("free",), kwargs={"file": far.out}).start()
    far.until(lambda: far.text == "free\n")


def test_whoever_asks_is_called_after_a_print(far: Far) -> None:
    """A signal that came in the middle of a print can be seen to afterwards, at the frame that printed."""
    frames = []

    def again(frame: object) -> None:
        far.capture.again = None
        frames.append(frame)

    far.capture.again = again
    print("x", file=far.out)
    print("y", file=far.out)
    assert frames == [sys._getframe()]


def test_threads_print_whole_lines(far: Far) -> None:
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


def test_outside_of_an_attempt_text_goes_where_it_went_before() -> None:
    """Before, after and in a forked process the original stream is written to and flushed."""
    original = io.TextIOWrapper(io.BytesIO())
    capture = OutputCapture(lambda output, text, wait: True)
    stream = RedirectedStream(0, original, capture.current)

    def written() -> str:
        original.flush()
        return original.buffer.getvalue().decode()  # type: ignore[attr-defined]

    print("before", file=stream, flush=True)
    stream.buffer.write(b"bytes\n")
    stream.buffer.flush()
    capture.begin(Task(0, 1, b"c" * 16, (), 0, 1, 0, 0.0), [-1] * 8)
    print("within", file=stream, flush=True)
    capture.forked()
    print("forked", file=stream)
    assert written() == "before\nbytes\nforked\n"


def test_nothing_is_kept_where_nothing_is_wanted(far: Far) -> None:
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


def test_what_comes_after_the_end_is_not_the_next_attempts(far: Far) -> None:
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


def test_an_end_that_is_not_there_costs_nothing(far: Far) -> None:
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


def test_without_a_thread_to_be_had_nothing_is_lost(far: Far, monkeypatch: pytest.MonkeyPatch) -> None:
    """What no thread can pass on goes with the report."""

    def refuse(*_: object) -> int:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(module, "start_new_thread", refuse)
    for number in range(100):
        print(number, file=far.out)
    far.end()
    assert far.text == "".join(f"{number}\n" for number in range(100))


def test_a_spout_that_is_not_live_waits_for_the_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing can be passed on in between, all of it comes with the flush, within the same bounds."""
    far = Far(monkeypatch)
    far.capture = OutputCapture(far.take, live=False)
    stream = RedirectedStream(0, None, far.capture.current)
    far.begin()
    for number in range(100):
        print(number, file=stream)
    assert far.outputs == []
    far.end()
    assert far.text == "".join(f"{number}\n" for number in range(100))


# --- the stream as user code knows it --------------------------------------------------------------------------------


def test_it_looks_like_a_text_stream(far: Far) -> None:
    """What libraries look at is there: types, encoding, no terminal, the real descriptor."""
    stream = RedirectedStream(1, sys.__stderr__, far.capture.current)
    assert isinstance(stream, io.TextIOBase)
    assert (stream.encoding, stream.errors, stream.name, stream.mode) == ("utf-8", "replace", "<stderr>", "w")
    assert stream.writable()
    assert not stream.isatty()
    assert not stream.readable()
    assert not stream.seekable()
    assert not stream.closed
    assert stream.fileno() == stream.buffer.fileno() == 2
    assert stream.buffer.writable()
    stream.reconfigure(line_buffering=True, encoding="latin-1")
    stream.writelines(["a", "b\n"])
    assert far.text == "ab\n"
    with pytest.raises(TypeError, match="must be str, not bytes"):
        stream.write(b"x")  # type: ignore[arg-type]
    with pytest.raises(io.UnsupportedOperation):
        far.out.fileno()


def test_bytes_are_text_in_utf_8(far: Far) -> None:
    """`buffer` takes bytes, in any pieces, and whoever wraps it anew may drop the wrapper."""
    data = "gr\u00fc\u00df\n".encode()
    for byte in data:
        assert far.out.buffer.write(bytes([byte])) == 1
    assert far.text == "gr\u00fc\u00df\n"
    far.out.buffer.write(memoryview(b"\xff\n"))
    wrapped = io.TextIOWrapper(far.out.buffer, encoding="utf-8")
    wrapped.write("wrapped\n")
    wrapped.close()
    assert far.out.buffer.detach() is far.out.buffer.raw is far.out.detach()
    far.out.buffer.flush()
    print("still there", file=far.out)
    assert far.text == "gr\u00fc\u00df\n\ufffd\nwrapped\nstill there\n"


def test_it_cannot_be_closed(far: Far) -> None:
    """A task that closes its standard output harms nobody, itself neither."""
    with far.out:
        pass
    far.out.close()
    print("still there", file=far.out)
    assert far.text == "still there\n"


def test_it_travels_as_the_standard_stream(far: Far) -> None:
    """Pickled or copied with whatever holds it, it is the standard stream of wherever it is."""
    assert pickle.loads(pickle.dumps(far.out)) is sys.stdout
    assert copy.deepcopy(far.err) is sys.stderr


def test_subclasses_of_str_are_plain_text(far: Far) -> None:
    """No method of a text of the task's is called where it is gathered."""

    class Odd(str):
        def rpartition(self, sep: str) -> tuple[str, str, str]:
            raise AssertionError

    far.out.write(Odd("odd\n"))
    assert far.text == "odd\n"


def test_a_handler_made_in_one_attempt_works_in_the_next(far: Far) -> None:
    """`logging` set up at import time writes to the attempt that runs, whichever that is."""
    handler = logging.StreamHandler(far.err)
    far.end()
    far.begin()
    handler.emit(logging.makeLogRecord({"msg": "logged"}))
    assert far.found == [(-1, 1, "logged\n")]


def test_without_standard_streams_nothing_breaks(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a process without standard output and error, printing outside of an attempt is no error."""
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    out, err = install(lambda: None)
    assert (sys.stdout, sys.stderr) == (out, err)
    print("x", flush=True)
    err.buffer.write(b"x")
    err.buffer.flush()
    assert out.buffer.write(b"abc") == 3


def test_warnings_and_logging_come_by_here() -> None:
    """Warnings and unconfigured logging of a task are written to what stands for standard error."""
    code = """if True:
        import sys, warnings, logging
        from distmap.tasks.capture import OutputCapture, install
        from distmap.wire.messages import Task
        texts = []
        capture = OutputCapture(lambda output, text, wait: texts.append(text.decode()) or True)
        install(capture.current)
        capture.begin(Task(0, 1, b"c" * 16, (), 0, 1, 0, 0.0), [-1] * 8)
        warnings.warn("careful")
        logging.getLogger("mine").warning("logged")
        with capture.lock:
            capture.end()
        assert "UserWarning: careful" in texts[0], texts
        assert texts[-1] == "logged\\n", texts
        print("fine")
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ, timeout=60)
    assert (done.stdout, done.stderr) == ("fine\n", "")
