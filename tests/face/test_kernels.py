"""Real kernels without a browser: this test is the front end. Clicks, interrupts, tracebacks, over several ipykernels.

A click is a message to the comm of a button, addressed to a subshell as JupyterLab does. Which thread of the kernel
gets it has changed from version to version of ipykernel, hence the versions.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support.kernels import Kernel

# The channels of a kernel keep sockets and threads; pip takes its time.
pytestmark = [pytest.mark.own_leaks, pytest.mark.timeout(90)]

SET_UP = """
    import distmap, os, time
    pool = distmap.Pool(2)

    def began(where):
        open(f"began-{where}", "w").close()

    def held(x):
        # Ends at once for the first four items, and for the others when the test makes the file `open`.
        began(x)
        end = time.monotonic() + 60
        while x >= 4 and not os.path.exists("open"):
            assert time.monotonic() < end
            time.sleep(0.01)
        return x
"""


@pytest.fixture(scope="session")
def overlay(tmp_path_factory: pytest.TempPathFactory, needs: Any) -> Callable[[str], str]:
    """`overlay(version)` is a folder with that ipykernel, which goes before the installed one."""
    made: dict[str, str] = {}

    def get(version: str) -> str:
        if version not in made:
            folder = str(tmp_path_factory.mktemp("ipykernel"))
            pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--disable-pip-version-check"]
            # Both need nest_asyncio, which newer ones do not.
            what = [f"ipykernel=={version}", "nest_asyncio"]
            done = subprocess.run([*pip, "--target", folder, *what], capture_output=True, text=True, timeout=80)
            needs(done.returncode == 0, f"ipykernel {version} (pip: {done.stderr[-300:]})")
            made[version] = folder
        return made[version]

    return get


@pytest.fixture(scope="module", params=["installed", "7.1.0", "6.31.0"])
def any_kernel(
    request: pytest.FixtureRequest, overlay: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Kernel]:
    folder = tmp_path_factory.mktemp("kernel")
    kernel = Kernel(folder, "" if request.param == "installed" else overlay(request.param))
    try:
        kernel.run("import ipykernel; print(ipykernel.__version__)")
        assert request.param in ("installed", kernel.printed.strip())
        kernel.run(SET_UP)
        yield kernel
        kernel.run("pool.terminate()")
    finally:
        kernel.close()


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    kernel = Kernel(tmp_path_factory.mktemp("kernel"))
    try:
        kernel.run(SET_UP)
        assert not kernel.error
        yield kernel
        kernel.run("pool.terminate()")
    finally:
        kernel.close()


@pytest.fixture(autouse=True)
def _clean(request: pytest.FixtureRequest) -> None:
    """Each test begins with no file that an earlier one made."""
    for name in {"kernel", "any_kernel"} & set(request.fixturenames):
        for file in request.getfixturevalue(name).folder.glob("*"):
            if file.is_file():
                file.unlink()


def has_begun(kernel: Kernel, at_least: int = 1) -> Callable[[], bool]:
    return lambda: len(list(kernel.folder.glob("began-*"))) >= at_least


def start_map(kernel: Kernel, code: str = "pool.map(held, range(50), chunksize=1)") -> None:
    """Start a map, up to where both slots are held and the panel is there."""
    kernel.start(code)
    kernel.until(has_begun(kernel, 6))
    kernel.until(lambda: "<b>4</b>" in kernel.html)


def check_the_pool_works(kernel: Kernel) -> None:
    kernel.run("print(len(pool.last.partial), sum(pool.map(abs, range(-10, 0), progress=False)), len(pool.jobs))")
    assert not kernel.error, kernel.traceback
    assert kernel.printed == "4 55 0\n"
    assert kernel.widgets == {}


def test_cancel_while_the_cell_blocks(any_kernel: Kernel) -> None:
    """Cancel ends a blocked map where the kernel has subshells; elsewhere a hint stands in the button's place."""
    kernel = any_kernel
    start_map(kernel)
    if kernel.subshell is None:
        assert kernel.buttons == set()
        assert "Interrupt the kernel" in kernel.html
        kernel.interrupt()
        kernel.end()
        assert kernel.raised == "KeyboardInterrupt"
        assert "interrupted, 4 of 50 items" in kernel.card["text/plain"]
    else:
        assert kernel.buttons == {"Pause", "Cancel"}
        kernel.click("Cancel")
        kernel.end()
        assert kernel.raised == "JobCancelled"
        assert "cancelled, 4 of 50 items" in kernel.card["text/plain"]
    assert set(kernel.card) == {"text/plain", "text/html"}
    check_the_pool_works(kernel)


