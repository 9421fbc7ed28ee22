"""Tests of distmap/worker/load.py."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from support.gpus import TWO, USE, fake
from support.waiting import until

from distmap.slots.device_tools import UNKNOWN, NvidiaSmi
from distmap.slots.devices import Device, Devices
from distmap.worker.load import Load


def test_figures_are_fractions() -> None:
    """Cpu and memory are fractions of the host, and some memory is always in use."""
    load = Load()
    for _ in range(3):
        cpu, memory = load.read()
        assert 0.0 <= cpu <= 1.0
        assert 0.0 < memory <= 1.0


def test_gpus_are_watched_until_it_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The load has a pair for each GPU in the order of slots; without GPUs it has none."""
    monkeypatch.setenv("PATH", str(fake(tmp_path, "nvidia-smi", {"-L": TWO, "--query": USE}).parent))
    assert Load().devices == ()
    uuids = USE.split(",")[0], USE.splitlines()[1].split(",")[0]
    load = Load(Devices(NvidiaSmi(), tuple(Device(str(n), "A100", uuid) for n, uuid in enumerate(uuids)), {}))
    until(lambda: load.devices[0] == (0.63, 0.25))
    assert load.devices[1] == (UNKNOWN, UNKNOWN)
    asyncio.run(load.close())
