"""What every benchmark script shares: options, interleaved rounds, medians and ratios, targets, JSON.

Owns measuring and reporting. Must not know what is measured. It is imported by task processes of every peer, so it
imports only the standard library at its top.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

#: Task processes of every contender, as in the targets: "two workers on two cores".
WORKERS = 2
#: The name that ratios are taken of. Other ways of distmap begin with it.
OURS = "distmap"
#: What begins with it is no peer, but what no library can pass: raw sockets, the work alone.
LIMIT = "limit: "
#: Cores that other programs used during a script; above it, its figures are marked.
MOST_FOREIGN = 0.2
#: Peers that `--without` names: as if they were not installed.
LEFT_OUT: set[str] = set()
#: One round of one contender; returns seconds (or whatever its case counts in).
Round = Callable[[], float]


def options(description: str, *, rounds: int = 5, quick_rounds: int = 2) -> argparse.Namespace:
    """The options that every script has; `args.rounds` is settled here."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--json", metavar="FILE", help="write every timing, the medians, the ratios and the targets")
    parser.add_argument("--quick", action="store_true", help="small sizes: does it run, roughly how fast")
    parser.add_argument("--rounds", type=int, help=f"rounds of each contender (default {rounds}, quick {quick_rounds})")
    parser.add_argument("--without", nargs="+", default=[], metavar="PEER", help="leave out: ray dask mpire joblib")
    args = parser.parse_args()
    args.rounds = args.rounds or (quick_rounds if args.quick else rounds)
    LEFT_OUT.update(args.without)
    return args


def timed(call: Callable[[], object], verify: Callable[[Any], bool] | None = None) -> Round:
    """A round that lasts as long as `call` does; what it returns is looked at and dropped outside the clock."""

    def run() -> float:
        began = time.perf_counter()
        result = call()
        elapsed = time.perf_counter() - began
        if verify is not None and not verify(result):
            raise RuntimeError("wrong results")
        del result
        return elapsed

    return run


def each(call: Callable[[int], object], count: int, verify: Callable[[int, Any], bool] | None = None) -> Round:
    """A round of so many calls, one after the other; its figure is their median."""

    def run() -> float:
        times = []
        for x in range(count):
            began = time.perf_counter()
            value = call(x)
            times.append(time.perf_counter() - began)
            if verify is not None and not verify(x, value):
                raise RuntimeError(f"a wrong result for {x}")
        return statistics.median(times)

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
    """Collects cases, targets and notes of one script; prints them as they come and writes `--json` at the end."""

    script: str
    args: argparse.Namespace
    cases: list[dict[str, Any]] = field(default_factory=list)
    targets: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        from machine import Foreign

        self._foreign = Foreign()
        self._began = time.perf_counter()

    def case(
        self, name: str, rounds: Mapping[str, Sequence[float]], *, unit: str = "s", key: str = ""
    ) -> dict[str, float]:
        """Print one case as a table; returns the medians. `key`: what `page.py` knows it by, whatever its size."""
        medians = {who: statistics.median(values) for who, values in rounds.items()}
        ours = medians.get(OURS)
        ratios = {who: ours / value for who, value in medians.items() if ours is not None and value}
        print(f"\n{name}")
        print(f"  {'':44}{'median':>12}{'lowest':>12}{'highest':>12}{'distmap / it':>14}{'rounds':>8}")
        for who, values in rounds.items():
            ratio = f"{ratios[who]:.2f}" if who in ratios else ""
            cells = "".join(f"{show(value, unit):>12}" for value in (medians[who], min(values), max(values)))
            print(f"  {who:44}{cells}{ratio:>14}{len(values):>8}", flush=True)
        every = {who: list(values) for who, values in rounds.items()}
        case = {"case": name, "key": key, "unit": unit, "rounds": every, "median": medians, "ratio": ratios}
        self.cases.append(case)
        return medians

    def target(
        self,
        text: str,
        value: float | None,
        limit: float,
        *,
        at_least: bool = False,
        exact: bool = False,
        otherwise: bool = False,
    ) -> None:
        """Compare a figure with its target and say so; `otherwise`: it is met in another way.

        A miss of a run with small sizes says nothing, unless the figure is `exact`: a count that no noise changes.
        """
        met = value is not None and (otherwise or (value >= limit if at_least else value <= limit))
        if value is None:
            verdict = "not measured"
        elif met:
            verdict = "met"
        else:
            verdict = "too short to judge" if self.args.quick and not exact else "NOT MET"
        sign = ">=" if at_least else "<="
        self.targets.append({"text": text, "value": value, "sign": sign, "limit": limit, "verdict": verdict})
        figure = "" if value is None else f": {value:.3g}"
        print(f"  target {verdict:20}{text}{figure} ({sign} {limit:g})", flush=True)

    def note(self, text: str) -> None:
        """A figure or a reason that is no timing."""
        self.notes.append(text)
        print(f"  {text}", flush=True)

    def finish(self) -> None:
        """Say what else ran on the machine, and write `--json`."""
        from machine import machine

        foreign, seconds = self._foreign.cores(), time.perf_counter() - self._began
        word = "" if foreign <= MOST_FOREIGN else ": its figures are disturbed, run it again"
        print(f"\n{self.script}: {seconds:.0f} s; other programs used {foreign:.2f} cores meanwhile{word}", flush=True)
        if self.args.json:
            keys = ("script", "cases", "targets", "notes")
            data = {key: getattr(self, key) for key in keys} | {"quick": self.args.quick, "machine": machine()}
            data |= {"seconds": round(seconds, 1), "foreign": round(foreign, 2)}
            Path(self.args.json).write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")


def show(value: float, unit: str) -> str:
    """A figure with a fitting prefix."""
    if unit != "s":
        return f"{value:,.0f} {unit}" if value >= 1000 else f"{value:.3g} {unit}"
    for scale, name in ((1.0, "s"), (1e-3, "ms"), (1e-6, "us")):
        if value >= 0.9995 * scale:  # or three digits would round it up to 1e+03 of the smaller unit
            return f"{value / scale:.3g} {name}"
    return f"{value * 1e9:.3g} ns"


def ratio(medians: Mapping[str, float], peer: str, ours: str = OURS) -> float | None:
    """distmap's median over the peer's; None where one was left out."""
    if ours not in medians or not medians.get(peer):
        return None
    return medians[ours] / medians[peer]


def best_chunksize(run: Callable[[int], object], candidates: Sequence[int]) -> int:
    """The chunksize with which `run` is fastest: what a user who tunes by hand would find."""
    trials = {size: min(timed(lambda size=size: run(size))() for _ in range(2)) for size in candidates}
    return min(trials, key=lambda size: trials[size])
