"""A small engine behind the port of foreign engines: the others' tests use it, here is what they do not see."""

from __future__ import annotations

import pytest

from distmap.testing.adapters import MemberEnded, SmallCluster


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
