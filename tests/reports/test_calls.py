"""What is said about a call: errors of its callbacks, a pool that is closed or forgotten, no terminal for a bar."""

from __future__ import annotations

import io
import multiprocessing
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

import distmap


@pytest.fixture(scope="module", autouse=True)
def _callbacks(local_pool: distmap.Pool) -> None:
    """The thread that runs callbacks stays as long as the pool."""
    local_pool.apply_async(abs, (1,), callback=abs).get(10)


@pytest.fixture(scope="module")
def _calling_back(pool: distmap.Pool) -> None:
    """As `_callbacks`, for either pool."""
    pool.apply_async(abs, (1,), callback=abs).get(10)


def fail(*args: Any) -> None:
    """A callback of the user's with a bug."""
    raise LookupError(f"a bug of {len(args)} arguments")


def applied(pool: distmap.Pool, **callbacks: Any) -> Any:
    """What apply_async gave; callbacks have run."""
    return pool.apply_async(int, ("7",), **callbacks).get(10)


def failed(pool: distmap.Pool) -> str:
    """A map_async that fails, with a bug in what was to be told."""
    job = pool.map_async(int, ["x"], error_callback=fail, progress=False)
    job.wait(10)
    return type(job.failures[0][1]).__name__


def hooked(thing: Any) -> Any:
    """Its result, after a callback was hooked onto it in time and one that was too late."""
    told = threading.Event()
    thing.add_done_callback(fail)
    thing.add_done_callback(lambda same: told.set() if same is thing else None)
    value = thing.result(10)
    assert told.wait(10), "the callback was not given the thing itself"
    return value


# id: the call, its result, what the callback is called in the text, arguments of the callback
CALLBACKS: dict[str, tuple[Callable[[distmap.Pool], Any], Any, str, int]] = {
    "callback of map_async": (
        lambda pool: pool.map_async(int, ["1"], callback=fail, progress=False).result(10), [1], "callback= of int", 1,
    ),
    "error_callback of map_async": (failed, "ValueError", "error_callback= of int", 1),
    "callback of apply_async": (lambda pool: applied(pool, callback=fail), 7, "callback= of apply_async", 1),
    "done callback of a job": (
        lambda pool: hooked(pool.map_async(abs, range(200), progress=False))[-1], 199, "add_done_callback", 1,
    ),
    "done callback of a future": (lambda pool: hooked(pool.submit(int, "3")), 3, "add_done_callback", 1),
    "progress callable of map": (lambda pool: pool.map(abs, [-1], progress=fail), [1], "progress= of abs", 1),
    "progress callable of imap": (lambda pool: list(pool.imap(abs, [-1], progress=fail)), [1], "progress= of abs", 1),
}  # fmt: skip


@pytest.mark.parametrize("row", CALLBACKS)
def test_an_error_in_a_callback_is_shown_once_and_the_job_goes_on(
    local_pool: distmap.Pool, row: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """What a callback raises is written to standard error once, with the callback's name and no frame of distmap's."""
    call, result, name, count = CALLBACKS[row]
    assert call(local_pool) == result
    said = ""
    for _ in range(1000):
        said += capsys.readouterr().err
        if "LookupError" in said:
            break
        threading.Event().wait(0.005)
    assert said.count(f"LookupError: a bug of {count} arguments") == 1, said
    assert f"Exception in {name}" in said
    assert "/distmap/" not in said
    assert "in fail" in said


def test_a_callback_hooked_too_late_is_given_its_job(local_pool: distmap.Pool) -> None:
    """Jobs and futures that are over call the function at once, with themselves, as concurrent.futures does."""
    told: list[Any] = []
    job, future = local_pool.map_async(abs, [-1], progress=False), local_pool.submit(abs, -1)
    assert (job.result(10), future.result(10)) == ([1], 1)
    for one in (job, future):
        one.add_done_callback(told.append)
    assert told == [job, future]


def _closed() -> Any:
    file = io.StringIO()
    file.close()
    return file


@pytest.mark.parametrize("gone", ["stderr", "stdout"])
@pytest.mark.parametrize("file", [lambda: None, _closed], ids=["None", "closed"])
def test_progress_without_a_terminal_is_no_bar_and_no_error(
    local_pool: distmap.Pool, gone: str, file: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a service or pythonw: what is printed, noted and drawn has no place, and the results are all there."""

    def told(x: int) -> float:
        print("said")
        return 1 / x

    monkeypatch.setattr(sys, gone, file())
    assert local_pool.map(told, [1, 0, 2], progress=True, on_error="skip") == [1.0, 0.5]
    assert local_pool.apply_async(told, (1,), callback=fail).get(10) == 1.0


def test_a_terminal_that_goes_while_a_map_runs_costs_nothing(
    local_pool: distmap.Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Standard error may be closed under a bar that is drawn already."""
    file = io.StringIO()
    monkeypatch.setattr(sys, "stderr", file)

    def items() -> Any:
        yield 1
        file.close()
        yield 0
        yield 2

    result = local_pool.map(lambda x: 1 / x, items(), progress=True, chunksize=1, on_error="skip")
    assert result == [1.0, 0.5]


class Many(Exception):
    """An exception that is false as long as it has no members, as those of some packages that collect errors are."""

    def __len__(self) -> int:
        return 0


def refuse(x: object) -> None:
    """Fails with it."""
    raise Many("no members")


def feed() -> Any:
    """An input that fails with it."""
    yield 1
    raise Many("no members")


@pytest.mark.parametrize(
    "call",
    [
        lambda pool: pool.map(refuse, [1]),
        lambda pool: pool.map(abs, feed()),
        lambda pool: list(pool.imap(refuse, [1])),
        lambda pool: list(pool.imap(abs, feed())),
        lambda pool: pool.submit(refuse, 1).result(10),
        lambda pool: pool.map_async(refuse, [1]).get(10),
    ],
    ids=["map", "input of map", "imap", "input of imap", "submit", "map_async"],
)
@pytest.mark.usefixtures("_calling_back")
def test_an_exception_that_is_false_is_an_exception(pool: distmap.Pool, call: Callable[[distmap.Pool], Any]) -> None:
    """What fails is asked for by name, not by truth."""
    with pytest.raises(Many, match="no members"):
        call(pool)


def test_zero_is_a_number_of_seconds(local_pool: distmap.Pool) -> None:
    """A time of 0 is taken as that, not as the default: nothing waits, and what is there is given."""
    with distmap.Pool("wss://127.0.0.1:9", connect_timeout=0) as pool:
        with pytest.raises(distmap.NoWorkers, match="within 0 s"):
            pool.map(abs, [1])
        with pytest.raises(distmap.NoWorkers, match="no worker for 0 s"):
            pool.submit(abs, 1).result(10)
    assert len(local_pool.wait_for_workers(1, 0)) == 1
    with pytest.raises(distmap.NoWorkers, match="1 of 2 workers came within 0 s"):
        local_pool.wait_for_workers(2, 0)
    assert distmap.Pool(1, connect_timeout=0).map_async(abs, [-1]).get(10) == [1]
    stream = local_pool.imap(time.sleep, [0.05])
    with pytest.raises(multiprocessing.TimeoutError, match=r"within 0(\.0)? s"):
        stream.next(0)
    assert list(stream) == [None]
