"""How each engine is started for the conformance suite, and what it is known not to keep.

Owns the table `ENGINES`. Each start imports its engine itself: none is needed to import this file. All of them run on
this machine, with two places each, and end with the context.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import socket
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from distmap.pool import Pool
from distmap.testing.engine_launches import command, slurm
from distmap.testing.engine_suite import EngineUnderTest, Started
from distmap.testing.engine_work import pid
from distmap.testing.workers import WorkerProcess

#: Cases that look at processes of ours in which items run.
CRASHES = (
    "loses_one_item_to_an_exit",
    "loses_one_item_to_a_segfault",
    "loses_one_item_to_a_kill",
)
#: Cases that need a way to and from a call that runs.
SIDE_CHANNEL = ("shows_output_before_the_end", "shows_items_of_a_chunk", "stops_between_items")


def lacks(why: str, *cases: str) -> dict[str, str]:
    return dict.fromkeys(cases, why)


@contextlib.contextmanager
def local() -> Iterator[Started]:
    """Slots of this machine."""
    yield Started(2, {"connect_timeout": 2.0})


@contextlib.contextmanager
def hub() -> Iterator[Started]:
    """Two `distmap-worker`s that listen on the loopback interface."""
    with tempfile.TemporaryDirectory(prefix="distmap-suite-") as folder, contextlib.ExitStack() as stack:
        from distmap.transport.token import Secret

        token = Path(folder, "token")
        token.touch(mode=0o600)
        secret = Secret.generate()
        token.write_text(secret.reveal() + "\n", encoding="utf-8")

        def start() -> WorkerProcess:
            worker = WorkerProcess("--port", "0", "--slots", "1", "--tag", "suite", token_file=token)
            stack.callback(worker.stop)
            return worker

        options: dict[str, Any] = {"token": secret, "connect_timeout": 5.0}
        workers, pools = [start(), start()], []

        def pool() -> Pool:
            pools.append(Pool([worker.url for worker in workers], **options))
            return pools[-1]

        def join() -> None:
            workers.append(start())
            pools[-1].add(workers[-1].url)

        yield Started(
            [worker.url for worker in workers],
            options,
            pids=lambda: [worker.pid for worker in workers],
            join=join,
            leave=lambda: workers.pop().stop(),
            tag="suite",
            make=pool,
        )


@contextlib.contextmanager
def threads() -> Iterator[Started]:
    """`concurrent.futures.ThreadPoolExecutor`."""
    with ThreadPoolExecutor(2) as executor:
        yield Started(executor, end=lambda: executor.shutdown(wait=False, cancel_futures=True))


@contextlib.contextmanager
def processes() -> Iterator[Started]:
    """`concurrent.futures.ProcessPoolExecutor`, by spawn."""
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as executor:
        yield Started(
            executor,
            pids=lambda: list(executor._processes),
            end=lambda: executor.shutdown(wait=False, cancel_futures=True),
        )


@contextlib.contextmanager
def loky() -> Iterator[Started]:
    """loky's reusable executor."""
    loky = import_module("loky")

    executor = loky.get_reusable_executor(2)
    try:
        # No `end`: the pool would have loky make a new one.
        yield Started(executor, pids=lambda: list(executor._processes))
    finally:
        loky.get_reusable_executor(2).shutdown(wait=True, kill_workers=True)


