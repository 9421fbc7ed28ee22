"""Runs the items of one attempt and reports as it goes.

Owns `AttemptRun` (the loop over the items, reports, errors of items), `rng`, and where in that loop a KeyboardInterrupt
may be raised. Must not know processes or connections: it is given loaded code, items and shared cells. Imported by task
processes.
"""

from __future__ import annotations

from _thread import _local
from collections.abc import Callable, Iterable, MutableSequence
from errno import EMFILE
from time import perf_counter
from types import FrameType

from distmap.tasks._typing import TYPE_CHECKING, Any
from distmap.tasks.broadcast import Dependencies
from distmap.tasks.caller import PACKAGE
from distmap.tasks.cells import CELL_AT, CELL_FLUSH, CELL_INTERRUPT, CELL_STOP, CELL_STOP_ATTEMPT
from distmap.tasks.failures import Failure, describe, failed_to_travel, short_repr, type_name
from distmap.tasks.items import Items, encode, fold, load_results, show_call
from distmap.tasks.leftovers import reserve
from distmap.tasks.library import Library
from distmap.tasks.payload import Payload, load_value
from distmap.tasks.picklers import UNPICKLABLE
from distmap.tasks.pickling import dump_small
from distmap.wire.messages import Output, Refused, Report, Task

if TYPE_CHECKING:
    import numpy

#: Seconds that a result may wait for its report while further items run, or twice as many if its attempt ends by then:
#: what was reported survives a crash.
_FLUSH = 0.050
#: Seconds between two looks at the cells that the parent process writes.
_LOOK = 0.001
#: Seconds between two times that what items changed of their process is set back; and how often the time that this
#: takes must fit between them: 6 us, but several times as much where many processes share a core and its caches.
_RESTORE, _RESTORE_SHARE = 0.005, 500
#: If items take less than _TINY seconds, the clock is read once for _STRETCH items.
_TINY, _STRETCH = 1e-6, 8
Cells = MutableSequence[int] | memoryview
Emit = Callable[[Report | Refused | Output, Payload], None]


class _Carried(Exception):
    """An item that failed to pickle where it came from: its Failure travelled in its place."""

    def __init__(self, failure: Failure) -> None:
        self.failure = failure


class LoadedCode:
    """A function of a job, unpickled, with the constants of the job."""

    def __init__(self, payload: Payload) -> None:
        self.fn, self.style, self.combine, self.seed, self.anchors = load_value(payload)


def report_is_due(seconds: float, done: int, left: int) -> bool:
    """Whether `done` results of so many seconds are reported now, and not with those that are `left` of the attempt.

    A report costs both sides as much as a chunk; so none is made if, at this pace, the last one follows soon.
    """
    if seconds < _FLUSH:
        return False
    return seconds >= 2 * _FLUSH or seconds / done * left > _FLUSH


