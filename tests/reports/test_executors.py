"""Section 5: `Pool(executor)`: executors that are honest, that die, and that have bad manners.

Each row: an executor, and what `[fn(x) for x in data]` gives; distmap gives the same, or a sentence that says why not.
"""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from multiprocessing import get_all_start_methods, get_context, resource_tracker
from pathlib import Path
from typing import Any

import pytest

import distmap
from distmap.core.events import Assign
from distmap.errors import JobCancelled, NoWorkers, PoisonItemError

#: loky keeps a process and pipes of its own.
THEIRS = pytest.mark.own_leaks("processes", "threads", "descriptors")


@pytest.fixture(autouse=True, scope="module")
def trackers() -> None:
    """The trackers of named resources stay once they were started; that is not a test's leak."""
    resource_tracker.ensure_running()


def loky_executor(needs: Callable[[bool, str], None], stack: ExitStack, **options: Any) -> Executor:
    try:
        import loky
    except ImportError:
        needs(False, "loky")
    made: Executor = loky.get_reusable_executor(2, **options)
    stack.callback(made.shutdown, wait=True, kill_workers=True)  # type: ignore[call-arg]
    return made


REAL = ["threads", *get_all_start_methods(), "loky"]


@pytest.fixture
def real(request: pytest.FixtureRequest, needs: Callable[[bool, str], None]) -> Iterator[Executor]:
    """A real executor of two workers, by its name."""
    with ExitStack() as stack:
        if request.param == "threads":
            yield stack.enter_context(ThreadPoolExecutor(2))
        elif request.param == "loky":
            yield loky_executor(needs, stack)
        else:
            yield stack.enter_context(ProcessPoolExecutor(2, mp_context=get_context(request.param)))


def square(x: int) -> int:
    return x * x


def die_of(poison: int, x: int) -> int:
    if x == poison:
        os._exit(3)
    return x * x


@THEIRS
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("real", REAL, indirect=True)
def test_real_executors_give_what_plain_python_gives(real: Executor) -> None:
    """Items, closures and large captured values; the pool has as many slots as the executor runs calls at once."""
    table = list(range(50_000))  # over 64 KB, so that it travels only when it is missed
    with distmap.Pool(real) as pool:
        assert pool.workers[0].slots == 2
        assert pool.map(square, range(300), progress=False) == [x * x for x in range(300)]
        assert pool.map(lambda x: table[x], range(300), progress=False) == list(range(300))


@THEIRS
@pytest.mark.timeout(90)  # it starts the processes of loky four times; on a busy machine each time takes seconds
@pytest.mark.parametrize("real", ["spawn", "loky"], indirect=True)
def test_a_poison_item_is_named_and_costs_no_other(real: Executor) -> None:
    """The item that ends its task process is found; its executor, and all other items, never notice. So with an item
    that runs too long.
    """
    with distmap.Pool(real) as pool:
        got = pool.map(partial(die_of, 17), range(40), chunksize=20, progress=False, on_error="return")
        assert isinstance(got[17], PoisonItemError)
        assert "item 17 (17) ended 3 task processes" in str(got[17])
        assert got[:17] + got[18:] == [x * x for x in range(40) if x != 17]
        got = pool.map(partial(stop_at, 3), range(8), chunksize=8, timeout=1, progress=False, on_error="return")
        assert isinstance(got[3], distmap.ItemTimeout)
        assert got[:3] + got[4:] == [x for x in range(8) if x != 3]
    assert real.submit(square, 3).result(20) == 9


def stop_at(poison: int, x: int) -> int:
    if x == poison:
        time.sleep(60)  # until the time limit ends it
    return x


def nothing() -> None:
    """An initializer: what it sets up lives in the executor's processes, so chunks run in them."""


@THEIRS
@pytest.mark.timeout(90)
def test_a_poison_item_is_found_where_one_death_breaks_all(needs: Callable[[bool, str], None]) -> None:
    """If the executor can be made anew, and chunks must run in its own processes."""
    with ExitStack() as stack:
        executor = loky_executor(needs, stack, initializer=nothing)
        with distmap.Pool(executor) as pool:
            got = pool.map(partial(die_of, 17), range(40), chunksize=20, progress=False, on_error="return")
            assert isinstance(got[17], PoisonItemError)
            assert got[:17] + got[18:] == [x * x for x in range(40) if x != 17]
            assert pool.map(square, [1, 2], progress=False) == [1, 4]


