"""Engines that somebody else runs: a pool on them beside their own map, and beside what is written for them by hand.

For each engine in one run: tiny items, large arrays, a captured array of 100 MB, items of 10 ms. Its own map makes a
call for each item; of tiny items it is given fewer, and the figure is for as many. MPI runs under mpiexec.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from common import OURS, WORKERS, Report, Round, interleave, options, ratio, timed
from engine_peers import MPI, Engine, dask, ipyparallel, ray
from peers import module
from work import nap, probe, square, window

import distmap

#: Set in a program that mpiexec has started: where its rounds go.
UNDER_MPI = "DISTMAP_BENCH_MPI"
BY_HAND, ITS_MAP = "by hand", "its own map"
#: Parts of the items for each worker where they are cut by hand: one, or so many that none waits long at the end.
FEW, MANY = WORKERS, 10 * WORKERS
#: Of so many tiny items the engine's own map gets one; it makes a call for each.
FEWER = 100

Measured = dict[str, list[float]]


def measure(engine: Engine, args: argparse.Namespace) -> Iterator[tuple[str, Measured]]:
    """The rounds of every case as they come, by its key."""
    with distmap.Pool(engine.target) as pool:
        for case in (tiny, arrays, closure, naps):
            yield case.__name__, case(engine, pool, args)


def tiny(engine: Engine, pool: distmap.Pool, args: argparse.Namespace) -> Measured:
    items = list(range(5_000 if args.quick else 100_000))
    squares, few = [x * x for x in items], items[: len(items) // FEWER]
    its_map = timed(lambda: engine.map(square, few), squares[: len(few)].__eq__)
    contenders = {
        OURS: timed(lambda: pool.map(square, items), squares.__eq__),
        BY_HAND: timed(lambda: engine.best(square, items, FEW), squares.__eq__),
        ITS_MAP: lambda: its_map() * FEWER,
    }
    return interleave(contenders, args.rounds, warm=2, limits={ITS_MAP: 1})


def arrays(engine: Engine, pool: distmap.Pool, args: argparse.Namespace) -> Measured:
    data = [np.full(1 << 17 if args.quick else 1 << 21, float(x)) for x in range(4 if args.quick else 64)]
    sums = [float(array[::512].sum()) for array in data]
    contenders = {
        OURS: timed(lambda: pool.map(probe, data), sums.__eq__),
        BY_HAND: timed(lambda: engine.moved(probe, data), sums.__eq__),
    }
    return interleave(contenders, args.rounds)


def closure(engine: Engine, pool: distmap.Pool, args: argparse.Namespace) -> Measured:
    size = 1 << 17 if args.quick else 12_500_000
    contenders = {
        OURS: over(size, lambda value, items: pool.map(lambda x: window(value, x), items)),
        BY_HAND: over(size, lambda value, items: engine.over(window, value, items)),
    }
    return interleave(contenders, args.rounds)


def naps(engine: Engine, pool: distmap.Pool, args: argparse.Namespace) -> Measured:
    waits = [0.01] * (100 if args.quick else 1000)
    contenders = {
        OURS: timed(lambda: pool.map(nap, waits)),
        BY_HAND: timed(lambda: engine.best(nap, waits, MANY)),
        ITS_MAP: timed(lambda: engine.map(nap, waits)),
    }
    return interleave(contenders, min(2, args.rounds), warm=0)


def over(size: int, call: Callable[[Any, list[int]], list[float]]) -> Round:
    """A round over an array that nobody has seen yet, made and checked outside the clock."""
    generator, items = np.random.default_rng(0), list(range(1000))

    def run() -> float:
        value = generator.random(size // 1000 * 1000)
        found: list[list[float]] = []
        seconds = timed(lambda: found.append(call(value, items)))()
        if not np.isclose(sum(found[0]), float(value.sum())):
            raise RuntimeError("wrong results")
        return seconds

    return run


def told(report: Report, name: str, got: Iterable[tuple[str, Measured]]) -> None:
    """Report what was measured on one engine, with its targets."""
    words = {
        "tiny": "tiny items of x * x",
        "arrays": "arrays in",
        "closure": "1,000 items over a captured array",
        "naps": "items of 10 ms",
    }
    for key, rounds in got:
        # The engine's name stands before its ways, so that a reader of the file knows them apart.
        medians = report.case(f"{name}: {words[key]}", {_way(name, who): all for who, all in rounds.items()}, key=key)
        best = min((way for way in medians if way != OURS), key=medians.__getitem__, default="")
        if key == "closure":
            report.target(f"{name}: captured array / by hand", ratio(medians, _way(name, BY_HAND)), 1.3)
        else:
            report.target(f"{name}: {words[key]} / {best}", ratio(medians, best), 1.05)
        if key == "tiny":
            report.target(f"{name}: {words[key]} / its own map", ratio(medians, _way(name, ITS_MAP)), 0.1)


def _way(name: str, who: str) -> str:
    return who if who == OURS else f"{name}, {who}"


def under_mpi(args: argparse.Namespace) -> dict[str, Measured] | None:
    """What a program that mpiexec has started measures; None where MPI is not there."""
    if module("mpi4py") is None:
        return None
    beside = Path(sys.executable).with_name("mpiexec")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "rounds.json")
        # For containers: root may run it, and more processes than there are cores.
        settings = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1", UNDER_MPI: str(path)}
        settings["PRTE_MCA_rmaps_default_mapping_policy"] = ":oversubscribe"
        command = [str(beside) if beside.exists() else "mpiexec", "-n", str(WORKERS + 1), sys.executable]
        command += ["-m", "mpi4py.futures", __file__, "--rounds", str(args.rounds)]
        try:
            subprocess.run(command + ["--quick"] * args.quick, env={**os.environ, **settings}, check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            print(f"  MPI: left out, it does not start: {error}", file=sys.stderr)
            return None
        measured: dict[str, Measured] = json.loads(path.read_text(encoding="utf-8"))
        return measured


def main() -> None:
    args = options(__doc__ or "", rounds=3, quick_rounds=2)
    if path := os.environ.get(UNDER_MPI):
        from mpi4py.futures import MPIPoolExecutor

        with MPIPoolExecutor() as executor:
            Path(path).write_text(json.dumps(dict(measure(MPI(executor), args))), encoding="utf-8")
        return
    report = Report("engines", args)
    if (got := under_mpi(args)) is not None:
        told(report, MPI.name, got.items())
    for start in (ipyparallel, dask, ray):
        with start() as engine:
            if engine is not None:
                told(report, engine.name, measure(engine, args))
    report.finish()


if __name__ == "__main__":
    main()
