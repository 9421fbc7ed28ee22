"""The libraries beside distmap, each with two processes, and workers of distmap on this machine.

Owns how a peer is started. A peer that is not installed, or that `--without` names, is left out with a word.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import logging
import multiprocessing
import os
import queue
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from common import LEFT_OUT, WORKERS


@functools.cache
def module(name: str) -> Any:
    """The module, or None with a word about it."""
    if name in LEFT_OUT or (name == "distributed" and "dask" in LEFT_OUT):
        return None
    try:
        return importlib.import_module(name)
    except ImportError:
        print(f"  {name} is not installed: left out", file=sys.stderr)
        return None


@contextlib.contextmanager
def standard_pools(count: int = WORKERS) -> Iterator[tuple[Any, ProcessPoolExecutor]]:
    """`multiprocessing.Pool` and `ProcessPoolExecutor` of the standard library, both started by spawn."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(count) as pool, ProcessPoolExecutor(count, mp_context=context) as executor:
        yield pool, executor


class Joblib:
    """joblib's loky, kept warm; `map(fn, items)`."""

    def __init__(self, joblib: Any) -> None:
        self.delayed, self.parallel = joblib.delayed, joblib.Parallel(n_jobs=WORKERS)

    def map(self, fn: Callable[[Any], Any], items: list[Any]) -> list[Any]:
        call = self.delayed(fn)
        return self.parallel(call(item) for item in items)  # type: ignore[no-any-return]


def joblib_or_none() -> Joblib | None:
    """joblib, or None."""
    joblib = module("joblib")
    return Joblib(joblib) if joblib else None


@contextlib.contextmanager
def mpire_or_none() -> Iterator[Any]:
    """A pool of mpire started by spawn and kept alive between calls, or None."""
    mpire = module("mpire")
    if mpire is None:
        yield None
        return
    with mpire.WorkerPool(WORKERS, start_method="spawn", keep_alive=True) as pool:
        yield pool


class Ray:
    """Ray with two processes; `map(fn, items)` is a task for each item, `call` one task."""

    def __init__(self, ray: Any) -> None:
        self._ray, self._remote = ray, functools.cache(ray.remote)

    def map(self, fn: Callable[..., Any], items: list[Any]) -> list[Any]:
        task = self._remote(fn)
        return self._ray.get([task.remote(item) for item in items])  # type: ignore[no-any-return]

    def call(self, fn: Callable[..., Any], *args: Any) -> Any:
        return self._ray.get(self._remote(fn).remote(*args))

    def put(self, value: Any) -> Any:
        return self._ray.put(value)

    def over(self, fn: Callable[..., Any], shared: Any, items: list[Any]) -> list[Any]:
        """fn(shared, item) for each item, with what `put` gave."""
        task = self._remote(fn)
        return self._ray.get([task.remote(shared, item) for item in items])  # type: ignore[no-any-return]


@contextlib.contextmanager
def ray_or_none() -> Iterator[Ray | None]:
    """Ray on this machine, or None. It uses processor time when idle too: let it run after the others."""
    ray = module("ray")
    if ray is None:
        yield None
        return
    os.environ.update(RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO="0", RAY_USAGE_STATS_ENABLED="0")
    started = False
    try:
        with starting("Ray"):
            ray.init(
                num_cpus=WORKERS, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR,
                object_store_memory=3_000_000_000,
            )  # fmt: skip
            started = True
        yield Ray(ray) if started else None
    finally:
        ray.shutdown()


@contextlib.contextmanager
def starting(name: str) -> Iterator[None]:
    """A peer that does not start here is left out with a word, as one that is not installed."""
    try:
        yield
    except Exception as error:
        print(f"  {name}: left out, it does not start: {str(error)[:200]}", file=sys.stderr)


class Dask:
    """A local Dask cluster of two processes of one thread; `map(fn, items)` is a task for each item."""

    def __init__(self, client: Any) -> None:
        self.client = client

    def map(self, fn: Callable[[Any], Any], items: list[Any]) -> list[Any]:
        # Not pure: else it would answer a repeated call from what it keeps.
        return self.client.gather(self.client.map(fn, items, pure=False))  # type: ignore[no-any-return]

    def call(self, fn: Callable[..., Any], *args: Any) -> Any:
        return self.client.submit(fn, *args, pure=False).result()

    def put(self, value: Any) -> Any:
        return self.client.scatter(value, broadcast=True, hash=False)

    def over(self, fn: Callable[..., Any], shared: Any, items: list[Any]) -> list[Any]:
        """fn(shared, item) for each item, with what `put` gave."""
        return self.client.gather(self.client.map(fn, [shared] * len(items), items, pure=False))  # type: ignore[no-any-return]


@contextlib.contextmanager
def dask_or_none(*, tls: bool = False) -> Iterator[Dask | None]:
    """Dask on this machine, over TLS if wanted, or None. Let it run after the others: see Ray."""
    distributed = module("distributed")
    if distributed is None:
        yield None
        return
    import dask

    dask.config.set({"distributed.admin.large-graph-warning-threshold": "100GB"})
    extra = {"protocol": "tls://", "security": distributed.Security.temporary()} if tls else {}
    with contextlib.ExitStack() as stack:
        client = None
        with starting("Dask"):
            cluster = distributed.LocalCluster(
                n_workers=WORKERS, threads_per_worker=1, dashboard_address=None, silence_logs=logging.CRITICAL,
                memory_limit=0, **extra,
            )  # fmt: skip
            stack.enter_context(cluster)
            client = stack.enter_context(distributed.Client(cluster, security=extra.get("security")))
            client.wait_for_workers(WORKERS, 60)
        yield Dask(client) if client is not None else None


# --- workers of distmap -----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def loopback_workers(count: int, *more: str, slots: int = 1) -> Iterator[list[str]]:
    """Start `distmap-worker` processes on this machine, with TLS and the user's own token; yields their URLs.

    `more`: arguments of theirs.
    """
    command = [sys.executable, "-c", "import sys; from distmap.worker.cli import main; sys.exit(main())"]
    processes: list[subprocess.Popen[str]] = []
    try:
        for index in range(count):
            arguments = ["--port", "0", "--slots", str(slots), "--name", f"bench{index}", *more]
            process = subprocess.Popen(command + arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            processes.append(process)
        yield [_listening(process) for process in processes]
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _listening(process: subprocess.Popen[str]) -> str:
    """The URL of the line that a listening worker prints; its later lines are read and dropped."""
    lines: queue.Queue[str] = queue.Queue()

    def drain() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            lines.put(line)
        lines.put("")

    threading.Thread(target=drain, daemon=True).start()
    seen = ""
    while line := lines.get(timeout=30):
        seen += line
        if found := re.search(r"listening on (wss?://\S+)", line):
            return found[1]
    raise RuntimeError(f"distmap-worker ended before it listened: {seen}")
