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


class KilledWorker(Exception):
    """Dask's, by name."""


class RemoteError(Exception):
    """ipyparallel's, by name."""

    def __init__(self, ename: str) -> None:
        self.ename = ename


class ExecutorlibSocketError(RuntimeError):
    """executorlib's, by name."""


@pytest.mark.parametrize(
    ("error", "death", "end"),
    [
        (KilledWorker(), True, False),
        (type("Worse", (KilledWorker,), {})(), True, False),
        (RemoteError("EngineError"), True, False),
        (RemoteError("ZeroDivisionError"), False, False),
        (BrokenExecutor(), False, True),
        (ExecutorlibSocketError(), False, True),
        (ImportError("no distmap there"), False, False),
    ],
    ids=["dask", "a subclass", "ipyparallel", "an error there", "broken", "executorlib", "another"],
)
def test_which_errors_are_deaths(error: BaseException, death: bool, end: bool) -> None:
    """Some end what ran the call, some the executor with it, others are errors."""
    assert (traits.is_death(error), traits.is_broken(error)) == (death, end)


def test_what_raises_is_not_known() -> None:
    """A foreign call that raises gives what was to be given then."""
    assert traits.call_or_default(lambda: 1 // 0, 7) == 7
    assert traits.call_or_default(lambda: 1, 7) == 1


@pytest.mark.parametrize(
    ("known", "deserted"),
    [(None, False), ({}, False), ({"workers": {}}, True), ({"workers": {"one": {}}}, False)],
    ids=["no-cluster", "nothing-known-yet", "none-left", "one"],
)
def test_which_clusters_have_nobody_left(known: object, deserted: bool) -> None:
    """Only one that says so itself."""
    executor = SimpleNamespace(_client=SimpleNamespace(_scheduler_identity=known))
    assert traits.is_deserted(executor) is deserted  # type: ignore[arg-type]


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
