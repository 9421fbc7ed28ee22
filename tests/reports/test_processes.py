"""What surrounds a call holds in the task processes, and task processes end in an orderly way."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from support.waiting import until

import distmap
from distmap.testing.workers import WorkerProcess

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def _here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """A place that the test may change: arguments, path, environment, folder."""
    before = os.getcwd()
    monkeypatch.setattr(sys, "argv", [*sys.argv])
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "first").mkdir()
    (tmp_path / "second").mkdir()
    os.chdir(tmp_path / "first")
    yield
    os.chdir(before)


def look(_: object = None) -> tuple[Any, ...]:
    """What a task sees of its surroundings."""
    import os
    import sys
    import warnings

    try:
        folder = os.getcwd()
    except OSError:
        folder = "deleted"
    filters = [(action, category.__name__, str(message)) for action, message, category, *_ in warnings.filters]
    return list(sys.argv), list(sys.path), folder, os.environ.get("OF_THE_KERNEL"), filters


def plain() -> tuple[Any, ...]:
    return look()


def run(source: str, *flags: str, cwd: Path) -> str:
    """Run source as a script with interpreter flags; gives its standard output."""
    (cwd / "script.py").write_text(textwrap.dedent(source))
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    done = subprocess.run(
        [sys.executable, *flags, "script.py"],
        cwd=cwd,
        env=dict(os.environ, PYTHONPATH=path),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=18,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def die(x: int) -> int:
    import os
    import signal

    os.kill(os.getpid(), signal.SIGKILL)
    return x


@pytest.mark.usefixtures("_here")
def test_what_surrounds_the_call(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A slot of this machine sees what the caller sees at the call: as it started, after changes, after its death."""
    with distmap.Pool(1) as pool:
        assert pool.map(look, [0]) == [plain()]
        # A slot that was started earlier than the changes.
        sys.argv[:] = ["changed", "--flag", "\udcff"]
        sys.path.insert(0, "relative/to/here")
        sys.path.append("")
        monkeypatch.setenv("OF_THE_KERNEL", "\udcff changed")
        os.chdir(tmp_path / "second")
        assert pool.map(look, [0]) == [plain()]
        assert pool.submit(look).result() == plain()
        assert list(pool.imap(look, [0])) == [plain()]
        with pytest.raises(distmap.PoisonItemError):
            pool.map(die, [0], progress=False)
        assert pool.map(look, [0]) == [plain()]
        # Changed back: what is not there any more is not there either.
        monkeypatch.delenv("OF_THE_KERNEL")
        os.chdir(tmp_path / "first")
        assert pool.submit(look).result() == plain()
        pool.add(1)
        assert pool.map(look, range(8), chunksize=1) == [plain()] * 8


@pytest.mark.usefixtures("_here")
def test_a_folder_that_was_deleted(tmp_path: Path, local_pool: distmap.Pool) -> None:
    """A call from a working directory that is gone runs all the same, also in a slot that starts there."""
    (tmp_path / "gone").mkdir()
    os.chdir(tmp_path / "gone")
    os.rmdir(tmp_path / "gone")
    assert local_pool.map(abs, [-1]) == [1]
    source = f"""
        import os
        import distmap

        if __name__ == "__main__":
            os.chdir({str(tmp_path / "second")!r})
            os.rmdir({str(tmp_path / "second")!r})
            with distmap.Pool(1) as pool:
                print(pool.map(abs, [-2]))
    """
    # By itself: Python 3.13.0 cannot import `socket` in a folder that is gone, and other tests have slots import it.
    assert run(source, cwd=tmp_path) == "[2]\n"


class _Local(UserWarning):
    pass


def warn(kind: str) -> str:
    import warnings

    class Inner(UserWarning):
        pass

    category = {"local": _Local, "user": UserWarning, "inner": Inner, "future": FutureWarning}[kind]
    try:
        warnings.warn(f"noise of {kind}", category, stacklevel=1)
    except Warning as error:
        return type(error).__name__
    return "-"


#: What is set around the call, and what warnings of four kinds then do.
FILTERS: dict[str, tuple[list[tuple[Any, ...]], str]] = {
    "all-ignored": ([("ignore",)], "- - - -"),
    "all-errors": ([("error",)], "_Local UserWarning Inner FutureWarning"),
    "regex": ([("ignore",), ("error", "noise of [fu]")], "- UserWarning - FutureWarning"),
    "category-of-a-module": ([("ignore",), ("error", "", _Local)], "_Local - - -"),
    "category-of-the-language": ([("ignore",), ("error", "", FutureWarning)], "- - - FutureWarning"),
}


@pytest.mark.parametrize(("filters", "right"), FILTERS.values(), ids=FILTERS)
def test_warning_filters_of_the_call(filters: list[Any], right: str, pool: distmap.Pool) -> None:
    """Filters of the caller, also those of a `catch_warnings` around the call, hold in every slot, and only then."""
    kinds = ["local", "user", "inner", "future"]
    with warnings.catch_warnings():
        for one in filters:
            warnings.filterwarnings(*one)
        assert " ".join(map(warn, kinds)) == right
        assert pool.map(warn, kinds) == right.split()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert pool.map(warn, kinds) == ["-"] * 4


