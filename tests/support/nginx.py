"""A real nginx with settings that the test gives; it can be ended and started again on its port.

Owns its process and its folder. What stands in its `server` blocks is said by the test.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from support.services import free_port, program, running

#: Around the `server` blocks: everything in one folder, one process, no privileges.
_AROUND = """
daemon off;
master_process off;
pid nginx.pid;
error_log stderr warn;
events {{ worker_connections 256; }}
http {{
    access_log access.log combined;
    client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
{blocks}
}}
"""


class Nginx:
    """One nginx on a port of its own.

    Args:
        folder: Its own; made here.
        blocks: What stands inside `http`. `@PORT@` in it becomes the port.
    """

    def __init__(self, folder: Path, blocks: str) -> None:
        self._program = program("nginx")
        self._folder = folder
        self._stack = contextlib.ExitStack()
        self.port = free_port()
        folder.mkdir()
        self.write(blocks)

    def write(self, blocks: str) -> None:
        """Other settings; they count from the next start on."""
        text = _AROUND.format(blocks=blocks.replace("@PORT@", str(self.port)))
        (self._folder / "nginx.conf").write_text(text, encoding="utf-8")

    def start(self) -> None:
        """Start it, and wait until it takes connections."""
        command = [self._program, "-p", self._folder, "-c", "nginx.conf", "-e", "stderr"]
        self._stack.enter_context(running(command, self._folder / "log", port=self.port))

    def stop(self) -> None:
        """End it, and with it the connections through it."""
        self._stack.close()

    @property
    def requests(self) -> list[str]:
        """A line of its log for each request that it got and has done with."""
        log = self._folder / "access.log"
        return log.read_text(encoding="utf-8").splitlines() if log.exists() else []


@contextlib.contextmanager
def nginx(folder: Path, blocks: str) -> Iterator[Nginx]:
    """An nginx that runs; see `Nginx`."""
    server = Nginx(folder, blocks)
    server.start()
    try:
        yield server
    finally:
        server.stop()