class AttemptRun:
    """One attempt while it runs."""

    def __init__(
        self, task: Task, code: LoadedCode, items: Items, cells: Cells, emit: Emit, inline: bool, library: Library
    ) -> None:
        self.task, self.code, self.items, self.cells, self.emit, self.inline = task, code, items, cells, emit, inline
        self.library = library
        self.generator: tuple[int, numpy.random.Generator] | None = None
        self._item: Any = _MISSING
        #: Sets back what items changed of their process; see `hygiene.py`.
        self.restore: Callable[[], None] | None = None

    def loop(self) -> bool:
        """Run the items; True if KeyboardInterrupt ended it.

        The clock is read before each item, which costs 40 ns, and everything else about once a millisecond: so one
        slow item after many fast ones delays a report or a revocation by itself only. Only where items take less than
        a microsecond it is read before every eighth, so that at most seven more run before it is noticed.
        """
        task, cells, clock, restore = self.task, self.cells, perf_counter, self.restore
        call, source = self._call()
        values: list[Any] = []
        append = values.append
        failed: list[int] = []
        begun = due = seen = clock()
        restore_at = begun + _RESTORE
        lo, interrupted = task.lo, False
        look, stretch = lo, 0
        try:
            for i, x in enumerate(source, lo):
                cells[1] = i  # CELL_AT; a constant is quicker than a global, and this runs for each item
                if i >= look:
                    now = clock()
                    if now >= due:
                        if self._must_stop(i):
                            break
                        if values and (report_is_due(now - begun, len(values), task.hi - i) or cells[CELL_FLUSH] > 0):
                            cells[CELL_FLUSH] = 0
                            self._report(lo, values, failed, begun, ended=False)
                            values, failed, lo = [], [], i
                            append = values.append
                            begun = now = clock()
                        if restore is not None and now >= restore_at:
                            restore()
                            restored = clock()
                            restore_at = restored + max(_RESTORE, _RESTORE_SHARE * (restored - now))
                        due = now + _LOOK
                    stretch = _STRETCH if now - seen < stretch * _TINY else 1
                    look, seen = i + stretch, now
                try:
                    append(call(x))
                except BaseException as exc:
                    if isinstance(exc, KeyboardInterrupt) and self._is_interrupt():
                        raise
                    failed.append(i)
                    append(self._failure(exc, x))
        except KeyboardInterrupt:
            interrupted = True
        # An interrupt may have fallen between the two appends.
        self._report(lo, values, [at for at in failed if at < lo + len(values)], begun, ended=True)
        return interrupted

    def _call(self) -> tuple[Callable[[Any], Any], Iterable[Any]]:
        """What to call for each element of what."""
        fn, style, items, task = self.code.fn, self.code.style, self.items, self.task
        if items.whole is not None:
            source = items.whole if (task.lo, task.hi) == (0, items.count) else items.whole[task.lo : task.hi]
            if style == "one":
                return fn, source
            return (lambda x: fn(*x)) if style == "star" else (lambda x: fn(*x[0], **x[1])), source

        def single(at: int) -> Any:
            self._item = _MISSING
            self._item = x = self._open(at)
            if style == "one":
                return fn(x)
            return fn(*x) if style == "star" else fn(*x[0], **x[1])

        return single, range(task.lo, task.hi)

    def _open(self, at: int) -> Any:
        try:
            x = self.items.load(at)
        except UNPICKLABLE as exc:
            raise failed_to_travel("the item reached the worker but cannot be unpickled there", exc) from exc
        if type(x) is Failure:
            raise _Carried(x)
        return x

    def _is_interrupt(self) -> bool:
        """True if KeyboardInterrupt means: stop. One that the function raises by itself is an error like any other."""
        return self.inline or self.cells[CELL_INTERRUPT] == self.task.attempt

    def _must_stop(self, at: int) -> bool:
        cells, attempt = self.cells, self.task.attempt
        return (cells[CELL_STOP_ATTEMPT] == attempt and at >= cells[CELL_STOP]) or cells[CELL_INTERRUPT] == attempt

    def _failure(self, exc: BaseException, x: Any) -> Failure:
        if isinstance(exc, _Carried):
            return exc.failure
        try:
            try:
                return self._described(exc, x)
            except OSError as none_left:
                if none_left.errno != EMFILE or not reserve.release():
                    raise
                return self._described(exc, x)
        except BaseException as second:
            self._unless_interrupted(second)
            said = f"<it cannot be told: {type_name(type(second))} while it was described>"
            return Failure(type_name(type(exc)), said, "", None, "")

    def _described(self, exc: BaseException, x: Any) -> Failure:
        if _is_read_only(exc) and self.library.shares(self.task):
            exc.add_note(_READ_ONLY)
        self.library.finder.explain(exc)
        if x is _MISSING:
            return describe(exc, "", dump_small)
        item = x if self.items.whole is not None else self._item
        if item is _MISSING:
            return describe(exc, f"pickle of {len(self.items.pickled(x))} bytes", dump_small)
        return describe(exc, self._shown(item), dump_small)

    def _shown(self, item: Any) -> str:
        return show_call(*item) if self.code.style == "call" else short_repr(item)

    def _item_at(self, at: int) -> str:
        """An item that was run a while ago: it is opened again."""
        try:
            return self._shown(self.items.load_again(at))
        except BaseException as exc:
            self._unless_interrupted(exc)
            return f"it does not unpickle a second time: {type(exc).__name__}"

    def _unless_interrupted(self, exc: BaseException) -> None:
        """Raise on what is no error of the user's objects."""
        if self.inline and isinstance(exc, KeyboardInterrupt):
            raise exc

    def _report(self, lo: int, values: list[Any], failed: list[int], begun: float, *, ended: bool) -> None:
        """Emit what was finished. What goes wrong with that is an error of the items, not the end of the process."""
        hi = lo + len(values)
        try:
            payload, failed = self._encode(lo, values, failed)
        except BaseException as exc:
            self._unless_interrupted(exc)
            if len(values) > 1 and self.code.combine is None:
                # What is too much together may do in parts, and the item at fault is found.
                half = lo + len(values) // 2
                self._report(lo, values[: half - lo], [at for at in failed if at < half], perf_counter(), ended=False)
                self._report(half, values[half - lo :], [at for at in failed if at >= half], begun, ended=ended)
                return
            failure = self._failure(failed_to_travel("the result cannot be sent", exc), _MISSING)
            lost = [failure._replace(item=self._item_at(at)) for at in range(lo, hi)]
            payload, failed = encode(lost, Dependencies(), what="")[0], list(range(lo, hi))
            if self.code.combine is not None:
                payload = fold(payload)
        seconds = perf_counter() - begun
        self.emit(Report(self.task.slot, self.task.attempt, lo, hi, seconds, ended, tuple(failed)), payload)

    def _encode(self, lo: int, values: list[Any], failed: list[int]) -> tuple[Payload, list[int]]:
        if self.code.combine is not None:
            return self._fold(lo, values, failed)
        payload, unpicklable = encode(values, Dependencies(), what="the result", item=lambda at: self._item_at(lo + at))
        return payload, sorted({*failed, *(lo + at for at in unpicklable)}) if unpicklable else failed

    def _fold(self, lo: int, values: list[Any], failed: list[int]) -> tuple[Payload, list[int]]:
        """Fold what did not fail. If `combine` raises, the item whose result it was given fails."""
        combine = self.code.combine
        bad = {at: values[at - lo] for at in failed}
        folded: Any = _MISSING
        for at, value in enumerate(values, lo):
            if at in bad:
                continue
            try:
                folded = value if folded is _MISSING else combine(folded, value)
            except BaseException as exc:
                self._unless_interrupted(exc)
                bad[at] = describe(exc, short_repr(value), dump_small)
        results = [] if folded is _MISSING else [folded]
        results += [bad[at] for at in sorted(bad)]
        payload, unpicklable = encode(results, Dependencies(), what="the folded result", item=lambda _: "")
        if unpicklable:
            failure = load_results(payload.parts, 0, 1)[0]
            for at in range(lo, lo + len(values)):
                bad.setdefault(at, failure._replace(item=self._item_at(at)))
            payload, _ = encode([bad[at] for at in sorted(bad)], Dependencies(), what="")
        return fold(payload), sorted(bad)


