"""A small engine behind the port of foreign engines: the others' tests use it, here is what they do not see."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from distmap.testing import engines
from distmap.testing.adapters import MemberEnded, SmallAdapter, SmallCluster
from distmap.testing.engine_starts import SIDE_CHANNEL
from distmap.testing.engine_suite import EngineUnderTest, Started


def test_a_member_that_left_answers_nothing() -> None:
    """Neither what it ran, nor what comes."""
    with SmallCluster(one=1) as cluster:
        (member,) = cluster.members
        assert cluster.submit(member.key, abs, -3).result(10) == 3
        cluster.leave("one")
        cluster.join("one", 1)
        assert cluster.members[0].key != member.key
        with pytest.raises(MemberEnded):
            cluster.submit(member.key, abs, -3).result(10)


@contextlib.contextmanager
def started() -> Iterator[Started]:
    """Two members, with task processes of ours and a side channel."""
    with SmallCluster(one=1, two=1) as cluster:
        yield Started(
            SmallAdapter(cluster, isolated=True, side_channel=True),
            end=lambda: cluster.end("it was told to"),
            join=lambda: cluster.join("three", 1),
            leave=lambda: cluster.leave("three"),
        )


def test_what_a_side_channel_is_for_is_kept() -> None:
    """The conformance suite asks: output and items before the end of a chunk, a stop between items; members that come
    and go; and an engine that ends.
    """
    wanted = (*SIDE_CHANNEL, "loses_one_item_to_a_kill", "sees_members_come_and_go", "tells_that_the_engine_is_gone")
    chosen = [case for case in engines.CASES if case.name in wanted]
    found = engines.run(EngineUnderTest("small", started), chosen, told=lambda outcome: None)
    assert [(one.case.name, one.state, one.reason) for one in found] == [(case.name, "kept", "") for case in chosen]
    assert len(found) == len(wanted)
