"""The contract suite of channels finds channels that break the contract."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Sequence

import pytest

from distmap.tasks._typing import Buffer
from distmap.testing import channels
from distmap.transport.memory import MemoryChannel


class Reversing(MemoryChannel):
    """Joins the buffers of a frame in the wrong order."""

    async def send(self, frame: Sequence[Buffer]) -> None:
        await super().send(frame[::-1])


class Forgetful(MemoryChannel):
    """Forgets how it was closed."""

    async def close(self, code: int = 1000, reason: str = "") -> None:
        await super().close()


class Immortal(MemoryChannel):
    """Takes whatever is sent, for ever."""

    async def send(self, frame: Sequence[Buffer]) -> None:
        return


class Repeating(MemoryChannel):
    """Gives what is written to a receiver twice."""

    def write(self, frames: Sequence[Sequence[Buffer]]) -> None:
        super().write([*frames, *frames])


class Roomless(MemoryChannel):
    """Has no room a second time."""

    room = True

    def write(self, frames: Sequence[Sequence[Buffer]]) -> None:
        super().write(frames)
        self.room = False


def pair_of(kind: type[MemoryChannel]) -> tuple[MemoryChannel, MemoryChannel]:
    left, right = kind("right"), kind("left")
    left._other, right._other = right, left
    return left, right


@pytest.mark.parametrize(
    ("kind", "check"),
    [
        (Reversing, channels.moves_frames_in_order_both_ways),
        (Forgetful, channels.close_lets_frames_arrive_first),
        (Immortal, channels.nothing_can_be_sent_after_the_end),
        (Repeating, channels.gives_frames_to_a_receiver),
        (Roomless, channels.has_room_again_for_who_writes),
    ],
)
def test_broken_channels_are_found(
    kind: type[MemoryChannel], check: channels.Check, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each fault makes the check that is about it fail."""

    async def main() -> None:
        left, right = pair_of(kind)
        with pytest.raises((AssertionError, TimeoutError)):
            await check(left, right)

    monkeypatch.setattr(channels, "DEADLINE", 0.2)
    asyncio.run(main())


def test_every_check_is_in_the_suite() -> None:
    """No check is written and then forgotten."""
    written = {
        value
        for name, value in vars(channels).items()
        if inspect.iscoroutinefunction(value) and not name.startswith("_")
    }
    assert written == set(channels.CHECKS)
