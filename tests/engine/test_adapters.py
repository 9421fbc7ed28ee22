"""Which adapter is for what a pool was given."""

from __future__ import annotations

import sys
from concurrent.futures import Executor, ThreadPoolExecutor
from types import ModuleType
from typing import Any

import pytest

import distmap
from distmap.engine import adapters
from distmap.engine.executors import ExecutorAdapter
from distmap.testing.adapters import SmallAdapter, SmallCluster


def made(module: str, name: str, *bases: type) -> Any:
    """An object of a class by that name."""
    return type(name, bases, {"__module__": module})()


CLUSTER = type(made("distributed.deploy.cluster", "Cluster"))
VIEW = type(made("ipyparallel.client.view", "View"))


@pytest.fixture
def ext(monkeypatch: pytest.MonkeyPatch) -> None:
    """Adapters that tell what they were given."""
    for name, adapter in (("dask", "DaskAdapter"), ("ray", "RayAdapter"), ("ipyparallel", "IPyParallelAdapter")):
        module = ModuleType(f"distmap.ext.{name}")
        setattr(module, adapter, lambda given, adapter=adapter: (adapter, given))
        monkeypatch.setitem(sys.modules, f"distmap.ext.{name}", module)


@pytest.mark.usefixtures("ext")
@pytest.mark.parametrize(
    ("given", "adapter"),
    [
        (made("distributed.client", "Client"), "DaskAdapter"),
        (made("dask_jobqueue.slurm", "SLURMCluster", CLUSTER), "DaskAdapter"),
        ("dask://scheduler:8786", "DaskAdapter"),
        ("ray", "RayAdapter"),
        ("ray://head:10001", "RayAdapter"),
        (made("ipyparallel.client.client", "Client"), "IPyParallelAdapter"),
        (made("ipyparallel.client.view", "DirectView", VIEW), "IPyParallelAdapter"),
    ],
    ids=lambda given: given if isinstance(given, str) else type(given).__name__,
)
def test_engines_are_known_by_name(given: object, adapter: str) -> None:
    """Of classes and of addresses; the adapter gets what the pool was given."""
    assert adapters.is_foreign(given)
    assert adapters.adapter_for(given) == (adapter, given)  # type: ignore[comparison-overlap]
    with pytest.raises(TypeError, match="leave processes= out"):
        adapters.adapter_for(given, 3)


def test_parsl_may_be_told_how_many_items_it_runs_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is an executor, and does not always say."""
    module = ModuleType("distmap.ext.parsl")
    module.ParslAdapter = lambda given, slots: (given, slots)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "distmap.ext.parsl", module)
    monkeypatch.setattr(adapters.importlib.util, "find_spec", lambda name: module)
    given = made("parsl.concurrent", "ParslPoolExecutor", Executor)
    assert adapters.adapter_for(given) == (given, None)  # type: ignore[comparison-overlap]
    assert adapters.adapter_for(given, 8) == (given, 8)  # type: ignore[comparison-overlap]


@pytest.mark.parametrize(
    "given", [4, None, "wss://there", "gpu", "inline", "slurm://", made("mine", "Client"), object()]
)
def test_what_is_no_engine(given: object) -> None:
    """Numbers, addresses of workers, and what only has the name of one."""
    assert not adapters.is_foreign(given)


def test_executors_and_adapters_need_no_row() -> None:
    """Any executor has an adapter, and an adapter of one's own is taken as it is."""
    with ThreadPoolExecutor(3) as threads, SmallCluster(one=1) as cluster:
        assert isinstance(adapters.adapter_for(threads), ExecutorAdapter)
        adapter = SmallAdapter(cluster)
        assert adapters.is_foreign(adapter)
        assert adapters.adapter_for(adapter) is adapter


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error is a sentence that says what to install."""
    monkeypatch.setitem(adapters._SCHEMES, "ray", adapters._Engine("xray", "Adapter", "ray"))

    def missing(name: str) -> None:
        raise ModuleNotFoundError("No module named 'ray'", name="ray")

    make = distmap.Pool  # which is imported at its first use
    monkeypatch.setattr(adapters.importlib, "import_module", missing)
    with pytest.raises(ImportError, match=r"Pool\('ray'\) needs the package ray.*pip install 'distmap\[xray\]'"):
        make("ray")


def test_nothing_is_imported_to_look() -> None:
    """Who hands over an executor or a URL has no engine imported by that."""
    before = set(sys.modules)
    assert adapters.is_foreign("ray")
    assert not adapters.is_foreign("wss://there")
    assert issubclass(ThreadPoolExecutor, Executor)
    assert not {name for name in set(sys.modules) - before if name.startswith(("ray", "distributed", "distmap.ext"))}