def broken(method: str, count: int = 2) -> Executor:
    """One that breaks with a process of its own."""
    return ProcessPoolExecutor(count, mp_context=get_context(method), initializer=nothing)


@pytest.mark.parametrize("method", ["spawn", "fork"])
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_broken_process_pool_says_so_at_once(method: str) -> None:
    """It cannot be mended: the error says that, which items it had, and how much is kept."""
    with broken(method) as executor, distmap.Pool(executor) as pool:
        begun = time.monotonic()
        with pytest.raises(
            NoWorkers, match=r"ProcessPoolExecutor is broken.*cannot be mended: make a new one"
        ) as caught:
            pool.map(partial(die_of, 30), range(40), chunksize=1, progress=False)
        assert time.monotonic() - begun < pool._connect_timeout  # not the wait for a worker that never comes
        notes = "\n".join(caught.value.__notes__)
        assert "when it broke: one of them ended its process" in notes
        kept = dict(pool.last.partial)
        assert f"{len(kept)} items had been finished" in notes
        assert kept == {x: x * x for x in kept}
        assert len(kept) >= 20
        with pytest.raises(NoWorkers, match="cannot be mended"):
            pool.map(square, [1], progress=False)


def test_the_others_go_on_without_a_broken_one() -> None:
    """A broken executor beside slots of this machine: its items are run there, and the one to blame is named."""
    with broken("spawn", 1) as executor, distmap.Pool([executor, 1]) as pool:
        got = pool.map(partial(die_of, 3), range(40), chunksize=1, progress=False, on_error="return")
        assert isinstance(got[3], PoisonItemError)
        assert got[:3] + got[4:] == [x * x for x in range(40) if x != 3]


# --- bad manners -----------------------------------------------------------------------------------------------------


class Rude(Executor):
    """Runs calls in threads, as if they were elsewhere; what is rude about it is a subclass's."""

    max_workers: Any = 2
    threads = 2

    def __init__(self) -> None:
        self.inner = ThreadPoolExecutor(self.threads)
        self.submitted = 0

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        self.submitted += 1
        theirs, ours = self.inner.submit(fn, *args, **kwargs), self.future()
        theirs.add_done_callback(lambda done: self.pass_on(done, ours))
        return ours

    def future(self) -> Future[Any]:
        return Future()

    def pass_on(self, done: Future[Any], ours: Future[Any]) -> None:
        if not ours.cancelled():
            ours.set_result(done.result())

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self.inner.shutdown(wait)


class CannotCancel(Future[Any]):
    def cancel(self) -> bool:
        raise NotImplementedError("cancel is not implemented")


class CallsTwice(Future[Any]):
    def add_done_callback(self, fn: Callable[[Future[Any]], object]) -> None:
        super().add_done_callback(fn)
        super().add_done_callback(fn)


class CancelRaises(Rude):
    """As Parsl's."""

    def future(self) -> Future[Any]:
        return CannotCancel()


class CancelLies(Rude):
    """As Dask's and ipyparallel's: a future is never "running", so cancel() is True while the call runs. It also has
    more threads than it says."""

    threads = 4


class CallsBackTwice(Rude):
    def future(self) -> Future[Any]:
        return CallsTwice()


class AttributesRaise(Rude):
    @property
    def _max_workers(self) -> int:
        raise ConnectionError("the cluster does not answer")


