"""What the tools of GPU drivers say is read as it is meant, and what they fail with is a few words."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from support.gpus import AMD, DIVIDED, NAME, PARTS, USE, A, B, fake

from distmap.core.limits import LIMITS
from distmap.slots import device_tools
from distmap.slots.device_tools import UNKNOWN, DeviceUse, Found, NvidiaSmi, Nvml, RocmSmi, ToolError

posix = pytest.mark.skipif(sys.platform == "win32", reason="the fake programs are scripts")


@pytest.fixture
def has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Puts a fake program on the path, and nothing else."""
    monkeypatch.setenv("PATH", str(tmp_path))

    def put(name: str, answers: dict[str, str], **how: Any) -> None:
        fake(tmp_path, name, answers, **how)

    return put


@posix
def test_nvidia_smi_names_gpus_and_their_parts(has: Callable[..., None]) -> None:
    """A GPU has its number, its UUID and its name; the instances of a divided one follow it."""
    has("nvidia-smi", {"-L": DIVIDED})
    whole = [Found(0, A, NAME), Found(1, B, NAME)]
    assert NvidiaSmi().find() == [*whole, *[Found(1, uuid, "MIG 1g.5gb", True) for uuid in PARTS]]


@posix
def test_nvidia_smi_tells_how_busy_they_are(has: Callable[..., None]) -> None:
    """Load and memory are shares; what the driver does not tell is not known."""
    has("nvidia-smi", {"--query-gpu=uuid": USE})
    assert NvidiaSmi().use() == {A: DeviceUse(0.63, 0.25), B: DeviceUse(UNKNOWN, UNKNOWN)}


@posix
def test_rocm_smi_in_the_order_of_hip(has: Callable[..., None]) -> None:
    """AMD's cards are counted by their numbers, whatever the order and the case of the answer."""
    has("rocm-smi", {"--show": AMD})
    tool = RocmSmi()
    assert tool.find() == [Found(0, "", "AMD Instinct MI250X"), Found(1, "", "AMD Instinct MI250X")]
    assert tool.use() == {"0": DeviceUse(0.05, 0.01), "1": DeviceUse(0.8, 0.25)}


@posix
def test_what_a_program_fails_with(has: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its first line is kept; one that cannot be run, gives no JSON or is not there is named."""
    has("nvidia-smi", {"-L": "NVIDIA-SMI has failed because it has no driver.\nMore.\n"}, code=9)
    with pytest.raises(ToolError, match=r"nvidia-smi says: NVIDIA-SMI has failed because it has no driver$"):
        NvidiaSmi().find()
    has("rocm-smi", {"--show": "no cards"})
    with pytest.raises(ToolError, match="rocm-smi gives no JSON"):
        RocmSmi().find()
    tool = NvidiaSmi()
    (tmp_path / "nvidia-smi").write_text("#!/nothing/at/all\n")
    with pytest.raises(ToolError, match="nvidia-smi cannot be run"):
        tool.find()
    (tmp_path / "nvidia-smi").unlink()
    with pytest.raises(ToolError, match="nvidia-smi is not there"):
        NvidiaSmi()


@posix
def test_a_driver_that_does_not_answer(has: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    """A program is not waited for without end, and `stop` ends the wait at once."""
    has("nvidia-smi", {}, first="time.sleep(60)")
    tool = NvidiaSmi()
    monkeypatch.setattr(device_tools, "LIMITS", LIMITS._replace(device_seconds=0.2))
    with pytest.raises(ToolError, match=r"gave no answer in 0\.2 s"):
        tool.find()
    monkeypatch.setattr(device_tools, "LIMITS", LIMITS)
    tool.stop()
    with pytest.raises(ToolError, match="exit code -9"):
        tool.find()


class _Library(ModuleType):
    """NVML of a host with two GPUs, the second of them divided; as nvidia-ml-py has it."""

    class NVMLError(Exception):
        pass

    class _Figures:
        def __init__(self, **figures: int) -> None:
            self.__dict__.update(figures)

    broken = ""

    def nvmlInit(self) -> None:
        if self.broken:
            raise self.NVMLError(self.broken)

    def nvmlDeviceGetCount(self) -> int:
        return 2

    def nvmlDeviceGetHandleByIndex(self, number: int) -> str:
        return (A, B)[number]

    def nvmlDeviceGetUUID(self, handle: str) -> bytes:
        return handle.encode()  # older ones give bytes

    def nvmlDeviceGetName(self, handle: str) -> str:
        return NAME

    def nvmlDeviceGetMigMode(self, handle: str) -> list[int]:
        if handle == A:
            raise self.NVMLError("Not Supported")
        return [1, 1]

    def nvmlDeviceGetMaxMigDeviceCount(self, handle: str) -> int:
        return 7

    def nvmlDeviceGetMigDeviceHandleByIndex(self, handle: str, place: int) -> str:
        if place >= len(PARTS):
            raise self.NVMLError("Not Found")
        return PARTS[place]

    def nvmlDeviceGetUtilizationRates(self, handle: str) -> Any:
        if handle != A:
            raise self.NVMLError("Not Supported")
        return self._Figures(gpu=63)

    def nvmlDeviceGetMemoryInfo(self, handle: str) -> Any:
        if handle == B:
            raise self.NVMLError("Not Supported")
        return self._Figures(used=1, total=4)


def test_nvml_tells_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """GPUs, instances and figures come by the library in the form in which the program gives them."""
    monkeypatch.setitem(sys.modules, "pynvml", _Library("pynvml"))
    tool = Nvml()
    whole = [Found(0, A, NAME), Found(1, B, NAME)]
    assert tool.find() == [*whole, *[Found(1, uuid, f"MIG of {NAME}", True) for uuid in PARTS]]
    parts = {uuid: DeviceUse(UNKNOWN, 0.25) for uuid in PARTS}
    assert tool.use() == {A: DeviceUse(0.63, 0.25), B: DeviceUse(), **parts}
    tool.stop()


def test_nvml_that_is_not_there_or_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the package, or with one that finds no driver, the next tool is asked."""
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(ToolError, match="nvidia-ml-py is not installed"):
        Nvml()
    library = _Library("pynvml")
    library.broken = "NVML Shared Library Not Found"
    monkeypatch.setitem(sys.modules, "pynvml", library)
    with pytest.raises(ToolError, match="NVML says: NVML Shared Library Not Found"):
        Nvml()
