"""Snapshots in words."""

from __future__ import annotations

import pytest

from distmap.core.progress import Block, Lane, LongItem, Snapshot
from distmap.views import words

LANES = (
    Lane("local", 2, "busy", 700, 20, 12, 0.95, 2, (Block(0, 0.0, 3.0, "done"), Block(0, 3.0, 14.2, "running"))),
    Lane("gpu1", 4, "lost", 70, 3, 0, 0.5),
)
RUNNING = Snapshot(
    name="map score",
    state="running",
    total=20_000,
    done=7_770,
    failed=1,
    in_flight=12,
    retried=2,
    requeued=3,
    duplicates=0,
    deaths=1,
    losses=1,
    elapsed=14.2,
    rate=527.4,
    eta=23.0,
    lanes=LANES,
)


def test_numbers_read_well() -> None:
    """Thousands are spaced, times are clocks, slow rates are told per item."""
    assert words.number(1234567) == "1\u202f234\u202f567"
    assert [words.clock(s) for s in (0, 59.6, 205, 3723)] == ["0:00", "1:00", "3:25", "1:02:03"]
    assert [words.rate_words(r) for r in (0, 0.1, 3.14, 527.4)] == ["", "10.0 s/item", "3.1 items/s", "527 items/s"]
    assert words.counted(1, "retry", "retries") == "1 retry"
    assert words.counted(2000, "slot") == "2\u202f000 slots"


def test_control_characters_are_shown() -> None:
    """Text of others cannot steer a terminal or turn the writing round; spaces of any width, lines and tabs stay."""
    assert words.printable("a\x1b[2J\u202eb\r") == "a\\x1b[2J\\u202eb\\r"
    assert words.printable("2\u202f000\xa0items\n\tand more") == "2\u202f000\xa0items\n\tand more"


def test_the_line_of_text_tells_everything() -> None:
    """The text has state, counts, time, rate, workers and what went wrong."""
    assert words.job_line("map score", RUNNING) == (
        "map score: running, 7\u202f770 of 20\u202f000 items in 0:14, 527 items/s, 2 workers, 1 failed, 2 retries, "
        "3 requeued, 1 process died, 1 worker lost"
    )
    unknown = RUNNING._replace(total=None, lanes=(), rate=0.0, failed=0, retried=0, requeued=0, deaths=0, losses=0)
    assert words.job_line("map\x1b[2J", unknown) == "map\\x1b[2J: running, 7\u202f770 items in 0:14"


def test_known_items_are_told() -> None:
    """How many items were in the checkpoint is told if any was; they do not count for the pace."""
    known = RUNNING._replace(known=7_412, checkpoint="scores.sqlite")
    assert words.recalled(known) == "7\u202f412 of 20\u202f000 from scores.sqlite"
    assert "7\u202f412 of 20\u202f000 from scores.sqlite" in words.job_line("map score", known)
    assert words.recalled(known._replace(total=None)) == "7\u202f412 from scores.sqlite"
    assert words.recalled(RUNNING._replace(checkpoint="scores.sqlite")) == words.recalled(RUNNING) == ""
    ended = known._replace(state="done", done=7_512, elapsed=10.0)
    assert words.rate_of(ended) == 10.0


def test_workers_out_of_reach_are_named() -> None:
    """A live job names those that it waits for, for how long, and what is there; many are counted."""
    away = LANES[0]._replace(name="gpu1", state="reconnecting", silent=4.2, in_flight=7)
    waiting = RUNNING._replace(lanes=(LANES[0], away, away._replace(name="gpu2", in_flight=1)))
    assert words.out_of_reach(waiting) == [
        "gpu1: reconnecting for 4 s, 7 items are there",
        "gpu2: reconnecting for 4 s, 1 item is there",
    ]
    many = RUNNING._replace(lanes=(away._replace(in_flight=0),) * 5)
    assert words.out_of_reach(many) == ["gpu1: reconnecting for 4 s"] * 3 + ["2 more workers reconnecting"]
    assert words.out_of_reach(waiting._replace(state="done")) == words.out_of_reach(RUNNING) == []
    assert words.problems(RUNNING._replace(resumes=2))[-1] == "2 connections resumed"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.0021, "2.1 ms"), (0.031, "31 ms"), (0.352, "0.35 s"), (4.21, "4.2 s"), (9.96, "0:10")]
)
def test_a_job_that_was_over_soon_took_parts_of_a_second(seconds: float, text: str) -> None:
    """While it runs the clock goes by the second."""
    assert words.elapsed(RUNNING._replace(state="done", elapsed=seconds)) == text
    assert words.elapsed(RUNNING._replace(elapsed=seconds)) == words.clock(seconds)


