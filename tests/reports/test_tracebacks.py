"""Section 6: the error of an item is shown once, with the user's lines and none of distmap's."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.kernels import Kernel

import distmap

ROOT = Path(__file__).resolve().parents[2]
OURS = str(Path(distmap.__file__).parent)

SET_UP = """
    import distmap, multiprocessing, time
    pool = distmap.Pool(2)

    def bad(x=0): return 1 // x

    def held(name):
        open(name, "w").close()
        time.sleep(60)

    def outer(x):
        def other(y): return y
        return bad(x)
"""

#: Call -> what its error is.
CALLS = {
    "map": ("pool.map(bad, [1, 0])", "ZeroDivisionError"),
    "starmap": ("pool.starmap(bad, [(1,), (0,)])", "ZeroDivisionError"),
    "job": ("pool.map_async(bad, [1, 0]).result()", "ZeroDivisionError"),
    "imap": ("list(pool.imap(bad, [1, 0]))", "ZeroDivisionError"),
    "map_reduce": ("pool.map_reduce(bad, [1, 0], max)", "ZeroDivisionError"),
    "apply": ("pool.apply(bad, (0,))", "ZeroDivisionError"),
    "future": ("pool.submit(bad, 0).result()", "ZeroDivisionError"),
    "run": ("pool.run(bad)", "ZeroDivisionError"),
    "builtin function": ("pool.map(abs, ['a'])", "TypeError"),
    "does not pickle": ("pool.map(lambda x: pool, [1])", "PayloadError"),
    "wrong option": ("pool.map(bad, [1], chunk=2)", "TypeError"),
    "wrong value": ("pool.map(bad, [1], chunksize=0)", "ValueError"),
    "wrong address": ("distmap.Pool('ftp://here')", "ConnectError"),
    "late": ("pool.map_async(time.sleep, [60]).get(0.01)", "TimeoutError"),
}
#: Only a notebook has these.
AWAITED = {
    "awaited job": ("await pool.map_async(bad, [1, 0])", "ZeroDivisionError"),
    "awaited future": ("await pool.submit(bad, 0)", "ZeroDivisionError"),
    "async for": ("async for x in pool.map_async(bad, [1, 0]): pass", "ZeroDivisionError"),
}


def run(folder: Path, source: str, *command: str, **env: str) -> str:
    """All that a program prints."""
    (folder / "test_it.py").write_text(textwrap.dedent(source), encoding="utf-8")
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    done = subprocess.run(
        [sys.executable, *command, "test_it.py"],
        cwd=folder,
        env=dict(os.environ, PYTHONPATH=path, **env),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=18,
    )
    assert done.returncode == 1, done.stdout
    return done.stdout


SCRIPT = """
    import distmap, threading

    def bad(x):
        return 1 // x

    def call(pool):
        pool.map(bad, [1, 0])

    if __name__ == "__main__":
        with distmap.Pool(1) as pool:
            thread = threading.Thread(target=call, args=(pool,))
            thread.start()
            thread.join()
            try:
                pool.map(bad, [0])
            except ZeroDivisionError as error:
                assert isinstance(error.__cause__, distmap.RemoteError)
                assert "in bad" in str(error.__cause__)
            call(pool)
"""
GROUP = """
    import distmap

    def many(x):
        raise ExceptionGroup("many", [ValueError(x), TypeError(x)])

    if __name__ == "__main__":
        with distmap.Pool(1) as pool:
            pool.map(many, [1])
"""
TEST = """
    import distmap

    def bad(x):
        return 1 // x

    def test_it():
        with distmap.Pool(1) as pool:
            pool.map(bad, [1, 0])
"""


def test_a_script_prints_the_users_lines(tmp_path: Path) -> None:
    """An error that nobody caught, here and in a thread: the call, the function's lines, the exception, the note."""
    text = run(tmp_path, SCRIPT)
    assert OURS not in text
    assert "direct cause" not in text
    for part in text.split("Exception in thread")[1:]:
        assert [line for line in part.splitlines() if "in bad" in line or "in call" in line]
    last = text[text.rindex("Traceback (most recent call last):") :]
    assert [re.sub('File ".*",', "File,", line).strip() for line in last.splitlines() if "^" not in line] == [
        "Traceback (most recent call last):",
        "File, line 20, in <module>",
        "call(pool)",
        "File, line 8, in call",
        "pool.map(bad, [1, 0])",
        "File, line 5, in bad",
        "return 1 // x",
        "ZeroDivisionError: integer division or modulo by zero",
        "item 1 (0) on worker local, attempt 1",
    ]


