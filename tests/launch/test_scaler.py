"""How the workers of a launcher are kept in number. The launcher of these tests keeps its starts in memory."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence

import pytest
from support.waiting import eventually

from distmap.core.launch_limits import LaunchLimits
from distmap.core.scaling import Waiting
from distmap.errors import LaunchError
from distmap.launch.launcher import Ended, Started
from distmap.launch.scaler import Scaler, There, Worker

#: No wait is longer than a moment.
QUICK = LaunchLimits(tick=0.005, work=1e-9, shrink_after=0.0, pause_most=0.0, drain=0.0)


class Memory:
    """A launcher, and the pool that its workers come to."""

    name, slots = "memory", 2

    def __init__(self) -> None:
        self.changed: Callable[[], None] = lambda: None
        self.there: dict[str, Started] = {}
        self.over: dict[str, Ended] = {}
        self.refuses = ""
        self.log: list[object] = []
        self.jobs: list[Waiting] = []
        self.workers: dict[str, bool] = {}
        self.away: set[str] = set()
        self._ids = map(str, itertools.count(1))

    async def start(self, n: int, url: str) -> Sequence[str]:
        if self.refuses:
            raise LaunchError(self.refuses)
        ids = [next(self._ids) for _ in range(n)]
        self.log.append((url, ids))
        self.there |= dict.fromkeys(ids, Started("queued", reason="Priority"))
        return ids

    async def look(self) -> Mapping[str, Started]:
        return dict(self.there)

    def hurry(self) -> None:
        pass

    async def ended(self, id: str, *, expected: bool) -> Ended | None:
        ended = self.over.get(id) if expected else self.over[id]
        return None if expected and ended is not None and not ended.well else ended

    async def end(self, ids: Sequence[str]) -> None:
        self.log.append(("end", [*ids]))
        for id in ids:
            self.ends(id)

    async def close(self) -> None:
        self.log.append("close")

    def look_at_pool(self) -> There:
        return There(self.jobs, [Worker(id, 2, busy, id in self.away) for id, busy in self.workers.items()])

    # --- what happens there

    def comes(self, id: str, *, busy: bool = False) -> None:
        self.there[id], self.workers[id] = Started("running"), busy

    def ends(self, id: str, words: str = "", *, well: bool = False) -> None:
        self.over[id] = Ended(well, words)
        self.there.pop(id)
        self.workers.pop(id, None)


class Side:
    """The pool's side."""

    def __init__(self, memory: Memory) -> None:
        self.memory, self.lost_hope = memory, 0

    def look(self) -> There:
        return self.memory.look_at_pool()

    def address(self) -> str:
        return "wss://nb:1"

    def dismiss(self, starts: Collection[str]) -> None:
        self.memory.log.append(("dismiss", [*starts]))

    def lost(self, starts: Collection[str]) -> None:
        self.memory.log.append(("lost", [*starts]))
        for id in starts:
            self.memory.workers.pop(id)

    def hopeless(self) -> None:
        self.lost_hope += 1

    def ended(self, scaler: Scaler) -> None:
        self.memory.log.append("over")


def kept(
    least: int, most: int, test: Callable[[Memory, Side, Scaler], Awaitable[None]], limits: LaunchLimits = QUICK
) -> None:
    """Run a test of such a scaler."""

    async def main() -> None:
        memory = Memory()
        side = Side(memory)
        scaler = Scaler(memory, least, most, side, limits=limits)
        await scaler.start()
        try:
            await test(memory, side, scaler)
        finally:
            await scaler.close(now=True)
        assert memory.log[-2:] == ["close", "over"]

    asyncio.run(asyncio.wait_for(main(), 30))


def test_what_is_missing_is_started_and_what_ends_is_replaced() -> None:
    """A worker that has come and ends, as by its time limit, gets a successor; the words say what there is."""

    async def test(memory: Memory, side: Side, scaler: Scaler) -> None:
        assert memory.log == [("wss://nb:1", ["1", "2"])]
        assert scaler.words == "memory: 2 queued (Priority)"
        assert scaler.coming(0.0)
        memory.comes("1")
        memory.comes("2")
        scaler.came({"1", "2"})
        await eventually(lambda: scaler.words == "memory: 2 running")
        assert not scaler.coming(1000.0)
        memory.ends("1")
        await eventually(lambda: memory.log[1:] == [("wss://nb:1", ["3"])])
        assert scaler.words == "memory: 1 running, 1 queued (Priority)"
        assert scaler.broken is None

    kept(2, 2, test)


