"""What the options of distmap-worker may be."""

from __future__ import annotations

import argparse
from collections.abc import Callable

import pytest

from distmap.worker import option_values as values


@pytest.mark.parametrize(
    ("read", "text", "value"),
    [
        (values.duration, "90", 90.0),
        (values.duration, "10m", 600.0),
        (values.duration, "1.5h", 5400.0),
        (values.duration, "off", 0.0),
        (values.slots, "8", 8),
        (values.slots, "gpu", values.GPU),
        (values.port, "0", 0),
        (values.seconds, "0.5", 0.5),
        (values.variable, "A=b=c", ("A", "b=c")),
        (values.proxy, "http://host:3128", "http://host:3128"),
    ],
)
def test_values(read: Callable[[str], object], text: str, value: object) -> None:
    """A text that can be meant has its value."""
    assert read(text) == value


@pytest.mark.parametrize(
    ("read", "text", "words"),
    [
        (values.duration, "0", "such as 30, 10m or 2h"),
        (values.slots, "0", "a number from 1 to"),
        (values.port, "65536", "a number from 0 to 65535"),
        (values.seconds, "soon", "a number from 0"),
        (values.variable, "A", "NAME=VALUE"),
        (values.variable, "DISTMAP_TOKEN=dm1", "not for task processes"),
        (values.proxy, "http://ann:pw@host:3128", "can be read by every user"),
    ],
)
def test_what_cannot_be_meant(read: Callable[[str], object], text: str, words: str) -> None:
    """Any other text is refused with what is expected, and a secret is not repeated."""
    with pytest.raises(argparse.ArgumentTypeError, match=words) as caught:
        read(text)
    assert "ann:pw" not in str(caught.value)
    assert "dm1" not in str(caught.value)
