"""Results that wait for the pool: files instead of memory, and slots that wait when there is no room."""

from __future__ import annotations

import asyncio
import gc
from pathlib import Path

import pytest
from support.waiting import eventually

from distmap.core.limits import Limits
from distmap.worker.spool import Backlog, Spool

SMALL = Limits(kept_bytes=1000, spool_bytes=20_000, spool_file_bytes=8192)


def test_what_is_kept_in_files_is_the_same_and_takes_no_name(tmp_path: Path) -> None:
    """Its space is free again when nobody has it any more."""
    spool = Spool(str(tmp_path / "s"), SMALL)
    parts = [b"a" * 100, bytearray(b"b" * 3000), memoryview(b"c" * 5), b""]
    kept = [spool.keep(parts) for _ in range(4)]
    assert all([bytes(part) for part in found or ()] == [bytes(part) for part in parts] for found in kept)
    assert spool.nbytes == 2 * 8192
    assert list((tmp_path / "s").iterdir()) == []
    del kept[:2]
    gc.collect()
    assert spool.nbytes == 8192
    large = spool.keep([b"d" * 10_000])
    assert large is not None
    spool.close()
    spool.close()
    del kept, large
    gc.collect()
    assert spool.nbytes == 0


def test_a_spool_that_is_full_says_why(tmp_path: Path) -> None:
    """At its limit, and where no file can be written."""
    spool = Spool(str(tmp_path / "s"), SMALL)
    kept = [spool.keep([bytes(8000)]) for _ in range(3)]
    assert kept[2] is None
    assert "of files are full" in spool.problem
    kept.clear()
    spool.close()
    (tmp_path / "file").touch()
    nowhere = Spool(str(tmp_path / "file" / "s"), SMALL)
    assert nowhere.keep([b"x"]) is None
    assert nowhere.problem.startswith(f"no file can be written to {tmp_path}")


def test_the_slots_wait_while_nothing_more_can_be_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """And go on as soon as the pool has taken enough."""

    async def main() -> None:
        waiting = 0
        held: list[bool] = []
        limits = SMALL._replace(spool_bytes=0)
        backlog = Backlog(str(tmp_path / "s"), waiting=lambda: waiting, hold=held.append, limits=limits)
        for _ in range(3):
            parts: list[object] = [bytes(400)]
            assert backlog.stow(parts) is parts  # type: ignore[arg-type, comparison-overlap]
            waiting += 400
        assert held == [True]
        waiting = 0
        await eventually(lambda: held == [True, False])
        backlog.stow([bytes(2000)])
        assert held == [True, False, True]
        backlog.close()
        backlog.close()

    asyncio.run(main())
