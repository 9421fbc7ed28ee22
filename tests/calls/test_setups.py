"""The handle of a set-up: results as they come, and an end when nobody keeps it."""

from __future__ import annotations

import gc
import os
import weakref
from typing import Any

import pytest

import distmap


def setups(pool: distmap.Pool) -> list[Any]:
    """The set-ups that the driver knows."""
    records: list[Any] = pool._portal.ask(lambda: list(pool._driver._jobs.values()))
    return [record for record in records if record.spec.each]


def test_results_are_a_mapping_by_worker_and_slot() -> None:
    """It reads, compares and prints like a dict of lists."""
    with distmap.Pool(2) as pool:
        got = pool.run(lambda: "ready")
        assert (len(got), list(got), got["local"][1]) == (1, ["local"], "ready")
        assert got == {"local": ["ready", "ready"]}
        assert repr(got) == "{'local': ['ready', 'ready']}"
        assert got.failures == {}
        with pytest.raises(KeyError):
            got["elsewhere"]


def test_it_lasts_as_long_as_somebody_keeps_it() -> None:
    """The driver forgets a set-up that was closed, that nobody keeps, or that failed; closing twice is harmless."""
    with distmap.Pool(1) as pool:
        kept, closed = pool.run(os.getpid), pool.run(os.getpid)
        assert len(setups(pool)) == 2
        closed.close()
        closed.close()
        assert closed.closed
        with pytest.raises(ZeroDivisionError):
            pool.run(lambda: 1 // 0)
        assert len(setups(pool)) == 1
        gone = weakref.ref(kept)
        del kept
        gc.collect()
        assert gone() is None
        assert setups(pool) == []
        assert pool.map(abs, [-1]) == [1]


def test_an_interrupt_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever is interrupted while it runs stops it everywhere, and the pool stays usable."""
    with distmap.Pool(1) as pool:

        def interrupted(*args: object) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr("distmap.calls.reader.Mailbox.first", interrupted)
            with pytest.raises(KeyboardInterrupt):
                pool.run(lambda: __import__("time").sleep(30))
        assert pool.map(abs, [-1]) == [1]
        assert setups(pool) == []
