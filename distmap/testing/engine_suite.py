"""The conformance suite of engines: what is put to an engine, and how its answers are judged and recorded.

Owns the records (`EngineUnderTest`, `Started`, `Case`, `Outcome`), the waits of cases, and `Session`, which has the
engine and its pool started while cases run. It must not know which cases and engines there are.
"""

from __future__ import annotations

import _thread
import contextlib
import os
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from distmap.pool import Pool

#: Seconds that a case waits for what must happen; for what is known not to happen, it waits less long.
PATIENCE, PATIENCE_OF_LACKS = 20.0, 1.0
#: Seconds after which a case is interrupted.
CASE_SECONDS = 120.0


@dataclass
class Started:
    """An engine that runs, as cases meet it.

    What an engine cannot be asked for stays None; the cases that need it are then left out.
    """

    #: What `Pool(...)` is given, and keyword arguments beside that.
    target: Any
    options: Mapping[str, Any] = field(default_factory=dict)
    #: The processes of the engine's own workers now; None: it runs in this process.
    pids: Callable[[], Sequence[int]] | None = None
    #: End the engine itself, as if its host were switched off.
    end: Callable[[], object] | None = None
    #: Have one more member come, and one go.
    join: Callable[[], object] | None = None
    leave: Callable[[], object] | None = None
    #: A tag that a member has.
    tag: str | None = None
    #: Makes a pool on it, in place of `Pool(target, **options)`.
    make: Callable[[], Pool] | None = None
    #: Of the session: a folder for the marks of a case, how long it waits, what ends the engine and tells what is left.
    folder: str = ""
    patience: float = PATIENCE
    stop: Callable[[], list[str]] = list

    def until(self, happened: Callable[[], Any], what: str) -> Any:
        """Wait until `happened()` gives something true, and return that; fail when patience ends."""
        end = time.monotonic() + self.patience
        while not (found := happened()):
            assert time.monotonic() < end, f"{what}: not within {self.patience:g} s"
            time.sleep(0.01)
        return found

    def pool(self, *more: Any) -> Pool:
        """A pool on the engine, and on these."""
        if self.make is not None and not more:
            return self.make()
        if self.target is None:
            raise NotAsked("only a ready pool was given")
        many = self.target if isinstance(self.target, list) else [self.target]
        return Pool([*many, *more], **self.options) if more else Pool(self.target, **self.options)


class NotAsked(Exception):
    """The case cannot be put to this engine; says why."""


def needed(value: Any, why: str) -> Any:
    """The value; without one the case is left out."""
    if value is None:
        raise NotAsked(why)
    return value


@dataclass(frozen=True)
class Case:
    """One promise: a row of the matrix, and the check of it."""

    feature: str
    check: Callable[[Pool, Started], None]

    @property
    def name(self) -> str:
        return self.check.__name__

    @property
    def promise(self) -> str:
        """The sentence of its docstring."""
        return " ".join((self.check.__doc__ or "").split())


@dataclass(frozen=True)
class EngineUnderTest:
    """An engine: how it is started, and which promises it is known not to keep.

    Attributes:
        name: for the command line and for records.
        start: gives a context manager that starts the engine and ends it; its value is a `Started`.
        lacks: name of a case -> why this engine does not keep it. A lack that is no lack is a failure, too.
        untried: lacks that are not tried, as they would end the process of the suite or hold it up.
        under: the command that runs Python with these arguments where the engine is, if that is not any process.
        package: the distribution whose version is recorded; "": Python's own.
        title: for people.
    """

    name: str
    start: Callable[[], AbstractContextManager[Started]]
    lacks: Mapping[str, str] = field(default_factory=dict)
    untried: frozenset[str] = frozenset()
    under: Callable[[Sequence[str]], list[str]] | None = None
    package: str = ""
    title: str = ""


@dataclass(frozen=True)
class Outcome:
    """What became of a case.

    "kept"; "not kept", as was known, and why; "not asked": the engine has nothing of the kind, and why; "failed".
    """

    case: Case
    state: Literal["kept", "not kept", "not asked", "failed"]
    reason: str = ""
    seconds: float = 0.0

    def __str__(self) -> str:
        reason = f": {self.reason}" if self.reason else ""
        return f"{self.state:10}{self.case.name} ({self.seconds:.1f} s){reason}"


