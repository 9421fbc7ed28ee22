"""The pictures of `docs/performance.md`: SVG without a background, in colours that can be read on white and on black.

Owns how figures are drawn. Needs matplotlib.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")

from common import LIMIT, OURS, show
from matplotlib import pyplot, ticker
from page import Compared, Results, case_of

#: Text and lines; distmap, its other ways, other libraries, limits.
INK, BLUE, LIGHT, GREY, RED = "#7d8590", "#3f7fd6", "#7fb2ee", "#9a8f80", "#d9773c"
STYLE = {
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "distmap",  # the same figures give the same file
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
}


def draw(results: Results, compared: list[Compared], folder: Path) -> None:
    """All pictures; one whose figures were not measured is left as it was."""
    with pyplot.rc_context(STYLE):
        overview(compared, folder / "overview.svg")
        small(results, folder / "small.svg")
        slots(results, folder / "slots.svg")
        bulk(results, folder / "bulk.svg")


def save(figure: Any, path: Path) -> None:
    figure.tight_layout()
    figure.savefig(path, transparent=True, metadata={"Date": None})
    pyplot.close(figure)
    # A last line break, as other files have; no blanks at the ends of lines.
    text = "\n".join(line.rstrip() for line in path.read_text(encoding="utf-8").splitlines())
    path.write_text(text + "\n", encoding="utf-8")


def overview(compared: list[Compared], path: Path) -> None:
    """distmap's figure over that of the best other library: a point for each row of the table."""
    rows = [(it.figure.words.replace("`", ""), it.ratio, it.peer) for it in compared if it.ratio is not None]
    if not rows:
        return
    figure, axis = pyplot.subplots(figsize=(9, 1.2 + 0.27 * len(rows)))
    for place, (_, ratio, peer) in enumerate(rows):
        colour = BLUE if ratio <= 1.05 else RED
        axis.plot([1, ratio], [place, place], color=colour, linewidth=2)
        axis.plot(ratio, place, "o", color=colour)
        # Beside the line of 1 where the point is left of it, so that no label covers a name.
        axis.annotate(
            f"{ratio:.2f}  {peer}", (max(ratio, 1), place), xytext=(8, 0), textcoords="offset points", va="center",
            fontsize=8,
        )  # fmt: skip
    axis.axvline(1, color=INK, linewidth=1)
    axis.set_yticks(range(len(rows)), [words for words, _, _ in rows])
    axis.invert_yaxis()
    axis.set_xscale("log")
    low, high = min(ratio for _, ratio, _ in rows), max(ratio for _, ratio, _ in rows)
    axis.set_xlim(min(low, 0.5) / 1.3, max(high, 2) * 12)
    axis.xaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_xlabel("distmap / best other library (left of 1: distmap is better)")
    save(figure, path)


def small(results: Results, path: Path) -> None:
    """Seconds of a map over its number of items."""
    counts = (1, 10, 100, 1_000, 10_000)
    cases = {n: case for n in counts if (case := case_of(results, "small", str(n))) is not None}
    if not cases:
        return
    figure, axis = pyplot.subplots(figsize=(8, 4.2))
    ends: dict[str, tuple[int, float]] = {}
    for who in dict.fromkeys(who for case in cases.values() for who in case["median"]):
        points = [(n, case["median"][who]) for n, case in cases.items() if who in case["median"]]
        ours, limit = who.startswith(OURS), who.startswith(LIMIT)
        style = "--" if limit else {OURS: "-", f"{OURS}, first map of a function": ":"}.get(who, "-")
        colour = INK if limit else BLUE if who == OURS else LIGHT if ours else GREY
        axis.plot(*zip(*points, strict=True), style, marker="o", markersize=4, color=colour)
        ends[who.removeprefix(LIMIT)] = points[-1]
    axis.set_xscale("log"), axis.set_yscale("log")
    axis.set_xlim(0.8, 2e6)
    figure.tight_layout()  # or the places below would be those of another size
    above: dict[int, float] = {}
    for who, end in sorted(ends.items(), key=lambda one: one[1][1]):
        # In points, as the text is: two lines that end side by side have their names one above the other.
        at = axis.transData.transform(end)[1] * 72 / figure.dpi
        up = above[end[0]] = max(at, above.get(end[0], 0.0) + 10)
        axis.annotate(who, end, xytext=(6, up - at), textcoords="offset points", va="center", fontsize=8)
    axis.set_xticks(counts, [f"{n:,}" for n in counts])
    axis.xaxis.set_minor_locator(ticker.NullLocator())
    axis.yaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: show(value, "s")))
    axis.set_xlabel("items of a map"), axis.set_ylabel("until its results are there")
    save(figure, path)


def slots(results: Results, path: Path) -> None:
    """How near many slots come to the sum of the items over the slots."""
    names = {"16": "16 slots", "64": "64 slots", "200": "200 slots", "tls": "20 workers x 2\nover TLS"}
    shown = (OURS, "mp.Pool")
    cases = {key: case for key in names if (case := case_of(results, "slots", key)) is not None}
    if not cases:
        return
    figure, axis = pyplot.subplots(figsize=(8, 3.4))
    for place, case in enumerate(cases.values()):
        ideal = next(value for who, value in case["median"].items() if who.startswith(LIMIT))
        for offset, who in enumerate(shown):
            if who in case["median"]:
                height = case["median"][who] / ideal
                bar = axis.bar(place + 0.36 * offset, height, 0.34, color=BLUE if who == OURS else GREY)
                axis.bar_label(bar, [f"{height:.2f}"], fontsize=8, color=INK)
    axis.axhline(1, color=INK, linewidth=1, linestyle="--")
    axis.set_xticks([place + 0.18 for place in range(len(cases))], [names[key] for key in cases])
    axis.set_ylabel("time / ideal time")
    legend(axis, {OURS: BLUE, "mp.Pool": GREY})
    save(figure, path)


def bulk(results: Results, path: Path) -> None:
    """Large arrays, here and over TLS."""
    places = {("arrays", "in"): "in, this machine", ("arrays", "out"): "out, this machine"}
    places |= {("remote", "in"): "in, over TLS", ("remote", "out"): "out, over TLS"}
    cases = {words: case for at, words in places.items() if (case := case_of(results, *at)) is not None}
    if not cases:
        return
    figure, axes = pyplot.subplots(1, len(cases), figsize=(9, 3.4), squeeze=False)
    most = max(len(case["median"]) for case in cases.values())
    for axis, (words, case) in zip(axes[0], cases.items(), strict=True):
        medians = {who: value for who, value in case["median"].items() if who != "distmap, 2 local slots"}
        for place, (who, value) in enumerate(medians.items()):
            colour = BLUE if who == OURS else INK if who.startswith(LIMIT) else GREY
            axis.barh(place + 0.15, value, 0.4, color=colour)
            name = who.removeprefix(LIMIT).replace("ProcessPoolExecutor", "PPE")
            axis.text(0, place - 0.12, f"{name}: {show(value, 's')}", va="bottom", fontsize=8)
        axis.set_ylim(most - 0.5, -0.6)
        axis.set_xlim(0, max(medians.values()) * 1.25)
        axis.set_yticks([])
        axis.xaxis.set_major_locator(ticker.MaxNLocator(3))
        axis.xaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: show(value, "s") if value else "0"))
        axis.set_title(words, fontsize=10)
    save(figure, path)


def legend(axis: Any, colours: dict[str, str]) -> None:
    handles = [pyplot.Rectangle((0, 0), 1, 1, color=colour) for colour in colours.values()]
    axis.legend(handles, list(colours), labelcolor=INK, loc="upper left", ncols=len(colours))