def test_pause_while_the_cell_blocks(any_kernel: Kernel) -> None:
    """Pause and Resume work while the cell blocks; what is pressed twice in a row does no harm."""
    kernel = any_kernel
    if kernel.subshell is None:
        return
    start_map(kernel)
    kernel.click("Pause")
    kernel.until(lambda: "Paused" in kernel.html and "Resume" in kernel.buttons)
    (kernel.folder / "open").touch()
    kernel.until(lambda: "<b>6</b>" in kernel.html)
    kernel.click("Resume")
    kernel.end()
    assert not kernel.error
    assert "done, 50 of 50 items" in kernel.card["text/plain"]
    assert kernel.widgets == {}


HEAVY = """
    class Slow:
        # Takes its time wherever it is unpickled, if that is the notebook.
        def __init__(self, where):
            self.where = where

        def __reduce__(self):
            return linger, (self.where,)

    def linger(where):
        import os, sys, time
        if "ipykernel" in sys.modules:
            open(f"began-{where}", "w").close()
            while not os.path.exists("open"):
                time.sleep(0.01)
        return where

    class SlowToSend(Slow):
        def __reduce__(self):
            linger("sending")
            return abs, (1,)

    def feed():
        yield 1
        linger("reading")

    def fold(a, b):
        return linger("folding") and b

    def many(x):
        linger(f"here-{x}")

    def stubborn(x):
        # Takes no notice of an interrupt.
        began(x)
        while not os.path.exists("open"):
            try:
                time.sleep(0.01)
            except KeyboardInterrupt:
                pass
"""
#: What blocks -> the cell, how many files say that it does, what is kept of it (None: a stream keeps nothing).
PHASES = {
    "waiting": ("pool.map(held, range(50), chunksize=1)", 6),
    "waiting for an iterator": ("list(pool.imap(held, range(50), chunksize=1))", 6),
    "waiting for a result": ("pool.map_async(held, range(50), chunksize=1).result()", 6),
    "iterating over a job": ("for x in pool.map_async(held, range(50), chunksize=1): pass", 6),
    "sending": ("pool.map(abs, [0, SlowToSend('sending')], chunksize=1)", 1),
    "reading": ("pool.map(abs, feed(), chunksize=1)", 1),
    "unpickling": ("pool.map(lambda x: Slow('unpickling'), range(4), chunksize=1)", 1),
    "folding": ("pool.map_reduce(abs, range(20), fold, chunksize=1)", 1),
    "awaiting": ("await pool.map_async(held, range(50), chunksize=1)", 6),
    "async for": ("async for x in pool.map_async(held, range(50), chunksize=1): pass", 6),
    "async for over an iterator": ("async for x in pool.imap(held, range(50), chunksize=1): pass", 6),
}


@pytest.mark.parametrize("phase", PHASES)
def test_interrupt_in_every_phase(kernel: Kernel, phase: str) -> None:
    """■ ends the cell wherever it is, the card says so, and the pool is free again."""
    code, files = PHASES[phase]
    kernel.run(HEAVY)
    assert not kernel.error, kernel.traceback
    kernel.start(code)
    kernel.until(has_begun(kernel, files))
    began = time.monotonic()
    kernel.interrupt()
    kernel.end()
    # About a second is aimed at; a busy machine is given more. Nothing here would end by itself.
    assert time.monotonic() - began < 10
    assert kernel.raised == ("CancelledError" if "a" in phase[:1] or "async" in phase else "KeyboardInterrupt")
    # That of a stream comes from its own thread, soon after the prompt.
    kernel.until(lambda: "interrupted, " in kernel.card["text/plain"])
    assert "Interrupted" in kernel.card["text/html"]
    kernel.run("print(pool.last.state, len(pool.jobs), sum(pool.map(abs, range(-10, 0), progress=False)))")
    assert kernel.printed == "interrupted 0 55\n"
    assert kernel.widgets == {}


