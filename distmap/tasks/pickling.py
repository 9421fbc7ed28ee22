"""How one value becomes bytes.

Owns `Writer`, which tries the fast pickler first and cloudpickle second, and takes large buffers out of band. Must not
know chunks, tasks or connections. Imported by task processes: cloudpickle only when needed.
"""

from __future__ import annotations

import _pickle
import io
import sys
from collections.abc import Callable

from distmap.tasks._typing import Any
from distmap.tasks.broadcast import Dependencies
from distmap.tasks.failures import failed_to_travel
from distmap.tasks.kinds import Kinds
from distmap.tasks.modules import any_registered
from distmap.tasks.payload import Payload
from distmap.tasks.picklers import UNPICKLABLE, Definitions, FastPickler, PickleContext

#: Buffers from this size travel out of band; below, one more part costs more than the copy (measured).
OUT_OF_BAND = 32 << 10


#: What cloudpickle imports, in pieces of 2 ms each: a task that comes meanwhile waits for one of them.
_PIECES = """
enum re typing ast dis tokenize inspect threading textwrap traceback logging pickle platform uuid cloudpickle
""".split()


def warm_up(busy: Callable[[], bool]) -> None:
    """Import what most functions will need, piece by piece, until there is something better to do."""
    for name in _PIECES:
        if busy():
            return
        __import__(name)


class OutOfBand:
    """Takes large buffers out of a pickle, each memory block once. Apart from Writer, so that no circle keeps them."""

    def __init__(self, least: int) -> None:
        self.buffers: list[memoryview] = []
        self.used: list[int] = []
        self._known: dict[tuple[int, int], int] = {}
        self._least = least

    def __call__(self, buffer: _pickle.PickleBuffer) -> bool:
        view = buffer.raw()
        if view.nbytes < self._least:
            return True
        key = (id(view.obj), view.nbytes)
        at = self._known.get(key)
        if at is None:
            at = self._known[key] = len(self.buffers)
            self.buffers.append(view)
        self.used.append(at)
        return False

    def forget(self) -> None:
        """Take what comes from now on for new, also memory that came before."""
        self._known.clear()


class Writer:
    """Appends pickles to one file; buffers go to one list."""

    def __init__(
        self,
        needs: Dependencies,
        definitions: Definitions | None = None,
        *,
        out_of_band: int = OUT_OF_BAND,
        head: bytes = b"",
    ) -> None:
        self.file = io.BytesIO()
        self.file.write(head)
        #: Where the last pickle ends, and the next one begins.
        self.end = len(head)
        self.needs = needs
        self.definitions = definitions
        #: Where the last pickle put what it refers to.
        self.out_of_band = OutOfBand(out_of_band)
        self._context = PickleContext(needs, Kinds(), dump_value)
        self._fast = FastPickler(self.file, self.out_of_band, self._context)
        # Looked up once: small values are pickled by the thousand.
        self._dump, self._clear_memo, self._tell = self._fast.dump, self._fast.clear_memo, self.file.tell
        self._linked = self._fast.linked
        # If the user registered modules with cloudpickle, only cloudpickle knows what goes by value.
        self._cloudy = any_registered()

    @property
    def buffers(self) -> list[memoryview]:
        """All buffers so far."""
        return self.out_of_band.buffers

    @property
    def used(self) -> list[int]:
        """Which of them the last pickle refers to."""
        return self.out_of_band.used

    def keep(self) -> None:
        """Copy the buffers of the last pickle: its value may be changed from now on, and come again."""
        buffers = self.out_of_band.buffers
        for at in set(self.out_of_band.used):
            buffers[at] = memoryview(bytearray(buffers[at]))
        self.out_of_band.forget()

    def write(self, value: object, *, careful: bool = False) -> None:
        """Append one pickle; `used` then names its buffers. If this raises, nothing was appended.

        `careful`: parts of exceptions that do not come back are left behind. It is tried anyhow if all else fails.
        """
        if self.out_of_band.used:
            self.out_of_band.used = []
        if not self._cloudy and not careful:
            try:
                self._clear_memo()
                if self._linked:
                    self._linked.clear()
                self._dump(value)
                self.end = self._tell()
                return
            except UNPICKLABLE:
                self._reset()
        from distmap.tasks.cloud import Cloud

        cloud: Any = Cloud(self.file, self.out_of_band, self._context, self.definitions)
        try:
            if careful:
                cloud.travels = _comes_back
            cloud.dump(value)
            self.end = self._tell()
        except BaseException as exc:
            self._reset()
            if careful or not cloud.errors or not isinstance(exc, UNPICKLABLE):
                raise
            try:
                self.write(value, careful=True)
            except UNPICKLABLE:
                raise exc from None
        # The next item is most likely of the same kind.
        self._cloudy = True

    def _reset(self) -> None:
        self.file.seek(self.end)
        self.file.truncate()
        self.out_of_band.used = []


def dump_value(value: object, needs: Dependencies, *, what: str) -> Payload:
    """One value as one pickle, large buffers out of band. Raises PayloadError that begins with `what`."""
    writer = Writer(needs)
    try:
        writer.write(value)
    except UNPICKLABLE as exc:
        raise failed_to_travel(f"{what} cannot be pickled", exc, value) from exc
    return Payload(writer.file.getvalue(), tuple(writer.buffers[at] for at in writer.used))


def dump_small(value: object, *, careful: bool = False) -> bytes:
    """One value as plain bytes, everything in band (exceptions)."""
    writer = Writer(Dependencies(), out_of_band=sys.maxsize)
    writer.write(value, careful=careful)
    return writer.file.getvalue()


def _comes_back(part: object) -> bool:
    """Whether a part of an exception survives a round trip by itself."""
    try:
        _pickle.loads(dump_small(part))
    except UNPICKLABLE:
        return False
    return True
