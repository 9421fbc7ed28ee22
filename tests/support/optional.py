"""What a test may find missing on a desk, and must find in CI."""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import pytest

#: CI has one run with nothing but what distmap itself needs.
WITHOUT_OPTIONAL = os.environ.get("DISTMAP_OPTIONAL") == "skip"


def needs(present: bool, what: str) -> None:
    """Skip the test where an optional service is missing; in CI that is a failure, or it would never run anywhere."""
    if present:
        return
    if os.environ.get("CI") and not WITHOUT_OPTIONAL:
        pytest.fail(f"{what} is missing, and CI must have it")
    pytest.skip(f"{what} is missing")


def optional(name: str, needs: Callable[[bool, str], None]) -> Any:
    """A library of the extra `test`."""
    needs(find_spec(name.partition(".")[0]) is not None, name)
    return import_module(name)
