"""Plain text: numbers, times, and one line for a whole job.

Owns how snapshots read as text; terminals and HTML share it. Knows no HTML and no clock.
"""

from __future__ import annotations

from collections.abc import Sequence

from distmap.core.limits import LIMITS
from distmap.core.progress import Device, JobState, LongItem, Snapshot


def number(n: int) -> str:
    """Whole number with narrow no-break spaces between thousands."""
    return f"{n:,}".replace(",", "\N{NARROW NO-BREAK SPACE}")


def clock(seconds: float) -> str:
    """Seconds as 0:07, 3:25 or 1:02:03."""
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def duration(seconds: float) -> str:
    """3.1 ms, 31 ms, 0.35 s, 4.2 s, or from ten seconds on as `clock`."""
    if seconds >= 9.95:
        return clock(seconds)
    if seconds >= 0.0995:
        return f"{seconds:.1f} s" if seconds >= 0.995 else f"{seconds:.2f} s"
    return f"{1000 * seconds:.0f} ms" if seconds >= 0.00995 else f"{1000 * seconds:.1f} ms"


def size_words(nbytes: int) -> str:
    """532 B, 12.3 kB, 4.0 MB or 1.2 GB."""
    if nbytes < 1000:
        return f"{nbytes} B"
    size, units = nbytes / 1000, ["kB", "MB", "GB"]
    while size >= 999.5 and len(units) > 1:
        size /= 1000
        del units[0]
    return f"{size:.1f} {units[0]}" if size < 99.95 else f"{number(round(size))} {units[0]}"


def elapsed(snapshot: Snapshot) -> str:
    """How long the job took; while it runs, a clock."""
    return clock(snapshot.elapsed) if is_live(snapshot) else duration(snapshot.elapsed)


def rate_words(rate: float) -> str:
    """Items per second, or seconds per item if that is easier to read; empty while unknown."""
    if rate <= 0:
        return ""
    if rate < 0.5:
        return f"{1 / rate:.1f} s/item"
    return f"{number(round(rate))} items/s" if rate >= 10 else f"{rate:.1f} items/s"


def is_live(snapshot: Snapshot) -> bool:
    """Whether the job goes on."""
    return snapshot.state in ("running", "paused")


def as_ended(snapshot: Snapshot) -> Snapshot:
    """The last snapshot of a job that has ended: if it still ran, it was cancelled."""
    if snapshot.eta is None and not snapshot.in_flight and not is_live(snapshot):
        return snapshot
    if not snapshot.in_flight and not is_live(snapshot):
        return snapshot._replace(eta=None)
    state: JobState = "cancelled" if is_live(snapshot) else snapshot.state
    lanes = tuple(
        lane._replace(in_flight=0, state="lost" if lane.state == "lost" else "idle") for lane in snapshot.lanes
    )
    return snapshot._replace(state=state, in_flight=0, eta=None, lanes=lanes)


def rate_of(snapshot: Snapshot) -> float:
    """Items per second: recent ones while the job runs, the mean of all once it has ended."""
    s = snapshot
    if is_live(s) or s.elapsed <= 0:
        return s.rate
    return (s.done - s.known) / s.elapsed


#: Not printable to Python, but kept: line ends, tabs, and the spaces inside our own numbers.
_KEPT = "\n\t\N{NO-BREAK SPACE}\N{NARROW NO-BREAK SPACE}"


def printable(text: str) -> str:
    """The text with control characters made visible, so that a worker cannot steer the user's terminal."""
    return "".join(c if c.isprintable() or c in _KEPT else repr(c)[1:-1] for c in text)


def counted(n: int, one: str, many: str | None = None) -> str:
    """ "1 retry", "3 retries"."""
    return f"{number(n)} {one if n == 1 else many or one + 's'}"


def problems(snapshot: Snapshot) -> list[str]:
    """What went wrong, each as a few words; empty if nothing did."""
    s = snapshot
    parts = [
        (s.failed, f"{number(s.failed)} failed"),
        (s.retried, counted(s.retried, "retry", "retries")),
        (s.requeued, f"{number(s.requeued)} requeued"),
        (s.deaths, counted(s.deaths, "process died", "processes died")),
        (s.losses, counted(s.losses, "worker lost", "workers lost")),
        (s.resumes, counted(s.resumes, "connection resumed", "connections resumed")),
        (s.duplicates, counted(s.duplicates, "late result refused", "late results refused")),
    ]
    return [words for n, words in parts if n]