class Session:
    """An engine and a pool on it, which cases share; both are made anew when a case has ended them."""

    def __init__(self, engine: EngineUnderTest) -> None:
        self.engine = engine
        self._folder = tempfile.TemporaryDirectory(prefix="distmap-suite-", ignore_cleanup_errors=True)
        self._stack = ExitStack()
        self._started: Started | None = None
        self._pool: Pool | None = None
        self._before: set[int] = set()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
        self._folder.cleanup()

    def run(self, case: Case) -> Outcome:
        """Put one case to the engine."""
        began = time.monotonic()
        lack = self.engine.lacks.get(case.name)

        def outcome(state: Any, reason: str = "") -> Outcome:
            return Outcome(case, state, reason, time.monotonic() - began)

        if lack is not None and case.name in self.engine.untried:
            return outcome("not kept", lack)
        try:
            self._put(case, PATIENCE if lack is None else PATIENCE_OF_LACKS)
        except NotAsked as why:
            return outcome("not asked" if lack is None else "failed", str(why))
        except Exception as error:
            if lack is not None:
                return outcome("not kept", lack)
            return outcome("failed", "".join(traceback.format_exception(error)))
        return outcome("kept") if lack is None else outcome("failed", f"is kept, and was said not to be: {lack}")

    def _put(self, case: Case, patience: float) -> None:
        pool, started = self._ready()
        started.patience = patience
        started.folder = str(Path(self._folder.name, case.name))
        os.makedirs(started.folder, exist_ok=True)
        try:
            with _at_most(CASE_SECONDS):
                case.check(pool, started)
        except NotAsked:
            raise
        except Exception:
            if not _usable(pool):
                self.close()
            raise
        if not pool._gone and not _usable(pool):
            self.close()
            raise AssertionError("afterwards the pool could not be used any more")

    def _ready(self) -> tuple[Pool, Started]:
        """The pool and the engine; what a case has closed or ended is made anew."""
        if self._pool is not None and self._pool._gone:
            self._pool = None
        if self._started is None:
            self._before = _descendants()
            self._started = self._stack.enter_context(self.engine.start())
            self._started.stop = self._stop
        if self._pool is None:
            self._pool = self._started.pool()
        return self._pool, self._started

    def _stop(self) -> list[str]:
        """End the pool and the engine; what is left of processes."""
        self.close()
        return _lasting(self._before)

    def close(self) -> None:
        """End the pool and the engine."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.terminate()
            pool.join()
        self._started = None
        self._stack.close()


def _usable(pool: Pool) -> bool:
    from distmap.testing.engine_work import square

    if pool._gone:
        return False
    try:
        return bool(pool.map_async(square, range(4)).result(PATIENCE) == [0, 1, 4, 9])
    except Exception:
        return False


@contextlib.contextmanager
def _at_most(seconds: float) -> Any:
    """Interrupt the main thread after so many seconds: a case that hangs is a failure."""
    late = threading.Event()

    def interrupt() -> None:
        late.set()
        _thread.interrupt_main()

    timer = threading.Timer(seconds, interrupt)
    timer.daemon = True
    timer.start()
    try:
        yield
    except KeyboardInterrupt:
        if late.is_set():
            raise AssertionError(f"not over after {seconds:g} s") from None
        raise
    finally:
        timer.cancel()
        timer.join()


def _descendants() -> set[int]:
    import psutil

    return {child.pid for child in psutil.Process().children(recursive=True)}


def _lasting(before: set[int]) -> list[str]:
    """The processes below this one that were not there before, once they had time to end."""
    import psutil

    def left() -> list[str]:
        found = []
        for child in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                command = " ".join(child.cmdline())
                # It stays by design, once something has used it, as long as this process does.
                if child.pid not in before and "resource_tracker" not in command and "forkserver" not in command:
                    found.append(f"{child.pid} {child.status()} {command[:100]}")
        return found

    end = time.monotonic() + PATIENCE
    while (found := left()) and time.monotonic() < end:
        time.sleep(0.05)
    return found
