"""The port between our engine for foreign workers and somebody else's engine: Dask, Ray, MPI, ipyparallel, Parsl, ...

Owns the protocol. An `Adapter` hides one kind of engine; `ForeignEngine` does all the rest (who has what, what was
lost, what is tried again) and is the only one that calls it. An adapter decides nothing and keeps no attempts.

What runs at the far end is a function of ours, which is pickled by name, so distmap is installed there. Its answer is
the result of the call. Beside that an adapter may have a side channel, for what must not wait for the end of a call;
all that it carries is a copy or a wish, so losing it loses nothing but time.

Threads: every method is called on the loop's thread and must not block, except `open` and `close`, which run in a
thread of their own. `AdapterEvents` may be called from any thread.

Parts may be memoryviews, which do not pickle: `attempt.portable` makes copies that do; a transport that has buffers of
its own (pickle 5) needs none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol

from distmap.engine.attempt import Answer, BlobParts, Emit
from distmap.engine.base import Parts
from distmap.tasks._typing import NamedTuple
from distmap.wire.messages import Task

#: What the error of a call means. "died": what ran it ended, and the engine goes on. "broken": the engine takes no more
#: calls because something of it ended. "shut": it takes no more calls, as somebody closed it. "failed": the call could
#: not be made, and others may be.
Fate = Literal["died", "broken", "shut", "failed"]

#: What a call runs at the far end: `run(task, blobs, parts, emit)`; `emit` sends bytes over the side channel, or None.
Run = Callable[[Task, Sequence[BlobParts], Parts, Emit | None], Answer]


class Member(NamedTuple):
    """One place of the engine that runs calls: a Dask worker, a Ray node, an ipyparallel engine; shown as a worker."""

    #: What the adapter calls it; never used again for another one, nor for the same one with other slots.
    key: str
    #: For people, such as the engine's own name for it.
    name: str
    host: str
    #: How many calls it runs at once.
    slots: int
    #: Such as "3.11"; "" if the engine does not tell.
    python: str = ""
    #: Resources and labels that the engine gives it.
    tags: frozenset[str] = frozenset()


class Call(Protocol):
    """What `submit` gives, such as a `concurrent.futures.Future`. It is let go of once it is done."""

    def add_done_callback(self, fn: Callable[[Any], object], /) -> object:
        """Call `fn(self)` once it is done, from any thread; `result()` does not wait then."""

    def result(self) -> Answer: ...


class AdapterEvents(Protocol):
    """What an adapter tells, from any thread."""

    def members(self, members: Sequence[Member]) -> None:
        """Who is there now; all of them each time. Who is not among them any more is lost, with what it ran."""

    def received(self, data: bytes) -> None:
        """What `emit` sent at a far end."""

    def ended(self, why: str) -> None:
        """The engine itself is gone: nobody comes any more. `why` is a sentence for people, with its last words."""


class Adapter(Protocol):
    """Somebody else's engine."""

    #: For people: "Dask at tcp://10.0.0.7:8786".
    name: str
    #: Whether a chunk may run in a task process of ours at the far end, so that a crash ends neither the engine's
    #: worker nor more than one item. False: it runs in the call itself.
    isolated: bool
    #: The far end runs in this process and sees the same memory.
    here: bool
    #: Whether members may have tags.
    tagged: bool

    def open(self, events: AdapterEvents) -> Sequence[Member]:
        """Connect, and give who is there. May wait.

        Raises:
            Exception: The engine cannot be reached; says why.
        """

    def submit(
        self, member: str, run: Run, task: Task, blobs: Sequence[BlobParts], handles: Sequence[Any], parts: Parts
    ) -> Call:
        """Call `run` at a member, with the blobs and with what the handles stand for, which is more of them.

        The engine's own retries are off. Large parts may take a way of their own there.

        Raises:
            Exception: See `fate`.
        """

    def put(self, blob: BlobParts, members: Sequence[str]) -> Call | None:
        """Begin to hand a large payload over, once for all members; the result is a handle for `submit`.

        None: this engine has nothing better than to send it with a call.
        """

    def drop(self, handle: Any) -> None:
        """Forget what a handle stands for."""

    def cancel(self, call: Call) -> bool:
        """True: the call has certainly not begun, and never will. False: nothing is known."""

    def forget(self, call: Call) -> None:
        """Nobody waits for the call any more: it need not begin, if that can be; its answer is not heard."""

    def fate(self, error: BaseException) -> Fate:
        """What the error of a call, or of `submit`, means."""

    def send(self, member: str, data: bytes) -> bool:
        """Call `distmap.engine.foreign_host.control(data)` at a member now, beside what runs there.

        False: this engine has no such way, and the wish is dropped.
        """

    def renew(self) -> bool:
        """After "broken": put a fresh engine into the place of the broken one. False: only its owner can."""

    def unanswering(self, member: str) -> str | None:
        """After a long silence: why nothing is run there any more; None if calls are still taken."""

    def close(self) -> None:
        """Let go of everything that this adapter made. The engine itself is the user's and goes on."""
