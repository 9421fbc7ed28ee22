"""What becomes of a job's results in the kernel: decoded, listed, folded.

Owns unpickling of reports (in the calling thread) and the consumers. Knows the driver's messages; no threads here.
"""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

from distmap.calls.naming import name_of_item
from distmap.calls.rerun import make_rerunnable
from distmap.core.events import OnError
from distmap.driver.messages import Landed, Lost, ReportData
from distmap.errors import PoisonItemError, WorkerMemoryError
from distmap.tasks._typing import NamedTuple
from distmap.tasks.failures import Failure, headline, revive, throw, with_source
from distmap.tasks.items import Folded, is_plain, load_results
from distmap.tasks.modules import loaded

if TYPE_CHECKING:
    from distmap.checkpoint.reader import ReportReader


class _Skip:
    def __repr__(self) -> str:
        return "<skipped>"


SKIP = _Skip()


class ResultSink(Protocol):
    """Takes results as they land."""

    failures: dict[int, BaseException]
    first_failure: BaseException | None
    #: It only keeps what it takes, which can be done at any time; False: it runs the user's code.
    keeps: bool

    def take(self, index: int, count: int, values: list[Any], failed: dict[int, BaseException]) -> None:
        """Results of `items` items from `index` on, SKIP where one failed; the errors by item index."""

    def run_at(self, index: int) -> tuple[int, list[Any]] | None:
        """The results that begin at item `index`: how many items, and their values; None if not there (yet)."""

    def result(self) -> Any:
        """All of it, once the job is done."""

    def partial(self) -> list[tuple[int, Any]]:
        """(index, value) of what is there."""

    def let_go(self) -> None:
        """Nothing more will be taken: forget the user's functions."""


class Decoded(NamedTuple):
    """Results of `items` items from `start` on: SKIP where one failed, the errors by item index, the bytes of all."""

    start: int
    items: int
    values: list[Any]
    failures: dict[int, BaseException]
    nbytes: int


class Recalled(NamedTuple):
    """Results of `count` items from index `start` on that an earlier call left in the checkpoint: a message as Landed.

    They are read when they are wanted, so results may be larger than the memory.
    """

    start: int
    count: int  # type: ignore[assignment]
    report: int
    #: Offset of the first of them in the chunk of the report.
    at: int
    reader: ReportReader


def index_of(message: Landed | Lost | Recalled) -> int:
    """Index of the first item that a message is about."""
    if isinstance(message, Lost):
        return message.item
    return message.start + message.lo if isinstance(message, Landed) else message.start


def count_of(message: Landed | Lost | Recalled) -> int:
    """How many items a message is about."""
    if isinstance(message, Lost):
        return 1
    return message.hi - message.lo if isinstance(message, Landed) else message.count


def decode(message: Landed | Lost | Recalled) -> Decoded:
    """What a message says of items, unpickled. Runs the user's code."""
    if isinstance(message, Recalled):
        return _recall(message)
    if isinstance(message, Landed):
        values, failures = results_of(message)
        count, nbytes = message.hi - message.lo, message.report.nbytes
        return Decoded(message.start + message.lo, count, values, failures, nbytes)
    return Decoded(message.item, 1, [SKIP], {message.item: exception_of(message)}, 0)


def _recall(message: Recalled) -> Decoded:
    values, plain = message.reader.values(message.report, message.at, message.count)
    failures: dict[int, BaseException] = {}
    if not plain:
        for at, value in enumerate(values):
            if isinstance(value, Failure):  # a value that does not unpickle here
                index = message.start + at
                failures[index] = revive(value, index=index, worker="the checkpoint", attempt=1)
                values[at] = SKIP
    return Decoded(message.start, message.count, values, failures, 0)


def results_of(landed: Landed) -> tuple[list[Any], dict[int, BaseException]]:
    """Unpickle what landed: its values (SKIP where an item failed), and the errors by item index.

    Of a report that `combine` folded there is one value, whatever the number of items.
    """
    report = landed.report
    if report.values is None:
        report.plain = is_plain(report.parts)
        report.values = load_results(report.parts, report.lo, report.hi, report.failed)
        report.parts = ()
    values: list[Any] = report.values
    failed: dict[int, BaseException] = {}
    kinds = set() if report.plain else set(map(type, values))
    if Folded in kinds:
        # A report may be accepted in pieces; what was folded of all of it comes with the first.
        own = [pair for pair in zip(report.failed, values[1:], strict=False) if landed.lo <= pair[0] < landed.hi]
        offsets, failures = tuple(pair[0] for pair in own), [pair[1] for pair in own]
        values = [values[0].value] if landed.lo == report.lo else []
    else:
        if (landed.lo, landed.hi) != (report.lo, report.hi):
            values = values[landed.lo - report.lo : landed.hi - report.lo]
        if not report.failed and Failure not in kinds:  # a value that does not unpickle shows only here
            return values, failed
        offsets = tuple(landed.lo + at for at, value in enumerate(values) if isinstance(value, Failure))
        failures = [value for value in values if isinstance(value, Failure)]
        values = [SKIP if isinstance(value, Failure) else value for value in values]
    for offset, failure in zip(offsets, failures, strict=False):
        index, tries = landed.start + offset, report.attempts.get(offset, 1)
        failed[index] = error = revive(failure, index=index, worker=report.worker, attempt=tries)
        make_rerunnable(error, report.ran_with, index, offset)
    return values, failed


