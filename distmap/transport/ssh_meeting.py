"""A host that both sides can log in to, as the place where pool and worker meet.

Owns both ways to it: that of a pool, which has ssh forward a Unix socket there to its own port (`ssh -R`), and that of
a worker, which has ssh lead to that socket (`ssh -L`). Nothing is installed or run there but a shell; the socket is in
a folder that only this user can enter, and what passes it is TLS from end to end. On one event loop.

    pool -- ssh -R ==> sshd -- socket -- sshd <== ssh -L -- worker
"""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import shlex
import shutil
import socket
import tempfile
from pathlib import Path
from typing import Any

from distmap.core.limits import LIMITS
from distmap.core.ssh_limits import SSH_LIMITS
from distmap.errors import ConnectError, DistmapError, LaunchError
from distmap.transport.redial import delays
from distmap.transport.ssh import SSH
from distmap.transport.ssh_tunnel import SSHTunnel
from distmap.transport.ssh_url import SSHTarget, parse_ssh

log = logging.getLogger("distmap.ssh")

#: A forwarding ends with the run of ssh that made it: it goes over no connection that others share.
_FORWARDING = ("-o", "ClearAllForwardings=no", "-o", "ExitOnForwardFailure=yes", "-o", "ControlPath=none")

#: Makes room for the socket: in the folder of this user, unless it is told where. A socket that is there is left over,
#: or that of a pool that this one takes the place of.
_PREPARE = (
    'm=$1; p=$2; if [ -z "$p" ]; then d="${TMPDIR:-/tmp}/distmap-$(id -u)"; mkdir -m 700 "$d" 2>/dev/null; '
    'case "$(ls -ldn "$d" | tr -s " " | cut -d" " -f1,3)" in drwx------*" $(id -u)") p="$d/$3.sock";; '
    '*) printf "\\n%s{\\"failed\\": \\"folder\\", \\"path\\": \\"%s\\"}\\n" "$m" "$d"; exit 0;; esac; fi; '
    'if [ -S "$p" ]; then rm -f "$p"; fi; printf "\\n%s{\\"path\\": \\"%s\\"}\\n" "$m" "$p"'
)
#: Waits while the socket is there. It removes it only when it is told to: after a broken connection the same name may
#: belong to the next one.
_HOLD = 'printf "\\n%s{\\"open\\": true}\\n" "$1"; if read a; then rm -f "$2"; rmdir "${2%/*}" 2>/dev/null; fi; exit 0'
#: Waits for the socket, then while it is used.
_WAIT = (
    'i=0; until [ -S "$2" ] || [ $i -ge $3 ]; do i=$((i+1)); sleep 1; done; '
    'if [ -S "$2" ]; then printf "\\n%s{\\"there\\": true}\\n" "$1"; cat >/dev/null; '
    'else printf "\\n%s{\\"there\\": false}\\n" "$1"; fi; exit 0'
)


def _command(script: str, *words: str) -> str:
    """For any login shell there."""
    return f"sh -c '{script}' sh {' '.join(map(shlex.quote, words))}"


def _with_path(text: str, *, needed: bool) -> SSHTarget:
    target = parse_ssh(text)
    if needed and not target.path:
        raise ConnectError(f"{target} names no socket there; copy the whole address that the pool shows (pool.url)")
    # ssh puts a variable of this side in place of ${NAME}, and more in place of %: not for a path from over there.
    if re.search("[:$%]", target.path) or len(target.path.encode()) > 100:
        raise ConnectError(f"{target}: a socket cannot be at {target.path}: it has one of : $ %, or is too long")
    return target


