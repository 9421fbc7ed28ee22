"""The errors are one tree, and some are also what other packages' users catch."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import pickle
import subprocess
import sys

import pytest

import distmap
from distmap import errors


@pytest.mark.parametrize("name", sorted(name for name in distmap.__all__ if name.endswith(("Error", "Mismatch"))))
def test_one_tree(name):
    """Every public error is a DistmapError."""
    assert issubclass(getattr(distmap, name), distmap.DistmapError)


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("NoWorkers", multiprocessing.TimeoutError),
        ("ItemTimeout", multiprocessing.TimeoutError),
        ("JobCancelled", concurrent.futures.CancelledError),
        ("PoolClosed", ValueError),
        ("ConnectError", ConnectionError),
    ],
)
def test_errors_of_other_packages(name, other):
    """Code written for multiprocessing or concurrent.futures catches ours."""
    assert issubclass(getattr(errors, name), other)
    assert issubclass(getattr(errors, name), errors.DistmapError)


@pytest.mark.parametrize("name", ["NoWorkers", "ItemTimeout", "JobCancelled"])
def test_they_pickle_and_are_made_once(name):
    """An error comes back as the same class, however it was reached."""
    kind = getattr(errors, name)
    error = pickle.loads(pickle.dumps(kind("why")))
    assert type(error) is kind is getattr(distmap, name)
    assert str(error) == "why"


def test_importing_them_is_cheap():
    """Task processes import this module: neither package may come with it."""
    code = "import sys, distmap.errors; print('multiprocessing' in sys.modules, 'concurrent.futures' in sys.modules)"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=20)
    assert told.stdout.split() == ["False", "False"]


def test_an_unknown_name_is_an_attribute_error():
    """As of any module."""
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        errors.Nothing  # noqa: B018
