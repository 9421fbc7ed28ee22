"""Engines that run chunks of distmap, each with two processes, and what its own users write for a map on it.

Owns starting them and their own calls. `target` is what `Pool(...)` is given. `map` makes a call for each item; `best`
is what somebody who knows the engine writes by hand: large items and values go through its store, many items share a
call.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from typing import Any

from common import WORKERS
from peers import dask_or_none, module, ray_or_none, starting
from work import several, several_over


def cut(items: list[Any], parts: int) -> list[list[Any]]:
    """The items in so many parts."""
    size = -(-len(items) // parts)
    return [items[at : at + size] for at in range(0, len(items), size)]


def flat(parts: list[list[Any]]) -> list[Any]:
    return [value for part in parts for value in part]


class Dask:
    """`client.map`; by hand `client.scatter`, and a task for each part of the items."""

    name = "Dask"

    def __init__(self, client: Any) -> None:
        self.target = self._client = client

    def map(self, fn: Callable[[Any], Any], items: list[Any]) -> list[Any]:
        return self._client.gather(self._client.map(fn, items, pure=False))  # type: ignore[no-any-return]

    def best(self, fn: Callable[[Any], Any], items: list[Any], parts: int) -> list[Any]:
        # Not as arguments: Dask looks for futures in lists, item by item.
        return flat(self.moved(several, [(fn, part) for part in cut(items, parts)]))

    def moved(self, fn: Callable[[Any], Any], items: list[Any]) -> list[Any]:
        return self.map(fn, self._client.scatter(items, hash=False))

    def over(self, fn: Callable[[Any, Any], Any], value: Any, items: list[Any]) -> list[Any]:
        there = self._client.scatter(value, broadcast=True, hash=False)
        calls = [self._client.submit(several_over, fn, there, part, pure=False) for part in cut(items, WORKERS)]
        return flat(self._client.gather(calls))


class Ray:
    """A task for each item; by hand `ray.put`, and a task for each part of the items."""

    name = "Ray"
    target = "ray"

    def __init__(self, ray: Any) -> None:
        self._ray = ray

    def map(self, fn: Callable[[Any], Any], items: list[Any]) -> list[Any]:
        return self._ray.map(fn, items)  # type: ignore[no-any-return]

    def best(self, fn: Callable[[Any], Any], items: list[Any], parts: int) -> list[Any]:
        return flat(self._ray.map(several, [(fn, part) for part in cut(items, parts)]))

    def moved(self, fn: Callable[[Any], Any], items: list[Any]) -> list[Any]:
        return self._ray.map(fn, [self._ray.put(item) for item in items])  # type: ignore[no-any-return]

    def over(self, fn: Callable[[Any, Any], Any], value: Any, items: list[Any]) -> list[Any]:
        there = self._ray.put(value)
        return flat(self._ray.map(_ray_part, [(fn, [there], part) for part in cut(items, WORKERS)]))


def _ray_part(task: Any) -> list[Any]:
    """A reference inside a list is not looked up by itself."""
    import ray

    fn, [there], part = task
    return several_over(fn, ray.get(there), part)


class IPyParallel:
    """`LoadBalancedView.map`; by hand `push`, and the direct view, which gives each engine one part."""

    name = "ipyparallel"

    def __init__(self, client: Any) -> None:
        self.target = client
        self._direct, self._balanced = client[:], client.load_balanced_view()
        self._direct.use_cloudpickle()

    def map(self, fn: Callable[[Any], Any], items: list[Any]) -> list[Any]:
        return self._balanced.map_sync(fn, items)  # type: ignore[no-any-return]

    def best(self, fn: Callable[[Any], Any], items: list[Any], parts: int) -> list[Any]:
        if parts == WORKERS:
            return self._direct.map_sync(fn, items)  # type: ignore[no-any-return]
        return self._balanced.map_sync(fn, items, chunksize=-(-len(items) // parts))  # type: ignore[no-any-return]

    def moved(self, fn: Callable[[Any], Any], items: list[Any]) -> list[Any]:
        return self._direct.map_sync(fn, items)  # type: ignore[no-any-return]

    def over(self, fn: Callable[[Any, Any], Any], value: Any, items: list[Any]) -> list[Any]:
        from ipyparallel import Reference

        self._direct.push({"there": value}, block=True)
        parts = zip(self.target.ids, cut(items, len(self.target.ids)), strict=True)
        calls = [self.target[id].apply_async(several_over, fn, Reference("there"), part) for id, part in parts]
        return flat([call.get() for call in calls])


class MPI:
    """`MPIPoolExecutor.map`; by hand with its `chunksize`. It has no store: a value goes along with each part."""

    name = "MPI"

    def __init__(self, executor: Any) -> None:
        self.target = self._executor = executor

    def map(self, fn: Callable[[Any], Any], items: list[Any]) -> list[Any]:
        return list(self._executor.map(fn, items))

    def best(self, fn: Callable[[Any], Any], items: list[Any], parts: int) -> list[Any]:
        return list(self._executor.map(fn, items, chunksize=-(-len(items) // parts)))

    moved = map

    def over(self, fn: Callable[[Any, Any], Any], value: Any, items: list[Any]) -> list[Any]:
        calls = [self._executor.submit(several_over, fn, value, part) for part in cut(items, WORKERS)]
        return flat([call.result() for call in calls])


Engine = Dask | Ray | IPyParallel | MPI


@contextlib.contextmanager
def dask() -> Iterator[Dask | None]:
    with dask_or_none() as found:
        yield None if found is None else Dask(found.client)


@contextlib.contextmanager
def ray() -> Iterator[Ray | None]:
    with ray_or_none() as found:
        yield None if found is None else Ray(found)


@contextlib.contextmanager
def ipyparallel() -> Iterator[IPyParallel | None]:
    library = module("ipyparallel")
    if library is None:
        yield None
        return
    client = None
    cluster = library.Cluster(n=WORKERS, log_level=logging.CRITICAL)
    with starting("ipyparallel"):
        client = cluster.start_and_connect_sync(activate=False)
    try:
        yield None if client is None else IPyParallel(client)
    finally:
        if client is not None:
            client.close()
        cluster.stop_cluster_sync()