def test_a_test_shows_the_users_lines(tmp_path: Path) -> None:
    """Under pytest no frame of distmap's is shown, and the function's line is."""
    text = run(tmp_path, TEST, "-m", "pytest", "-q", "-p", "no:cacheprovider")
    assert OURS not in text
    assert ">       return 1 // x" in text
    assert "E       item 1 (0) on worker local, attempt 1" in text


@pytest.mark.parametrize(("source", "command"), [(SCRIPT, ()), (TEST, ("-m", "pytest", "-q"))], ids=["script", "test"])
def test_all_is_shown_for_whoever_works_on_distmap(tmp_path: Path, source: str, command: tuple[str, ...]) -> None:
    """`DISTMAP_DEBUG=1` shows distmap's frames."""
    assert re.search(r"distmap.calls.job\.py", run(tmp_path, source, *command, DISTMAP_DEBUG="1"))


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    kernel = Kernel(tmp_path_factory.mktemp("kernel"))
    try:
        yield kernel.run(SET_UP)
        kernel.run("pool.terminate()")
    finally:
        kernel.close()


@pytest.mark.own_leaks
@pytest.mark.parametrize("call", [*CALLS, *AWAITED])
def test_a_cell_shows_an_error_once(kernel: Kernel, call: str) -> None:
    """At most twelve lines, the exception and its note once, no text of another traceback, no path of distmap's."""
    code, name = (CALLS | AWAITED)[call]
    kernel.run(code)
    text = kernel.traceback
    assert kernel.raised == name, text
    assert "direct cause" not in text
    assert "<string>" not in text
    assert "distmap" not in text.replace(code, "").replace("distmap-worker", "").replace("import distmap", ""), text
    assert len(text.splitlines()) <= 12, text
    if name == "ZeroDivisionError":
        assert text.count("return 1 // x") == 1
        assert text.count("on worker local, attempt 1") == 1


@pytest.mark.own_leaks
def test_a_line_below_an_inner_function_is_shown(kernel: Kernel) -> None:
    """The line that failed is found by the name of its function, not by the next definition above it."""
    kernel.run("pool.map(outer, [1, 0])")
    assert re.search(r"-> +\d+ +return bad\(x\)", kernel.traceback), kernel.traceback


def test_a_group_shows_the_line_that_raised_it(tmp_path: Path) -> None:
    """Its frames in the function, and the members, once."""
    text = run(tmp_path, GROUP)
    assert OURS not in text
    assert "direct cause" not in text
    assert text.count('raise ExceptionGroup("many"') == 1
    assert text.count("ValueError: 1") == 1


@pytest.mark.own_leaks
def test_an_error_is_shown_again_as_it_was(kernel: Kernel) -> None:
    """`%tb` shows the last error as the cell did."""
    kernel.run("pool.map(abs, ['a'])")
    first = kernel.traceback
    kernel.run("%tb")
    assert kernel.traceback == first


#: What blocks, and how it ends when the kernel is interrupted.
BLOCKED = {
    "map": ("pool.map(held, ['map'])", "KeyboardInterrupt"),
    "job": ("pool.map_async(held, ['job']).result()", "KeyboardInterrupt"),
    "iterating": ("for x in pool.map_async(held, ['iterating']): pass", "KeyboardInterrupt"),
    "imap": ("list(pool.imap(held, ['imap']))", "KeyboardInterrupt"),
    "apply": ("pool.apply(held, ('apply',))", "KeyboardInterrupt"),
    "awaiting": ("await pool.map_async(held, ['awaiting'])", "CancelledError"),
    "async for": ("async for x in pool.imap(held, ['asyncfor']): pass", "CancelledError"),
}


@pytest.mark.own_leaks
@pytest.mark.parametrize("call", BLOCKED)
def test_an_interrupt_shows_the_cell_only(kernel: Kernel, call: str) -> None:
    """■ shows the line that blocked: no frame of distmap's, and none of what waited inside of it."""
    code, name = BLOCKED[call]
    kernel.start(code)
    kernel.until((kernel.folder / call.replace(" ", "")).exists)
    kernel.interrupt()
    kernel.end()
    text, raised = kernel.traceback, kernel.raised
    kernel.run("for job in pool.jobs: job.cancel()")
    assert raised == name, text
    assert f"----> 1 {code}" in text
    assert not re.search(r"distmap|threading\.py|asyncio|concurrent", text.replace(code, "")), text