class PoolAtLogin:
    """The pool's end: keeps a socket on the login node that leads to a port of this machine.

    Args:
        text: `ssh://user@host`, or with the path of a socket there; else its name is new for each pool.

    Raises:
        ConnectError: It is no such URL.
    """

    def __init__(self, text: str) -> None:
        self._target = _with_path(text, needed=False)
        self._errors: dict[str, str] = {}
        self._name = f"pool-{secrets.token_hex(4)}"
        self._ssh: SSH | None = None
        self._keeping: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        """What a worker dials; complete once it is open."""
        return str(self._target)

    async def open(self, port: int, errors: dict[str, str]) -> None:
        """Make the socket, and make it again whenever the login breaks.

        Args:
            port: Where the pool listens on this machine.
            errors: Has a sentence under `url` while there is no such socket.

        Raises:
            ConnectError: The first login failed; one sentence.
        """
        self._errors = errors
        self._ssh = await self._login(port)
        log.info("= workers can come to %s", self.url)
        self._keeping = asyncio.get_running_loop().create_task(self._keep(port))

    async def close(self) -> None:
        """Remove the socket, and log out."""
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.wait({self._keeping})
        ssh, self._ssh = self._ssh, None
        if ssh is not None:
            try:
                async with asyncio.timeout(LIMITS.close_timeout):
                    await ssh.send(b"bye\n")
                    await ssh.ended()
            except (TimeoutError, ConnectError):
                log.debug("%s: the login had ended before", self._target)
            await ssh.close()

    async def _keep(self, port: int) -> None:
        while True:
            assert self._ssh is not None
            await self._ssh.ended()
            self._say(await self._ssh.failure())
            await self._ssh.close()
            self._ssh, pauses, wait = None, delays(), 0.0
            while self._ssh is None:
                await asyncio.sleep(wait)
                try:
                    self._ssh = await self._login(port)
                except (DistmapError, OSError) as error:
                    wait = LIMITS.redial_fatal if isinstance(error, LaunchError) else next(pauses)
                    self._say(error)
            log.info("= workers can come to %s again", self.url)
            self._errors.pop(self.url, None)

    def _say(self, error: Exception) -> None:
        log.warning("x workers cannot come: %s", error)
        self._errors[self.url] = str(error)

    async def _login(self, port: int) -> SSH:
        prepared = await self._run(_PREPARE, self._target.path, self._name)
        path = prepared.get("path")
        if "failed" in prepared or not isinstance(path, str):
            raise LaunchError(f"{self._target}: {path} there is not a folder that only you can enter; remove it")
        self._target = _with_path(f"{str(self._target).removesuffix(self._target.path)}{path}", needed=True)
        path = self._target.path
        ssh = SSH(self._target)
        forwarding = (*_FORWARDING, "-R", f"{path}:127.0.0.1:{port}")
        await _answer(ssh, _command(_HOLD, ssh.mark, path), forwarding)
        return ssh

    async def _run(self, script: str, *words: str) -> dict[str, Any]:
        """The answer of a script that ends by itself."""
        ssh = SSH(self._target)
        answer = await _answer(ssh, _command(script, ssh.mark, *words))
        await ssh.close()
        return answer


class WorkerAtLogin(SSHTunnel):
    """The worker's end: the way to the socket of the pool.

    Args:
        text: `ssh://user@host/path/of/the.sock`, as the pool shows it.

    Raises:
        ConnectError: It is no such URL.
    """

    def __init__(self, text: str) -> None:
        super().__init__(_with_path(text, needed=True))

    async def login(self) -> tuple[SSH, socket.socket]:
        """See SSHTunnel."""
        ssh, path = SSH(self.target), self.target.path
        self.doing = "logging in, or waiting for the pool there"
        folder = Path(tempfile.mkdtemp(prefix="distmap-login-"))
        try:
            command = _command(_WAIT, ssh.mark, path, f"{SSH_LIMITS.pool_wait:.0f}")
            options = (*_FORWARDING, "-L", f"{folder}/s:{path}")
            answer = await _answer(ssh, command, options, SSH_LIMITS.login + SSH_LIMITS.pool_wait)
            try:
                if not answer.get("there"):
                    raise ConnectError(
                        f"{self.target}: no pool listens there; is it open, and is this the address that it shows "
                        "(pool.url)?"
                    )
                sock = socket.socket(socket.AF_UNIX)
                try:
                    sock.setblocking(False)
                    await asyncio.get_running_loop().sock_connect(sock, f"{folder}/s")
                except BaseException:
                    sock.close()
                    raise
            except BaseException:
                await ssh.close()
                raise
            return ssh, sock
        finally:
            shutil.rmtree(folder, ignore_errors=True)


async def _answer(
    ssh: SSH, command: str, options: tuple[str, ...] = (), seconds: float = SSH_LIMITS.login
) -> dict[str, Any]:
    """Start ssh, and give its first answer; if there is none, no process is left."""
    try:
        async with asyncio.timeout(seconds):
            await ssh.start(command, options)
            return await ssh.answer()
    except TimeoutError:
        await ssh.close()
        raise ConnectError(f"{ssh.target}: the login took more than {seconds:g} s, and was given up") from None
    except BaseException:
        await ssh.close()
        raise
