"""Section 1: values are what plain Python gives, however many items went together."""

from __future__ import annotations


def test_a_map_gives_what_plain_python_gives(pool):
    """The plainest input comes back in order, on slots of this machine and on workers elsewhere."""
    assert pool.map(abs, range(-5, 0)) == [abs(x) for x in range(-5, 0)]
