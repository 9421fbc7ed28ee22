"""What is asked of the kernel; the modules stand for a real one, which test_notebook.py starts."""

from __future__ import annotations

import sys
import types
from typing import Any

import pytest

from distmap.views.kernel import current_cell, has_subshells, in_kernel


def run_in(monkeypatch: pytest.MonkeyPatch, shell: Any) -> None:
    """As if IPython were imported and had this shell."""
    module = types.ModuleType("IPython")
    module.get_ipython = lambda: shell  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", module)


def test_a_shell_in_a_terminal_is_no_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """IPython in a terminal, or imported only, is no notebook."""
    for shell in (None, types.SimpleNamespace()):
        run_in(monkeypatch, shell)
        assert not in_kernel()
        assert not has_subshells()


def test_a_kernel_is_recognised(monkeypatch: pytest.MonkeyPatch) -> None:
    """A shell with a kernel is a notebook; whether clicks reach it while a cell blocks is among its features."""
    kernel = types.SimpleNamespace()
    run_in(monkeypatch, types.SimpleNamespace(kernel=kernel))
    assert in_kernel()
    assert not has_subshells()
    kernel.kernel_info = {"supported_features": ["kernel subshells"]}
    assert has_subshells()


def test_each_run_of_a_cell_has_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """A notebook names each run of a cell; elsewhere there is none."""
    monkeypatch.delitem(sys.modules, "IPython", raising=False)
    assert current_cell() is None
    parent: dict[str, object] = {"header": {"msg_id": "abc"}}
    run_in(monkeypatch, types.SimpleNamespace(kernel=types.SimpleNamespace(get_parent=lambda: parent)))
    assert current_cell() == "abc"
    parent.clear()
    assert current_cell() is None
