"""What every test gets: a token of its own, and a check that it left nothing behind.

Owns the fixtures that are on for all tests, and which tests run beside which.
"""

from __future__ import annotations

import ast
import atexit
import contextlib
import gc
import itertools
import os
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
import pytest
from support.optional import WITHOUT_OPTIONAL, needs
from support.waiting import until

#: How long a process, thread or descriptor that is on its way out may take: the machine of a CI run is busy, and a task
#: process keeps the memory of large results for five seconds.
SETTLE = 10.0

#: Threads of other libraries that live as long as the process once something has used them.
_LASTING_THREADS = ("pymonitor", "IPythonHistorySavingThread", "Tqdm")

#: What takes longest begins first where tests run side by side, or one worker would end long after the others.
LONGEST = ("browser/*", "test_notebooks.py", "chaos/*", "engine/test_hub.py", "face/test_kernels.py", "reports/*")

#: Removed last, as libraries remove their own folders in it when the process ends. The path is short: that of a socket
#: in it has 104 characters at most.
_TEMPORARY = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
atexit.register(_TEMPORARY.cleanup)

#: Linux knows the children of a process; elsewhere psutil asks every process of the machine for its parent.
_LISTS_CHILDREN = Path("/proc/thread-self/children").exists()


@pytest.fixture(scope="session", name="needs")
def _needs() -> Callable[[bool, str], None]:
    """`needs`, for fixtures and tests of any folder."""
    return needs


@pytest.fixture(name="until")
def _until() -> Callable[..., Any]:
    """Wait until something has happened; fail if it does not."""
    return until


def settled(seen: Callable[[], object], deadline: float = SETTLE) -> object:
    """Ask until the answer is empty or the deadline has passed; give the last answer."""
    end = time.monotonic() + deadline
    pause = 0.005
    while (left := seen()) and time.monotonic() < end:
        # What the test held may be in cycles with what holds a descriptor.
        gc.collect()
        threading.Event().wait(pause)
        pause = min(2 * pause, 0.2)
    return left


def _make_token(folder: Path) -> Path:
    from distmap.transport.token import Secret

    path = folder / "token"
    path.touch(mode=0o600)
    path.write_text(Secret.generate().reveal() + "\n", encoding="utf-8")
    return path


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Without optional packages, leave out the files that need one of them to be imported."""
    leave = WITHOUT_OPTIONAL and collection_path.suffix == ".py" and not _can_be_imported(collection_path)
    return leave or None


def _can_be_imported(path: Path) -> bool:
    heads = ast.parse(path.read_text(encoding="utf-8")).body
    names = {alias.name for node in heads if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in heads if isinstance(node, ast.ImportFrom)}
    ours = [Path(__file__).parent / f"{name.replace('.', '/')}.py" for name in names if name.startswith("support.")]
    return all(find_spec(name.partition(".")[0]) for name in names) and all(map(_can_be_imported, ours))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first in a worker of pytest-xdist; elsewhere the order is that of the folders."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        paths = {item.path for item in items}
        rank = {path: [*(path.match(pattern) for pattern in LONGEST), True].index(True) for path in paths}
        items.sort(key=lambda item: rank[item.path])


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> object:
    """Give workers whole files, as pools belong to files; to one of them all of `browser/`, which shares a server."""
    from xdist.scheduler import LoadFileScheduling

    class ByFile(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return "browser" if "/browser/" in nodeid else str(super()._split_scope(nodeid))

    config.option.loadscopereorder = False  # the order is ours
    return ByFile(config, log)


@pytest.fixture(scope="session", autouse=True)
def _session_folder(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A folder for temporary files that no other run uses: tests look at what is left there."""
    tmp_path_factory.getbasetemp()  # pytest's own folder stays where it is: people look into it after a failure
    os.environ["TMPDIR"] = tempfile.tempdir = _TEMPORARY.name