def failure_of(report: ReportData, at: int) -> str:
    """The last line of the traceback of the item at offset `at`, which is run again. From any thread."""
    # In this order: whoever takes the results at the same time sets the values before it lets go of the parts.
    parts = report.parts
    values = load_results(parts, report.lo, report.hi, report.failed) if len(parts) else report.values
    failure = values[at - report.lo]
    return headline(failure) if isinstance(failure, Failure) else "?"


def exception_of(lost: Lost, name: str | None = None) -> BaseException:
    """The error of an item that was lost for good; `name` names what is no item."""
    error = _exception_of(lost, name)
    make_rerunnable(error, lost.ran_with, lost.item, lost.at, deadly=lost.cause != "timeout")
    return error


def _exception_of(lost: Lost, name: str | None) -> BaseException:
    name = name or f"item {lost.item} ({'?' if lost.payload is None else name_of_item(lost.payload, lost.at)})"
    deaths = list(lost.deaths)
    if lost.cause == "timeout":
        from distmap.errors import ItemTimeout

        *deaths, (worker, text) = deaths or [("?", "")]
        before = f" (before, it ended {_processes(deaths)})" if deaths else ""
        error = ItemTimeout(
            f"{name} ran longer than timeout={lost.timeout:g} s on worker {worker} and was stopped{before}"
        )
        error.stack = with_source(text.partition("\n")[2])
        if error.stack:
            error.add_note(f"When its time was up it stood here (innermost call last):\n{error.stack}")
        return error
    if lost.cause in ("memory", "limit"):
        return _memory_error(name, deaths, alone=lost.cause == "memory")
    if lost.cause == "hosts":
        how = _counted(deaths)
        return PoisonItemError(
            f"{name} was running each time as its worker was lost, {len(deaths)} times, at last alone: {how}; it may "
            "bring the host down"
        )
    return PoisonItemError(f"{name} ended {_processes(deaths)}")


def _memory_error(name: str, deaths: list[tuple[str, str]], *, alone: bool) -> WorkerMemoryError:
    *before, (worker, text) = deaths or [("?", "no details came back")]
    if not alone:
        return WorkerMemoryError(
            f"{name} passed the memory limit on worker {worker}: its task process {text}. Let the item do less at "
            "once, or raise the limit: distmap-worker --memory-limit, or Pool(memory_limit=...) for this machine"
        )
    error = WorkerMemoryError(
        f"{name} needs more memory than there is on worker {worker}, though it ran alone there: its task process "
        f"{text}. Let the item do less at once, or run it where there is more memory"
    )
    if before:
        error.add_note(f"Before, it ended {_processes(before)}")
    return error


def _processes(deaths: Sequence[tuple[str, str]]) -> str:
    return f"{len(deaths)} task process{'es' * (len(deaths) != 1)}: {_counted(deaths)}"


def _counted(deaths: Sequence[tuple[str, str]]) -> str:
    counts = Counter(f"{worker}: {text}" for worker, text in deaths)
    return "; ".join(one + (f" ({n} times)" if n > 1 else "") for one, n in counts.items()) or "no details came back"


class _Failing:
    """Keeps the errors by index."""

    keeps = False

    def __init__(self, on_error: OnError) -> None:
        self._on_error = on_error
        self.failures: dict[int, BaseException] = {}
        self.first_failure: BaseException | None = None

    def fail(self, failed: dict[int, BaseException]) -> None:
        """Note the errors of items, by index."""
        self.failures.update(failed)
        for error in failed.values():
            if self.first_failure is None:  # an exception may well be false
                self.first_failure = error

    def let_go(self) -> None:
        """There is nothing to forget."""