def test_what_landed_is_kept_and_taken_apart_later(kernel: Kernel) -> None:
    """What was not unpickled when the interrupt came is unpickled when it is asked for."""
    kernel.run(HEAVY)
    kernel.start("pool.map(lambda x: Slow('unpickling'), range(2), chunksize=1)")
    kernel.until(has_begun(kernel))
    kernel.interrupt()
    kernel.end()
    (kernel.folder / "open").touch()
    kernel.run("print(pool.last.partial)")
    assert "'unpickling')" in kernel.printed


def test_a_second_interrupt_waits_for_nobody(kernel: Kernel) -> None:
    """■ twice: the second one gives the prompt back at once, whatever still runs; the pool recovers."""
    kernel.run(HEAVY)
    kernel.start("pool.map(stubborn, range(50), chunksize=1)")
    kernel.until(has_begun(kernel, 2))
    kernel.interrupt()
    kernel.interrupt()
    kernel.end()
    assert kernel.raised == "KeyboardInterrupt"
    assert "interrupted, 0 of 50 items" in kernel.card["text/plain"]
    kernel.run("print(pool.last.state, len(pool.jobs), sum(pool.map(abs, range(-10, 0), progress=False)))")
    assert kernel.printed == "interrupted 0 55\n"
    assert kernel.widgets == {}


@pytest.mark.parametrize("target", ["'wss://127.0.0.1:9'", "listen='wss://127.0.0.1:0'"])
def test_interrupt_while_no_worker_is_there(kernel: Kernel, target: str) -> None:
    """■ ends the wait for workers that never come."""
    kernel.start(f"print('dialling')\ndistmap.Pool({target}, connect_timeout=60).map(abs, [1])")
    kernel.until(lambda: "dialling" in kernel.printed)
    kernel.interrupt()
    kernel.end()
    assert kernel.raised == "KeyboardInterrupt"


def test_a_job_is_shown_live_in_another_cell_too(kernel: Kernel) -> None:
    """A job that runs in the background gets a second panel where it is displayed; both end as the card."""
    kernel.start("job = pool.map_async(held, range(50), chunksize=1, desc='in the background')")
    kernel.until(lambda: not kernel.running and has_begun(kernel, 6)() and "<b>4</b>" in kernel.html)
    [first] = kernel.shown
    kernel.run("pool.last")
    [second] = kernel.shown
    kernel.until(lambda: kernel.html.count("<b>4</b>") == 2)
    assert "<b>in the background</b>" in kernel.html
    kernel.click("Pause")
    kernel.until(lambda: kernel.html.count("Paused") == 2)
    kernel.run("print(job.state)\njob.resume()\nopen('open', 'w').close()\nprint(job.result()[-1])\nprint(pool.jobs)")
    assert kernel.printed == "paused\n49\n[]\n"
    assert kernel.displays[first] == kernel.displays[second]
    assert set(kernel.displays[first]) == {"text/plain", "text/html"}
    assert "in the background: done, 50 of 50" in kernel.displays[first]["text/plain"]
    assert kernel.widgets == {}
    # Over: the card by itself.
    kernel.run("job")
    assert kernel.card == kernel.displays[first]


def test_a_job_as_the_last_line_of_its_cell_has_one_panel(kernel: Kernel) -> None:
    """The panel that the call made is enough, whether the job runs or is over."""
    kernel.run("pool.map_async(abs, [-1])")
    assert len(kernel.shown) == 1
    kernel.run("pool.map(abs, [-1])\npool.last")
    assert len(kernel.shown) == 1


ERRORS = """
    def inner(x):
        # why
        return 1 // x

    def outer(x):
        y = inner(x)
        return y
"""


