"""Make the figures of `docs/performance.md` from the results of the scripts: tables, sentences, pictures, a JSON file.

Owns what the page shows, and which peer is the best. The page's own text stays: only what stands between
`<!-- figures: NAME -->` and `<!-- end -->` is written anew. Must not know how anything was measured.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from common import LIMIT, MOST_FOREIGN, OURS, show

DOCS = Path(__file__).resolve().parent.parent / "docs"
#: Other libraries, as the scripts call them, and the packages that have their versions.
PEERS = {"joblib": "joblib", "Ray": "ray", "Dask": "distributed", "mpire": "mpire"}
#: Ratios between these are called equal.
EQUAL = (0.95, 1.05)
REGION = re.compile(r"(<!-- figures: ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)

Results = dict[str, dict[str, Any]]


class Figure(NamedTuple):
    """A case of a script, in the words of the page."""

    words: str
    script: str
    key: str
    ours: str = OURS


#: The table of all figures, in the order of the page.
FIGURES = (
    Figure("start of a script to its first result", "cold", "a function of the script"),
    Figure("start in a kernel, first result", "cold", "in a kernel"),
    Figure("one call and its result", "latency", "all"),
    Figure("one call and its result, over TLS", "latency", "all", "distmap, loopback worker, TLS"),
    Figure("a map of 1 item", "small", "1"),
    Figure("a map of 100 items", "small", "100"),
    Figure("a map of 10,000 items", "small", "10000"),
    Figure("100,000 tiny items", "tiny", "small"),
    Figure("1,000,000 tiny items", "tiny", "large"),
    Figure("2,000 items of 10 ms on 16 slots", "slots", "16"),
    Figure("5,000 items of 10 ms on 64 slots", "slots", "64"),
    Figure("40,000 items of 5 ms on 200 slots", "slots", "200"),
    Figure("5,000 items of 10 ms on 20 workers, TLS", "slots", "tls"),
    Figure("chunks a second (`chunksize=1`)", "dispatch", "rate"),
    Figure("100,000 `submit`s, then all results", "many", "tiny"),
    Figure("memory of 100,000 `submit`s", "many", "memory"),
    Figure("10,000 `submit`s of 2 ms, `as_completed`", "many", "completed"),
    Figure("processor time of 10,000 sleeps of 1 ms", "cpu", "tree"),
    Figure("400 items of very different length, ascending", "skew", "ascending"),
    Figure("`imap`: items read ahead of a slow consumer", "stream", "ahead"),
    Figure("2,000 dicts, 1 KB in, 10 KB out, 1 ms each", "payloads", "record"),
    Figure("200,000 short strings, split into words", "payloads", "tokens"),
    Figure("a frame of 1,000,000 rows, means of groups", "payloads", "grouped"),
    Figure("a frame of 1,000,000 rows, all rows back", "payloads", "scaled"),
    Figure("rows of a Mandelbrot set, pure Python", "real", "mandelbrot"),
    Figure("matrix products, BLAS", "real", "product"),
    Figure("64 arrays of 16 MB in", "arrays", "in"),
    Figure("64 arrays of 16 MB out", "arrays", "out"),
    Figure("1,000 items over a captured array of 100 MB", "closure", "closure"),
    Figure("64 arrays of 16 MB in, 2 workers, TLS", "remote", "in"),
    Figure("64 arrays of 16 MB out, 2 workers, TLS", "remote", "out"),
)


# --- reading results --------------------------------------------------------------------------------------------------


def case_of(results: Results, script: str, key: str) -> dict[str, Any] | None:
    """A case of a script, or None where it was not measured."""
    return next((case for case in results.get(script, {}).get("cases", ()) if case["key"] == key), None)


def higher_is_better(case: dict[str, Any]) -> bool:
    return bool(case["unit"] == "/s")


def is_peer(who: str) -> bool:
    """Another library: neither distmap, nor a limit, nor the work done without any."""
    return not who.startswith((OURS, LIMIT, "serial"))


def best(case: dict[str, Any], wanted: Callable[[str], bool]) -> str | None:
    """The best of those that are wanted."""
    names = [who for who in case["median"] if wanted(who)]
    pick = max if higher_is_better(case) else min
    return pick(names, key=case["median"].__getitem__) if names else None


class Compared(NamedTuple):
    """distmap beside the best peer, and the limit."""

    figure: Figure
    unit: str
    ours: float
    peer: str | None
    its: float | None
    limit: float | None

    @property
    def ratio(self) -> float | None:
        """distmap over the peer, turned so that less is better; None without a peer."""
        if self.its is None or not self.its or not self.ours:
            return None
        return self.its / self.ours if self.unit == "/s" else self.ours / self.its


def compare(results: Results) -> list[Compared]:
    """Every figure of the page that was measured."""
    found = []
    for figure in FIGURES:
        case = case_of(results, figure.script, figure.key)
        if case is None or figure.ours not in case["median"]:
            continue
        tls = figure.ours != OURS  # beside libraries that go over TLS, and raw TLS
        peer = best(case, lambda who, tls=tls: is_peer(who) and ("TLS" in who or not tls))
        limit = best(case, lambda who, tls=tls: who.startswith(LIMIT) and ("TLS" in who or not tls))
        median = case["median"]
        found.append(Compared(figure, case["unit"], median[figure.ours], peer, median.get(peer), median.get(limit)))
    return found


# --- tables and sentences ---------------------------------------------------------------------------------------------


def machine_line(results: Results) -> str:
    """What the figures were taken on, and whether it was quiet."""
    machine = next(iter(results.values()))["machine"]
    packages = machine["packages"]
    measured = {who.lower() for data in results.values() for case in data["cases"] for who in case["median"]}
    absent = [peer for peer, package in PEERS.items() if not any(peer.lower() in who for who in measured)]
    unused = {"distmap", *(PEERS[peer] for peer in absent)}
    others = ", ".join(f"{name} {version}" for name, version in packages.items() if name not in unused)
    disturbed = [script for script, data in results.items() if data["foreign"] > MOST_FOREIGN]
    lines = [
        f"distmap {packages.get('distmap', '')}, Python {machine['python']}, {machine['system']}, "
        f"{machine['cores']} cores ({machine['processor']}), {machine['memory_gb']} GB of memory. Beside it: {others}."
    ]
    if absent:
        lines.append(f"Not measured in this run: {', '.join(absent)}.")
    if any(data["quick"] for data in results.values()):
        lines.append("**These figures are of small sizes (`--quick`): they only show that the scripts run.**")
    if disturbed:
        lines.append(f"Other programs were busy while these ran: {', '.join(disturbed)}. Take their figures with care.")
    return " ".join(lines) + "\n"


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [head := list(head), ["---", *["--:"] * (len(head) - 1)], *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def overview(compared: list[Compared]) -> str:
    """All figures."""
    rows = []
    for it in compared:
        limit = "" if it.limit is None else show(it.limit, it.unit)
        peer = "" if it.its is None else f"{it.peer}: {show(it.its, it.unit)}"
        ratio = "" if it.ratio is None else f"{it.ratio:.2f}"
        rows.append([it.figure.words, limit, peer, show(it.ours, it.unit), f"**{ratio}**" if ratio else ""])
    return table(["what", "limit", "best other", "distmap", "ratio"], rows)


def sentences(compared: list[Compared], better: bool) -> str:
    """Where distmap is behind the best other library (or ahead of it), the widest gap first."""
    lines = []
    low, high = EQUAL
    known = [(it.ratio, it) for it in compared if it.ratio is not None]
    for ratio, it in sorted(known, key=lambda pair: pair[0], reverse=not better):
        if ratio < low if better else ratio > high:
            factor = 1 / ratio if better else ratio
            gap = f"{factor:.1f} times" if factor < 10 else f"{factor:.0f} times"
            lines.append(f"- {it.figure.words}: {gap} {'better than' if better else 'behind'} {it.peer}\n")
    return "".join(lines) or "- nothing that was measured here\n"


def contenders(results: Results, script: str, *keys: str) -> str:
    """Everybody's medians in some cases of a script: a row for each."""
    cases = [case for key in keys if (case := case_of(results, script, key)) is not None]
    names = sorted(
        dict.fromkeys(who for case in cases for who in case["median"]),
        key=lambda who: (not who.startswith(OURS), who.startswith(LIMIT), not is_peer(who)),
    )  # distmap, other libraries, none
    rows = [
        [who, *(show(case["median"][who], case["unit"]) if who in case["median"] else "" for case in cases)]
        for who in names
    ]
    return table(["", *(case["case"] for case in cases)], rows) if cases else "Not measured.\n"


