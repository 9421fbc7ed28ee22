"""What is known of executors that somebody else wrote."""

from __future__ import annotations

import sys
from concurrent.futures import BrokenExecutor, Executor, ProcessPoolExecutor, ThreadPoolExecutor
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from distmap.engine import traits


class Other(Executor):
    """Nobody knows anything of it."""


class Threads(ThreadPoolExecutor):
    """Changes nothing."""


class Wrapped(ThreadPoolExecutor):
    """Gives futures of its own."""

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        return super().submit(fn, *args, **kwargs)


@pytest.mark.parametrize(
    ("kind", "candid"),
    [(ThreadPoolExecutor, True), (ProcessPoolExecutor, True), (Threads, True), (Wrapped, False), (Other, False)],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_whose_cancel_is_believed(kind: type[Executor], candid: bool) -> None:
    """By whose `submit` made the future: what wraps another may say what it likes."""
    assert traits.has_reliable_cancel(object.__new__(kind)) == candid


@pytest.mark.parametrize("kind", [ThreadPoolExecutor, ProcessPoolExecutor, Other])
def test_who_shares_memory(kind: type[Executor], monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads do; interpreters of their own do not, though they are threads too."""
    executor = object.__new__(kind)
    assert traits.shares_memory(executor) == (kind is ThreadPoolExecutor)
    monkeypatch.setattr(traits.concurrent.futures, "InterpreterPoolExecutor", kind, raising=False)
    assert not traits.shares_memory(executor)
    assert traits.has_interpreters(executor)


class KilledWorker(Exception):
    """Dask's, by name."""


class ExecutorlibSocketError(RuntimeError):
    """executorlib's, by name."""


@pytest.mark.parametrize(
    ("error", "death", "end"),
    [
        (KilledWorker(), True, False),
        (type("Worse", (KilledWorker,), {})(), True, False),
        (BrokenExecutor(), False, True),
        (ExecutorlibSocketError(), False, True),
        (ImportError("no distmap there"), False, False),
    ],
    ids=["dask", "a subclass", "broken", "executorlib", "another"],
)
def test_which_errors_are_deaths(error: BaseException, death: bool, end: bool) -> None:
    """Some end what ran the call, some the executor with it, others are errors."""
    assert (traits.is_death(error), traits.is_broken(error)) == (death, end)


def test_what_raises_is_not_known() -> None:
    """A foreign call that raises gives what was to be given then."""
    assert traits.call_or_default(lambda: 1 // 0, 7) == 7
    assert traits.call_or_default(lambda: 1, 7) == 1


def test_only_a_reusable_executor_is_made_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the settings of the one before, as far as it shows them."""
    module, asked = ModuleType("made_up"), []

    class _ReusablePoolExecutor(Executor):
        _max_workers, _timeout, _initializer = 3, 10, abs

    _ReusablePoolExecutor.__module__ = "made_up"
    monkeypatch.setitem(sys.modules, "made_up", module)
    assert traits.replacement_of(_ReusablePoolExecutor()) is None
    module.get_reusable_executor = lambda **kwargs: asked.append(kwargs)  # type: ignore[attr-defined]
    renew = traits.replacement_of(_ReusablePoolExecutor())
    assert renew is not None
    renew()
    assert asked == [{"kill_workers": True, "max_workers": 3, "timeout": 10, "initializer": abs}]
    assert traits.replacement_of(Other()) is None


@pytest.mark.parametrize(
    ("maker", "shared", "service", "launched", "spawns"),
    [
        ("WorkerPool", None, False, False, True),
        ("SpawnPool", "a pool", False, False, True),
        ("WorkerPool", "a pool", False, False, False),
        ("WorkerPool", None, True, False, False),
        ("WorkerPool", None, False, True, False),
        ("ThreadPool", None, False, False, False),
    ],
    ids=["alone", "always", "mpi4py.futures", "a service", "mpiexec", "threads"],
)
def test_which_executors_would_spawn_mpi(
    monkeypatch: pytest.MonkeyPatch, maker: str, shared: object, service: bool, launched: bool, spawns: bool
) -> None:
    """Those that mpi4py would have to start processes for, without the help of mpiexec; nobody else."""
    monkeypatch.setitem(sys.modules, "mpi4py.futures._core", SimpleNamespace(SharedPool=shared))  # type: ignore[arg-type]
    for name in ("PMIX_RANK", "PMI_RANK"):
        monkeypatch.delenv(name, raising=False)
    if launched:
        monkeypatch.setenv("PMI_RANK", "0")
    executor: Any = Other()
    executor._make_pool, executor._options = SimpleNamespace(__name__=maker), {"service": "x"} if service else {}
    executor._pool = None
    assert bool(traits.would_spawn(executor)) is spawns
    executor._pool = "has its processes"
    assert traits.would_spawn(executor) is None
    assert traits.would_spawn(object.__new__(ThreadPoolExecutor)) is None


@pytest.mark.own_leaks("threads", "processes", "descriptors")
@pytest.mark.parametrize("options", [{}, {"block_allocation": True}, {"disable_dependencies": True}], ids=str)
def test_what_is_known_of_executorlib(options: dict[str, bool]) -> None:
    """It tells its size, its cancel can be believed, and without blocks each call has a process of its own."""
    executorlib = pytest.importorskip("executorlib")  # no part of the extra `test`: `pip install executorlib`
    with executorlib.SingleNodeExecutor(max_workers=2, **options) as executor:
        assert traits.slots_of(executor) == 2
        assert traits.has_reliable_cancel(executor)
        assert traits.has_process_per_call(executor) is not bool(options.get("block_allocation"))
        assert traits.dies_of_cancel(executor) is not bool(options.get("disable_dependencies"))
