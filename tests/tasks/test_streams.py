"""The stand-ins for standard output and error."""

from __future__ import annotations

import copy
import io
import os
import pickle
import subprocess
import sys

import pytest
from support.captured import Captured

from distmap.tasks.capture import OutputCapture
from distmap.tasks.streams import RedirectedStream, install
from distmap.wire.messages import Task


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


def test_it_looks_like_a_text_stream(far: Captured) -> None:
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


def test_bytes_are_text_in_utf_8(far: Captured) -> None:
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


def test_it_cannot_be_closed(far: Captured) -> None:
    """A task that closes its standard output harms nobody, itself neither."""
    with far.out:
        pass
    far.out.close()
    print("still there", file=far.out)
    assert far.text == "still there\n"


def test_it_travels_as_the_standard_stream(far: Captured) -> None:
    """Pickled or copied with whatever holds it, it is the standard stream of wherever it is."""
    assert pickle.loads(pickle.dumps(far.out)) is sys.stdout
    assert copy.deepcopy(far.err) is sys.stderr


def test_subclasses_of_str_are_plain_text(far: Captured) -> None:
    """No method of a text of the task's is called where it is gathered."""

    class Odd(str):
        def rpartition(self, sep: str) -> tuple[str, str, str]:
            raise AssertionError

    far.out.write(Odd("odd\n"))
    assert far.text == "odd\n"


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
        from distmap.tasks.capture import OutputCapture
        from distmap.tasks.streams import install
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
