"""What workers have to say becomes at most two warnings."""

from __future__ import annotations

import warnings

from distmap.calls.notices import warn_of
from distmap.wire.messages import NOTICE, REMARK


def said(notices):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warn_of(notices)
    assert all(warning.filename == __file__ for warning in caught)
    return [str(warning.message) for warning in caught]


def test_versions_and_remarks_are_told_apart():
    """One warning names the versions and what to do, one what happened; each names the workers."""
    versions = {(NOTICE, "numpy is 2.0 here and 1.26 on"): ["ann", "bob"]}
    remarks = {(REMARK, "a task process was replaced"): ["ann"], (REMARK, "an item left a process behind"): ["bob"]}
    assert said({}) == []
    assert said({**versions, **remarks}) == [
        "numpy is 2.0 here and 1.26 on ann, bob: results may differ from those here, or not unpickle; install the same "
        "version on both sides",
        "on ann, a task process was replaced; on bob, an item left a process behind",
    ]


def test_many_remarks_are_counted():
    """After five remarks the others are a number."""
    (text,) = said({(REMARK, f"item {n} left a process behind"): ["ann"] for n in range(12)})
    assert text.count("left a process behind") == 5
    assert text.endswith("; and 7 more such remarks")
