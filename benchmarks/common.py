"""What every benchmark script shares: options, interleaved rounds, medians and ratios, JSON and a picture.

Owns measuring and reporting. Must not know what is measured. It is imported by task processes of every peer, so it
imports only the standard library at its top.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import platform
import queue
import re
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

#: Task processes of every contender, as in the targets: "two workers on two cores".
WORKERS = 2
#: The name that ratios are taken of.
OURS = "distmap"
#: One round of one contender; returns seconds (or whatever its case counts in).
Round = Callable[[], float]


def options(description: str, *, rounds: int = 5, quick_rounds: int = 2) -> argparse.Namespace:
    """The options that every script has; `args.rounds` is settled here."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--json", metavar="FILE", help="write every timing, the medians, the ratios and the targets")
    parser.add_argument("--plot", metavar="FILE", help="draw the medians (needs matplotlib)")
    parser.add_argument("--quick", action="store_true", help="small sizes: does it run, roughly how fast")
    parser.add_argument("--rounds", type=int, help=f"rounds of each contender (default {rounds}, quick {quick_rounds})")
    args = parser.parse_args()
    args.rounds = args.rounds or (quick_rounds if args.quick else rounds)
    return args


def timed(call: Callable[[], object]) -> Round:
    """A round that lasts as long as `call` does; what it returns is dropped outside the clock."""

    def run() -> float:
        began = time.perf_counter()
        result = call()
        elapsed = time.perf_counter() - began
        del result
        return elapsed

    return run


def interleave(
    contenders: Mapping[str, Round], rounds: int, *, warm: int = 1, limits: Mapping[str, int] | None = None
) -> dict[str, list[float]]:
    """Run all contenders in turn, `rounds` times, so that noise of the machine falls on all of them alike.

    Every second round goes backwards, so that nobody always follows the same neighbour. `limits` gives slow
    contenders fewer rounds (no warm-up for those with one). A contender that raises is reported and left out.
    """
    limits = limits or {}
    out: dict[str, list[float]] = {name: [] for name in contenders}
    dropped: set[str] = set()
    for turn in range(-warm, rounds):
        names = list(contenders) if turn % 2 == 0 else list(reversed(contenders))
        for name in names:
            allowed = limits.get(name, rounds)
            if name in dropped or turn >= allowed or (turn < 0 and allowed == 1):
                continue
            try:
                value = contenders[name]()
            except Exception as error:
                print(f"  {name}: left out, it raised {type(error).__name__}: {str(error)[:200]}", file=sys.stderr)
                dropped.add(name)
                continue
            if turn >= 0:
                out[name].append(value)
    return {name: values for name, values in out.items() if values}


@dataclass
class Report:
    """Collects cases, targets and notes of one script; prints them as they come and writes files at the end."""

    script: str
    args: argparse.Namespace
    cases: list[dict[str, Any]] = field(default_factory=list)
    targets: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def case(self, name: str, rounds: Mapping[str, Sequence[float]], *, unit: str = "s") -> dict[str, float]:
        """Print one case as a table; returns the medians."""
        medians = {who: statistics.median(values) for who, values in rounds.items()}
        ours = medians.get(OURS)
        print(f"\n{name}")
        print(f"  {'':34}{'median':>12}{'lowest':>12}{'highest':>12}{'distmap / it':>14}{'rounds':>8}")
        for who, values in rounds.items():
            ratio = f"{ours / medians[who]:.2f}" if ours is not None and medians[who] else ""
            cells = "".join(f"{show(value, unit):>12}" for value in (medians[who], min(values), max(values)))
            print(f"  {who:34}{cells}{ratio:>14}{len(values):>8}", flush=True)
        ratios = {who: ours / value for who, value in medians.items() if ours is not None and value}
        self.cases.append(
            {"case": name, "unit": unit, "rounds": {k: list(v) for k, v in rounds.items()}, "median": medians}
            | {"ratio": ratios}
        )
        return medians

    def target(self, text: str, value: float | None, limit: float, *, at_least: bool = False) -> None:
        """Compare a figure with its target and say so."""
        met = value is not None and (value >= limit if at_least else value <= limit)
        sign = ">=" if at_least else "<="
        self.targets.append({"text": text, "value": value, "sign": sign, "limit": limit, "met": met})
        figure = "not measured" if value is None else f"{value:.3g}"
        print(f"  target {'met     ' if met else 'NOT MET '}{text}: {figure} ({sign} {limit:g})", flush=True)

    def note(self, text: str) -> None:
        """A figure or a reason that is no timing."""
        self.notes.append(text)
        print(f"  {text}", flush=True)

    def finish(self) -> None:
        """Write `--json` and `--plot`."""
        if self.args.json:
            keys = ("script", "cases", "targets", "notes")
            data = {key: getattr(self, key) for key in keys} | {"quick": self.args.quick, "machine": machine()}
            Path(self.args.json).write_text(json.dumps(data, indent=1) + "\n")
        if self.args.plot:
            self._plot(self.args.plot)

    def _plot(self, path: str) -> None:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot

        figure, axes = pyplot.subplots(len(self.cases), 1, figsize=(8, 0.9 + 1.9 * len(self.cases)), squeeze=False)
        for axis, case in zip(axes[:, 0], self.cases, strict=True):
            names = list(case["median"])
            colours = ["tab:blue" if name.startswith(OURS) else "tab:gray" for name in names]
            bars = axis.barh(names, [case["median"][name] for name in names], color=colours)
            axis.bar_label(bars, [show(case["median"][name], case["unit"]) for name in names], padding=3, fontsize=8)
            axis.set_title(case["case"], fontsize=9, loc="left")
            axis.invert_yaxis()
            axis.margins(x=0.15)
            axis.spines[["top", "right"]].set_visible(False)
            axis.tick_params(labelsize=8)
        figure.suptitle(f"{self.script}: medians", fontsize=10)
        figure.tight_layout()
        figure.savefig(path, dpi=120)


