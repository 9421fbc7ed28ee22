"""Who is there in a Dask cluster.

Owns the list of its workers, and finding out who came and went, and whether the scheduler and the client are there at
all. Must not know what workers run, but that calls of theirs are to end when they are gone.

Threads: Dask's client has a loop of its own, where the list is kept. A thread of ours asks for a look every second, as
that loop ends with the client.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import threading
from collections.abc import Coroutine
from time import monotonic
from typing import Any, TypeVar

import distributed

from distmap._version import __version__
from distmap.engine.adapter import AdapterEvents, Member
from distmap.ext.dask_far import about

log = logging.getLogger("distmap")

T = TypeVar("T")

#: Seconds between two looks.
LOOK_EVERY = 1.0
#: Seconds that the scheduler, or a new worker, may take to answer.
LOOK_LIMIT = 10.0
#: Seconds in which a worker must be reached for large data to go straight to workers.
REACH_LIMIT = 2.0
#: A scheduler that has been out of reach for so many seconds is gone: what ran there is lost already.
GONE_AFTER = 5.0
#: ... and one that can be reached, but has said nothing for so many.
SILENT_FOR = 30.0

#: Some versions tell of a few workers only, unless they are asked for all.
_ALL = {"n_workers": -1} if "n_workers" in inspect.signature(distributed.Client.scheduler_info).parameters else {}


class Place:
    """A Dask worker that can run calls."""

    def __init__(self, member: Member, address: str) -> None:
        self.member = member
        self.address = address
        #: What Dask says of it: "running" or "paused".
        self.status = "running"
        #: What runs for its calls on the client's loop; cancelled once it is gone.
        self.calls: set[asyncio.Task[None]] = set()
        #: Handles whose value has arrived: its process keeps it, and Dask need not bring it again.
        self.has: set[Any] = set()


class DaskWorkers:
    """The workers of the cluster that a client is connected to.

    Args:
        name: of the engine, for people.
    """

    def __init__(self, client: Any, name: str, events: AdapterEvents) -> None:
        self._client = client
        self._name = name
        self._events = events
        self._loop: asyncio.AbstractEventLoop = client.loop.asyncio_loop
        #: By key; replaced and never changed, as other threads read it.
        self.places: dict[str, Place] = {}
        #: Whether large data goes straight to workers; None: not known.
        self.direct: bool | None = client.direct_to_workers
        #: Keys of workers that are asked what they are, and of those where distmap cannot be used.
        self._asked: set[str] = set()
        self._looking = asyncio.Lock()
        #: The scheduler has been out of reach since it was asked last.
        self._forgotten = False
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="distmap-dask", daemon=True)

    def open(self) -> None:
        """Find out who is there, and keep doing so.

        Raises:
            OSError: The scheduler cannot be reached.
        """
        self.wait_for(self.look(wait=True))
        self._thread.start()

    def close(self) -> None:
        """Tell nothing any more."""
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join()
        self.places = {}

    @property
    def closed(self) -> bool:
        """Whether the client was closed."""
        return self._client.status in ("closing", "closed")

    def wait_for(self, work: Coroutine[Any, Any, T]) -> T:
        """Run it on the client's loop, which may end meanwhile.

        Raises:
            TimeoutError: It did end.
        """
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        while True:
            try:
                return future.result(LOOK_EVERY)
            except TimeoutError:
                if future.done() or self.closed:
                    raise

    def _watch(self) -> None:
        lost: float | None = None
        while not self._closing.wait(LOOK_EVERY):
            why = None
            try:
                self.wait_for(self.look())
                lost = None
            except Exception as error:  # OSError, or what its client raises when it is closed
                log.info("x %s does not say who is there: %r", self._name, error)
                lost = lost or monotonic()
                limit = SILENT_FOR if isinstance(error, TimeoutError) else GONE_AFTER
                if monotonic() - lost >= limit:
                    why = f"its scheduler has been out of reach for {limit:g} s ({error or 'it is silent'})"
            if self.closed:
                why = "its client was closed"
            if why is not None:
                self._closing.set()
                self._events.ended(why)

    async def look(self, *, wait: bool = False) -> None:
        """Find out who is there. `wait`: also for what new ones say of themselves.

        Raises:
            TimeoutError: The scheduler does not answer.
            OSError: It is out of reach: it forgets this client then, with everything that ran.
        """
        async with self._looking:
            try:
                workers = await self._ask()
            except OSError as error:
                self._forgotten |= not isinstance(error, TimeoutError)
                raise
        if self._forgotten:
            self._forgotten = False
            self._tell({})
        there = {_key(address, worker): address for address, worker in workers.items() if _is_up(worker)}
        self._asked &= there.keys()
        self._tell({key: place for key, place in self.places.items() if key in there})
        for place in self.places.values():
            place.status = workers[place.address]["status"]
        if new := {key: there[key] for key in there.keys() - self.places.keys() - self._asked}:
            self._asked |= new.keys()
            asking = asyncio.ensure_future(self._meet(new, workers))
            if wait:
                await asking

    async def told(self) -> None:
        """Wait until it has been told who is gone, or that the engine is."""
        while not self._closing.is_set():
            try:
                return await self.look()
            except Exception:
                await asyncio.sleep(LOOK_EVERY / 4)

    async def _ask(self) -> dict[str, Any]:
        """What the scheduler knows of its workers, by address."""
        if self._client.status != "running":
            raise ConnectionError("the connection to it has ended")
        identity = await asyncio.wait_for(self._client.scheduler.identity(**_ALL), LOOK_LIMIT)
        workers: dict[str, Any] = identity["workers"]
        return workers

    def _tell(self, places: dict[str, Place]) -> None:
        """Who is there; then what those have that are gone is ended: Dask would wait for ever for their return."""
        before, self.places = self.places, places
        if before.keys() != places.keys() and not self._closing.is_set():
            self._events.members([place.member for place in places.values()])
        for key in before.keys() - places.keys():
            for call in list(before[key].calls):
                call.cancel()

    async def _meet(self, new: dict[str, str], workers: dict[str, Any]) -> None:
        """Ask new workers what Dask does not tell, and let those take part where distmap can be used."""
        try:
            asked = self._client.run(about, workers=list(new.values()), on_error="return")
            answers = await asyncio.wait_for(asked, LOOK_LIMIT)
            if self.direct is None:
                self.direct = await self._reach(next(iter(new.values())))
        except (OSError, RuntimeError) as error:
            log.info("x workers of %s do not answer: %r", self._name, error)
            self._asked -= new.keys()  # so that they are asked again
            return
        places = {}
        for key, address in new.items():
            answer = answers.get(address, OSError("gone"))
            if isinstance(answer, OSError):
                self._asked.discard(key)
            elif isinstance(answer, Exception) or answer[2] != __version__:
                found = repr(answer) if isinstance(answer, Exception) else f"version {answer[2]} is there"
                log.warning(
                    "! %s runs nothing on %s: install distmap %s there (%s)", self._name, address, __version__, found
                )
            else:
                self._asked.discard(key)
                places[key] = Place(_member(key, address, workers[address], answer), address)
        self._tell(self.places | places)

    async def _reach(self, address: str) -> bool:
        """Whether this process can connect to a worker."""
        try:
            await asyncio.wait_for(self._client.rpc(address).identity(), REACH_LIMIT)
        except OSError as error:
            log.info("x %s passes large data on, as %s is out of reach: %r", self._name, address, error)
            return False
        return True


def _key(address: str, worker: dict[str, Any]) -> str:
    # A worker that is started again may have the same address; its folder is its own.
    return f"{address} {worker['local_directory']} {worker['nthreads']}"


def _is_up(worker: dict[str, Any]) -> bool:
    return worker["status"] in ("running", "paused")


def _member(key: str, address: str, worker: dict[str, Any], answer: tuple[str, str, str]) -> Member:
    name = str(worker["name"])
    name = f"dask-{name}" if name.isdigit() else address.partition("://")[2] if name == address else name
    tags = frozenset(name for name, count in worker["resources"].items() if count)
    return Member(key, name, answer[0], worker["nthreads"], answer[1], tags)
