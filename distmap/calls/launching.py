"""What a pool is told to have started, and the launchers that this makes.

Owns which arguments of a pool name a launcher, and what is asked of all of them together. It must not know how
anything is started (`launch/`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any

from distmap.calls.checks import checked

if TYPE_CHECKING:
    from pathlib import Path

    from distmap.calls.remote import Remote
    from distmap.driver.driver import Driver
    from distmap.driver.portal import Portal
    from distmap.engine.hub import HubEngine
    from distmap.launch.credentials import Credentials
    from distmap.launch.launcher import Launcher
    from distmap.launch.scaler import Scaler, There


def is_launch(text: object) -> bool:
    """Whether this is the address of a system that starts workers."""
    return isinstance(text, str) and text.strip().lower().startswith("slurm:")


def launches(workers: Any, launch: str | None) -> tuple[str, ...]:
    """What of the arguments of a pool has workers started: addresses, and a command line."""
    many = workers if isinstance(workers, list | tuple) else [workers]
    command = checked("launch", launch)
    return (*filter(is_launch, many), *([] if command is None else [command]))


def instead_of_name() -> str:
    """An address of this machine, if its own name leads nowhere, as in containers and on some laptops; else empty."""
    import socket

    try:
        socket.getaddrinfo(socket.gethostname(), None)
        return ""
    except OSError:
        pass
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.connect(("192.0.2.1", 9))  # sends nothing: it only chooses the way out
            return str(sock.getsockname()[0])
    except OSError:
        return "127.0.0.1"


class Launching:
    """The launchers of a pool, most often none, and what they need of it.

    Args:
        remote: What the pool was told about workers elsewhere.
        hub: Where they dial in.
        driver: That of the pool.
    """

    def __init__(self, remote: Remote, hub: HubEngine | None, driver: Driver) -> None:
        self._remote, self._hub, self._driver = remote, hub, driver
        self.scalers: list[Scaler] = []
        self._credentials: Credentials | None = None
        if not remote.launches:
            return
        from distmap.launch.credentials import Credentials
        from distmap.launch.scaler import Scaler

        #: What workers take for the name of this host; empty: its name.
        self._host = instead_of_name() if remote.only_launched else ""
        self._credentials = credentials = Credentials(remote.token, self._headers())
        try:
            for text in remote.launches:
                self.scalers.append(Scaler(*self._launcher(text, credentials), self))
        except BaseException:
            self.forget()
            raise
        #: Those that have not ended.
        self._left = {*self.scalers}
        driver.workers.coming = self.coming
        driver.on_open = self._opened(driver.on_open)
        driver.snapshots.awaited = self.awaited

    def _headers(self) -> Mapping[str, str] | str | Path | None:
        """What workers show to a proxy on the way; through a Jupyter server, what this kernel would."""
        if self._remote.headers is not None or self._remote.server is None or "DISTMAP_HEADER_FILE" in os.environ:
            return self._remote.headers
        from distmap.calls.jupyter_server import own_headers

        return own_headers() or None

    def _launcher(self, text: str, credentials: Credentials) -> tuple[Launcher, int, int]:
        env = {name: value for name, value in os.environ.items() if name != "DISTMAP_TOKEN"}
        token_file = str(credentials.token_file)
        if credentials.header_file is not None:
            env["DISTMAP_HEADER_FILE"] = str(credentials.header_file)
        if is_launch(text):
            from distmap.launch.slurm import SlurmLauncher
            from distmap.launch.slurm_url import parse_slurm

            options = parse_slurm(text)
            return SlurmLauncher(options, token_file, env), options.least, options.most
        from distmap.launch.command import CommandLauncher

        return CommandLauncher(text, token_file, env), 1, 1

    def _opened(self, then: Callable[[], object]) -> Callable[[], None]:
        """What is to be called when there is new work: if nobody is there for it, launchers look at once."""

        def opened() -> None:
            then()
            if next(iter(self._driver.workers), None) is None:
                for scaler in self.scalers:
                    scaler.wake()

        return opened

    # --- for the launchers: their PoolSide ----------------------------------------------------------------------------

    def look(self) -> There:
        """What there is in the pool now."""
        from distmap.launch.scaler import There, Worker

        workers = [
            Worker(one.info.launch, one.info.slots, one.busy, one.state == "reconnecting")
            for one in self._driver.worker_statuses()
        ]
        return There(self._driver.waiting_work(), workers)

    def address(self) -> str:
        """What `distmap-worker` is given to come to this pool."""
        from distmap.calls.worker_command import words_to

        url = self._remote.reached_at(self._hub)
        assert url is not None, "the hub has begun, and listens"
        if self._host:
            from dataclasses import replace

            from distmap.transport.url import parse_url

            url = str(replace(parse_url(url), host=self._host))
        return words_to(url, self._remote.at_relay)

    def dismiss(self, starts: Collection[str]) -> None:
        """Have the workers of these starts leave."""
        assert self._hub is not None, "they have dialled in there"
        for worker in self._driver.workers:
            if worker.info.launch in starts:
                self._hub.dismiss(worker.id)

    def lost(self, starts: Collection[str]) -> None:
        """Give up the workers of these starts that are out of reach: nothing runs there any more."""
        assert self._hub is not None, "they have dialled in there"
        for worker in list(self._driver.workers):
            if worker.info.launch in starts and worker.reconnecting:
                self._hub.give_up(worker.id, "what it was started by has ended")

    def hopeless(self) -> None:
        """A launcher brings no worker any more: jobs that wait for one may have to end."""
        self._driver.reconsider()

    def ended(self, scaler: Scaler) -> None:
        """All that a launcher had started has ended; after the last one nobody reads the credentials any more."""
        self._left.discard(scaler)
        if not self._left:
            self.forget()

    # --- for the pool -------------------------------------------------------------------------------------------------

    def forget(self) -> None:
        """Nobody reads the credentials any more: all has ended, or the pool could not be made."""
        if self._credentials is not None:
            self._credentials.remove()

    def before(self, then: Callable[[], object]) -> Callable[[], None]:
        """What is to be called on the loop when workers have come or gone: it tells the launchers, then calls that."""

        def changed() -> None:
            for scaler in self.scalers:
                scaler.came({worker.info.launch for worker in self._driver.workers})
            then()

        return changed

    def coming(self) -> bool:
        """Whether a call should wait on for workers that were started, as nobody has said how long it may."""
        remote = self._remote
        return remote.patient and any(scaler.coming(remote.connect_timeout) for scaler in self.scalers)

    def awaited(self) -> str:
        """For which workers a call waits, in words; empty: all that were started have come."""
        return "; ".join(scaler.words for scaler in self.scalers if scaler.awaits)

    @property
    def words(self) -> str:
        """What was started, for people; empty: nothing is ever."""
        return "; ".join(scaler.words for scaler in self.scalers)

    @property
    def tried(self) -> list[str]:
        """What was done to have workers, a sentence each."""
        return [scaler.tried for scaler in self.scalers]

    def scale(self, portal: Portal, least: int, most: int | None) -> None:
        """See `Pool.scale`."""
        least, most = checked("least", least), checked("most", most)
        if len(self.scalers) != 1:
            have = f"{len(self.scalers)} of these" if self.scalers else "none"
            raise ValueError(
                "scale(...) is for a pool whose workers are started for it, by one "
                f'"slurm://?workers=20" or launch="...": this pool has {have}'
            )
        if most is not None and most < least:
            raise ValueError(f"scale(least, most) must have a most of at least {least}; got {most}")
        from distmap.core.launch_limits import LAUNCH

        if max(least, most or 0) > LAUNCH.workers:
            got = least if most is None else f"{least}, {most}"
            raise ValueError(f"a pool has at most {LAUNCH.workers} workers of a launcher; got scale({got})")
        portal.run(self.scalers[0].scale(least, least if most is None else most)).result()