def test_a_category_is_not_imported_for_its_filter(pool: distmap.Pool, tmp_path: Path) -> None:
    """A filter that names a class of a library does not make every slot import that library."""
    sys.path.insert(0, str(tmp_path))
    (tmp_path / "slow_library.py").write_text("class Noise(Warning): pass\n")
    try:
        import slow_library  # type: ignore[import-not-found]

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", slow_library.Noise)
            assert pool.map(lambda _: "slow_library" in sys.modules, range(4)) == [False] * 4
    finally:
        sys.path.remove(str(tmp_path))
        sys.modules.pop("slow_library", None)


def set_up() -> None:
    import os

    os.environ["OF_A_TASK"] = "kept"


def test_what_a_task_changes_stays(local_pool: distmap.Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `run` or a task sets in its process lasts for later calls, until the caller changes the same thing."""

    def seen(_: int) -> tuple[str | None, str | None]:
        return os.environ.get("OF_A_TASK"), os.environ.get("OF_THE_KERNEL")

    with distmap.Pool(1) as pool:
        pool.run(set_up)
        assert pool.map(seen, [0, 1]) == [("kept", None)] * 2
        monkeypatch.setenv("OF_THE_KERNEL", "1")
        assert pool.map(seen, [0, 1]) == [("kept", "1")] * 2
        monkeypatch.setenv("OF_A_TASK", "of the kernel")
        assert pool.map(seen, [0, 1]) == [("of the kernel", "1")] * 2


def test_two_calls_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls that run together, each from other surroundings, see their own."""

    def seen(x: int) -> str | None:
        return os.environ.get("OF_THE_KERNEL")

    with distmap.Pool(1) as pool:
        jobs = []
        for name in "abc":
            monkeypatch.setenv("OF_THE_KERNEL", name)
            jobs.append((name, pool.map_async(seen, range(20), chunksize=2)))
        for name, job in jobs:
            assert job.get(15) == [name] * 20


def test_what_goes_to_a_worker(remote_pool: distmap.Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker elsewhere is told the arguments; its environment, path and folder stay its own."""
    monkeypatch.setenv("OF_THE_KERNEL", "1")
    monkeypatch.setattr(sys, "argv", ["script", "--flag"])
    for argv, path, folder, variable, _ in remote_pool.map(look, range(4), chunksize=1):
        assert (argv, variable) == (["script", "--flag"], None)
        assert folder != os.getcwd()
        assert path != sys.path


def test_variables_for_every_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """`env=` is set in every slot, wherever it is, before anything of the call is loaded; a worker's own stay."""

    def seen(_: int) -> tuple[str | None, ...]:
        return tuple(os.environ.get(name) for name in ("ADDED", "OMP_NUM_THREADS", "OF_THE_WORKER", "PATH"))

    with WorkerProcess("--port", "0", "--slots", "1", env={"OF_THE_WORKER": "1", "ADDED": "no"}) as worker:
        for where, own in ((worker.url, "1"), (1, None)):
            monkeypatch.delenv("ADDED", raising=False)
            with distmap.Pool(where, env={"ADDED": "yes", "OMP_NUM_THREADS": "3"}) as pool:
                right = ("yes", "3", own, os.environ["PATH"])
                assert pool.map(seen, range(4), chunksize=1) == [right] * 4
                monkeypatch.setenv("ADDED", "the kernel's own")
                assert pool.submit(seen, 1).result() == right


@pytest.mark.parametrize(
    ("env", "kind", "text"),
    [
        ({"A": 1}, TypeError, "env must be a dict of names and values as text"),
        (["A"], TypeError, "env must be a dict of names and values as text"),
        ({1: "a"}, TypeError, "env must be a dict of names and values as text"),
        ({"DISTMAP_TOKEN": "s3cret"}, ValueError, "env= must not hold DISTMAP_TOKEN: tasks would be able to read it"),
    ],
    ids=["number", "list", "key", "token"],
)
def test_variables_that_are_none(env: Any, kind: type[Exception], text: str) -> None:
    """What is no text, and the token, is refused by name; no value is repeated."""
    with pytest.raises(kind, match=text) as captured:
        distmap.Pool(1, env=env)
    assert "s3cret" not in str(captured.value)


FLAGS = """
    import sys, warnings
    import distmap

    def look(_):
        return (sys.flags.optimize, sys.flags.dont_write_bytecode, sys.flags.utf8_mode, sys.flags.dev_mode,
                sys.flags.bytes_warning, sys.warnoptions, bool(__debug__))

    if __name__ == "__main__":
        with distmap.Pool(1) as pool:
            print(pool.map(look, [0])[0] == look(0), look(0))
"""


@pytest.mark.parametrize(
    "flags",
    [[], ["-O"], ["-OO", "-B"], ["-W", "ignore", "-W", "error::FutureWarning"], ["-X", "utf8"], ["-X", "dev"], ["-bb"]],
    ids=lambda flags: " ".join(flags) or "none",
)
def test_flags_of_the_interpreter(flags: list[str], tmp_path: Path) -> None:
    """What the calling interpreter was started with holds in its slots too, as in multiprocessing."""
    assert run(FLAGS, *flags, cwd=tmp_path).startswith("True")


# --- the end of a task process ---------------------------------------------------------------------------------------


def leave_traces(folder: str) -> None:
    """Register one thing of each kind that Python runs at the end of a process; each writes a file of its name."""
    import atexit
    import concurrent.futures
    import multiprocessing.util
    import time

    def trace(name: str, after: float = 0.0) -> None:
        time.sleep(after)
        with open(f"{folder}/{name}", "w") as file:
            file.write(str(os.getpid()))

    atexit.register(trace, "atexit")
    multiprocessing.util.Finalize(None, trace, ["finalize"], exitpriority=1)
    threading.Thread(target=trace, args=["thread", 0.1]).start()
    concurrent.futures.ThreadPoolExecutor(1).submit(trace, "executor", 0.1)


TRACES = ["atexit", "executor", "finalize", "thread"]


def closed_by_with(folder: str) -> None:
    with distmap.Pool(1) as pool:
        pool.map(leave_traces, [folder])


def closed_and_joined(folder: str) -> None:
    pool = distmap.Pool(1)
    pool.map(leave_traces, [folder])
    pool.close()
    pool.join()


def terminated(folder: str) -> None:
    pool = distmap.Pool(1)
    pool.map(leave_traces, [folder])
    pool.terminate()


def recycled(folder: str) -> None:
    with distmap.Pool(1, maxtasksperchild=1) as pool:
        pool.map(leave_traces, [folder])
        assert set(*pool.map(os.listdir, [folder])) == set(TRACES)  # the next process begins after that


def leave_much(folder: str) -> bytes:
    leave_traces(folder)
    return bytes(4 << 20)


def recycled_at_the_end(folder: str) -> None:
    with distmap.Pool(1, maxtasksperchild=1) as pool:
        # Its code and the memory of its result are no longer needed while it leaves.
        assert len(pool.submit(leave_much, folder).result()) == 4 << 20


def of_a_worker(folder: str) -> None:
    with WorkerProcess("--port", "0", "--slots", "1") as worker:
        with distmap.Pool(worker.url) as pool:
            pool.map(leave_traces, [folder])
        until(lambda: len(os.listdir(folder)) == len(TRACES))


@pytest.mark.parametrize(
    "end", [closed_by_with, closed_and_joined, terminated, recycled, recycled_at_the_end, of_a_worker]
)
def test_a_task_process_ends_in_order(end: Callable[[str], None], tmp_path: Path) -> None:
    """What tasks registered for the end of their process runs before it ends, whichever way it is told to leave."""
    end(str(tmp_path))
    assert sorted(os.listdir(tmp_path)) == TRACES


def test_an_exit_function_that_hangs(tmp_path: Path) -> None:
    """It is bounded: the process is ended, and with it what keeps the interpreter to itself."""

    def hang(folder: str) -> int:
        import atexit

        def trace() -> None:
            with open(f"{folder}/begun", "w"):
                time.sleep(600)

        atexit.register(trace)
        return os.getpid()

    with distmap.Pool(1) as pool:
        [pid] = pool.map(hang, [str(tmp_path)])
    assert os.listdir(tmp_path) == ["begun"]
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


NAMED = """
    import os
    import distmap

    def use(x):
        import warnings
        from multiprocessing import shared_memory

        import joblib

        warnings.simplefilter("ignore")
        memory = shared_memory.SharedMemory(create=True, size=100)  # never unlinked
        total = sum(joblib.Parallel(n_jobs=2)(joblib.delayed(abs)(i) for i in range(x)))
        return total, (memory.name.strip("/"), f"-{os.getpid()}-", f"_{os.getpid()}_")

    def present(marks):
        # Other programs use this folder too: only what has a mark of our processes counts.
        return [name for name in os.listdir("/dev/shm") if any(mark in name for mark in marks)]

    if __name__ == "__main__":
        with distmap.Pool(2) as pool:
            totals, marks = zip(*pool.map(use, [2, 3], chunksize=1))
            marks = sum(marks, ())
            print(totals, len(present(marks)) > 2)
        print(present(marks))
"""


@pytest.mark.skipif(not os.path.isdir("/dev/shm"), reason="looks at the shared memory of Linux")
def test_nothing_named_is_left(needs: Callable[[bool, str], None], tmp_path: Path) -> None:
    """Semaphores, folders and shared memory that libraries make inside a task are gone with the pool."""
    needs(find_spec("joblib") is not None, "joblib")
    assert run(NAMED, "-W", "ignore", cwd=tmp_path) == "(1, 3) True\n[]\n"