@pytest.mark.parametrize(
    "code",
    [
        "pool.map(outer, [1, 0])",
        "pool.starmap(lambda x: outer(x), [(1,), (0,)])",
        "pool.map_async(outer, [1, 0]).result()",
        "await pool.map_async(outer, [1, 0])",
        "for x in pool.map_async(outer, [1, 0]): pass",
        "list(pool.imap(outer, [1, 0]))",
        "pool.map_reduce(outer, [1, 0], max)",
        "pool.apply(outer, (0,))",
        "pool.submit(outer, 0).result()",
        "await pool.submit(outer, 0)",
        "pool.run(lambda: outer(0))",
    ],
)
def test_an_error_reads_as_if_it_had_happened_here(kernel: Kernel, code: str) -> None:
    """The traceback has the user's cell, then the lines of the function, in their cells; nothing of distmap's."""
    kernel.run(ERRORS)
    kernel.run(code)
    assert kernel.raised == "ZeroDivisionError"
    text = kernel.traceback
    assert re.search(r"Cell In\[\d+\], line 6, in outer", text), text
    assert re.search(r"Cell In\[\d+\], line 3, in inner", text), text
    assert "distmap" not in text
    assert "ipykernel_" not in text
    assert "direct cause" not in text
    assert f"----> 1 {code}" in text
    assert "----> 6     y = inner(x)" in text
    assert "----> 3     return 1 // x" in text
    which = r"in slot \d" if "pool.run" in code else r"item \d \(.*\)"  # whichever slot fails first
    assert re.search(rf"{which} on worker local, attempt 1", text)


def test_errors_of_distmap_show_the_cell_only(kernel: Kernel) -> None:
    """JobCancelled and its like end with the user's own line."""
    kernel.run(
        "def call():\n    job = pool.map_async(held, range(9))\n    job.cancel()\n    return job.result()\ncall()"
    )
    assert kernel.raised == "JobCancelled"
    assert "----> 4     return job.result()" in kernel.traceback
    assert "distmap" not in kernel.traceback
    assert kernel.traceback.endswith("JobCancelled: held was cancelled")


def test_an_error_of_a_reducer_shows_the_reducer(kernel: Kernel) -> None:
    """An error in code that runs in the notebook has no frame of distmap's between the cell and that code."""
    kernel.run("pool.map_reduce(abs, [1, 0], lambda a, b: a // b)")
    assert kernel.raised == "ZeroDivisionError"
    assert "distmap" not in kernel.traceback
    kernel.run("def feed():\n    yield 1\n    raise KeyError('in the input')\n\npool.map(abs, feed())")
    assert kernel.raised == "KeyError"
    assert "line 3, in feed()" in kernel.traceback
    assert "distmap" not in kernel.traceback


def test_a_pool_is_shown_as_a_card(kernel: Kernel) -> None:
    """The card of a pool tells its workers and its work, open and closed, and never the token."""
    kernel.start("job = pool.map_async(held, range(50), chunksize=1)")
    kernel.until(lambda: not kernel.running and has_begun(kernel, 6)())
    kernel.run("from IPython.display import display\ndisplay(pool, display_id='a pool')")
    html = kernel.card["text/html"]
    assert kernel.card["text/plain"] == "<Pool: 1 worker, 2 slots, 1 job running>"
    assert "1 map · 4 of 50 items" in html
    assert "this machine" in html
    assert ".".join(map(str, sys.version_info[:3])) in html
    assert "busy" in html
    kernel.run("job.cancel(); print(open(os.environ['DISTMAP_TOKEN_FILE']).read().strip())")
    assert kernel.printed.strip() not in html
    kernel.run("with distmap.Pool(listen='wss://127.0.0.1:0') as other:\n    display(other, display_id='another')")
    assert re.search(r"distmap-worker wss://127\.0\.0\.1:\d+<", kernel.card["text/html"])
    kernel.run("display(other, display_id='closed')")
    assert "Closed" in kernel.card["text/html"]
    assert "wss:" not in kernel.card["text/html"]
