"""The far end on a cluster of Ray's; the tests of the adapter use it whole. Runs where Ray is installed:

pip install ray && pytest tests/ext/test_ray_far.py
"""

from __future__ import annotations

import asyncio
import warnings

import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    pytest.importorskip("ray")
    from distmap.ext.ray_far import MOST_KEPT, Switchboard

pytestmark = pytest.mark.own_leaks


def test_what_is_told_waits_for_the_pool() -> None:
    """All of it comes at once, in order; what is too old has gone."""

    async def play() -> None:
        switchboard = Switchboard()
        for at in range(MOST_KEPT + 2):
            await switchboard.tell(b"%d" % at)
        assert await switchboard.told() == [b"%d" % at for at in range(2, MOST_KEPT + 2)]
        waiting = asyncio.ensure_future(switchboard.told())
        await switchboard.tell(b"next")
        assert await asyncio.wait_for(waiting, 10) == [b"next"]

    asyncio.run(play())


def test_a_wish_is_for_all_processes_of_a_node() -> None:
    """Each of them hears it, those of other nodes do not."""

    async def play() -> None:
        switchboard = Switchboard()
        waiting = [asyncio.ensure_future(switchboard.wishes("node", process)) for process in ("one", "two")]
        other = asyncio.ensure_future(switchboard.wishes("other node", "one"))
        await asyncio.sleep(0)
        await switchboard.wish("node", b"stop")
        assert await asyncio.wait_for(asyncio.gather(*waiting), 10) == [[b"stop"], [b"stop"]]
        assert not other.done()
        other.cancel()

    asyncio.run(play())
