"""Tests of distmap/worker/load.py."""

from __future__ import annotations

from distmap.worker.load import Load


def test_figures_are_fractions() -> None:
    """Cpu and memory are fractions of the host, and some memory is always in use."""
    load = Load()
    for _ in range(3):
        cpu, memory = load.read()
        assert 0.0 <= cpu <= 1.0
        assert 0.0 < memory <= 1.0
