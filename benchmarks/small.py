"""Small maps: 1 to 10,000 items of `x * x` on warm pools of two; the first map of a function, and those after it.

"First" is a function that no process has seen: it is made for the round, as in an edited cell, and travels by value.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

from common import LIMIT, OURS, WORKERS, Report, Round, each, interleave, options, ratio
from limits import halves
from peers import mpire_or_none, standard_pools
from work import fresh_square, square

import distmap

FIRST, SECOND = "distmap, first map of a function", "distmap, second map of a function"
ALONE = LIMIT + "two raw processes, one pickle each"
serials = itertools.count()


def first_and_second(pool: distmap.Pool, items: list[int], count: int) -> tuple[Round, list[float]]:
    """A round of first maps; the second maps of the same functions follow it, and are noted in the list."""
    second: list[float] = []

    def run() -> float:
        functions = [fresh_square(next(serials)) for _ in range(count)]
        maps = each(lambda turn: pool.map(functions[turn], items), count, lambda _, got: got == [x * x for x in items])
        first = maps()
        second.append(maps())
        return first

    return run, second


def main() -> None:
    args = options(__doc__ or "", rounds=9, quick_rounds=2)
    report = Report("small", args)
    count = 3 if args.quick else 15
    with (
        distmap.Pool(WORKERS) as ours,
        standard_pools() as (pool, executor),
        mpire_or_none() as mpire,
        halves() as alone,
    ):

        def calls(items: list[int]) -> dict[str, Callable[[int], list[Any]]]:
            """Everybody's call over the items, many times."""
            found = {
                OURS: lambda _: ours.map(square, items),
                "mp.Pool": lambda _: pool.map(square, items),
                ALONE: lambda _: alone.map(square, items),
            }
            if len(items) <= 100:  # it sends every item alone
                found["ProcessPoolExecutor"] = lambda _: list(executor.map(square, items))
            if mpire is not None:
                found["mpire"] = lambda _: mpire.map(square, items)
            return found

        for n in (1, 10, 100, 1_000, 10_000):
            items = list(range(n))
            expected = [x * x for x in items]
            contenders = {
                who: each(call, count, lambda _, got, expected=expected: got == expected)
                for who, call in calls(items).items()
            }
            contenders[FIRST], second = first_and_second(ours, items, count)
            got = interleave(contenders, args.rounds, limits={"mpire": 2})
            got[SECOND] = second[-args.rounds :]
            medians = report.case(f"a map of {n:,}", got, key=str(n))
            for who in (OURS, FIRST, SECOND):
                name = who.removeprefix("distmap, ").replace(OURS, "a known function")
                report.target(f"{n:,} items, {name}: / mp.Pool", ratio(medians, "mp.Pool", who), 1.2)
    report.finish()


if __name__ == "__main__":
    main()