def test_a_worker_out_of_reach_is_lost_with_its_job() -> None:
    """One whose job has ended will not come back; one that is still connected, or whose job goes on, is left alone."""

    async def test(memory: Memory, side: Side, scaler: Scaler) -> None:
        for id in ("1", "2"):
            memory.comes(id)
        scaler.came({"1", "2"})
        memory.away.add("2")
        memory.there.pop("1")
        await eventually(lambda: "3" in memory.there)
        await scaler.scale(2, 2)
        assert ("lost", ["1"]) not in memory.log
        memory.away.add("1")
        await eventually(lambda: memory.log[-1] == ("lost", ["1"]))
        assert "2" in memory.workers

    kept(2, 2, test)


def test_starts_without_a_worker_are_given_up() -> None:
    """The first is enough if none has ever come; later ones are tried again, until several in a row were in vain."""

    async def first(memory: Memory, side: Side, scaler: Scaler) -> None:
        memory.ends("1", "exit code 3: oops")
        await eventually(lambda: side.lost_hope)
        assert scaler.broken == "exit code 3: oops"
        assert "oops" in scaler.words
        await scaler.scale(1, 1)  # tries again
        assert scaler.broken is None
        assert "2" in memory.there

    async def later(memory: Memory, side: Side, scaler: Scaler) -> None:
        memory.comes("1")
        scaler.came({"1"})
        memory.ends("1")
        for id in ("2", "3", "4"):
            await eventually(lambda id=id: id in memory.there)  # type: ignore[misc]
            assert scaler.broken is None
            memory.ends(id, "no disk")
        await eventually(lambda: side.lost_hope)
        assert scaler.broken == "no disk"
        assert not memory.there

    kept(1, 1, first)
    kept(1, 1, later)


def test_a_range_tries_again_as_a_number_does() -> None:
    """After a failure `scale` with a least of none starts a worker once there is work for it."""

    async def test(memory: Memory, side: Side, scaler: Scaler) -> None:
        memory.ends("1", "oops")
        await eventually(lambda: side.lost_hope)
        await scaler.scale(0, 2)
        assert (scaler.broken, scaler.awaits, scaler.words) == (None, False, "memory: 0 running")
        memory.jobs = [Waiting(1, 100, 0, 0)]
        await eventually(lambda: "2" in memory.there)

    kept(1, 1, test)


def test_while_others_work_it_is_tried_on() -> None:
    """One start after the other may fail: as long as a worker is there, nothing is given up."""

    async def test(memory: Memory, side: Side, scaler: Scaler) -> None:
        memory.comes("1")
        scaler.came({"1"})
        for id in map(str, range(2, 8)):
            await eventually(lambda id=id: id in memory.there)  # type: ignore[misc]
            memory.ends(id, "bad node")
        assert scaler.broken is None
        assert "bad node" in scaler.words

    kept(2, 2, test)


def test_however_often_it_fails_it_is_tried_on() -> None:
    """The pause between two tries has a bound also after a day of failures."""

    async def test(memory: Memory, side: Side, scaler: Scaler) -> None:
        memory.comes("1")
        scaler.came({"1"})
        for _ in range(1100):
            scaler._fail("no node", 0.0)
        memory.ends("2", "bad node")
        await eventually(lambda: "3" in memory.there)
        assert scaler.words == "memory: 1 running, 1 queued (Priority), bad node"

    kept(2, 2, test)


def test_a_start_that_was_half_refused_is_looked_after() -> None:
    """What was started before the refusal counts: it is not started again, and ends with the others."""

    async def test(memory: Memory, side: Side, scaler: Scaler) -> None:
        memory.there["half"] = Started("queued")
        await scaler.scale(2, 2)
        assert len(memory.log) == 1
        await scaler.scale(0, 0)
        assert memory.log[-1] == ("end", ["half", "1"]) or memory.log[-1] == ("end", ["1", "half"])

    kept(1, 1, test)


