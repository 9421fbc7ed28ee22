"""What tasks printed, shown: tagged, tamed, bounded, counted, and in the context of its cell."""

from __future__ import annotations

import contextvars
import io
import logging
import sys
import threading
from typing import Any

import pytest

from distmap.driver import output as module
from distmap.driver.output import BURST, RATE, OutputRouter
from distmap.views.base import TextSink

DEADLINE = 10.0
CELL: contextvars.ContextVar[str] = contextvars.ContextVar("cell", default="none")


def put(
    router: OutputRouter, *texts: str | bytes, now: float = 0.0, dropped: int = 0, stream: int = 0, **rest: Any
) -> bool:
    """As the driver does: item 0 of a chunk that begins at 10, and so on."""
    values = {"worker": "gpu1", "chunk": 7, "start": 10, **rest}
    data = [text.encode() if isinstance(text, str) else text for text in texts]
    pieces = [(at, stream, text) for at, text in enumerate(data)]
    return router.put(now, values["worker"], values["chunk"], values["start"], dropped, pieces)


def test_each_line_has_its_worker_in_front(capsys: pytest.CaptureFixture[str]) -> None:
    """Every line is tagged, also in the middle of a text; a missing line end is added."""
    router = OutputRouter()
    assert put(router, "one\ntwo\n", "three", "\n")
    assert router.waiting
    router.show()
    assert not router.waiting
    assert capsys.readouterr().out == "[gpu1] one\n[gpu1] two\n[gpu1] three\n[gpu1] \n"


def test_the_item_can_be_named(capsys: pytest.CaptureFixture[str]) -> None:
    """Where it is asked for, the index of the item follows; text of no item, or of a forgotten chunk, has none."""
    router = OutputRouter(item=True)
    put(router, "a\n", "b\n")
    router.put(0.0, "gpu1", 7, 10, 0, [(-1, 0, b"loading\n")])
    put(router, "c\n", start=None)
    router.show()
    assert capsys.readouterr().out == "[gpu1 #10] a\n[gpu1 #11] b\n[gpu1] loading\n[gpu1] c\n"


def test_streams_stay_apart_and_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Standard error goes to standard error; the order of all is kept, and neighbours are written at once."""
    written: list[tuple[str, str]] = []

    class File(io.StringIO):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

        def write(self, text: str) -> int:
            written.append((self.name, text))
            return len(text)

    monkeypatch.setattr(sys, "stdout", File("out"))
    monkeypatch.setattr(sys, "stderr", File("err"))
    router = OutputRouter()
    put(router, "1\n", "2\n")
    put(router, "3\n", stream=1)
    put(router, "4\n")
    router.show()
    assert written == [("out", "[gpu1] 1\n[gpu1] 2\n"), ("err", "[gpu1] 3\n"), ("out", "[gpu1] 4\n")]


def test_a_worker_cannot_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """Control characters are shown, those of the worker's name too; letters, spaces and signs of the world stay."""
    router = OutputRouter()
    kind = "\u00fc\t\u4e2d\u00a0\u202f\N{SLIGHTLY SMILING FACE}\u200d"
    put(router, f"\x1b[31m\x07\r\x9b\u2028\u202e{kind}\x7f\n", b"\xff\xfe\n", worker="w\n\x1b]0;title")
    router.show()
    tag = "[w \\x1b]0;title] "
    shown = f"{tag}\\x1b[31m\\x07\\r\\x9b\\u2028\\u202e{kind}\\x7f\n{tag}\ufffd\ufffd\n"
    assert capsys.readouterr().out == shown


def test_somebody_is_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    """Until it is shown, more output rings no more bells; afterwards it does."""
    router = OutputRouter()
    assert put(router, "a\n")
    assert not put(router, "b\n")
    router.show()
    assert not put(router)
    assert put(router, "c\n")
    router.show()
    assert capsys.readouterr().out == "[gpu1] a\n[gpu1] b\n[gpu1] c\n"


def test_beyond_the_rate_lines_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    """What is shown in a time is bounded, tags included; what is left out is counted, and time gives credit."""
    router = OutputRouter()
    line = "x" * 90 + "\n"
    lines = 0
    for step in range(10):
        put(router, line * 20_000, now=step * 1.0)
        lines += 20_000
        router.show()
    router.show(last=True)
    out, err = capsys.readouterr()
    assert BURST + 9 * RATE - 2000 < len(out) <= BURST + 9 * RATE
    assert err.count("\n") == 1
    shown = out.count("\n")
    assert err == f"[distmap] \u2026 {lines - shown:,} lines of output dropped (more than 200 kB/s)\n".replace(
        ",", "\N{NARROW NO-BREAK SPACE}"
    )


def test_short_lines_cost_their_tags() -> None:
    """Empty lines cannot fill a cell: what counts is what is written."""
    router, file = OutputRouter(), io.StringIO()
    put(router, "\n" * 1_000_000, b"\x00" * 1_000_000)
    router._write = lambda text, stream: None if stream == "stderr" else file.write(text) and None
    router.show(last=True)
    assert BURST - 100 < len(file.getvalue()) <= BURST


def test_what_nobody_shows_is_bounded() -> None:
    """While the thread of the cell is busy elsewhere, the memory of what waits stays bounded; all else is counted."""
    router = OutputRouter()
    for step in range(100):
        put(router, "y" * 49 + "\n" * 1000, now=step * 10.0)
    assert router._held <= BURST
    assert router.has_unreported
    written: list[str] = []
    router._write = lambda text, stream: written.append(text)
    router.show(last=True)
    assert router._held == 0
    assert sum(map(len, written)) < BURST + 100


