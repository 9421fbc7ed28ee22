"""Errors in place of what is too large for a message."""

from __future__ import annotations

from distmap.errors import PayloadError
from distmap.tasks.items import load_results
from distmap.tasks.oversize import as_failed, refusal
from distmap.wire.messages import Report

ERROR = PayloadError("a message of 9 bytes is too large to be sent; 8 are allowed")


def test_every_item_of_the_report_fails() -> None:
    """With the reason, and what it was that did not fit; the report says of which items."""
    report, parts = as_failed(Report(1, 7, 3, 5, 0.5, True, (4,)), ERROR, "its result")
    assert report == Report(1, 7, 3, 5, 0.5, True, (3, 4))
    failures = load_results(parts, 3, 5, report.failed)
    assert [failure.type for failure in failures] == ["distmap.errors.PayloadError"] * 2
    assert "too large to be sent" in failures[0].message


def test_a_refusal_is_one_failure() -> None:
    """As a task process sends it when the function does not load."""
    (failure,) = load_results(refusal(ERROR), 0, 1)
    assert failure.type == "distmap.errors.PayloadError"
