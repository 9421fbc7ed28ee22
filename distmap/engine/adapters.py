"""Which adapter is for what a pool was given.

Owns the table: the classes and addresses of engines that have an adapter of their own in `distmap.ext`, by name. So
nothing is imported, neither an engine nor its adapter, before such an object or address is handed over.
"""

from __future__ import annotations

import importlib
from concurrent.futures import Executor
from typing import TYPE_CHECKING, TypeGuard

from distmap.tasks._typing import NamedTuple

if TYPE_CHECKING:
    from distmap.engine.adapter import Adapter


class _Engine(NamedTuple):
    """An engine that has an adapter of its own."""

    #: The module in `distmap.ext`, which is also the name of the extra, and its class.
    module: str
    adapter: str
    #: What must be installed.
    package: str
    #: Whether it may be told how many items it is to run at once.
    counted: bool = False


_DASK = _Engine("dask", "DaskAdapter", "distributed")
_RAY = _Engine("ray", "RayAdapter", "ray")
_IPYPARALLEL = _Engine("ipyparallel", "IPyParallelAdapter", "ipyparallel")
_PARSL = _Engine("parsl", "ParslAdapter", "parsl", counted=True)

#: By the first part of the module's name, and the name, of a class or one that it is made of.
_CLASSES = {
    ("distributed", "Client"): _DASK,
    ("distributed", "Cluster"): _DASK,
    ("distributed", "ClientExecutor"): _DASK,
    ("ipyparallel", "Client"): _IPYPARALLEL,
    ("ipyparallel", "View"): _IPYPARALLEL,
    ("ipyparallel", "ViewExecutor"): _IPYPARALLEL,
    ("parsl", "ParslPoolExecutor"): _PARSL,
}
#: By the scheme of an address, or a word in its place.
_SCHEMES = {"dask": _DASK, "ray": _RAY}


def is_foreign(given: object) -> bool:
    """Whether this is an engine that somebody else runs, or the address of one, or an adapter of the user's own."""
    return isinstance(given, Executor) or _is_adapter(given) or _engine_of(given) is not None


def _is_adapter(given: object) -> TypeGuard[Adapter]:
    return all(hasattr(type(given), name) for name in ("open", "submit", "fate", "unanswering"))


def adapter_for(given: object, slots: int | None = None) -> Adapter:
    """The adapter for an engine of which `is_foreign` holds.

    Args:
        given: the engine, or its address; or an adapter, which is given back.
        slots: how many items it is to run at once; only for executors, which may not say it themselves.

    Raises:
        ImportError: what it needs is not installed.
        TypeError: `slots` is not for this one.
        ValueError: it does not say how many calls it runs at once, and `slots` does not either.
    """
    engine = _engine_of(given)
    if engine is None and isinstance(given, Executor):
        from distmap.engine.executors import ExecutorAdapter

        return ExecutorAdapter(given, slots=slots)
    shown = repr(given) if isinstance(given, str) else type(given).__name__
    if slots is not None and not (engine is not None and engine.counted):
        raise TypeError(
            f"Pool({shown}, processes={slots}): it says itself how many items its workers run at once; leave "
            "processes= out"
        )
    if engine is None:
        assert _is_adapter(given)
        return given
    try:
        module = importlib.import_module(f"distmap.ext.{engine.module}")
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "distmap":
            raise
        raise ImportError(
            f"Pool({shown}) needs the package {engine.package}, and {error.name} is not installed: "
            f"pip install 'distmap[{engine.module}]'"
        ) from error
    options = {"slots": slots} if engine.counted else {}
    made: Adapter = getattr(module, engine.adapter)(given, **options)
    return made


def _engine_of(given: object) -> _Engine | None:
    if isinstance(given, str):
        return _SCHEMES.get(given.partition("://")[0].lower())
    for kind in type(given).__mro__:
        if engine := _CLASSES.get((kind.__module__.partition(".")[0], kind.__name__)):
            return engine
    return None