def test_a_refusal_is_raised_where_somebody_waits_for_it() -> None:
    """`start` and `scale` raise it; in the background it counts as a start in vain."""

    async def test(memory: Memory, side: Side, scaler: Scaler) -> None:
        memory.refuses = "no such partition"
        with pytest.raises(LaunchError, match="no such partition"):
            await scaler.scale(5, 5)
        memory.ends("1", "ended")
        await eventually(lambda: side.lost_hope)
        assert scaler.broken in ("no such partition", "ended")

    kept(1, 1, test)


def test_work_that_was_handed_to_a_queue_counts() -> None:
    """A command that ends well before its worker comes is not run again; once its worker has come and gone, it is."""

    async def test(memory: Memory, side: Side, scaler: Scaler) -> None:
        memory.ends("1", "said: 12.pbs", well=True)
        await eventually(lambda: "1 handed over, said: 12.pbs" in scaler.words)
        assert len(memory.log) == 1
        memory.workers["1"] = False
        scaler.came({"1"})
        await scaler.scale(1, 1)
        assert len(memory.log) == 1
        del memory.workers["1"]
        await eventually(lambda: "2" in memory.there)

    kept(1, 1, test)


def test_a_command_that_ends_before_its_worker_has_handed_it_over() -> None:
    """A script that makes a machine ends well once its worker is there: none is made in its place before that goes."""

    async def test(memory: Memory, side: Side, scaler: Scaler) -> None:
        memory.comes("1")
        scaler.came({"1"})
        memory.over["1"] = Ended(True, "made vm7")
        del memory.there["1"]
        await scaler.scale(1, 1)
        assert scaler.words == "memory: 0 running, 1 handed over"
        assert not scaler.awaits
        memory.away.add("1")  # its connection breaks, and comes back
        await scaler.scale(1, 1)
        memory.away.clear()
        assert memory.log == [("wss://nb:1", ["1"])]
        await scaler.scale(0, 0)
        assert memory.log[1:] == [("dismiss", ["1"])]
        del memory.workers["1"]
        scaler.came(())
        await eventually(lambda: scaler.words == "memory: 0 running")
        await scaler.scale(1, 1)
        assert "2" in memory.there

    kept(1, 1, test)


def test_a_worker_that_has_ended_well_has_not_handed_over() -> None:
    """It ended with its command, so another one is started; if the pool still waits for it, it is given up."""

    async def test(memory: Memory, side: Side, scaler: Scaler) -> None:
        memory.comes("1")
        scaler.came({"1"})
        memory.away.add("1")
        memory.over["1"] = Ended(True, "")
        del memory.there["1"]
        await eventually(lambda: "2" in memory.there)
        assert ("lost", ["1"]) in memory.log

    kept(1, 1, test)


def test_queued_ones_are_ended_first_and_then_idle_ones() -> None:
    """A worker is told to leave; one that does not is ended, and a start without a worker is at once."""

    async def test(memory: Memory, side: Side, scaler: Scaler) -> None:
        for id, busy in (("1", True), ("2", False), ("3", True)):
            memory.comes(id, busy=busy)
        scaler.came({"1", "2", "3"})
        await scaler.scale(2, 2)
        assert memory.log[1:] == [("dismiss", ["4", "2"]), ("end", ["4"])]
        await eventually(lambda: memory.log[3:] == [("end", ["2"])])  # it has not left in the time allowed

    kept(4, 4, test)


def test_more_are_started_as_more_waits() -> None:
    """Work brings workers up to the bound, and none of it lets them go."""

    async def test(memory: Memory, side: Side, scaler: Scaler) -> None:
        assert memory.log == []
        memory.jobs = [Waiting(1, 100, 0, 0)]
        await eventually(lambda: "1" in memory.there)
        memory.comes("1")
        scaler.came({"1"})
        memory.jobs = [Waiting(1, 100, 0, 2)]
        await eventually(lambda: len(memory.there) == 3)
        memory.jobs = []
        await eventually(lambda: not memory.there)

    kept(0, 3, test)
