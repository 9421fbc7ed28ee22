"""joblib's `Parallel` on a pool: what joblib promises, and what is better than on its own backends."""

from __future__ import annotations

import functools
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("joblib")

import joblib
import numpy as np
from joblib import Parallel, delayed

import distmap.ext.joblib
from distmap import PoisonItemError, Pool, PoolClosed
from distmap.core.progress import Snapshot
from distmap.ext.joblib import DistmapBackend, Nested, run_task

pytestmark = [pytest.mark.own_leaks, pytest.mark.timeout(60)]


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    with Pool(3, progress=False) as pool:
        pool.run(import_joblib)  # which takes longer than a task
        yield pool


def import_joblib() -> None:
    import distmap.ext.joblib  # noqa: F401


def double(x: int) -> int:
    return 2 * x


def fails_at_7(x: int) -> int:
    if x == 7:
        raise ValueError("seven")
    return x


def exits_at_5(x: int) -> int:
    if x == 5:
        os._exit(3)
    return x


def noted(folder: str, x: int) -> int:
    """Note how many tasks run beside it; the first one waits for another."""
    mine, end = Path(folder, f"runs-{x}"), time.monotonic() + 20
    mine.touch()
    while (beside := len(list(Path(folder).glob("runs-*")))) < 2 and x == 0 and time.monotonic() < end:
        time.sleep(0.005)
    Path(folder, f"saw-{x}").write_text(str(beside))
    time.sleep(0.02)
    mine.unlink()
    return x


def held(folder: str, x: int) -> int:
    if x:
        try:
            Path(folder, "begun").touch()
            time.sleep(60)
        finally:
            Path(folder, "stopped").touch()
    return x


def outer(x: int) -> Any:
    return Parallel(n_jobs=2)(delayed(inner)(i) for i in range(x))


def inner(x: int) -> tuple[int, str]:
    from joblib.parallel import get_active_backend

    return x, type(get_active_backend()[0]).__name__


def looked_at(array: Any, x: int) -> tuple[bool, float]:
    return array.flags.writeable, float(array[x])


@pytest.mark.parametrize("return_as", ["list", "generator", "generator_unordered"])
def test_results_come_as_joblib_gives_them(pool: Pool, return_as: str) -> None:
    """In order, except where joblib is asked for any order."""
    with joblib.parallel_config(DistmapBackend(pool)):
        found = list(Parallel(return_as=return_as)(delayed(double)(x) for x in range(100)))
    assert (sorted(found) if return_as == "generator_unordered" else found) == list(range(0, 200, 2))


@pytest.mark.parametrize("batch_size", ["auto", 5])
def test_a_task_that_fails_is_named(pool: Pool, batch_size: Any) -> None:
    """Its own exception is raised, with its number and its function, whatever batch it was in; the pool goes on."""
    backend = DistmapBackend(pool)
    with joblib.parallel_config(backend):
        with pytest.raises(ValueError, match="seven") as raised:
            Parallel(batch_size=batch_size)(delayed(fails_at_7)(x) for x in range(20))
        assert "task 7 of this Parallel call: fails_at_7(7)" in raised.value.__notes__
        assert Parallel(n_jobs=2)(delayed(double)(x) for x in range(4)) == [0, 2, 4, 6]


def test_a_task_that_ends_its_process_fails_alone(pool: Pool) -> None:
    """The call ends with an error that names the task; nothing hangs, and the pool goes on."""
    with joblib.parallel_config(DistmapBackend(pool)):
        with pytest.raises(PoisonItemError) as raised:
            Parallel(batch_size=4)(delayed(exits_at_5)(x) for x in range(20))
        assert any("task 5 of this Parallel call: exits_at_5(5)" in note for note in raised.value.__notes__)
        assert Parallel(n_jobs=2)(delayed(double)(x) for x in range(4)) == [0, 2, 4, 6]


def test_a_task_that_takes_too_long_is_stopped(pool: Pool, tmp_path: Path, until: Any) -> None:
    """`timeout=` raises TimeoutError, and the task does not run on."""
    with joblib.parallel_config(DistmapBackend(pool)):
        with pytest.raises(multiprocessing.TimeoutError):
            Parallel(timeout=1)(delayed(held)(str(tmp_path), x) for x in (0, 1))
        until(lambda: (tmp_path / "stopped").exists() or not (tmp_path / "begun").exists())
        assert Parallel(n_jobs=2)(delayed(double)(x) for x in range(4)) == [0, 2, 4, 6]


