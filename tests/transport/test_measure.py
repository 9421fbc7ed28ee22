"""What a check measures: round trip and bandwidth, within bounds."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

from distmap.core.limits import LIMITS
from distmap.errors import ProtocolError
from distmap.tasks._typing import Buffer
from distmap.transport import measure as module
from distmap.transport.channel import ChannelClosed
from distmap.transport.measure import answer, measure_rates, measure_round_trip
from distmap.transport.memory import MemoryChannel, pair


def count(channel: MemoryChannel, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the frames that are sent into the channel from now on."""
    sizes: list[int] = []
    send = channel.send

    async def counted(frame: Sequence[Buffer]) -> None:
        sizes.append(sum(map(len, frame)))
        await send(frame)

    monkeypatch.setattr(channel, "send", counted)
    return sizes


async def measure(channel: MemoryChannel) -> tuple[float, tuple[float, float]]:
    """All that a check measures."""
    seconds = await measure_round_trip(channel)
    return seconds, await measure_rates(channel, seconds)


def with_answer(main: Callable[[MemoryChannel], Awaitable[Any]]) -> Any:
    """Run `main` on one end, with the other side of a check at the other."""

    async def run() -> Any:
        ours, theirs = pair()
        answering = asyncio.create_task(answer(theirs))
        try:
            async with asyncio.timeout(10):
                return await main(ours)
        finally:
            await ours.close()
            await answering

    return asyncio.run(run())


def test_both_ways_and_the_round_trip_are_measured() -> None:
    """Three positive figures; the other side ends with the channel and not with an error."""
    round_trip, (to, back) = with_answer(measure)
    assert 0 < round_trip < 5
    assert to > 0
    assert back > 0


def test_a_check_moves_a_bounded_number_of_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a way without limits the transfers end at what the other side allows."""

    async def main(ours: MemoryChannel) -> int:
        sizes = count(ours, monkeypatch)
        await measure(ours)
        return sum(sizes)

    assert 1 << 20 <= with_answer(main) <= LIMITS.check_bytes / 2


def test_a_slow_way_gets_the_first_transfer_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """A transfer that takes long enough to tell is the last one."""
    monkeypatch.setattr(module, "LIMITS", LIMITS._replace(check_transfer=0.0))

    async def main(ours: MemoryChannel) -> int:
        sizes = count(ours, monkeypatch)
        await measure(ours)
        return sum(sizes)

    assert 16 << 10 <= with_answer(main) <= 20 << 10


def test_who_answers_gives_no_more_than_the_limit() -> None:
    """A request beyond the bytes of a check is refused by name."""

    async def main() -> None:
        ours, theirs = pair()
        await ours.send([struct.pack(">cI", b"<", LIMITS.check_bytes + 1)])
        with pytest.raises(ProtocolError, match=f"more than {LIMITS.check_bytes} bytes"):
            await answer(theirs)

    asyncio.run(main())


@pytest.mark.parametrize("request_", [b"", b"hello", struct.pack(">cI", b"?", 1)])
def test_what_is_not_of_a_check_is_refused(request_: bytes) -> None:
    """The side that answers takes three kinds of requests and nothing else."""

    async def main() -> None:
        ours, theirs = pair()
        await ours.send([request_])
        with pytest.raises(ProtocolError, match="not of a check"):
            await answer(theirs)

    asyncio.run(main())


def test_more_bytes_than_were_announced_are_refused() -> None:
    """A transfer ends where it said it would."""

    async def main() -> None:
        ours, theirs = pair()
        await ours.send([struct.pack(">cI", b">", 10)])
        await ours.send([bytes(11)])
        with pytest.raises(ProtocolError, match="more bytes than it announced"):
            await answer(theirs)

    asyncio.run(main())


def test_another_echo_is_an_error() -> None:
    """The side that measures compares what comes back."""

    async def main() -> None:
        ours, theirs = pair()
        await theirs.send([b"something else"])
        with pytest.raises(ProtocolError, match="did not give back"):
            await measure(ours)

    asyncio.run(main())


def test_silence_ends_the_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing waits without a deadline, on either side."""
    monkeypatch.setattr(module, "LIMITS", LIMITS._replace(check_seconds=0.05))

    async def main() -> None:
        ours, theirs = pair()
        with pytest.raises(TimeoutError):
            await measure(ours)
        silent, _ = pair()
        await answer(silent)
        await theirs.close()
        with pytest.raises(ChannelClosed):
            await measure(ours)

    asyncio.run(main())