class Collect(_Failing):
    """A list in input order. `join` turns the list into the result (`map_batches` concatenates)."""

    keeps = True

    def __init__(self, on_error: OnError, join: Callable[[list[Any]], Any] | None = None) -> None:
        super().__init__(on_error)
        self._join = join
        self._runs: dict[int, tuple[int, list[Any]]] = {}

    def take(self, index: int, count: int, values: list[Any], failed: dict[int, BaseException]) -> None:
        self.fail(failed)
        if failed and self._on_error == "skip":
            values = [value for value in values if value is not SKIP]
        elif failed:
            for lost, error in failed.items():
                values[lost - index] = error
        self._runs[index] = (count, values)

    def run_at(self, index: int) -> tuple[int, list[Any]] | None:
        return self._runs.get(index)

    def result(self) -> Any:
        values: list[Any] = []
        for _, (_, run) in sorted(self._runs.copy().items()):
            values += run
        return values if self._join is None else self._join(values)

    def partial(self) -> list[tuple[int, Any]]:
        pairs: list[tuple[int, Any]] = []
        # A copy: the job's own thread may add runs meanwhile.
        for start, (count, run) in sorted(self._runs.copy().items()):
            indices: Any = range(start, start + count)
            if len(run) < count:  # "skip" left the failed ones out
                indices = (index for index in indices if index not in self.failures)
            pairs += [pair for pair in zip(indices, run, strict=False) if pair[0] not in self.failures]
        return pairs


class Fold(_Failing):
    """reduce(reduce(initial, a), b) ... in input order, as results land."""

    def __init__(self, on_error: OnError, reduce: Callable[[Any, Any], Any], initial: Any) -> None:
        if on_error == "return":
            raise ValueError('on_error="return" has no meaning for map_reduce; use "raise" or "skip"')
        super().__init__(on_error)
        self._step = _in_place(reduce)
        self._value = initial
        self._count = 0

    def take(self, index: int, count: int, values: list[Any], failed: dict[int, BaseException]) -> None:
        if index < self._count:
            return  # it was interrupted while it folded these
        self._count = index + count
        self.fail(failed)
        for value in values:
            if value is not SKIP:
                self._value = value if self._value is EMPTY else self._step(self._value, value)

    def run_at(self, index: int) -> tuple[int, list[Any]] | None:
        return None

    def let_go(self) -> None:
        self._step = operator.add

    def result(self) -> Any:
        if self._value is EMPTY:
            raise TypeError("map_reduce() of empty data with no initial value; pass initial=")
        return self._value

    def partial(self) -> list[tuple[int, Any]]:
        return [] if self._value is EMPTY else [(self._count - 1, self._value)]


class Stream(_Failing):
    """Holds nothing but the errors: the iterator gives each value away as it comes."""

    def place(self, error: BaseException) -> Any:
        """What stands in the place of an item that failed: raises, or gives the error, or SKIP."""
        if self._on_error == "raise":
            throw(error)
        return error if self._on_error == "return" else SKIP

    def take(self, index: int, count: int, values: list[Any], failed: dict[int, BaseException]) -> None:
        raise AssertionError("a stream is taken by its iterator")

    def run_at(self, index: int) -> tuple[int, list[Any]] | None:
        return None

    def result(self) -> Any:
        return None

    def partial(self) -> list[tuple[int, Any]]:
        return []


class TakenResults(_Failing):
    """What is left of results that were given away: the errors of items. They belong to whoever has them, alone."""

    def __init__(self, taken: ResultSink, name: str) -> None:
        self.failures = taken.failures
        self.first_failure = taken.first_failure
        self._name = name

    def take(self, index: int, count: int, values: list[Any], failed: dict[int, BaseException]) -> None:
        raise AssertionError("the job is over")

    def run_at(self, index: int) -> NoReturn:
        self.result()

    def result(self) -> NoReturn:
        raise ValueError(
            f"the results of {self._name} were given to its caller and are not kept here: keep what it gave"
        )

    def partial(self) -> NoReturn:
        self.result()


def _in_place(reduce: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """A step that folds into the array it made itself, where the reducer is a NumPy function of two arrays.

    Fresh memory costs more than adding, page by page: a sum of large arrays then needs one array, not one for
    each step. The user's `initial` and the first result are never written to.
    """
    numpy = loaded("numpy")
    if numpy is None:
        return reduce
    known = {operator.add: numpy.add, operator.mul: numpy.multiply, operator.or_: numpy.bitwise_or}
    try:
        function = known.get(reduce, reduce)
    except TypeError:  # an unhashable callable
        return reduce
    if not isinstance(function, numpy.ufunc) or function.nin != 2:
        return reduce
    mine: list[Any] = [None]

    def step(so_far: Any, value: Any) -> Any:
        same = (
            so_far is mine[0]
            and isinstance(value, numpy.ndarray)
            and value.shape == so_far.shape
            and value.dtype == so_far.dtype
        )
        if same:
            return function(so_far, value, out=so_far)
        result = reduce(so_far, value)
        owned = isinstance(result, numpy.ndarray) and result is not so_far and result is not value
        mine[0] = result if owned and result.base is None else None
        return result

    return step


class _Empty:
    def __repr__(self) -> str:
        return "<no initial value>"


EMPTY = _Empty()
