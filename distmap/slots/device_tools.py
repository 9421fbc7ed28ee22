"""How this host is asked for its GPUs: NVML, `nvidia-smi`, `rocm-smi`.

Owns what each of these is asked and how its answer is read. Must not know slots, environment variables, or who looks.
A driver may take seconds to answer, or for ever: nothing here is for the thread of a loop, except `stop`.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from typing import Any, Protocol

from distmap.core.limits import LIMITS
from distmap.tasks._typing import NamedTuple

#: A figure that the driver does not tell.
UNKNOWN = -1.0


class Found(NamedTuple):
    """A GPU, or an instance of one that is divided (MIG), as a tool tells of it."""

    #: Its number on this host, from 0; that of the whole GPU for an instance.
    number: int
    #: Its UUID, such as `GPU-...` or `MIG-...`; empty: not known.
    uuid: str
    name: str
    #: It is an instance of the GPU of that number.
    instance: bool = False


class DeviceUse(NamedTuple):
    """How busy a GPU is: its processors, and its memory in use, 0 to 1; UNKNOWN if the driver does not tell."""

    load: float = UNKNOWN
    memory: float = UNKNOWN


class ToolError(Exception):
    """A tool is not there, or gives no answer; a few words say why."""


class Tool(Protocol):
    """A way to ask. `find` and `use` wait, and raise ToolError; `stop` ends a wait, from any thread."""

    #: "cuda" or "hip": which variables choose a device.
    kind: str
    name: str

    def find(self) -> list[Found]:
        """The GPUs in their order on this host, each followed by its instances."""

    def use(self) -> dict[str, DeviceUse]:
        """How busy they are now, by UUID, or by number where there is none."""

    def stop(self) -> None:
        """Wait for nothing any more."""


class _Command:
    """A program that is run for each question."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._stopped = False
        self._running: subprocess.Popen[str] | None = None
        path = shutil.which(name)
        if path is None:
            raise ToolError(f"{name} is not there")
        self._path = path

    def ask(self, *arguments: str) -> str:
        """What it prints.

        Raises:
            ToolError: It fails, or does not answer in time.
        """
        try:
            process = self._running = subprocess.Popen(
                [self._path, *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                text=True, errors="replace",
            )  # fmt: skip
        except OSError as error:
            raise ToolError(f"{self._name} cannot be run ({error})") from error
        if self._stopped:
            process.kill()
        try:
            said, _ = process.communicate(timeout=LIMITS.device_seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.communicate(timeout=1)  # not longer: a broken driver lets nobody go
            raise ToolError(f"{self._name} gave no answer in {LIMITS.device_seconds:g} s") from None
        if process.returncode:
            lines = said.strip().splitlines() or [f"exit code {process.returncode}"]
            raise ToolError(f"{self._name} says: {lines[0][:200].rstrip('.')}")
        return said

    def stop(self) -> None:
        """Run it no more."""
        self._stopped = True
        if self._running is not None:
            self._running.kill()


class NvidiaSmi:
    """NVIDIA's command, which comes with the driver."""

    kind, name = "cuda", "nvidia-smi"
    _line = re.compile(r"(?P<gap>\s*)(?:GPU|MIG)\s+(?P<name>.*?)\s*\(UUID:\s*(?P<uuid>[^)]+)\)")

    def __init__(self) -> None:
        self._command = _Command(self.name)

    def find(self) -> list[Found]:
        found: list[Found] = []
        for line in self._command.ask("-L").splitlines():
            if (match := self._line.match(line)) is None:
                continue
            if match["gap"]:
                name, _, _number = match["name"].partition(" Device ")
                found.append(
                    Found(found[-1].number if found else 0, match["uuid"].strip(), f"MIG {name.strip()}", True)
                )
            else:
                number, _, name = match["name"].partition(":")
                found.append(Found(int(number), match["uuid"].strip(), name.strip()))
        return found

    def use(self) -> dict[str, DeviceUse]:
        fields = "--query-gpu=uuid,utilization.gpu,memory.used,memory.total"
        used: dict[str, DeviceUse] = {}
        for line in self._command.ask(fields, "--format=csv,noheader,nounits").splitlines():
            uuid, *figures = (part.strip() for part in line.split(","))
            if len(figures) == 3:
                load, of, total = map(_number, figures)
                used[uuid] = DeviceUse(_share(load, 100.0), _share(of, total))
        return used

    def stop(self) -> None:
        self._command.stop()


class Nvml:
    """NVIDIA's library, by the package nvidia-ml-py if it is installed: it answers in a millisecond."""

    kind, name = "cuda", "NVML"

    def __init__(self) -> None:
        try:
            self._nvml: Any = importlib.import_module("pynvml")
        except ImportError:
            raise ToolError("the package nvidia-ml-py is not installed") from None
        self._ask(self._nvml.nvmlInit)

    def _ask(self, function: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return function(*arguments)
        except self._nvml.NVMLError as error:
            raise ToolError(f"NVML says: {error}") from error

    def find(self) -> list[Found]:
        nvml, found = self._nvml, []
        for index, handle in self._handles():
            name, uuid = (_text(self._ask(of, handle)) for of in (nvml.nvmlDeviceGetName, nvml.nvmlDeviceGetUUID))
            found.append(Found(index, uuid, name))
            uuids = [_text(self._ask(nvml.nvmlDeviceGetUUID, instance)) for instance in self._instances(handle)]
            found += [Found(index, uuid, f"MIG of {name}", True) for uuid in uuids]
        return found

    def use(self) -> dict[str, DeviceUse]:
        nvml, used = self._nvml, {}
        for _, whole in self._handles():
            for handle in (whole, *self._instances(whole)):
                load, memory = DeviceUse()
                with contextlib.suppress(ToolError):  # an instance has no load of its own
                    load = _share(float(self._ask(nvml.nvmlDeviceGetUtilizationRates, handle).gpu), 100.0)
                with contextlib.suppress(ToolError):  # nor has a GPU that shares the memory of the host
                    info = self._ask(nvml.nvmlDeviceGetMemoryInfo, handle)
                    memory = _share(float(info.used), float(info.total))
                used[_text(self._ask(nvml.nvmlDeviceGetUUID, handle))] = DeviceUse(load, memory)
        return used

    def _handles(self) -> list[tuple[int, Any]]:
        count = self._ask(self._nvml.nvmlDeviceGetCount)
        return [(index, self._ask(self._nvml.nvmlDeviceGetHandleByIndex, index)) for index in range(count)]

    def _instances(self, handle: Any) -> list[Any]:
        nvml, found = self._nvml, []
        try:
            if not self._ask(nvml.nvmlDeviceGetMigMode, handle)[0]:
                return []
            for place in range(self._ask(nvml.nvmlDeviceGetMaxMigDeviceCount, handle)):
                with contextlib.suppress(ToolError):  # no instance at this place
                    found.append(self._ask(nvml.nvmlDeviceGetMigDeviceHandleByIndex, handle, place))
        except ToolError:
            return []  # this GPU cannot be divided
        return found

    def stop(self) -> None:
        pass  # its answers come at once, or the driver is broken


class RocmSmi:
    """AMD's command, which comes with ROCm."""

    kind, name = "hip", "rocm-smi"

    def __init__(self) -> None:
        self._command = _Command(self.name)

    def _cards(self, *what: str) -> dict[int, dict[str, str]]:
        said = self._command.ask(*what, "--json")
        try:
            told = json.loads(said[said.index("{") :])  # warnings may come first
        except ValueError as error:
            raise ToolError("rocm-smi gives no JSON") from error
        cards = {name: fields for name, fields in told.items() if re.fullmatch(r"card\d+", name)}
        # By number: HIP counts the cards in this order, from 0.
        ordered = sorted(cards.items(), key=lambda card: int(card[0][4:]))
        return {
            index: {key.lower(): str(value) for key, value in card.items()} for index, (_, card) in enumerate(ordered)
        }

    def find(self) -> list[Found]:
        return [
            Found(index, "", card.get("card series") or card.get("card model") or "AMD GPU")
            for index, card in self._cards("--showproductname").items()
        ]

    def use(self) -> dict[str, DeviceUse]:
        used = {}
        for index, card in self._cards("--showuse", "--showmeminfo", "vram").items():
            load, of, total = (
                _number(card.get(name, ""))
                for name in ("gpu use (%)", "vram total used memory (b)", "vram total memory (b)")
            )
            used[str(index)] = DeviceUse(_share(load, 100.0), _share(of, total))
        return used

    def stop(self) -> None:
        self._command.stop()


#: In the order in which they are tried.
TOOLS: tuple[Callable[[], Tool], ...] = (Nvml, NvidiaSmi, RocmSmi)


def _text(value: str | bytes) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def _number(text: str) -> float:
    """The figure; UNKNOWN for what drivers say that do not know it: `[N/A]`, `[Not Supported]`."""
    try:
        return float(text)
    except ValueError:
        return UNKNOWN


def _share(part: float, whole: float) -> float:
    return min(1.0, part / whole) if part >= 0 and whole > 0 else UNKNOWN