@contextlib.contextmanager
def dask() -> Iterator[Started]:
    """A `LocalCluster` of two workers with a thread each."""
    config, distributed = import_module("dask").config, import_module("distributed")
    settings = {"distributed.scheduler.allowed-failures": 0}
    with (
        config.set(settings),
        distributed.LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            resources={"suite": 1},
            dashboard_address=None,
            silence_logs=logging.CRITICAL,
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield Started(
            client,
            {"connect_timeout": 3.0},
            pids=lambda: list(client.run(os.getpid).values()),
            end=cluster.close,
            join=lambda: cluster.scale(3),
            leave=lambda: cluster.scale(2),
            tag="suite",
        )


@contextlib.contextmanager
def executorlib() -> Iterator[Started]:
    """executorlib's `SingleNodeExecutor`, with two workers that last, and are started again when they die."""
    import executorlib

    with executorlib.SingleNodeExecutor(max_workers=2, block_allocation=True, restart_limit=3) as executor:
        yield Started(
            executor, pids=partial(_pids, executor), end=lambda: executor.shutdown(wait=False, cancel_futures=True)
        )


@contextlib.contextmanager
def mpi() -> Iterator[Started]:
    """mpi4py's `MPIPoolExecutor`, on the ranks beside this one."""
    from mpi4py.futures import MPIPoolExecutor

    with MPIPoolExecutor() as executor:
        yield Started(executor, pids=partial(_pids, executor), end=lambda: executor.shutdown(wait=False))


def under_mpiexec(arguments: Sequence[str]) -> list[str]:
    """What runs the suite as the first of three ranks."""
    beside = Path(sys.executable).with_name("mpiexec")
    mpiexec = str(beside) if beside.exists() else "mpiexec"
    return [mpiexec, "-n", "3", sys.executable, "-m", "mpi4py.futures", *arguments]


#: For containers: root may run Open MPI, and more processes than there are cores.
FOR_MPIEXEC = {
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
}


@contextlib.contextmanager
def parsl() -> Iterator[Started]:
    """Parsl's `HighThroughputExecutor` with two workers on this machine, by way of its `ParslPoolExecutor`."""
    import parsl
    from parsl.concurrent import ParslPoolExecutor
    from parsl.config import Config
    from parsl.executors import HighThroughputExecutor

    # It starts its programs by name.
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    local = {"address": "127.0.0.1", "loopback_address": "127.0.0.1", "encrypted": False, "heartbeat_period": 2}
    with tempfile.TemporaryDirectory(prefix="distmap-suite-", ignore_cleanup_errors=True) as folder:
        workers = HighThroughputExecutor(label="cpu", max_workers_per_node=2, **local)
        config = Config([workers], run_dir=folder, strategy="none", initialize_logging=False)
        kernel = parsl.load(config)
        executor = ParslPoolExecutor(dfk=kernel)
        try:
            yield Started(
                executor, {"connect_timeout": 5.0}, pids=partial(_pids, executor), end=kernel.cleanup, tag="cpu"
            )
        finally:
            if not kernel.cleanup_called:
                kernel.cleanup()
            parsl.clear()


def _pids(executor: Any) -> list[int]:
    """The processes that run its calls, as far as twenty calls meet them."""
    return sorted({call.result() for call in [executor.submit(pid, x) for x in range(20)]})


def add_ray_node(cluster: Any, **settings: Any) -> Any:
    """Add a node of one CPU to a `Cluster` of Ray's on this machine.

    Its ports are chosen here: Ray gives up a node whose agents take half a minute to choose theirs.
    """
    names = ("metrics_agent_port", "metrics_export_port", "runtime_env_agent_port", "dashboard_agent_listen_port")
    with contextlib.ExitStack() as stack:
        free = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in names]
        ports = {name: one.getsockname()[1] for name, one in zip(names, free, strict=True)}
    return cluster.add_node(**{"num_cpus": 1, "include_dashboard": False, **ports, **settings})