#: Workers that are out of reach and named one by one; further ones are counted.
MAX_NAMED = 3


def out_of_reach(snapshot: Snapshot) -> list[str]:
    """What a live job waits for, each as a few words: "gpu1: reconnecting for 4 s, 7 items are there"."""
    if not is_live(snapshot):
        return []
    lanes = [lane for lane in snapshot.lanes if lane.state == "reconnecting"]
    words = [printable(snapshot.awaited)] if snapshot.awaited else []
    for lane in lanes[:MAX_NAMED]:
        there = f", {counted(lane.in_flight, 'item')} {'is' if lane.in_flight == 1 else 'are'} there"
        words.append(f"{lane.name}: reconnecting for {lane.silent:.0f} s{there if lane.in_flight else ''}")
    if len(lanes) > MAX_NAMED:
        words.append(f"{counted(len(lanes) - MAX_NAMED, 'more worker')} reconnecting")
    return words


#: What states of the system mean in which an item does nothing.
HELD_UP = {
    "D": "state D: it waits for the system, such as a disk or file server",
    "T": "state T: its process was stopped",
    "t": "state t: a debugger has stopped its process",
}


def held_up(snapshot: Snapshot) -> list[str]:
    """Items that do nothing, and the one that runs longest: "item 17 on gpu1 running for 20:00 (state D: ...)"."""
    if not is_live(snapshot):
        return []
    longest = max(snapshot.long_items, key=lambda item: item.seconds, default=None)
    told = [item for item in snapshot.long_items if item.state in HELD_UP]
    if longest is not None and longest not in told and longest.seconds >= LIMITS.long_item:
        told.append(longest)
    words = [long_words(item) for item in told[:MAX_NAMED]]
    if len(told) > MAX_NAMED:
        words.append(f"{counted(len(told) - MAX_NAMED, 'more item')} held up")
    return words


def long_words(item: LongItem) -> str:
    """An item that runs for long, in a few words."""
    state = f" ({HELD_UP[item.state]})" if item.state in HELD_UP else ""
    return f"item {number(item.item)} on {item.worker} running for {clock(item.seconds)}{state}"


def devices_words(devices: Sequence[Device]) -> str:
    """How busy the GPUs of a worker are, all together: "GPU 63%, GPU memory 41%"; empty if nothing is known."""
    parts = []
    for words, known in (
        ("GPU", [device.load for device in devices if device.load is not None]),
        ("GPU memory", [device.memory for device in devices if device.memory is not None]),
    ):
        if known:
            parts.append(f"{words} {sum(known) / len(known):.0%}")
    return ", ".join(parts)


def device_words(device: Device) -> str:
    """How busy one GPU is: "GPU 0 (NVIDIA A100): 63%, memory 41%"."""
    load = "not known" if device.load is None else f"{device.load:.0%}"
    memory = "" if device.memory is None else f", memory {device.memory:.0%}"
    return f"GPU {device.id} ({device.name}): {load}{memory}"


def recalled(snapshot: Snapshot) -> str:
    """How many items were known from the checkpoint; empty if none was."""
    s = snapshot
    if not s.known:
        return ""
    of = "" if s.total is None else f" of {number(s.total)}"
    return f"{number(s.known)}{of} from {printable(s.checkpoint)}"


def live_workers(snapshot: Snapshot) -> int:
    """Number of the job's workers that are not lost."""
    return sum(lane.state != "lost" for lane in snapshot.lanes)


def job_line(title: str, snapshot: Snapshot) -> str:
    """The whole job in one line of text."""
    s = snapshot
    of = "" if s.total is None else f" of {number(s.total)}"
    facts = [f"{number(s.done)}{of} items in {elapsed(s)}", recalled(s), rate_words(rate_of(s))]
    facts.append(counted(len(s.lanes), "worker") if s.lanes else "")
    facts += problems(s)
    return f"{printable(title)}: {s.state}, " + ", ".join(filter(None, facts))