def test_nothing_wrong_is_not_mentioned() -> None:
    """Counters at zero are left out."""
    assert words.problems(RUNNING._replace(failed=0, retried=0, requeued=0, deaths=0, losses=0)) == []
    assert words.live_workers(RUNNING) == 1


@pytest.mark.parametrize(
    ("state", "after"), [("running", "cancelled"), ("paused", "cancelled"), ("interrupted", "interrupted")]
)
def test_a_job_that_nobody_serves_is_over(state: str, after: str) -> None:
    """Its last snapshot has nothing in flight and no busy worker; one that was broken off reads "cancelled"."""
    over = words.as_ended(RUNNING._replace(state=state))  # type: ignore[arg-type]
    assert (over.state, over.in_flight, over.eta) == (after, 0, None)
    assert [(lane.state, lane.in_flight) for lane in over.lanes] == [("idle", 0), ("lost", 0)]
    assert over.lanes[0].blocks == LANES[0].blocks


def test_the_pace_of_an_ended_job_is_the_whole_one() -> None:
    """While a job runs its pace is that of late, afterwards items by seconds."""
    assert words.rate_of(RUNNING) == RUNNING.rate
    assert words.rate_of(RUNNING._replace(state="done", done=200, elapsed=8.0)) == 25.0
    assert words.rate_of(RUNNING._replace(state="done", elapsed=0.0)) == RUNNING.rate


def test_numbers_stay_readable() -> None:
    """The narrow space between thousands is no control character."""
    assert words.printable(words.number(2000)) == words.number(2000)


def test_moments_are_told_in_milliseconds() -> None:
    """Less than a tenth of a second is a number of milliseconds with two digits that count."""
    told = [words.duration(taken) for taken in (0.0021, 0.0314, 0.12, 2.0, 65.0)]
    assert told == ["2.1 ms", "31 ms", "0.12 s", "2.0 s", "1:05"]


@pytest.mark.parametrize(
    ("nbytes", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (99_949, "99.9 kB"), (123_456, "123 kB"), (999_499, "999 kB"),
     (999_500, "1.0 MB"), (4_000_000, "4.0 MB"), (1_200_000_000, "1.2 GB"), (5_000_000_000_000, "5 000 GB")],
)  # fmt: skip
def test_a_size_has_three_digits_or_so(nbytes: int, text: str) -> None:
    """Bytes, then decimal units."""
    assert words.size_words(nbytes).replace("\N{NARROW NO-BREAK SPACE}", " ") == text


def test_items_that_do_nothing_are_named() -> None:
    """Those in a state in which nothing happens, and of the others the longest, from a minute on."""

    def item(number: int, seconds: float, state: str) -> LongItem:
        return LongItem(number, "gpu1", 0, seconds, state)

    def said(*items: LongItem) -> list[str]:
        return words.held_up(RUNNING._replace(long_items=items))

    assert said(item(1, 10.0, "S"), item(2, 59.0, "")) == []
    assert said(item(1, 1200.0, "R"), item(2, 61.0, "S")) == ["item 1 on gpu1 running for 20:00"]
    disk = "item 17 on gpu1 running for 20:00 (state D: it waits for the system, such as a disk or file server)"
    assert said(item(17, 1200.0, "D"), item(2, 61.0, "S")) == [disk]
    assert said(item(1, 2000.0, "R"), item(17, 1200.0, "D")) == [disk, "item 1 on gpu1 running for 33:20"]
    many = said(*[item(number, 7.0, "T") for number in range(9)])
    assert many[-1] == f"{9 - len(many[:-1])} more items held up"
    assert words.held_up(RUNNING._replace(state="done", long_items=(item(17, 1200.0, "D"),))) == []
