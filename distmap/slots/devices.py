"""The GPUs that slots of this host may use, one for each slot, and how busy they are.

Owns which devices there are for us (`find_devices`: those of the host, or those that CUDA_VISIBLE_DEVICES or its like
leave), the variables that give a slot its device, and the thread that watches how busy they are. How the host is asked
is in `device_tools.py`. Must not know what runs in slots.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence

from distmap.core.limits import LIMITS
from distmap.slots.device_tools import TOOLS, DeviceUse, Found, Tool, ToolError
from distmap.tasks._typing import NamedTuple

log = logging.getLogger("distmap.slots")

#: Kind of device -> the variables that say which of them a process may see, the one that counts first.
_VARIABLES = {"cuda": ("CUDA_VISIBLE_DEVICES",), "hip": ("HIP_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES")}
#: What says which of AMD's devices HIP itself sees: the numbers of HIP_VISIBLE_DEVICES count among those.
_BELOW_HIP = "ROCR_VISIBLE_DEVICES"
#: Lets CUDA count as `nvidia-smi` does; by itself it begins with the fastest.
_ORDER = "CUDA_DEVICE_ORDER", "PCI_BUS_ID"
#: What a slot with a device of its own sets: nobody else may.
VARIABLES = frozenset({*_VARIABLES["cuda"], *_VARIABLES["hip"], _BELOW_HIP, _ORDER[0]})
#: The tag of workers that have devices.
TAG = "gpu"


class Device(NamedTuple):
    """A GPU, or an instance of one, for one slot."""

    #: What the variable is set to: a number or a UUID.
    id: str
    name: str
    #: What the tool calls it; empty: it does not know it.
    key: str = ""


class Devices(NamedTuple):
    """The devices of the slots of one worker, in their order."""

    tool: Tool
    devices: tuple[Device, ...]
    #: In addition to the one that names the device.
    more: Mapping[str, str]

    def __len__(self) -> int:
        return len(self.devices)

    @property
    def variables(self) -> list[dict[str, str]]:
        """For each slot what its environment has."""
        name = _VARIABLES[self.tool.kind][0]
        return [{name: device.id, **self.more} for device in self.devices]

    @property
    def names(self) -> tuple[tuple[str, str], ...]:
        """For each slot the id and the name of its device, for people."""
        return tuple((device.id, device.name) for device in self.devices)

    def __str__(self) -> str:
        return ", ".join(f"GPU {device.id}: {device.name}" for device in self.devices)

    def use(self) -> tuple[DeviceUse, ...]:
        """How busy they are. Waits for the driver; raises ToolError."""
        used = self.tool.use()
        return tuple(used.get(device.key, DeviceUse()) for device in self.devices)


def find_devices(environ: Mapping[str, str] = os.environ) -> Devices:
    """The GPUs that this process may use, as its environment says. Waits for the driver.

    Raises:
        ValueError: There is none; the sentence says what was looked for, and what to do.
    """
    reasons = []
    for make in TOOLS:
        try:
            tool = make()
            found = tool.find()
        except ToolError as error:
            reasons.append(str(error))
            continue
        if found:
            return _chosen(tool, found, environ)
        reasons.append(f"{tool.name} shows none")
    raise ValueError(
        f"no GPU was found on this host ({'; '.join(reasons)}): give a number of slots, or install the GPU's driver"
    )


def _chosen(tool: Tool, found: Sequence[Found], environ: Mapping[str, str]) -> Devices:
    variable = next((name for name in _VARIABLES[tool.kind] if name in environ), None)
    if variable is not None:
        chosen = [_named(entry, found, variable) for entry in _entries(environ[variable])]
        _any_left(chosen, variable, environ)
        return Devices(tool, tuple(chosen), {})
    if tool.kind == "hip" and _BELOW_HIP in environ:
        below = [_named(entry, found, _BELOW_HIP) for entry in _entries(environ[_BELOW_HIP])]
        _any_left(below, _BELOW_HIP, environ)
        return Devices(tool, tuple(device._replace(id=str(n)) for n, device in enumerate(below)), {})
    divided = {device.number for device in found if device.instance}
    whole = [device for device in found if device.instance or device.number not in divided]
    more = dict([_ORDER]) if tool.kind == "cuda" else {}
    return Devices(tool, tuple(Device(_id(device), device.name, _key(device)) for device in whole), more)


def _entries(value: str) -> list[str]:
    """The entries of CUDA_VISIBLE_DEVICES, up to the first one that is none: that is how far CUDA reads."""
    taken = []
    for entry in (part.strip() for part in value.split(",")):
        if not entry or entry.startswith("-") or entry.lower() in ("none", "void", "nodevfiles"):
            break
        taken.append(entry)
    return taken


def _any_left(devices: Sequence[Device], variable: str, environ: Mapping[str, str]) -> None:
    if not devices:
        raise ValueError(
            f"{variable} is {environ[variable]!r} here, which hides every GPU; unset it, or let it name those that the "
            "slots may use"
        )


def _named(entry: str, found: Sequence[Found], variable: str) -> Device:
    """The device that an entry names: a number, or the beginning of a UUID. The entry itself goes to the slot."""
    if entry.isdigit():
        whole = [device for device in found if not device.instance]
        there = [device for device in whole if device.number == int(entry)]
        if not there:
            known = ", ".join(str(device.number) for device in whole)
            raise ValueError(f"{variable} names GPU {entry}, and this host has {known}; correct it, or unset it")
    else:
        there = [device for device in found if device.uuid.lower().startswith(entry.lower())]
    # One that the tool does not tell of may still be right: drivers know other forms of names for parts of a GPU.
    return Device(entry, there[0].name, _key(there[0])) if len(there) == 1 else Device(entry, "GPU")


def _id(device: Found) -> str:
    return device.uuid if device.instance else str(device.number)


def _key(device: Found) -> str:
    return device.uuid or str(device.number)


class DeviceWatch:
    """Looks how busy devices are, again and again, in a thread of its own: a driver may take seconds to answer.

    Args:
        devices: which.
        tell: Called with each answer, in that thread.
    """

    def __init__(self, devices: Devices, tell: Callable[[tuple[DeviceUse, ...]], object] = lambda use: None) -> None:
        self._devices = devices
        self._tell = tell
        #: The last answer.
        self.latest: tuple[DeviceUse, ...] = tuple(DeviceUse() for _ in devices.devices)
        self._stopping = threading.Event()
        self._said = ""
        self._thread = threading.Thread(target=self._run, name="distmap-devices", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while True:
            try:
                self.latest = self._devices.use()
                self._said = ""
            except ToolError as error:
                self.latest = tuple(DeviceUse() for _ in self.latest)
                if str(error) != self._said and not self._stopping.is_set():
                    self._said = str(error)
                    log.warning("how busy the GPUs are is not known: %s", error)
            if self._stopping.is_set():
                return
            with contextlib.suppress(RuntimeError):  # the loop that is told is closed
                self._tell(self.latest)
            if self._stopping.wait(LIMITS.device_every):
                return

    @property
    def ended(self) -> bool:
        """Whether the thread has ended."""
        return not self._thread.is_alive()

    async def close(self) -> None:
        """End the thread. One that waits for a driver which lets nobody go is left to it."""
        import asyncio

        self._stopping.set()
        self._devices.tool.stop()
        end = time.monotonic() + LIMITS.leave_seconds
        while not self.ended and time.monotonic() < end:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
