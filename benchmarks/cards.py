"""The card of a cell that makes many calls: what do 1,000 short maps cost the kernel, and how much does the file grow?

A real kernel, run by nbclient as `jupyter execute` does. Cells with a loop of short maps take turns, with the card and
with `progress=False`; a cell between two of them reads the processor time of the kernel, all its threads together.
"""

from __future__ import annotations

import asyncio
import statistics

import nbformat
from common import WORKERS, Report, options
from nbclient import NotebookClient

SET_UP = f"""
import time
from distmap import Pool
pool = Pool({WORKERS})
for _ in range(200): pool.map(abs, [1, 2], progress=False)
pool.map(abs, [1, 2])
"""
MARK = "print(time.process_time())"
LOOPS = {
    "card": "for _ in range({}): pool.map(abs, [1, 2])",
    "progress=False": "for _ in range({}): pool.map(abs, [1, 2], progress=False)",
}


def run(calls: int, rounds: int) -> tuple[dict[str, list[float]], int]:
    """Seconds of processor time of each loop, and bytes that the card adds to the file."""
    cells, order = [SET_UP], list(LOOPS)
    for turn in range(rounds):
        for name in order if turn % 2 == 0 else order[::-1]:
            cells += [MARK, LOOPS[name].format(calls)]
    cells += [MARK, "pool.terminate()"]
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    before = len(nbformat.writes(book))
    asyncio.run(NotebookClient(book, timeout=300, kernel_name="python3").async_execute())
    marks = [float(cell.outputs[0]["text"]) for cell in book.cells if cell.source == MARK]
    seconds: dict[str, list[float]] = {name: [] for name in LOOPS}
    looped = [cell for cell in book.cells if cell.source.startswith("for ")]
    for cell, begin, end in zip(looped, marks[:-1], marks[1:], strict=True):
        seconds["progress=False" if "progress" in cell.source else "card"].append(end - begin)
    assert len(nbformat.writes(book)) > before
    grown = max(len(str(cell.outputs).encode()) for cell in looped)
    return seconds, grown


def main() -> None:
    args = options(__doc__ or "", rounds=7, quick_rounds=2)
    report = Report("cards", args)
    calls = 200 if args.quick else 1_000
    seconds, grown = run(calls, args.rounds)
    report.case(f"{calls:,} short maps: seconds of processor time in the kernel", seconds)
    # The lowest of each: what else the machine does makes caches cold, and rounds longer, never shorter.
    lowest = {name: min(times) for name, times in seconds.items()}
    report.target("card / progress=False, lowest processor time", lowest["card"] / lowest["progress=False"], 1.10)
    pairs = [one / other for one, other in zip(*seconds.values(), strict=True)]
    report.note(f"ratio of each pair: {', '.join(f'{ratio:.2f}' for ratio in pairs)}; {statistics.median(pairs):.2f}")
    report.target("kB that the saved notebook grows by", grown / 1000, 50.0)
    report.finish()


if __name__ == "__main__":
    main()
