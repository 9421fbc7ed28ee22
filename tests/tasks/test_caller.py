"""Tests of distmap.tasks.caller: warnings point at the line of the user."""

from __future__ import annotations

import pytest

import distmap
from distmap.tasks.caller import users_frame, warn


def test_the_users_frame_is_the_innermost_outside() -> None:
    """Called from here it is this one; frames of the files that are named do not count."""
    frame, level = users_frame()
    assert (frame.f_code.co_name, level) == ("test_the_users_frame_is_the_innermost_outside", 1)
    outer, level = users_frame(__file__)
    assert outer.f_code.co_filename != __file__
    assert level == 2


def test_a_warning_points_there() -> None:
    """However deep in distmap it is given."""
    with pytest.warns(UserWarning, match="said") as caught:
        warn("said")
    assert caught[0].filename == __file__
    with pytest.warns(UserWarning, match="columns") as caught, distmap.Pool("inline") as pool:
        pool.map(len, pytest.importorskip("pandas").DataFrame({"a": [1]}))
    assert caught[0].filename == __file__