@contextlib.contextmanager
def ray() -> Iterator[Started]:
    """Two nodes of Ray's on this machine, with a CPU each."""
    ray, cluster_utils = import_module("ray"), import_module("ray.cluster_utils")
    psutil, cluster = import_module("psutil"), cluster_utils.Cluster()

    def end() -> None:
        """Kill the head and all nodes."""
        for process in psutil.Process().children(recursive=True):
            if process.name() in ("gcs_server", "raylet"):
                process.kill()

    def pids() -> list[int]:
        """The processes that run calls, or may; not what they have started."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.name() in ("ray::IDLE", "ray::far_end") and process.parent().name() == "raylet":
                    found.append(process.pid)
        return found

    try:
        add_ray_node(cluster)
        add_ray_node(cluster, resources={"suite": 1})
        ray.init(cluster.address, log_to_driver=False, logging_level="ERROR")
        more: list[object] = []
        yield Started(
            "ray",
            pids=pids,
            end=end,
            join=lambda: more.append(add_ray_node(cluster)),
            leave=lambda: cluster.remove_node(more.pop(), allow_graceful=False),
            tag="suite",
        )
    finally:
        ray.shutdown()
        cluster.shutdown()


@contextlib.contextmanager
def ipyparallel() -> Iterator[Started]:
    """A controller with two engines."""
    ipyparallel, psutil = import_module("ipyparallel"), import_module("psutil")

    def end() -> None:
        """Kill the controller, which is several processes."""
        hub = psutil.Process(cluster.controller.pid)
        for process in [hub, *hub.children(recursive=True)]:
            process.kill()

    with tempfile.TemporaryDirectory(prefix="distmap-suite-") as folder:
        cluster = ipyparallel.Cluster(n=2, profile_dir=folder, log_level=logging.CRITICAL)
        client = cluster.start_and_connect_sync(activate=False)
        try:
            yield Started(
                client,
                pids=lambda: client[:].apply_sync(os.getpid),
                end=end,
                join=lambda: cluster.start_engines_sync(n=1),
                leave=lambda: client.shutdown(client.ids[-1:], block=True),
            )
        finally:
            client.close()
            cluster.stop_cluster_sync()


#: Why promises are not kept. Each sentence stands in the table of the documentation.
IN_THREADS = "its threads are those of this process: nothing can end one, and what they print is written directly"
BY_CALL = "its calls tell nothing before they end, and hear nothing"
BREAKS = "one death breaks the executor, and only its owner can make a new one"
LOCKED = "a worker of Parsl that is killed while it takes a call leaves its node's queue locked, and the others wait"
ALL_RANKS = "MPI ends the whole program when one of its ranks dies"

ENGINES = {
    engine.name: engine
    for engine in (
        EngineUnderTest("local", local, package="distmap", title="slots of this machine"),
        EngineUnderTest("hub", hub, package="distmap", title="`distmap-worker`"),
        EngineUnderTest("command", command, package="distmap", title='`launch="..."`'),
        EngineUnderTest("slurm", slurm, package="distmap", title="Slurm (`slurm://`)"),
        EngineUnderTest(
            "threads",
            threads,
            lacks={
                **lacks(IN_THREADS, *CRASHES, "ends_an_item_at_its_timeout", "shows_output_in_its_call"),
            },
            untried=frozenset(CRASHES),
            title="`ThreadPoolExecutor`",
        ),
        EngineUnderTest(
            "processes",
            processes,
            lacks={
                **lacks(BY_CALL, *SIDE_CHANNEL),
                **lacks(BREAKS, "survives_the_death_of_a_worker"),
            },
            title="`ProcessPoolExecutor`",
        ),
        EngineUnderTest(
            "loky",
            loky,
            lacks=lacks(BY_CALL, *SIDE_CHANNEL),
            package="loky",
            title="loky",
        ),
        EngineUnderTest(
            "executorlib",
            executorlib,
            lacks=lacks(BY_CALL, *SIDE_CHANNEL),
            package="executorlib",
            title="executorlib",
        ),
        EngineUnderTest(
            "mpi",
            mpi,
            lacks={
                **lacks(BY_CALL, *SIDE_CHANNEL),
                **lacks(ALL_RANKS, "survives_the_death_of_a_worker"),
            },
            untried=frozenset({"survives_the_death_of_a_worker"}),
            package="mpi4py",
            title="MPI (`mpi4py.futures`)",
            under=under_mpiexec,
        ),
        EngineUnderTest(
            "parsl",
            parsl,
            lacks={**lacks(BY_CALL, *SIDE_CHANNEL), **lacks(LOCKED, "survives_the_death_of_a_worker")},
            untried=frozenset({"survives_the_death_of_a_worker"}),
            package="parsl",
            title="Parsl",
        ),
        EngineUnderTest(
            "dask",
            dask,
            package="distributed",
            title="Dask",
        ),
        EngineUnderTest("ray", ray, package="ray", title="Ray"),
        EngineUnderTest(
            "ipyparallel",
            ipyparallel,
            package="ipyparallel",
            title="ipyparallel",
        ),
    )
}
