"""Real work: rows of a Mandelbrot set in pure Python, and 700 x 700 matrix products, against the serial speed.

The serial time is taken in a process of its own with one BLAS thread; the pools run as a user would run them.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable

from common import OURS, WORKERS, Report, interleave, options, timed
from peers import joblib_or_none, standard_pools

import distmap

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


def mandelbrot(row: int) -> int:
    """How many of the row's points stay bounded: pure Python, rows cost very different amounts."""
    inside = 0
    imaginary = row / 150 - 1.0
    for column in range(300):
        c = complex(column / 120 - 2.0, imaginary)
        z = 0j
        for _ in range(60):
            z = z * z + c
            if z.real * z.real + z.imag * z.imag > 4.0:
                break
        else:
            inside += 1
    return inside


def product(seed: int) -> float:
    """One matrix product of 700 x 700."""
    import numpy as np

    rng = np.random.default_rng(seed)
    left, right = rng.random((700, 700)), rng.random((700, 700))
    return float((left @ right).trace())


WORK: dict[str, tuple[Callable[[int], object], int, int]] = {
    "Mandelbrot rows, pure Python": (mandelbrot, 300, 150),
    "700 x 700 matrix products": (product, 80, 40),
}


def serial(name: str, items: int) -> float:
    """Seconds that one process with one BLAS thread takes."""
    env = dict(os.environ, **dict.fromkeys(THREADS, "1"))
    command = [sys.executable, __file__, "--serial", name, str(items)]
    return float(subprocess.check_output(command, env=env, text=True))


def run_serial(name: str, items: int) -> None:
    """What the serial process does."""
    fn = WORK[name][0]
    fn(0)
    began = time.perf_counter()
    for item in range(items):
        fn(item)
    print(time.perf_counter() - began)


def main() -> None:
    args = options(__doc__ or "", rounds=3, quick_rounds=2)
    report = Report("real", args)
    joblib = joblib_or_none()
    with distmap.Pool(WORKERS) as ours, standard_pools() as (pool, executor):
        for name, (fn, full, small) in WORK.items():
            items = small if args.quick else full
            contenders = {
                "serial": lambda name=name, items=items: serial(name, items),
                OURS: timed(lambda fn=fn, items=items: ours.map(fn, list(range(items)))),
                "mp.Pool": timed(lambda fn=fn, items=items: pool.map(fn, list(range(items)))),
                "ProcessPoolExecutor": timed(lambda fn=fn, items=items: list(executor.map(fn, list(range(items))))),
            }
            if joblib is not None:
                contenders["joblib"] = timed(lambda fn=fn, items=items: joblib.map(fn, list(range(items))))
            medians = report.case(f"{items} {name}", interleave(contenders, args.rounds), key=fn.__name__)
            for who, median in medians.items():
                if who != "serial":
                    report.note(f"{who}: {medians['serial'] / WORKERS / median:.1%} of twice the serial speed")
            efficiency = medians["serial"] / WORKERS / medians[OURS]
            report.target(f"{name}: share of twice the serial speed", efficiency, 0.95, at_least=True)
    report.finish()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serial"]:
        run_serial(sys.argv[2], int(sys.argv[3]))
    else:
        main()