def show(value: float, unit: str) -> str:
    """A figure with a fitting prefix."""
    if unit != "s":
        return f"{value:.4g} {unit}"
    for scale, name in ((1.0, "s"), (1e-3, "ms"), (1e-6, "us")):
        if value >= scale:
            return f"{value / scale:.3g} {name}"
    return f"{value * 1e9:.3g} ns"


def ratio(medians: Mapping[str, float], peer: str, ours: str = OURS) -> float | None:
    """distmap's median over the peer's; None where one was left out."""
    if ours not in medians or not medians.get(peer):
        return None
    return medians[ours] / medians[peer]


def machine() -> dict[str, object]:
    """What the figures were taken on."""
    import importlib.metadata as metadata

    versions: dict[str, str] = {}
    for name in ("distmap", "joblib", "numpy", "websockets", "cloudpickle"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return {
        "python": platform.python_version(),
        "system": platform.platform(terse=True),
        "cores": os.cpu_count(),
        "load": load,
        "packages": versions,
    }


# --- peers and helpers ------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def standard_pools() -> Iterator[tuple[Any, ProcessPoolExecutor]]:
    """`multiprocessing.Pool` and `ProcessPoolExecutor` of the standard library, both started by spawn."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(WORKERS) as pool, ProcessPoolExecutor(WORKERS, mp_context=context) as executor:
        yield pool, executor


def joblib_or_none() -> Any:
    """The joblib module, or None with a word about it."""
    try:
        import joblib
    except ImportError:
        print("  joblib is not installed: left out", file=sys.stderr)
        return None
    return joblib


def best_chunksize(run: Callable[[int], object], candidates: Sequence[int]) -> int:
    """The chunksize with which `run` is fastest: what a user who tunes by hand would find."""
    trials = {size: min(timed(lambda size=size: run(size))() for _ in range(2)) for size in candidates}
    return min(trials, key=lambda size: trials[size])


def resident() -> int:
    """Resident memory of this process in bytes."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        import psutil

        return int(psutil.Process().memory_info().rss)


def private_bytes() -> int:
    """Memory that this process shares with nobody, in bytes; 0 where the system does not tell."""
    with contextlib.suppress(OSError):
        text = Path("/proc/self/smaps_rollup").read_text()
        return sum(int(kb) * 1024 for kb in re.findall(r"^Private_\w+:\s+(\d+) kB", text, re.MULTILINE))
    return 0


class PeakMemory:
    """Samples this process's resident memory while it is entered; `growth` is the peak above the start."""

    def __enter__(self) -> PeakMemory:
        self._start = self._peak = resident()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._over.wait(0.01):
            self._peak = max(self._peak, resident())

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    @property
    def growth(self) -> int:
        return self._peak - self._start


@contextlib.contextmanager
def loopback_workers(count: int, *more: str, slots: int = 1) -> Iterator[list[str]]:
    """Start `distmap-worker` processes on this machine, with TLS and the user's own token; yields their URLs.

    `more`: arguments of theirs.
    """
    command = [sys.executable, "-c", "import sys; from distmap.worker.cli import main; sys.exit(main())"]
    processes: list[subprocess.Popen[str]] = []
    try:
        urls = []
        for index in range(count):
            arguments = ["--port", "0", "--slots", str(slots), "--name", f"bench{index}", *more]
            process = subprocess.Popen(command + arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            processes.append(process)
            urls.append(_listening(process))
        yield urls
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