class RunsAtOnce(Rude):
    """A call is over before submit returns."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        ours = self.future()
        ours.set_result(fn(*args, **kwargs))
        return ours


@pytest.fixture
def rude(request: pytest.FixtureRequest) -> Iterator[Rude]:
    with request.param() as executor:
        yield executor


@pytest.mark.parametrize(
    "rude",
    [CancelRaises, CancelLies, CallsBackTwice, AttributesRaise, RunsAtOnce],
    indirect=True,
    ids=lambda k: k.__name__,
)
def test_bad_manners_change_no_result(rude: Rude) -> None:
    """Values are those of plain Python, a cancelled job leaves the pool usable, and closing it raises nothing."""
    with distmap.Pool(rude) as pool:
        assert pool.map(square, range(100), progress=False) == [x * x for x in range(100)]
        job = pool.map_async(lambda x: time.sleep(0.02), range(200), chunksize=1, progress=False)
        job.cancel()
        with pytest.raises(JobCancelled):
            job.result(10)
        assert pool.map(square, range(9), progress=False) == [x * x for x in range(9)]


@pytest.mark.parametrize("rude", [CancelLies, CancelRaises], indirect=True, ids=lambda kind: kind.__name__)
def test_no_item_runs_twice_because_a_cancel_lied(rude: Rude, tmp_path: Path) -> None:
    """What cannot be known to wait is not taken back: each item runs once, however uneven they are."""
    path = str(tmp_path / "ran")

    def step(x: int) -> int:
        with open(path, "a") as file:
            file.write(f"{x}\n")
        time.sleep(0.4 if x in (0, 2) else 0.001)
        return x

    with distmap.Pool(rude) as pool:
        assert pool.map(step, range(12), chunksize=1, progress=False) == list(range(12))
    with open(path) as file:
        ran = sorted(map(int, file))
    assert ran == list(range(12))


class Stops(Rude):
    """Takes so many calls and no more."""

    left, error = 5, RuntimeError("cannot schedule new futures after shutdown")

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        if not self.left:
            raise self.error
        self.left -= 1
        return super().submit(fn, *args, **kwargs)


class CancelsAll(Rude):
    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        self.submitted += 1
        ours: Future[Any] = Future()
        ours.cancel()
        ours.set_running_or_notify_cancel()
        return ours


@pytest.mark.parametrize(
    ("rude", "says"),
    [
        (Stops, r"Stops takes nothing any more \(RuntimeError: cannot schedule new futures after shutdown\)"),
        (CancelsAll, r"nothing came of \d+ calls in a row \(CancelledError\)"),
    ],
    indirect=["rude"],
    ids=["submit raises after five", "everything is cancelled by somebody else"],
)
def test_an_executor_that_takes_nothing_more_is_given_up(rude: Rude, says: str) -> None:
    """The error comes at once and says why; what was finished is kept."""
    with distmap.Pool(rude) as pool:
        with pytest.raises(NoWorkers, match=says):
            pool.map(square, range(100), chunksize=1, progress=False)
        assert all(value == index * index for index, value in pool.last.partial)


class Full(Stops):
    error = OSError("the queue is full")  # type: ignore[assignment]


class NoFuture(Rude):
    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        return 7


class Garbage(Rude):
    def pass_on(self, done: Future[Any], ours: Future[Any]) -> None:
        ours.set_result("something else")


class Raises(Rude):
    def pass_on(self, done: Future[Any], ours: Future[Any]) -> None:
        ours.set_exception(SystemExit("of the executor's own"))


@pytest.mark.parametrize(
    ("rude", "error", "says"),
    [
        (Full, OSError, "the queue is full"),
        (NoFuture, AttributeError, "add_done_callback"),
        (Garbage, TypeError, "Garbage answered with str, no result of the call"),
        (Raises, distmap.RemoteError, "SystemExit: of the executor's own"),
    ],
    indirect=["rude"],
    ids=["submit raises", "submit gives no future", "an answer of another kind", "a future that raises SystemExit"],
)
def test_foreign_errors_are_the_calls_error(rude: Rude, error: type[BaseException], says: str) -> None:
    """An exception out of the executor ends the call with that exception; the pool is not broken by it."""
    with distmap.Pool(rude) as pool:
        for _ in range(2):
            with pytest.raises(error, match=says) as caught:
                pool.map(square, range(100), chunksize=1, progress=False)
            assert (
                f"the executor raised this: worker {type(rude).__name__}; no item was run" in caught.value.__notes__[0]
            )
        assert pool.workers


# --- how many, how far, how often ------------------------------------------------------------------------------------


class Says(Executor):
    """Runs nothing; says how many calls it would run."""

    def __init__(self, **attributes: Any) -> None:
        self.__dict__.update(attributes)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("it runs nothing")


@pytest.mark.parametrize(
    ("attributes", "processes", "slots"),
    [
        ({"_max_workers": 3}, None, 3),
        ({"max_workers": 4}, None, 4),
        ({"num_workers": 5}, None, 5),
        ({"_max_workers": None, "max_workers": 6}, None, 6),
        ({"_max_workers": 3}, 7, 7),
        ({}, 8, 8),
    ],
    ids=["stdlib", "executorlib", "mpi4py", "not known yet", "said, against its word", "said"],
)
def test_slots_are_those_of_the_executor(attributes: dict[str, Any], processes: int | None, slots: int) -> None:
    """From wherever it says so; `processes=` has the last word."""
    with distmap.Pool(Says(**attributes), processes=processes) as pool:
        assert pool.workers[0].slots == slots


@pytest.mark.parametrize(
    ("attributes", "says"),
    [
        ({}, r"Says does not say how many calls it runs at once.*Pool\(executor, processes=8\)"),
        ({"_max_workers": 0}, "does not say how many"),
        ({"_max_workers": True}, "does not say how many"),
    ],
    ids=["nothing", "zero", "no number"],
)
def test_slots_are_asked_for_by_a_sentence(attributes: dict[str, Any], says: str) -> None:
    """An executor that does not say how many calls it runs at once is no reason to guess."""
    with pytest.raises(ValueError, match=says):
        distmap.Pool(Says(**attributes))


@pytest.mark.parametrize(
    ("workers", "processes"),
    [(4, 8), (["wss://there"], 2), ([Says(), Says()], 2), ([Says(), 4], 2), (Says(), 0), (Says(), True)],
    ids=["a number too", "a url", "two executors", "slots too", "none", "no number"],
)
def test_processes_is_for_one_executor(workers: Any, processes: Any) -> None:
    """Beside anything else it would have been ignored, or have replaced the workers."""
    with pytest.raises((TypeError, ValueError), match=r"processes"):
        distmap.Pool(workers, processes=processes)


class Far(Rude):
    """Every answer takes its time."""

    def pass_on(self, done: Future[Any], ours: Future[Any]) -> None:
        threading.Timer(0.03, super().pass_on, (done, ours)).start()


@pytest.mark.parametrize("rude", [Far], indirect=True)
def test_chunks_fit_the_round_trip(rude: Rude) -> None:
    """The way there and back is measured, shown, and chunks grow until it matters little."""

    def step(x: int) -> tuple[int, float]:
        began = time.perf_counter()
        time.sleep(0.0005)
        return x, time.perf_counter() - began

    with distmap.Pool(rude) as pool:
        found = pool.map(step, range(1500), progress=False)
        assert [x for x, _ in found] == list(range(1500))
        assert 0.02 < pool.workers[0].latency < 0.3
        # Chunks of 20 ms each would be about forty, and more on a busy machine, where a nap takes longer.
        assert pool.last.stats["chunks"] < max(30, sum(seconds for _, seconds in found) / 0.020 * 2 / 3)


class Anew(Far):
    """Each call has a process of its own, which has to be started."""

    def pass_on(self, done: Future[Any], ours: Future[Any]) -> None:
        first: Future[Any] = Future()
        first.set_result(done.result()._replace(first=True))
        super().pass_on(first, ours)


@pytest.mark.parametrize("rude", [Anew], indirect=True)
def test_a_start_for_each_call_belongs_to_the_way(rude: Rude) -> None:
    """The start of the first process of a slot is not measured; one that comes with every call is."""
    with distmap.Pool(rude) as pool:
        pool.map(abs, range(4), chunksize=1, progress=False)
        assert pool.workers[0].latency == 0
        pool.map(abs, range(16), chunksize=1, progress=False)
        assert pool.workers[0].latency > 0.02


def test_what_waits_for_others_is_no_round_trip() -> None:
    """Chunks of a long stream stay small: they do not grow by the time that they make each other wait."""

    def step(x: int) -> int:
        time.sleep(0.001)
        return x

    with ThreadPoolExecutor(2) as threads, distmap.Pool(threads) as pool:
        stream = pool.imap(step, itertools.count(), progress=False)
        assert list(itertools.islice(stream, 2000)) == list(range(2000))
        stream.close()
        commands = [command for *_, commands in pool.trace() for command in commands]
        assigned = [command.hi - command.lo for command in commands if isinstance(command, Assign)]
        assert max(assigned) < 200  # of 20 ms they have twenty


def test_large_payloads_are_kept_once_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two threads of a foreign process share what was sent, and forget it together."""
    from distmap.engine import attempt

    store = attempt._PayloadStore()
    monkeypatch.setattr(attempt, "_store", store)
    monkeypatch.setattr(attempt, "_thread_state", attempt._ThreadState())
    table = list(range(50_000))
    gate = threading.Barrier(2)
    monkeypatch.setattr(attempt, "gate", gate, raising=False)

    def look(x: int) -> int:
        from distmap.engine import attempt

        attempt.gate.wait(10)  # type: ignore[attr-defined]
        return table[x]

    with Rude() as executor, distmap.Pool(executor) as pool:
        assert pool.map(look, range(20), chunksize=1, progress=False) == list(range(20))
        held = [payload.nbytes for _, payload in store.library.payloads.values()]
        assert sum(held) < 1.5 * max(held)