def test_no_more_tasks_run_at_once_than_asked_for(pool: Pool, tmp_path: Path) -> None:
    """`n_jobs=2` is kept on a pool of three slots."""
    with joblib.parallel_config(DistmapBackend(pool), n_jobs=2):
        assert Parallel(batch_size=3)(delayed(noted)(str(tmp_path), x) for x in range(30)) == list(range(30))
    assert max(int(file.read_text()) for file in tmp_path.glob("saw-*")) == 2


def test_how_many_run_at_once(pool: Pool) -> None:
    """All slots by default, counted from the end if negative, and never more than there are."""
    backend = DistmapBackend(pool)
    assert [backend.effective_n_jobs(n) for n in (-1, -2, -9, 2, 50, None)] == [3, 2, 1, 2, 3, 1]
    with pytest.raises(ValueError, match="n_jobs == 0"):
        backend.effective_n_jobs(0)
    with joblib.parallel_config("distmap", pool=pool):
        assert joblib.effective_n_jobs(-1) == 3
    with joblib.parallel_config(backend):
        assert Parallel(n_jobs=1)(delayed(os.getpid)() for _ in range(2)) == [os.getpid()] * 2


def test_calls_inside_tasks_run_in_threads(pool: Pool) -> None:
    """As on joblib's other backends: the first level of nesting is threads."""
    with joblib.parallel_config(DistmapBackend(pool)):
        assert Parallel()(delayed(outer)(x) for x in (2, 3)) == [
            [(x, "SequentialBackend") for x in range(n)] for n in (2, 3)
        ]


