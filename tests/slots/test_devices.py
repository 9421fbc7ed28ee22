"""Each slot gets a GPU of those that this process may use; how busy they are is looked at beside everything else."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping

import pytest
from support.gpus import PARTS, A, B
from support.waiting import until

from distmap.core.limits import LIMITS
from distmap.slots import devices
from distmap.slots.device_tools import DeviceUse, Found, ToolError
from distmap.slots.devices import DeviceWatch, find_devices

TWO = [Found(0, A, "A100"), Found(1, B, "H100")]
DIVIDED = [*TWO, *[Found(1, uuid, "MIG 1g.5gb", True) for uuid in PARTS]]


class Tool:
    """A tool that tells what it is told."""

    name = "nvidia-smi"

    def __init__(self, found: list[Found], kind: str = "cuda") -> None:
        self.kind = kind
        self.found = found
        self.used: list[dict[str, DeviceUse] | ToolError] = []
        self.stopped = False

    def find(self) -> list[Found]:
        return self.found

    def use(self) -> dict[str, DeviceUse]:
        answer = self.used.pop(0) if len(self.used) > 1 else self.used[0]
        if isinstance(answer, ToolError):
            raise answer
        return answer

    def stop(self) -> None:
        self.stopped = True


def absent() -> Tool:
    raise ToolError("the package nvidia-ml-py is not installed")


def found(monkeypatch: pytest.MonkeyPatch, tool: Tool, **environ: str) -> list[dict[str, str]]:
    """The variables of each slot."""
    monkeypatch.setattr(devices, "TOOLS", (absent, lambda: tool))
    return find_devices(environ).variables


CASES: list[tuple[list[Found], Mapping[str, str], list[str]]] = [
    (TWO, {"CUDA_VISIBLE_DEVICES": "1"}, ["1"]),
    (TWO, {"CUDA_VISIBLE_DEVICES": " 1, 0"}, ["1", "0"]),
    (TWO, {"CUDA_VISIBLE_DEVICES": "0,0"}, ["0", "0"]),  # two slots for one GPU
    (TWO, {"CUDA_VISIBLE_DEVICES": f"{B[:12]},{A}"}, [B[:12], A]),
    (TWO, {"CUDA_VISIBLE_DEVICES": "1,-1,0"}, ["1"]),  # CUDA reads no further
    (DIVIDED, {"CUDA_VISIBLE_DEVICES": PARTS[1]}, [PARTS[1]]),
    (DIVIDED, {"CUDA_VISIBLE_DEVICES": f"MIG-{B}/1/0"}, [f"MIG-{B}/1/0"]),  # an older name of a part
]


@pytest.mark.parametrize(("there", "environ", "ids"), CASES)
def test_what_may_be_used_is_respected(
    monkeypatch: pytest.MonkeyPatch, there: list[Found], environ: Mapping[str, str], ids: list[str]
) -> None:
    """CUDA_VISIBLE_DEVICES of this process says which devices slots get, in its order and in its own words."""
    assert found(monkeypatch, Tool(there), **environ) == [{"CUDA_VISIBLE_DEVICES": id} for id in ids]


def test_all_are_used_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers count as nvidia-smi does; of a divided GPU each part has a slot, known by its UUID."""
    order = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    assert found(monkeypatch, Tool(TWO)) == [{"CUDA_VISIBLE_DEVICES": id, **order} for id in "01"]
    assert found(monkeypatch, Tool(DIVIDED)) == [{"CUDA_VISIBLE_DEVICES": id, **order} for id in ("0", *PARTS)]


def test_amd(monkeypatch: pytest.MonkeyPatch) -> None:
    """HIP's variable is set; its numbers count among what ROCR_VISIBLE_DEVICES leaves, which Slurm sets."""
    cards = Tool([Found(n, "", "MI250X") for n in range(4)], "hip")
    assert found(monkeypatch, cards) == [{"HIP_VISIBLE_DEVICES": str(n)} for n in range(4)]
    assert found(monkeypatch, cards, ROCR_VISIBLE_DEVICES="2,3") == [{"HIP_VISIBLE_DEVICES": id} for id in "01"]
    assert found(monkeypatch, cards, HIP_VISIBLE_DEVICES="3") == [{"HIP_VISIBLE_DEVICES": "3"}]
    assert found(monkeypatch, cards, CUDA_VISIBLE_DEVICES="2") == [{"HIP_VISIBLE_DEVICES": "2"}]


@pytest.mark.parametrize(
    ("there", "environ", "words"),
    [
        ([], {}, r"no GPU .* \(the package nvidia-ml-py is not installed; nvidia-smi shows none\): give a number"),
        (TWO, {"CUDA_VISIBLE_DEVICES": ""}, "CUDA_VISIBLE_DEVICES is '' here, which hides every GPU; unset it"),
        (TWO, {"CUDA_VISIBLE_DEVICES": "NoDevFiles"}, "is 'NoDevFiles' here, which hides every GPU"),
        (TWO, {"CUDA_VISIBLE_DEVICES": "0,7"}, "CUDA_VISIBLE_DEVICES names GPU 7, and this host has 0, 1; correct it"),
    ],
)
def test_none_to_be_used_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, there: list[Found], environ: Mapping[str, str], words: str
) -> None:
    """What was looked for, or which variable hides what there is, and what to do."""
    with pytest.raises(ValueError, match=words):
        found(monkeypatch, Tool(there), **environ)


def test_how_busy_they_are_is_looked_at_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Each answer is told; a driver that stops to answer is told of once, and what was known is not known any more."""
    monkeypatch.setattr(devices, "LIMITS", LIMITS._replace(device_every=0.01))
    tool = Tool(TWO)
    tool.used = [{A: DeviceUse(0.5, 0.25)}, ToolError("no driver"), ToolError("no driver"), {B: DeviceUse(1.0, 1.0)}]
    monkeypatch.setattr(devices, "TOOLS", (lambda: tool,))
    told: list[tuple[DeviceUse, ...]] = []
    with caplog.at_level(logging.WARNING, "distmap.slots"):
        watch = DeviceWatch(find_devices({}), told.append)
        until(lambda: len(told) >= 5)
        asyncio.run(watch.close())
    nothing = DeviceUse()
    assert told[:4] == [(DeviceUse(0.5, 0.25), nothing), (nothing,) * 2, (nothing,) * 2, (nothing, DeviceUse(1.0, 1.0))]
    assert watch.latest == told[3]
    assert tool.stopped
    assert [record.message for record in caplog.records] == ["how busy the GPUs are is not known: no driver"]


def test_a_thread_that_waits_for_a_dead_driver_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """Closing does not wait for a driver without end, nor does a closed loop trouble the thread."""
    import threading

    monkeypatch.setattr(devices, "LIMITS", LIMITS._replace(leave_seconds=0.05, device_every=0.01))
    go, tool = threading.Event(), Tool(TWO)
    tool.use = lambda: go.wait(10) and {}  # type: ignore[method-assign, assignment, return-value]

    def closed(use: object) -> None:
        raise RuntimeError("the loop is closed")

    monkeypatch.setattr(devices, "TOOLS", (lambda: tool,))
    watch = DeviceWatch(find_devices({}), closed)
    asyncio.run(watch.close())
    assert not watch.ended
    go.set()
    until(lambda: watch.ended)
