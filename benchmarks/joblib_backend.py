"""`joblib.Parallel` on distmap and on joblib's own loky: tiny tasks, a large argument, a search, a second host.

The second host is simulated: two `distmap-worker` processes of two slots on this machine. Its tasks wait, as two cores
cannot show what four would compute.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from typing import Any

from common import OURS, WORKERS, Report, interleave, options, ratio, timed
from peers import loopback_workers, module

import distmap


def waits(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def total(array: Any, at: int) -> float:
    return float(array[at : at + 1000].sum())


def main() -> None:
    args = options(__doc__ or "", rounds=5)
    report = Report("joblib_backend", args)
    joblib, numpy, sklearn = module("joblib"), module("numpy"), module("sklearn")
    if joblib is None or numpy is None:
        report.note("joblib or NumPy is not installed: nothing was measured")
        report.finish()
        return
    from distmap.ext.joblib import DistmapBackend

    delayed = joblib.delayed
    # One thread of its libraries for each task, as with distmap.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // WORKERS)))
    with contextlib.ExitStack() as stack:
        pool = stack.enter_context(distmap.Pool(WORKERS, progress=False))
        backends = {OURS: DistmapBackend(pool), "loky": "loky"}

        def compare(name: str, key: str, call: Any, verify: Any = None) -> dict[str, float]:
            def on(backend: Any) -> Any:
                with joblib.parallel_config(backend, n_jobs=WORKERS):
                    return call()

            contenders = {who: timed(lambda b=backend: on(b), verify) for who, backend in backends.items()}
            return report.case(name, interleave(contenders, args.rounds), key=key)

        count = 2_000 if args.quick else 20_000
        medians = compare(
            f"{count:,} tiny tasks",
            "tiny",
            lambda: joblib.Parallel()(delayed(math.sqrt)(x) for x in range(count)),
            lambda got: got[-1] == math.sqrt(count - 1),
        )
        report.target("tiny tasks: / loky", ratio(medians, "loky"), 1.5)

        array = numpy.ones((1 << 18) if args.quick else 6_500_000)
        medians = compare(
            f"64 tasks with one argument of {array.nbytes / 1e6:.0f} MB",
            "argument",
            lambda: joblib.Parallel()(delayed(total)(array, x) for x in range(64)),
            lambda got: got == [1000.0] * 64,
        )
        report.target("a large argument: / loky", ratio(medians, "loky"), 1.5)

        if sklearn is not None:
            medians = compare("GridSearchCV on digits", "search", searched(quick=args.quick))
            report.target("GridSearchCV: / loky", ratio(medians, "loky"), 1.05)

        report.target("two hosts of two slots, tasks that wait: gain", gain(joblib, args, report), 1.9, at_least=True)
        report.note("the second host is a worker on this machine, so its tasks wait and do not compute")
    report.finish()


def searched(*, quick: bool) -> Any:
    """A search over the digits: 8 candidates, 3 folds."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import GridSearchCV
    from sklearn.svm import SVC

    X, y = load_digits(return_X_y=True)
    if quick:
        X, y = X[:200], y[:200]
    grid = {"C": [0.1, 1.0, 10.0, 100.0], "gamma": [0.001, 0.0001]}
    return lambda: GridSearchCV(SVC(), grid, cv=3).fit(X, y)


def gain(joblib: Any, args: Any, report: Report) -> float | None:
    """How much sooner tasks that wait are done by two workers of two slots than by one."""
    from distmap.ext.joblib import DistmapBackend

    tasks, seconds = (16, 0.02) if args.quick else (80, 0.05)
    with loopback_workers(3, slots=2) as urls, contextlib.ExitStack() as stack:
        one, two = (stack.enter_context(distmap.Pool(some, progress=False)) for some in (urls[:1], urls[1:]))
        one.wait_for_workers(1, 30)
        two.wait_for_workers(2, 30)

        def wait(pool: distmap.Pool) -> Any:
            with joblib.parallel_config(DistmapBackend(pool)):
                return joblib.Parallel()(joblib.delayed(waits)(seconds) for _ in range(tasks))

        names = {"one host of two slots": one, "two hosts of two slots": two}
        contenders = {who: timed(lambda pool=pool: wait(pool)) for who, pool in names.items()}
        medians = report.case(f"{tasks} tasks that wait {seconds * 1e3:.0f} ms", interleave(contenders, args.rounds))
        return ratio(medians, "two hosts of two slots", "one host of two slots")


if __name__ == "__main__":
    main()