def regions(results: Results) -> dict[str, str]:
    """The text of every region of the page."""
    compared = compare(results)
    return {
        "machine": machine_line(results),
        "overview": overview(compared),
        "behind": sentences(compared, better=False),
        "ahead": sentences(compared, better=True),
        "small": contenders(results, "small", "1", "10", "100", "1000", "10000"),
        "tiny": contenders(results, "tiny", "small", "large"),
        "latency": contenders(results, "latency", "all", "one"),
        "slots": contenders(results, "slots", "16", "64", "200", "tls"),
        "slots-client": contenders(results, "slots", "16 client", "64 client", "200 client", "tls client"),
        "chunks": contenders(results, "dispatch", "rate", "client"),
        "futures": contenders(results, "many", "tiny", "completed", "memory"),
        "arrays": contenders(results, "arrays", "in", "out"),
        "closure": contenders(results, "closure", "closure"),
        "tls": contenders(results, "remote", "in", "out", "closure"),
        "data": contenders(results, "payloads", "record", "tokens", "grouped", "scaled"),
        "skew": contenders(results, "skew", "ascending", "long ones in front", "alternating"),
        "stream": contenders(results, "stream", "fast", "first", "ahead", "held"),
        "cold": contenders(results, "cold", "a function of the script", "in a kernel"),
        "cpu": contenders(results, "cpu", "tree"),
    }