@pytest.fixture(scope="session", autouse=True)
def _session_token(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """As `token_file`, for fixtures that outlive a test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DISTMAP_TOKEN_FILE", str(_make_token(tmp_path_factory.mktemp("session"))))
        patch.delenv("DISTMAP_TOKEN", raising=False)
        yield


@pytest.fixture(scope="session", autouse=True)
def _all_processes_at_once() -> Iterator[None]:
    """A pool that many tests share has all its processes at once: one that starts later is not what a test left."""
    from distmap.engine import local

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local, "HELD_BACK", 0.0)
        yield


@pytest.fixture(scope="session")
def _token_folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Folders with numbers: pytest's own look for the highest number among all that there are."""
    base = tmp_path_factory.mktemp("tokens")
    return (base / str(number) for number in itertools.count())


@pytest.fixture(autouse=True)
def token_file(_token_folders: Iterator[Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A token file of the test's own, so that no test reads or makes the user's."""
    folder = next(_token_folders)
    folder.mkdir(mode=0o700)
    path = _make_token(folder)
    monkeypatch.setenv("DISTMAP_TOKEN_FILE", str(path))
    monkeypatch.delenv("DISTMAP_TOKEN", raising=False)
    return path


@pytest.fixture(scope="session", autouse=True)
def _session_tracker() -> None:
    """multiprocessing's tracker of named resources, which lasts as long as the process, is there before every test."""
    if os.name == "posix":
        from multiprocessing import resource_tracker

        resource_tracker.ensure_running()


def _pids_below(pid: int) -> set[object]:
    """All descendants of a process."""
    if not _LISTS_CHILDREN:
        return {child.pid for child in psutil.Process(pid).children(recursive=True)}
    found: set[object] = set()
    with contextlib.suppress(OSError):  # ended meanwhile, like each of its threads
        for thread in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(OSError), open(f"/proc/{pid}/task/{thread}/children", "rb", buffering=0) as listed:
                for child in map(int, listed.read().split()):
                    found |= {child, *_pids_below(child)}
    return found


def _children() -> set[object]:
    return _pids_below(os.getpid())


def _threads() -> set[object]:
    return {
        (thread.ident, thread.name) for thread in threading.enumerate() if not thread.name.startswith(_LASTING_THREADS)
    }


def _descriptors() -> set[object]:
    """Sockets, pipes, memory files and event descriptors; files on disk are pytest's and the libraries' affair."""
    found: set[object] = set()
    if not sys.platform.startswith("linux"):
        return found
    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            continue  # the descriptor of the listing itself
        if target.startswith(("socket:", "pipe:", "anon_inode:", "/memfd:distmap", "/dev/shm/")):
            found.add((int(name), target))  # a number is used again: what it leads to belongs to it
    return found


def _files() -> set[object]:
    """Temporary files and shared segments with our name."""
    places = {tempfile.gettempdir(), "/dev/shm"}
    return {
        os.path.join(place, name)
        for place in places
        if os.path.isdir(place)
        for name in os.listdir(place)
        if name.startswith("distmap")
    }


_LOOKS: dict[str, Callable[[], set[object]]] = {
    "processes": _children,
    "threads": _threads,
    "descriptors": _descriptors,
    "files": _files,
}


def _described(pids: set[Any]) -> dict[int, str]:
    """What the children are; without those that may stay, and those that have ended."""
    found: dict[int, str] = {}
    for pid in pids:
        try:
            child = psutil.Process(pid)
            command = " ".join(child.cmdline())
            # multiprocessing's tracker of named resources stays by design; we name none, but peers and libraries do.
            if "multiprocessing.resource_tracker" not in command and "multiprocessing.forkserver" not in command:
                found[pid] = f"{child.status()} {command[:200]}"
        except psutil.ZombieProcess:
            with contextlib.suppress(psutil.NoSuchProcess):
                if child.ppid() == os.getpid():  # a task process waits for its own when it starts the next one
                    found[pid] = "zombie"
        except psutil.NoSuchProcess:
            continue
    return found


def _all_pids() -> set[str]:
    """Of the whole machine (Linux)."""
    return set(filter(str.isdigit, os.listdir("/proc"))) if sys.platform.startswith("linux") else set()


def _marked(mark: bytes, pids: set[str]) -> dict[int, str]:
    """Those with the test's mark in their environment: also those whose parent has died."""
    found: dict[int, str] = {}
    for pid in pids:
        try:
            with open(f"/proc/{pid}/environ", "rb", buffering=0) as environ:
                marked = mark in environ.read()
            if marked:
                found[int(pid)] = (
                    Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")[:200]
                )
        except OSError:
            continue  # ended meanwhile, or not ours
    return found


@pytest.fixture(scope="module", autouse=True)
def _little_to_collect() -> None:
    """The collector passes by what modules before this one have imported: tests ask for many full collections."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def nothing_left(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fail a test that leaves a process, a thread, a descriptor or a file behind.

    Fixtures of a module or session come before, so what they hold is not the test's.
    """
    marker = request.node.get_closest_marker("own_leaks")
    exempt = set(marker.args or _LOOKS) if marker else set()
    mark = f"DISTMAP_TEST={uuid.uuid4().hex}"
    monkeypatch.setenv(*mark.split("="))
    before = {name: look() for name, look in _LOOKS.items() if name not in exempt}
    pids = _all_pids()
    yield

    def left() -> dict[str, object]:
        found: dict[str, object] = {name: _LOOKS[name]() - old for name, old in before.items()}
        if "processes" not in exempt:
            found["processes"] = _described(found["processes"])  # type: ignore[arg-type]
            found["processes with the test's environment"] = _marked(mark.encode(), _all_pids() - pids)
        return {name: those for name, those in found.items() if those}

    # pytest itself drops the arguments only after this check, and a closed pool still holds its last results.
    request.node.funcargs.clear()
    still = settled(left)
    assert not still, f"the test left behind: {still}"