#: What NumPy, pandas and Python say of memory that must not be written to.
_WORDS = ("read-only", "readonly", "not writable", "not writeable", "writeable flag")
_READ_ONLY = (
    "Captured arrays of 1 MB or more, and such arrays in broadcast values, are shared by all slots of a host and "
    "therefore read-only. To change one, copy it in the function (x = x.copy()), or send it with "
    "pool.broadcast(value, writable=True): each slot then writes to a copy of its own."
)


def _is_read_only(exc: BaseException) -> bool:
    if not isinstance(exc, ValueError | TypeError | BufferError):
        return False
    text = str(exc).lower()
    return any(words in text for words in _WORDS)


_MISSING = object()
current = _local()
#: Functions of distmap that call the user's function.
_CALLERS = {
    "AttemptRun._call.<locals>.single",
    "AttemptRun._call.<locals>.<lambda>",
    "Runner._noting.<locals>.set_up",
    "run_task",  # of ext.joblib, and its
    "Nested.run",
}


def interruptible(frame: FrameType | None) -> bool:
    """For a SIGINT handler: True if KeyboardInterrupt may be raised at this frame.

    It may in the user's function, and in the loop itself (a builtin that is mapped has no frame of its own), but not
    while distmap opens an item or writes a report. Where it may not, the loop sees the cell before the next item.
    """
    while frame is not None:
        code = frame.f_code
        if code is AttemptRun.loop.__code__:
            return True
        if code.co_filename.startswith(PACKAGE) and code.co_qualname not in _CALLERS:
            return False
        frame = frame.f_back
    return False


def rng() -> numpy.random.Generator:
    """The random generator of the item that runs: from `seed=` of the call and the item's index.

    The same item gets the same numbers whatever the chunks and workers. Without `seed=` it is seeded by the system.
    """
    run: AttemptRun | None = getattr(current, "run", None)
    if run is None:
        raise RuntimeError(
            "distmap.rng() works only inside a function that a pool runs, in the thread that runs it; "
            "give the call seed=, as in pool.map(fn, data, seed=1)"
        )
    index = run.task.start + run.cells[CELL_AT]
    if run.generator is None or run.generator[0] != index:
        # Not `from numpy.random`: with a thread that imports numpy meanwhile, the two could wait for each other.
        import numpy

        random, seed = numpy.random, run.code.seed
        source = random.default_rng(None if seed is None else random.SeedSequence(seed, spawn_key=(index,)))
        run.generator = (index, source)
    return run.generator[1]
