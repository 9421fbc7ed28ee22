"""Workers with GPUs: a slot for each, that sees no other, and how busy they are in the notebook."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.gpus import AMD, NAME, TWO, USE, B, alone, fake

import distmap
from distmap.slots.devices import find_devices
from distmap.testing.workers import WorkerProcess

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the fake programs are scripts")

VISIBLE = "CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"


def seen() -> dict[str, str]:
    """What a slot sees of GPUs."""
    return {name: os.environ[name] for name in VISIBLE if name in os.environ}


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, str]]:
    """Makes this host one with two GPUs, or with what the program answers; gives the variables for a worker there."""

    def make(name: str = "nvidia-smi", answers: dict[str, str] | None = None, **environ: str) -> dict[str, str]:
        fake(tmp_path, name, answers or {"-L": TWO, "--query": USE})
        for variable in VISIBLE:
            monkeypatch.delenv(variable, raising=False)
        variables = {**alone(tmp_path), **environ}
        del variables["CUDA_DEVICE_ORDER"]
        return variables

    return make


def test_a_slot_for_each_gpu(host: Callable[..., dict[str, str]]) -> None:
    """`--slots gpu`: every slot sees its own GPU and no call changes that; tag, names, load and memory are told."""
    with (
        WorkerProcess("--port", "0", "--slots", "gpu", "--name", "w", "--env", "WHO=me", env=host()) as worker,
        distmap.Pool(worker.url, env={"CUDA_VISIBLE_DEVICES": "9"}) as pool,
    ):
        assert worker.line("stderr", "2 slots").startswith(f"distmap-worker w: 2 slots (GPU 0: {NAME}, GPU 1: {NAME})")
        found = pool.run(seen)["w"]
        assert found == [{"CUDA_VISIBLE_DEVICES": id, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"} for id in "01"]
        assert pool.map(lambda x: os.environ["WHO"], range(3), tags=["gpu"]) == ["me"] * 3
        (there,) = pool.workers
        assert there.tags == {"gpu"}
        assert [(device.id, device.name) for device in there.devices] == [("0", NAME), ("1", NAME)]


@pytest.mark.timeout(30)
def test_how_busy_they_are_comes_with_the_heartbeat(
    host: Callable[..., dict[str, str]], until: Callable[..., Any]
) -> None:
    """Load and memory of each GPU stand in `pool.workers` and in the lane of a job that runs there."""
    variables = host(CUDA_VISIBLE_DEVICES=f"{B[:8]},0")
    with (
        WorkerProcess("--port", "0", "--slots", "gpu", env=variables) as worker,
        distmap.Pool(worker.url) as pool,
    ):
        assert [found["CUDA_VISIBLE_DEVICES"] for found in next(iter(pool.run(seen).values()))] == [B[:8], "0"]
        until(lambda: pool.workers[0].devices[1].load is not None, 20)
        first, second = pool.workers[0].devices
        assert (first.load, first.memory, second.load, second.memory) == (None, None, 0.63, 0.25)
        assert "GPU 63%, GPU memory 25%" in repr(pool.workers[0])
        # A card does not wait for a loop that is busy.
        until(lambda: "GPU 63%, GPU memory 25%" in pool._repr_mimebundle_()["text/html"])
        job = pool.map_async(lambda x: x, range(3))
        job.result()
        lane = job.progress.lanes[0]
        assert (lane.devices[1].id, lane.devices[1].load) == ("0", 0.63)


def test_amd(host: Callable[..., dict[str, str]]) -> None:
    """Slots of AMD's cards get HIP's variable, and keep what Slurm left of them."""
    variables = host("rocm-smi", {"--show": AMD}, ROCR_VISIBLE_DEVICES="1")
    with (
        WorkerProcess("--port", "0", "--slots", "gpu", "--name", "w", env=variables) as worker,
        distmap.Pool(worker.url) as pool,
    ):
        assert pool.run(seen)["w"] == [{"HIP_VISIBLE_DEVICES": "0", "ROCR_VISIBLE_DEVICES": "1"}]
        assert pool.workers[0].devices[0].name == "AMD Instinct MI250X"


def test_a_worker_without_gpu_says_so(host: Callable[..., dict[str, str]]) -> None:
    """A host without a GPU is one sentence, and nothing is started."""
    with WorkerProcess("--port", "0", "--slots", "gpu", env=host("something-else")) as worker:
        assert worker.wait() == 2
        assert len(worker.stderr) == 1
        assert worker.stderr[0].startswith("distmap-worker: --slots gpu: no GPU was found on this host (")
        assert not worker.stdout


def test_gpus_of_this_machine(
    host: Callable[..., dict[str, str]], monkeypatch: pytest.MonkeyPatch, until: Callable[..., Any]
) -> None:
    """`Pool(["gpu", 1])`: slots with a GPU each beside a plain one; tags choose, changed variables change only that."""
    variables = host()
    monkeypatch.setenv("PATH", variables["PATH"])
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with distmap.Pool(["gpu", 1]) as pool:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
        found = pool.run(seen)
        assert found["local"] == [{"CUDA_VISIBLE_DEVICES": "7"}]
        assert [slot["CUDA_VISIBLE_DEVICES"] for slot in found["gpu"]] == ["0", "1"]
        assert set(pool.map(lambda x: os.environ["CUDA_DEVICE_ORDER"], range(4), tags=["gpu"])) == {"PCI_BUS_ID"}
        plain, there = pool.workers
        assert (plain.name, plain.devices, there.name, there.tags) == ("local", (), "gpu", {"gpu"})
        until(lambda: pool.workers[1].devices[0].load == 0.63)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(ValueError, match="hides every GPU"):
        distmap.Pool("gpu")


def test_a_task_process_does_not_look_for_gpus(
    host: Callable[..., dict[str, str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A module with a pool of GPUs as a global can be imported where there is no GPU."""
    (tmp_path / "has_a_gpu_pool.py").write_text(
        "import distmap\npool = distmap.Pool('gpu', memory_limit='4GB')\ndef square(x): return x * x\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PATH", host()["PATH"])
    monkeypatch.setitem(sys.modules, "pynvml", None)
    module = importlib.import_module("has_a_gpu_pool")
    try:
        assert len(module.pool.workers[0].devices) == 2
        (tmp_path / "nvidia-smi").unlink()
        with distmap.Pool(1) as pool:
            assert pool.map(module.square, [3]) == [9]
    finally:
        module.pool.terminate()
        del sys.modules["has_a_gpu_pool"]


@pytest.fixture
def device() -> Any:
    """The GPUs of this host. Few machines have one, CI has none: without one the test is left out everywhere."""
    try:
        found = find_devices()
    except ValueError as error:
        pytest.skip(f"this test needs a GPU: {error}")
    return found


def test_with_a_gpu(device: Any) -> None:
    """Where there is a GPU, its slot is given that one, and its memory in use is known."""
    assert device.use()[0].memory != 0
    with WorkerProcess("--port", "0", "--slots", "gpu") as worker, distmap.Pool(worker.url) as pool:
        shown = [slot["CUDA_VISIBLE_DEVICES" if device.tool.kind == "cuda" else "HIP_VISIBLE_DEVICES"]
                 for slot in next(iter(pool.run(seen).values()))]  # fmt: skip
        assert shown == [one.id for one in device.devices]