def fill(text: str, made: dict[str, str]) -> str:
    """The page with its regions written anew; a region that nobody makes is an error."""

    def put(match: re.Match[str]) -> str:
        if match[2] not in made:
            raise ValueError(f"no figures are called {match[2]!r}; there are: {', '.join(made)}")
        return f"{match[1]}\n{made[match[2]]}\n{match[3]}"

    return REGION.sub(put, text)


def condensed(results: Results) -> dict[str, Any]:
    """What is kept beside the page: medians, lowest and highest of every case, and the machine."""
    found: dict[str, Any] = {"machine": next(iter(results.values()))["machine"], "scripts": {}}
    for script, data in results.items():
        cases = {
            case["case"]: {
                who: {"median": shorter(median), "lowest": shorter(min(every)), "highest": shorter(max(every))}
                | {"rounds": len(every), "unit": case["unit"]}
                for who, median in case["median"].items()
                for every in [case["rounds"][who]]
            }
            for case in data["cases"]
        }
        found["scripts"][script] = {key: data[key] for key in ("quick", "seconds", "foreign")} | {"cases": cases}
    return found


def shorter(value: float) -> float:
    return float(f"{value:.4g}")


def write(results: Results, docs: Path = DOCS) -> None:
    """Write the page, its pictures and its file of figures."""
    import plots

    folder = docs / "performance"
    folder.mkdir(exist_ok=True)
    page = docs / "performance.md"
    page.write_text(fill(page.read_text(encoding="utf-8"), regions(results)), encoding="utf-8")
    (folder / "figures.json").write_text(json.dumps(condensed(results), indent=1) + "\n", encoding="utf-8")
    plots.draw(results, compare(results), folder)
    print(f"written: {page}, and its pictures in {folder}")