def test_lines_that_were_dropped_elsewhere_count(capsys: pytest.CaptureFixture[str]) -> None:
    """Lines that a worker left out are told of, in time and once."""
    router = OutputRouter()
    assert not router.has_unreported
    assert not put(router, dropped=1)
    assert router.has_unreported
    assert router.report_dropped()
    assert not router.has_unreported
    assert not router.report_dropped()
    router.show()
    put(router, "a\n", dropped=5)
    router.show(last=True)
    out, err = capsys.readouterr()
    assert out == "[gpu1] a\n"
    assert [text.split(" of ")[0][10:] for text in err.splitlines()] == ["\u2026 1 line", "\u2026 5 lines"]


def test_it_is_written_in_the_context_of_the_cell() -> None:
    """Whichever thread writes: context variables are those of where the router was made, or of the item's own cell."""
    seen: list[tuple[str, str]] = []

    def write(text: str, stream: str) -> None:
        seen.append((CELL.get(), text))

    def make(cell: str) -> contextvars.Context:
        CELL.set(cell)
        return contextvars.copy_context()

    here = contextvars.copy_context
    own = {(7, 1): here().run(make, "cell 2"), (8, 0): here().run(make, "cell 3")}
    CELL.set("cell 1")
    router = OutputRouter(context=lambda chunk, at: own.get((chunk, at)))
    plain = OutputRouter()
    router._write = plain._write = write
    CELL.set("another")
    put(plain, "p\n")
    put(router, "a\n", "b\n")
    put(router, "c\n", chunk=8)
    thread = threading.Thread(target=lambda: (plain.show(), router.show()))
    thread.start()
    thread.join(DEADLINE)
    assert seen == [
        ("cell 1", "[gpu1] p\n"),
        ("cell 1", "[gpu1] a\n"),
        ("cell 2", "[gpu1] b\n"),
        ("cell 3", "[gpu1] c\n"),
    ]


def test_streams_that_raise_stop_nothing(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """A standard output that is gone is logged once; what comes later is tried again."""

    class Gone(io.StringIO):
        gone = True

        def write(self, text: str) -> int:
            if self.gone:
                raise BrokenPipeError("nobody reads")
            return super().write(text)

    file = Gone()
    monkeypatch.setattr(sys, "stdout", file)
    router = OutputRouter()
    with caplog.at_level(logging.WARNING, "distmap"):
        for _ in range(3):
            put(router, "x\n")
            router.show()
    assert [record.getMessage() for record in caplog.records] == [
        "! what tasks print cannot be written here: BrokenPipeError: nobody reads"
    ]
    file.gone = False
    put(router, "y\n")
    router.show()
    assert file.getvalue() == "[gpu1] y\n"


def test_an_interrupt_loses_no_line() -> None:
    """KeyboardInterrupt while it is written passes through; the line is written the next time."""
    router = OutputRouter()
    written: list[str] = []

    def interrupted(text: str, stream: str) -> None:
        raise KeyboardInterrupt

    router._write = interrupted
    put(router, "x\n")
    with pytest.raises(KeyboardInterrupt):
        router.show()
    router._write = lambda text, stream: written.append(text)
    router.show()
    assert written == ["[gpu1] x\n"]


def test_a_stream_with_fewer_letters(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where standard output cannot spell a letter it is written by its number."""
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding="ascii", errors="strict")
    monkeypatch.setattr(sys, "stdout", file)
    router = OutputRouter()
    put(router, "gr\u00fcn\n")
    router.show()
    file.flush()
    assert raw.getvalue() == b"[gpu1] gr\\xfcn\n"


def test_without_streams_nothing_breaks(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """A program without standard output drops it."""
    monkeypatch.setattr(sys, "stdout", None)
    router = OutputRouter()
    put(router, "x\n")
    router.show()
    assert not caplog.records


def test_a_view_that_draws_is_written_through() -> None:
    """A view that draws where text is written gets the lines; others, and none, change nothing."""

    class Bar(TextSink):
        def __init__(self) -> None:
            self.lines: list[tuple[str, str]] = []

        def write(self, text: str, stream: str) -> None:
            self.lines.append((text, stream))

    router, bar = OutputRouter(), Bar()
    router.write_by(None)
    router.write_by(object())  # type: ignore[arg-type]
    assert router._write is module.write_text
    router.write_by(bar)  # type: ignore[arg-type]
    put(router, "a\n", stream=1)
    router.show()
    assert bar.lines == [("[gpu1] a\n", "stderr")]


def test_many_threads_show_each_line_once() -> None:
    """However many threads show at once, each line is written once and in order."""
    router = OutputRouter()
    written: list[str] = []
    router._write = lambda text, stream: written.append(text)
    stop = threading.Event()

    def show() -> None:
        while not stop.is_set():
            router.show()

    threads = [threading.Thread(target=show) for _ in range(4)]
    for thread in threads:
        thread.start()
    for number in range(3000):
        put(router, f"{number}\n", stream=number % 2)
    stop.set()
    for thread in threads:
        thread.join(DEADLINE)
    router.show()
    assert "".join(written) == "".join(f"[gpu1] {number}\n" for number in range(3000))
    assert router._held == 0
