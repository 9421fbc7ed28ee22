"""The report of a check: a line for each hop, for people and programs."""

from __future__ import annotations

import pytest

from distmap.transport.hop_report import HOPS, Hop, HopReport, rate_words, time_words, unwatched

PASSED = HopReport("wss://gpu1:8786", tuple(Hop(name, "ok", "fine") for name in HOPS), "All is well.")
FAILED = HopReport(
    "wss://gpu1:8786",
    (Hop("name", "not needed", "an address"), Hop("TCP", "failed", "nothing listens"), Hop("proxy", "not tried")),
    "Failed: TCP.",
)


def test_a_report_has_a_line_for_each_hop() -> None:
    """The URL, then mark, name and words of each hop, then one sentence."""
    assert repr(FAILED).split("\n") == [
        "wss://gpu1:8786",
        "  -  name          an address",
        "  x  TCP           nothing listens",
        "  .  proxy         not tried",
        "Failed: TCP.",
    ]


def test_whether_a_way_is_good() -> None:
    """It is if no hop failed; else the hop is there to be asked."""
    assert PASSED.ok
    assert PASSED.failed is None
    assert not FAILED.ok
    assert FAILED.failed == Hop("TCP", "failed", "nothing listens")


def test_a_hop_by_its_name() -> None:
    """A name that is none is told with those that are."""
    assert FAILED["TCP"].words == "nothing listens"
    with pytest.raises(KeyError, match="there is no hop 'DNS'; there are name, TCP"):
        FAILED["DNS"]


@pytest.mark.parametrize(
    ("rate", "words"), [(1.5e9, "1.5 GB/s"), (93.4e6, "93.4 MB/s"), (12_345, "12.3 kB/s"), (0.0, "0 kB/s")]
)
def test_rates(rate: float, words: str) -> None:
    """Three figures."""
    assert rate_words(rate) == words


@pytest.mark.parametrize(("seconds", "words"), [(0.000_234, "0.234 ms"), (0.5, "500 ms"), (1.5, "1.5 s")])
def test_times(seconds: float, words: str) -> None:
    """Milliseconds below a second."""
    assert time_words(seconds) == words


def test_nobody_watches() -> None:
    """Where nobody wants to know of the hops, they are told to nobody."""
    unwatched("name", host="gpu1")