@pytest.mark.parametrize("elsewhere", [False, True])
def test_the_configuration_of_tasks_is_set_for_each_and_reset(elsewhere: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """In each thread, after errors too; also where joblib keeps it in another place."""
    if elsewhere:
        monkeypatch.setattr(distmap.ext.joblib, "joblib", SimpleNamespace(parallel=SimpleNamespace()))
    nested = Nested(joblib.parallel.SequentialBackend(nesting_level=3), None)

    def level(fail: bool = False) -> int:
        found: int = joblib.parallel.get_active_backend()[0].nesting_level
        if fail:
            raise ValueError(found)
        return found

    outside = level()
    for _ in range(3):
        assert nested.run(level, (), {}) == 3
        with pytest.raises(ValueError, match="3"):
            nested.run(level, (True,), {})
        assert level() == outside
    seen: list[int] = []
    thread = threading.Thread(target=lambda: seen.extend([nested.run(level, (), {}), level()]))
    thread.start()
    thread.join(10)
    assert seen == [3, outside]


def test_an_array_of_many_tasks_is_sent_once(pool: Pool) -> None:
    """From its second task on it is shared and read-only there, and has the same values."""
    array = np.arange(200_000.0)
    with joblib.parallel_config(DistmapBackend(pool)):
        found = Parallel(batch_size=1)(delayed(looked_at)(array, x) for x in range(8))
    assert found == [(x == 0, float(x)) for x in range(8)]


def test_progress_counts_tasks(pool: Pool) -> None:
    """Whatever the batches: the last snapshot has all tasks, under the name of their function."""
    seen: list[Snapshot] = []
    with joblib.parallel_config(DistmapBackend(pool, progress=seen.append)):
        Parallel(batch_size=7)([delayed(double)(x) for x in range(50)])
    last = seen[-1]
    assert (last.name, last.total, last.done, last.failed, last.state) == ("double", 50, 50, 0, "done")


def test_a_generator_that_is_left_stops_its_call(pool: Pool) -> None:
    """The backend works again at once."""
    with joblib.parallel_config(DistmapBackend(pool)):
        results = Parallel(return_as="generator")(delayed(double)(x) for x in range(1000))
        assert next(results) == 0
        with pytest.warns(UserWarning, match="cancelled|not used"):
            results.close()
        assert Parallel()(delayed(double)(x) for x in range(4)) == [0, 2, 4, 6]


def test_a_closed_pool_says_so() -> None:
    """And what is no pool is refused at once."""
    with Pool(2, progress=False) as closed:
        backend = DistmapBackend(closed)
    with joblib.parallel_config(backend), pytest.raises(PoolClosed):
        Parallel(n_jobs=2)(delayed(double)(x) for x in range(4))
    with pytest.raises(TypeError, match=r"takes a distmap.Pool, not int"):
        DistmapBackend(4)  # type: ignore[arg-type]


def test_tasks_of_several_functions(pool: Pool) -> None:
    """Functions, methods and keyword arguments, in one call and one batch."""
    tasks = [
        delayed(double)(1),
        delayed(max)(2, 5),
        delayed(double)(x=3),
        delayed(lambda x: -x)(4),
        delayed("ab".index)("b"),
    ]
    with joblib.parallel_config(DistmapBackend(pool)):
        assert Parallel(batch_size=5)(tasks) == [2, 5, 6, -4, 1]


def test_a_function_that_does_not_pickle_fails_the_call(pool: Pool) -> None:
    """With an error that names the task, and the backend goes on."""
    lock = threading.Lock()
    with joblib.parallel_config(DistmapBackend(pool)):
        with pytest.raises(Exception, match="captured variable 'lock'") as raised:
            Parallel()(delayed(lambda x: (lock, x))(x) for x in range(4))
        assert any("of this Parallel call: <lambda>(" in note for note in raised.value.__notes__)
        assert Parallel()(delayed(double)(x) for x in range(4)) == [0, 2, 4, 6]


def test_a_task_that_does_not_pickle_fails_the_call(pool: Pool) -> None:
    """With an error that names it, and no hang."""
    with joblib.parallel_config(DistmapBackend(pool)), pytest.raises(Exception, match="generator") as raised:
        Parallel()(delayed(double)(x if x != 3 else (one for one in "ab")) for x in range(6))
    assert any("task 3 of this Parallel call" in note for note in raised.value.__notes__)


def test_a_callback_of_scikit_learn_on_another_machine_is_refused_with_a_sentence() -> None:
    """It connects to a path that is not there."""
    space: dict[str, Any] = {}
    nested = Nested(joblib.parallel.SequentialBackend(nesting_level=1), None)
    source = "def send():\n    raise FileNotFoundError('/tmp/listener-1')"
    exec(compile(source, os.path.join("sklearn", "callback", "_transport.py"), "exec"), space)
    with pytest.raises(RuntimeError, match="fit without callbacks"):
        run_task(nested, space["send"], ())
    with pytest.raises(FileNotFoundError):
        run_task(nested, open, ("/nowhere",))


def test_a_monitor_of_scikit_learn_that_cannot_be_reached_is_no_silent_loss(pool: Pool) -> None:
    """It would collect its scores where nobody sees them: the fit fails with the sentence; where it is reached, not."""
    pytest.importorskip("sklearn.callback")
    from sklearn.callback import ScoringMonitor
    from sklearn.datasets import load_iris
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV

    X, y = load_iris(return_X_y=True)
    monitor = ScoringMonitor(scoring="accuracy")
    watched = LogisticRegression(max_iter=300).set_callbacks(monitor)
    search = GridSearchCV(watched, {"C": [0.1, 1.0]}, cv=2, refit=False)
    with joblib.parallel_config(DistmapBackend(pool)):
        search.fit(X, y)
        assert len(monitor.get_logs().data) > 0
        path = monitor._listener_handle.address
        os.rename(path, path + "~")  # as on another machine
        with pytest.raises(RuntimeError, match="fit without callbacks"):
            search.fit(X, y)
        os.rename(path + "~", path)


def test_scikit_learn_runs_on_it(pool: Pool) -> None:
    """A search over parameters finds the same as without a pool."""
    pytest.importorskip("sklearn")
    from sklearn.datasets import load_iris
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV

    X, y = load_iris(return_X_y=True)
    search = functools.partial(GridSearchCV, LogisticRegression(max_iter=300), {"C": [0.1, 1.0]}, cv=3)
    with joblib.parallel_config(DistmapBackend(pool), n_jobs=2):
        found = search().fit(X, y)
    alone = search(n_jobs=1).fit(X, y)
    assert found.cv_results_["mean_test_score"].tolist() == alone.cv_results_["mean_test_score"].tolist()


BY_NAME = """
import joblib, {first}
def double(x):
    return 2 * x
if __name__ == "__main__":
    with joblib.parallel_config("distmap", n_jobs=2):
        print(joblib.Parallel()(joblib.delayed(double)(x) for x in range(5)))
        print(joblib.Parallel(n_jobs=3)(joblib.delayed(double)(x) for x in range(2)))
"""


@pytest.mark.parametrize("first", ["distmap", "distmap.ext.joblib"])
def test_the_name_is_known_to_joblib(tmp_path: Path, first: str) -> None:
    """Once either is imported; the calls share one pool of this machine, which grows and ends with the process."""
    script = tmp_path / "script.py"
    script.write_text(BY_NAME.format(first=first))
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=50)
    assert done.stdout.splitlines() == ["[0, 2, 4, 6, 8]", "[0, 2]"], done.stderr
