"""Section 6: a cell shows one card for all its calls, whatever makes them."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support.kernels import Kernel

# The channels of a kernel keep sockets and threads.
pytestmark = [pytest.mark.own_leaks, pytest.mark.timeout(60)]

SET_UP = """
    import distmap, os, threading, time
    from IPython.display import clear_output
    pool = distmap.Pool(2)
    open("open", "w").close()

    def bad(x):
        return 1 // x

    def lasts(x):
        # Longer than what is too quick to be drawn.
        time.sleep(0.55)
        return x

    def held(x):
        end = time.monotonic() + 30
        while not os.path.exists("go"):
            assert time.monotonic() < end
            time.sleep(0.005)
        return x

    def caught(call):
        try:
            call()
        except ZeroDivisionError:
            pass

    def together(*calls):
        threads = [threading.Thread(target=call) for call in calls]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    class Lazy:
        # Makes a call of its own while it is read.
        def __iter__(self):
            yield from pool.map(abs, [-1, -2])
"""

#: What makes the calls -> the cell, and the text of its card.
CALLS = {
    "one call": ("pool.map(abs, [1, 2])", r"abs: done, 2 of 2 items in \d.*, 1 worker"),
    "a loop": ("for _ in range(300): pool.map(abs, [1, 2])", r"abs: done, 300 calls, 600 items in [\d.]+ m?s"),
    "a loop of long calls": ("for _ in range(2): pool.map(lasts, [1, 2])", r"lasts: done, 2 calls, 4 items in .* s"),
    "an optimiser that is given pool.map": (
        "def minimise(workers):\n    for _ in range(20): list(workers(abs, [1, 2]))\nminimise(pool.map)",
        r"abs: done, 20 calls, 40 items in .*",
    ),
    "timeit": ("%timeit -n 3 -r 2 pool.map(abs, [1, 2])", r"abs: done, 6 calls, 12 items in .*"),
    "several functions": (
        "for _ in range(5): pool.map(abs, [1]); pool.starmap(max, [(1, 2)])",
        r"abs: done, 5 calls, 5 items in .*\nmax: done, 5 calls, 5 items in .*",
    ),
    "more functions than rows": (
        "for n in range(12):\n    exec(f'def f{n}(x): return x')\n    pool.map(globals()[f'f{n}'], [1])",
        r"(f\d+: done, 1 call, 1 item in .*\n){8}and 4 more functions",
    ),
    "a title for each call": (
        "for n in range(5): pool.map(abs, [1], desc=f'epoch {n}')",
        r"abs: done, 5 calls, 5 items in .*",
    ),
    "imap": ("for _ in range(5): list(pool.imap(abs, [1, 2]))", r"abs: \w+, 5 calls, \d+ items? in .*"),
    "map_async": (
        "for job in [pool.map_async(abs, [1, 2]) for _ in range(5)]: job.result()",
        r"abs: done, 5 calls, 10 items in .*",
    ),
    "awaited": ("for _ in range(5): await pool.map_async(abs, [1, 2])", r"abs: done, 5 calls, 10 items in .*"),
    "map_reduce and map_batches": (
        "pool.map_reduce(abs, [1, 2], max); pool.map_batches(list, [1, 2])",
        r"abs: done, 1 call, 2 items in .*\nlist: done, 1 call, \d items? in .*",
    ),
    "threads": ("together(*[lambda: pool.map(abs, [1, 2])] * 5)", r"abs: done, 5 calls, 10 items in .*"),
    "nested": ("pool.map(bad, Lazy())", r"bad: done, 1 call, 2 items in .*\nabs: done, 1 call, 2 items in .*"),
    "errors that are caught": (
        "for x in (1, 0, 1): caught(lambda: pool.map(bad, [x]))",
        r"bad: done, 3 calls, 3 items in .*, 1 call went wrong",
    ),
    "an error that ends the cell": (
        "for x in (1, 0, 1): pool.map(bad, [x])",
        r"bad: failed, 2 calls, 2 items in .*, 1 call went wrong",
    ),
    "on_error": (
        "for _ in range(3): pool.map(bad, [1, 0], on_error='return')",
        r"bad: done, 3 calls, 6 items in .*, 3 calls went wrong",
    ),
    "output that is cleared": (
        "for _ in range(3): clear_output(wait=True); pool.map(abs, [1])",
        r"abs: done, 3 calls, 3 items in .*",
    ),
}
#: What shows nothing.
QUIET = {
    "the call": "pool.map(abs, [1], progress=False)",
    "the pool": "with distmap.Pool(1, progress=False) as quiet: quiet.map(abs, [1])",
    "the environment": "os.environ['DISTMAP_PROGRESS'] = '0'; pool.map(abs, [1]); del os.environ['DISTMAP_PROGRESS']",
    "a run on each worker": "pool.run(os.getpid)",
    "single items": "pool.apply(abs, (1,)); pool.submit(abs, 1).result()",
}


@pytest.fixture(scope="module", params=["widgets", "no widgets"])
def kernel(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    kernel = Kernel(tmp_path_factory.mktemp("kernel"))
    try:
        if request.param == "no widgets":
            kernel.run(
                "import importlib.util as u; find = u.find_spec\n"
                "u.find_spec = lambda name, *rest: None if name == 'ipywidgets' else find(name, *rest)"
            )
        kernel.run(SET_UP)
        assert not kernel.error, kernel.traceback
        yield kernel
        kernel.run("pool.terminate()")
    finally:
        kernel.close()


@pytest.mark.parametrize("what", CALLS)
def test_a_cell_has_one_card(kernel: Kernel, what: str) -> None:
    """One display of HTML and text, whose text counts the calls of each function, and no widget is left."""
    code, text = CALLS[what]
    kernel.run(code)
    name = kernel.shown[-1]
    assert len(kernel.shown) == (2 if "clear_output" in code else 1)
    # A stream's comes from its own thread, soon after.
    kernel.until(lambda: re.fullmatch(text, kernel.displays[name]["text/plain"]))
    assert set(kernel.displays[name]) == {"text/plain", "text/html"}
    assert len(kernel.displays[name]["text/html"]) < 30_000
    assert kernel.widgets == {}


@pytest.mark.parametrize("who", QUIET)
def test_quiet_once_for_all(kernel: Kernel, who: str) -> None:
    """The pool and the environment say it for all calls."""
    kernel.run(QUIET[who])
    assert not kernel.error, kernel.traceback
    assert kernel.shown == []


def test_a_call_asks_for_its_own_card(kernel: Kernel) -> None:
    """`progress=True` at a call is nearer than what its pool says."""
    kernel.run("with distmap.Pool(1, progress=False) as quiet: quiet.map(abs, [1], progress=True)")
    assert kernel.card["text/plain"].startswith("abs: done, 1 of 1 items")


def test_nothing_is_drawn_before_a_quick_call_is_over(kernel: Kernel) -> None:
    """While a call of a moment runs nothing is there to be seen; afterwards its card is."""
    kernel.run(
        "from distmap.views import cell_card, notebook\nseen = []\n"
        "usual, cell_card.QUICK = cell_card.QUICK, 60.0\n"  # a busy machine may take long for it
        "pool.map_reduce(abs, [1, 2], lambda a, b: seen.append(list(notebook._CARDS.values())[-1]._handle))\n"
        "cell_card.QUICK = usual\n"
        "print(seen)"
    )
    assert kernel.printed == "[None]\n"
    assert kernel.card["text/plain"].startswith("abs: done")


def test_what_runs_is_live(kernel: Kernel) -> None:
    """Below the rows stands the call that runs, with its number, until it is over; then the rows say Done."""
    (kernel.folder / "go").unlink(missing_ok=True)
    kernel.start("for _ in range(3): pool.map(abs, [1])\npool.map(held, [1, 2])\npool.map(abs, [1])")

    def html() -> str:
        return kernel.html + "".join(kernel.displays[name].get("text/html", "") for name in kernel.shown)

    kernel.until(lambda: "2 functions" in html() and "call 1</span>" in html())
    assert re.search(r"Running.*abs.*held", html(), re.S)
    (kernel.folder / "go").touch()
    kernel.end()
    assert re.fullmatch(r"abs: done, 4 calls.*\nheld: done, 1 call, 2 items.*", kernel.card["text/plain"])
    assert "Running" not in kernel.card["text/html"]
    assert kernel.widgets == {}


def test_background_jobs_stay_in_their_cell(kernel: Kernel) -> None:
    """Jobs that outlive their cell move there, and end there, while another cell has a card of its own."""
    (kernel.folder / "go").unlink(missing_ok=True)
    kernel.run("jobs = [pool.map_async(held, [n]) for n in range(3)]")
    [first] = kernel.shown
    assert "held: running, 3 calls" in kernel.displays[first]["text/plain"]
    kernel.run("open('go', 'w').close()\nprint([job.result() for job in jobs]); pool.map(abs, [1])")
    assert kernel.printed == "[[0], [1], [2]]\n"
    assert re.fullmatch("held: done, 3 calls, 3 items in .*", kernel.displays[first]["text/plain"])
    assert kernel.card["text/plain"].startswith("abs: done, 1 of 1 items")
    assert kernel.widgets == {}


def test_a_notebook_that_is_run_and_saved_keeps_the_summary() -> None:
    """A thousand quick calls add less than 50 kB to the file, and what is there is the end of it all."""
    import nbformat  # more than a second, as it reads grammars
    from nbclient import NotebookClient

    cells = ["import distmap; pool = distmap.Pool(2)", "for _ in range(1000): pool.map(abs, [1, 2])"]
    cells += ["job = pool.map_async(abs, [1])", "job.result(); pool.terminate()"]
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    asyncio.run(NotebookClient(book, timeout=60, kernel_name="python3").async_execute())
    outputs: list[list[dict[str, Any]]] = [cell.outputs for cell in book.cells]
    [card], [background] = outputs[1], outputs[2]
    assert card["data"]["text/plain"].startswith("abs: done, 1\u202f000 calls, 2\u202f000 items in ")
    assert len(json.dumps(outputs)) < 50_000
    assert background["data"]["text/plain"].startswith("abs: done, 1 of 1 items")
    assert outputs[3] == []


@pytest.mark.parametrize("library", ["scipy", "emcee", "joblib"])
def test_libraries_that_take_a_pool(kernel: Kernel, library: str, needs: Callable[[bool, str], None]) -> None:
    """An optimiser with `workers=pool.map`, a sampler with `pool=pool`, a loop of `Parallel`: many calls, one card."""
    needs(importlib.util.find_spec(library) is not None, library)
    kernel.run(
        {
            "scipy": "import scipy.optimize as so\n"
            "so.differential_evolution(lambda x: float((x * x).sum()), [(-2, 2)] * 3, workers=pool.map, "
            "updating='deferred', maxiter=20, tol=0, polish=False)",
            "emcee": "import emcee, numpy as np\n"
            "sampler = emcee.EnsembleSampler(8, 2, lambda x: -float((x * x).sum()), pool=pool)\n"
            "_ = sampler.run_mcmc(np.random.default_rng(1).normal(size=(8, 2)), 20)",
            "joblib": "import joblib\nfrom distmap.ext.joblib import DistmapBackend\n"
            "with joblib.parallel_config(DistmapBackend(pool)):\n"
            "    for n in range(30): joblib.Parallel()(joblib.delayed(abs)(-x) for x in range(n))",
        }[library]
    )
    assert not kernel.error, kernel.traceback
    assert re.search(r"done, \d+ calls, ", kernel.card["text/plain"])


def test_a_terminal_shows_no_bar_for_a_quick_call(tmp_path: Any, needs: Callable[[bool, str], None]) -> None:
    """A loop of a thousand quick calls prints nothing; a call that lasts has its bar."""
    needs(importlib.util.find_spec("tqdm") is not None, "tqdm")
    source = (
        "import distmap, time\n"
        "from distmap.views import terminal\n"
        "usual, terminal.QUICK = terminal.QUICK, 60.0\n"  # a busy machine may take long for one of a hundred calls
        "with distmap.Pool(1) as pool:\n"
        "    for _ in range(100): pool.map(abs, [1], progress=True)\n"
        "    terminal.QUICK = usual\n"
        "    pool.map(time.sleep, [0.7], progress=True)\n"
    )
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, timeout=20, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "abs" not in done.stderr
    assert "sleep: 100%" in done.stderr
