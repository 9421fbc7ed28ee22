"""One call at a time on a warm pool: `submit(f, x).result()`, on all processors and with everything on one.

Local slots, and one loopback worker with TLS; raw sockets and `websockets` beside them. A round is many calls; its
figure is their median. With two processors, most of the time is spent waking them up.
"""

from __future__ import annotations

import contextlib

from common import LIMIT, OURS, WORKERS, Report, each, interleave, options, ratio
from limits import echoes, websockets_echo
from machine import one_processor
from peers import dask_or_none, joblib_or_none, loopback_workers, mpire_or_none, ray_or_none, standard_pools
from work import square

import distmap

TLS = "distmap, loopback worker, TLS"
RAW = LIMIT + "64 bytes there and back, "


def main() -> None:
    args = options(__doc__ or "", rounds=9, quick_rounds=2)
    report = Report("latency", args)
    count = 20 if args.quick else 200
    joblib = joblib_or_none()

    def calls(call, many: int = count):
        return each(call, many, lambda x, value: value == x * x)

    with (
        loopback_workers(1, slots=WORKERS) as urls,
        distmap.Pool(urls[0]) as remote,
        distmap.Pool(WORKERS) as ours,
        standard_pools() as (pool, executor),
        mpire_or_none() as mpire,
        echoes() as raw,
        websockets_echo() as echo,
    ):
        remote.wait_for_workers(1, 30)
        contenders = {
            OURS: calls(lambda x: ours.submit(square, x).result()),
            "distmap, apply": calls(lambda x: ours.apply(square, (x,))),
            TLS: calls(lambda x: remote.submit(square, x).result()),
            "mp.Pool": calls(lambda x: pool.apply(square, (x,))),
            "ProcessPoolExecutor": calls(lambda x: executor.submit(square, x).result()),
        }
        if mpire is not None:
            contenders["mpire"] = calls(lambda x: mpire.apply(square, (x,)))
        contenders |= {RAW + name: each(ping, count, lambda _, same: same) for name, ping in raw.items()}
        contenders[RAW + "websockets over TLS"] = lambda: echo(count)
        medians = pinned = None
        for where, place in (("all processors", contextlib.nullcontext(True)), ("one processor", one_processor())):
            with place as possible:
                if not possible:
                    report.note("this system cannot keep processes on one processor")
                    break
                got = interleave(contenders, args.rounds)
                if joblib is not None and medians is None:
                    got |= interleave({"joblib": calls(lambda x: joblib.map(square, [x])[0], 5)}, 3)
            if medians is None:
                with heavy(args.quick) as more:
                    got |= interleave({who: calls(call, 50) for who, call in more.items()}, min(3, args.rounds))
                medians = report.case(f"one call and its result, {where}", got, key="all")
            else:
                pinned = report.case(f"one call and its result, {where}", got, key="one")
    report.target("local, all processors: / mp.Pool", ratio(medians, "mp.Pool"), 1.1)
    report.target("local, one processor: microseconds", pinned and pinned[OURS] * 1e6, 150)
    report.target("over TLS, all processors: microseconds", medians[TLS] * 1e6, 400)
    report.finish()


@contextlib.contextmanager
def heavy(quick: bool):
    """Calls of Ray and Dask, which run after the others, as they use processor time when idle too."""
    with contextlib.ExitStack() as stack:
        found = {}
        for name, way in (
            {}
            if quick
            else {"Ray": ray_or_none(), "Dask, TCP": dask_or_none(), "Dask, TLS": dask_or_none(tls=True)}.items()
        ):
            if (peer := stack.enter_context(way)) is not None:
                found[name] = lambda x, peer=peer: peer.call(square, x)
        yield found


if __name__ == "__main__":
    main()
