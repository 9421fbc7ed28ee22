"""What happened, in words: numbers, times, and one line for a whole job.

Owns how snapshots read as plain text; terminals and HTML share it. Knows no HTML and no clock.
"""

from __future__ import annotations

from distmap.core.progress import JobState, Snapshot


def number(n: int) -> str:
    """Whole number with narrow no-break spaces between thousands."""
    return f"{n:,}".replace(",", "\N{NARROW NO-BREAK SPACE}")


def clock(seconds: float) -> str:
    """Seconds as 0:07, 3:25 or 1:02:03."""
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def took(snapshot: Snapshot) -> str:
    """How long it took: of a job that was over soon as `brief` says it, else a clock."""
    return clock(snapshot.elapsed) if is_live(snapshot) else brief(snapshot.elapsed)


def brief(taken: float) -> str:
    """3.1 ms, 31 ms, 0.35 s, 4.2 s, or a clock."""
    if taken >= 9.95:
        return clock(taken)
    if taken >= 0.0995:
        return f"{taken:.1f} s" if taken >= 0.995 else f"{taken:.2f} s"
    return f"{1000 * taken:.0f} ms" if taken >= 0.00995 else f"{1000 * taken:.1f} ms"


def speed(rate: float) -> str:
    """Items per second, or seconds per item where that is the readable number; empty while unknown."""
    if rate <= 0:
        return ""
    if rate < 0.5:
        return f"{1 / rate:.1f} s/item"
    return f"{number(round(rate))} items/s" if rate >= 10 else f"{rate:.1f} items/s"


def is_live(snapshot: Snapshot) -> bool:
    """Whether the job goes on."""
    return snapshot.state in ("running", "paused")


def ended(snapshot: Snapshot) -> Snapshot:
    """The last snapshot of a job that nobody serves any more: one that still ran was broken off."""
    if snapshot.eta is None and not snapshot.in_flight and not is_live(snapshot):
        return snapshot
    state: JobState = "cancelled" if is_live(snapshot) else snapshot.state
    lanes = tuple(
        lane._replace(in_flight=0, state="lost" if lane.state == "lost" else "idle") for lane in snapshot.lanes
    )
    return snapshot._replace(state=state, in_flight=0, eta=None, lanes=lanes)


def pace(snapshot: Snapshot) -> float:
    """Items per second: of late while the job runs, on the whole once it has ended."""
    s = snapshot
    if is_live(s) or s.elapsed <= 0:
        return s.rate
    return s.done / s.elapsed


#: Not printable to Python, and wanted: line ends, tabs, and the spaces inside of our own numbers.
_HARMLESS = "\n\t\N{NO-BREAK SPACE}\N{NARROW NO-BREAK SPACE}"


def printable(text: str) -> str:
    """The text with control characters made visible, so that a worker cannot steer the user's terminal."""
    return "".join(c if c.isprintable() or c in _HARMLESS else repr(c)[1:-1] for c in text)


def counted(n: int, one: str, many: str | None = None) -> str:
    """ "1 retry", "3 retries"."""
    return f"{number(n)} {one if n == 1 else many or one + 's'}"


def troubles(snapshot: Snapshot) -> list[str]:
    """What went not as planned, each as a few words; empty if nothing did."""
    s = snapshot
    parts = [
        (s.failed, f"{number(s.failed)} failed"),
        (s.retried, counted(s.retried, "retry", "retries")),
        (s.requeued, f"{number(s.requeued)} requeued"),
        (s.deaths, counted(s.deaths, "process died", "processes died")),
        (s.losses, counted(s.losses, "worker lost", "workers lost")),
        (s.duplicates, counted(s.duplicates, "late result refused", "late results refused")),
    ]
    return [words for n, words in parts if n]


def working(snapshot: Snapshot) -> int:
    """How many workers the job has that are not lost."""
    return sum(lane.state != "lost" for lane in snapshot.lanes)


def plain(title: str, snapshot: Snapshot) -> str:
    """The whole job in one line of text."""
    s = snapshot
    of = "" if s.total is None else f" of {number(s.total)}"
    facts = [f"{number(s.done)}{of} items in {took(s)}", speed(pace(s))]
    facts.append(counted(len(s.lanes), "worker") if s.lanes else "")
    facts += troubles(s)
    return f"{printable(title)}: {s.state}, " + ", ".join(filter(None, facts))
