"""Runs tasks: what a slot, a foreign executor's worker or the inline engine holds.

Owns `Runner`: it loads the code of a task and runs the set-ups that the task needs; `run.py` then runs the items. Must
not know processes or connections: it is given payloads and shared cells, and emits reports. Imported by task
processes.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FunctionType

from distmap.tasks._typing import TYPE_CHECKING, Any
from distmap.tasks.broadcast import Dependencies
from distmap.tasks.cells import CELL_ATTEMPT, CELL_INTERRUPT
from distmap.tasks.extras import differences
from distmap.tasks.failures import SET_UP, Failure, describe
from distmap.tasks.hygiene import Hygiene
from distmap.tasks.items import Items, encode
from distmap.tasks.library import Library
from distmap.tasks.nesting import runners
from distmap.tasks.payload import Payload
from distmap.tasks.picklers import underlying
from distmap.tasks.pickling import dump_small
from distmap.tasks.run import AttemptRun, Cells, Emit, LoadedCode, current
from distmap.wire.messages import NOTICE, BlobKind, Output, Refused, Report, Task

if TYPE_CHECKING:
    pass


class _Unfit(ImportError):
    """There are other packages here than the code was made with, and others may have the right ones."""


class Runner:
    """Runs tasks, with what was put into its library. Threads have one each: a function is loaded once for each.

    Args:
        inline: KeyboardInterrupt is a real one, of this process: after the report of what is finished it is raised on.
        library: shared with the other runners of this process; None: its own.
        folder: where data files of local modules are written; see `finder.py`.
        hygiene: of a process that runs nothing else; None: what items change stays as it is.
    """

    def __init__(
        self,
        *,
        inline: bool = False,
        library: Library | None = None,
        folder: str | None = None,
        hygiene: Hygiene | None = None,
    ) -> None:
        self._hygiene = hygiene
        self._last: tuple[bytes, tuple[bytes, ...]] | None = None
        self._inline = inline
        self._library = library or Library(folder)
        self._edition = self._library.edition
        self._codes: dict[bytes, LoadedCode] = {}
        #: Why code did not load. The next chunk of its job, which waits already, must not import everything again.
        self._unloadable: dict[bytes, Failure] = {}
        #: Set-ups that ran here, each with the globals that it left. That they ran outlives their payloads.
        self._ready: dict[bytes, dict[str, Any]] = {}

    def put(self, digest: bytes, kind: BlobKind, payload: Payload) -> None:
        """Keep a payload; it is loaded when a task first needs it."""
        self._library.put(digest, kind, payload)

    def drop(self, digest: bytes) -> None:
        """Forget a payload; with the code of the last call, what its items left behind is ended."""
        code = self._codes.get(digest)
        self._library.drop(digest)
        self.forget_dropped()
        calls = any(one.style != "setup" for one in self._codes.values())
        if self._hygiene is not None and code is not None and code.style != "setup" and not calls:
            self._hygiene.call_over()

    def forget_dropped(self) -> None:
        """Let go of functions whose code was dropped, by whichever runner of the library."""
        for digest in (self._codes.keys() | self._unloadable.keys()) - self._library.payloads.keys():
            self.forget(digest)

    def forget(self, digest: bytes) -> None:
        """Load a function anew at its next task, also one that did not load."""
        self._codes.pop(digest, None)
        self._unloadable.pop(digest, None)

    def run(self, task: Task, payload: Payload, cells: Cells, emit: Emit) -> None:
        """Run the task's items and emit reports; the last one has `ended`. Emits Refused if nothing can be run."""
        # CELL_AT is left alone until the first item runs: a death while code loads is no item's.
        cells[CELL_ATTEMPT] = task.attempt
        if (failure := self._unloadable.get(task.code)) is not None:
            return self._refuse(task, failure, emit)
        try:
            code = self._load(task, emit)
            items = Items([payload[0], *payload[1]])
        except BaseException as exc:
            if isinstance(exc, KeyboardInterrupt) and self._inline:
                raise
            if isinstance(exc, KeyboardInterrupt) and cells[CELL_INTERRUPT] == task.attempt:
                emit(
                    Report(task.slot, task.attempt, task.lo, task.lo, 0.0, True, ()),
                    encode([], Dependencies(), what="")[0],
                )
                return
            self._library.finder.explain(exc)
            unfit = isinstance(exc, _Unfit)
            failure = describe(ImportError(str(exc)) if unfit else exc, "", dump_small)
            return self._refuse(task, failure, emit, unfit=unfit)
        hygiene = self._hygiene
        if hygiene is not None and self._last != (task.code, task.needs):
            self._last = task.code, task.needs
            hygiene.begin()  # what was loaded may have changed something
        restore = None if hygiene is None or code.style == "setup" else hygiene.restore
        before = getattr(current, "run", None)
        run = current.run = AttemptRun(task, code, items, cells, emit, self._inline, self._library)
        run.restore = restore
        try:
            interrupted = run.loop()
        finally:
            current.run = before
            if restore is not None:
                restore()
            elif hygiene is not None:
                hygiene.set_up()
        if interrupted and self._inline:
            raise KeyboardInterrupt

    def _refuse(self, task: Task, failure: Failure, emit: Emit, *, unfit: bool = False) -> None:
        """Say why the task cannot be run here, and what of the packages that it needs is missing or another one."""
        said = [failure, tuple([lack for lack in self._library.lacks(task) if lack.serious])]
        emit(Refused(task.slot, task.attempt, unfit), encode(said, Dependencies(), what="")[0])

    def _load(self, task: Task, emit: Emit) -> LoadedCode:
        library, setups = self._library, []
        for digest in task.needs:
            kind, payload = library.get(digest)
            if kind == "surroundings":
                library.surroundings.switch_to(digest, payload)
            elif kind == "code" and digest != task.code:
                setups.append(digest)
            elif kind in ("modules", "extras"):
                library.install(digest, kind, payload)
        if self._edition != library.edition:
            self._codes.clear()
            self._ready.clear()
            self._unloadable.clear()
            self._edition = library.edition
        try:
            for digest in setups:
                if digest not in self._ready:
                    self._set_up(digest, task.slot)
            code = self._codes.get(task.code)
            if code is None:
                lacks = library.lacks(task)
                if task.strict and any(lack.serious for lack in lacks):
                    raise _Unfit("this worker has other packages than the function was made with")
                # First, as they may be why it does not load.
                self._tell(differences(lacks), task, emit)
                code = self._code(task.code)
            return code
        except _Unfit:
            raise
        except Exception as exc:
            library.finder.explain(exc)
            self._unloadable[task.code] = describe(exc, "", dump_small)
            raise

    def _code(self, digest: bytes) -> LoadedCode:
        code = LoadedCode(self._library.get(digest)[1])
        for setup, anchor in code.anchors:
            # The globals of a notebook travel with each function; they are to be as the set-up left them here.
            if anchor is not None:
                anchor.__globals__.update(self._ready.get(setup, ()))
        if code.style == "setup":
            code.fn = self._noting(digest, code.fn)
        self._codes[digest] = code
        return code

    def _noting(self, digest: bytes, fn: Callable[..., Any]) -> Callable[..., Any]:
        def set_up() -> Any:
            value = fn()
            if digest in self._ready:  # other functions were given what it left the last time
                self._codes = {known: code for known, code in self._codes.items() if code.style == "setup"}
            self._ready[digest] = _globals_left_by(fn)
            return value

        return set_up

    def _set_up(self, digest: bytes, slot: int) -> None:
        code = self._codes.get(digest) or self._code(digest)
        try:
            code.fn()
            if self._hygiene is not None:
                self._hygiene.set_up()
        except Exception as exc:
            exc.add_note(f"{SET_UP} (pool.run or initializer=) in slot {slot}, which runs no item without it")
            raise

    def _tell(self, lines: list[str], task: Task, emit: Emit) -> None:
        if lines:
            texts = [line.encode() for line in lines]
            pieces = tuple([(-1, NOTICE, len(text)) for text in texts])
            emit(Output(task.slot, task.attempt, 0, pieces), Payload(b"".join(texts)))


runners.add(Runner.run.__code__)


def _globals_left_by(fn: Callable[..., Any]) -> dict[str, Any]:
    """The globals of a set-up that travelled by value, as they are now: its data, not its functions and classes."""
    found = underlying(fn)
    if found is None or getattr(sys.modules.get(found.__module__), "__dict__", None) is found.__globals__:
        return {}
    return {
        name: value
        for name, value in found.__globals__.items()
        if not (name.startswith("__") or isinstance(value, type | FunctionType))
    }
