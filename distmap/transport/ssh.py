"""The system's OpenSSH client: one run of it, whose input and output is a socket of ours.

Owns its command line, its process, and how what it says on standard error becomes one sentence with what to do. The
user's settings, agent, jump hosts and shared connections (ControlPath) are those that `ssh` uses in a terminal. It must
not know what runs on the other side.

ssh never asks anything here (BatchMode), never becomes the master of a shared connection, and forwards nothing but what
it is told. It ends when our end of the socket closes, so a process that is killed leaves none behind.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import secrets
import shlex
import shutil
import socket
import subprocess
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from distmap.core.limits import LIMITS
from distmap.core.ssh_limits import SSH_LIMITS
from distmap.errors import ConnectError, LaunchError
from distmap.transport.ssh_url import SSHTarget
from distmap.wire.handshake import sanitized

log = logging.getLogger("distmap.ssh")

#: What the user's settings may say otherwise, and what must be so.
_OPTIONS = {
    "BatchMode": "yes",
    "ClearAllForwardings": "yes",
    "ConnectTimeout": f"{SSH_LIMITS.connect:.0f}",
    "ControlMaster": "no",
    "ForwardAgent": "no",
    "ForwardX11": "no",
    "LogLevel": "ERROR",
    "PermitLocalCommand": "no",
    "RemoteCommand": "none",
    "RequestTTY": "no",
    "ServerAliveCountMax": "3",
    "ServerAliveInterval": "5",
}


def command_of(target: SSHTarget, command: str, options: Sequence[str] = ()) -> list[str]:
    """The command line of ssh.

    Args:
        target: Where to log in.
        command: What the login shell there runs.
        options: More arguments. ssh takes the first value of an option, so they win over those that are usual here.

    Raises:
        LaunchError: There is no ssh on this machine.
    """
    ssh = shlex.split(os.environ.get("DISTMAP_SSH") or "ssh")
    if shutil.which(ssh[0]) is None:
        raise LaunchError(
            f"{target}: the program {ssh[0]} is not on this machine; install OpenSSH's client "
            "(Debian and Ubuntu: apt install openssh-client), or name another one in DISTMAP_SSH"
        )
    usual = [part for name, value in _OPTIONS.items() for part in ("-o", f"{name}={value}")]
    return [*ssh, *options, *usual, *target.arguments(), command]


class SSH:
    """One run of ssh. Start it with `start`; on one event loop.

    What the login shell there prints by itself is passed over: an answer is a line that begins with `mark`.
    """

    def __init__(self, target: SSHTarget) -> None:
        #: Where it logs in.
        self.target = target
        #: Begins each line that is meant for us; the other side is given it on its command line.
        self.mark = f"distmap-{secrets.token_hex(8)}"
        self._sock: socket.socket | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._lines: deque[str] = deque(maxlen=20)
        self._unread = bytearray()
        self._reading: asyncio.Task[None] | None = None
        self._quiet = True

    async def start(self, command: str, options: Sequence[str] = ()) -> None:
        """Start it; see `command_of`."""
        if os.name == "nt":
            raise LaunchError(f"{self.target}: ssh:// needs Linux or macOS on this side; start distmap-worker there")
        words = command_of(self.target, command, options)
        self._sock, theirs = socket.socketpair()
        self._sock.setblocking(False)
        try:
            with theirs:
                self._process = await asyncio.create_subprocess_exec(
                    *words,
                    stdin=theirs.fileno(),
                    stdout=theirs.fileno(),
                    stderr=subprocess.PIPE,
                    start_new_session=True,  # Ctrl-C in a terminal is not for it
                )
        except BaseException:
            self._sock.close()
            raise
        self._reading = asyncio.get_running_loop().create_task(self._read_errors())

    @property
    def sock(self) -> socket.socket:
        """Our end, once it is started. It does not block; whoever takes it closes it."""
        assert self._sock is not None
        return self._sock

    async def send(self, data: bytes) -> None:
        """Send bytes to what runs there. If it has ended, `answer` tells: it may have said why before it did."""
        with suppress(OSError):
            await asyncio.get_running_loop().sock_sendall(self.sock, data)

    async def answer(self) -> dict[str, Any]:
        """The next line that is meant for us. Without a deadline of its own.

        Raises:
            ConnectError: ssh ended before, or something else talks there; one sentence.
        """
        mark, loop = self.mark.encode(), asyncio.get_running_loop()
        while True:
            found = self._unread.find(mark)
            end = self._unread.find(b"\n", found) if found >= 0 else -1
            if end >= 0:
                line = bytes(self._unread[found + len(mark) : end])
                del self._unread[: end + 1]
                try:
                    answer: dict[str, Any] = json.loads(line)
                except ValueError:
                    raise ConnectError(f"{self.target}: what came from there makes no sense: {_last(line)}") from None
                return answer
            if len(self._unread) > SSH_LIMITS.noise_bytes:
                raise LaunchError(
                    f"{self.target}: the login shell there prints without end before it runs a command "
                    f"({_last(self._unread)}); let it print only if it is interactive"
                )
            try:
                data = await loop.sock_recv(self.sock, 1 << 16)
            except OSError:
                data = b""
            if not data:
                raise await self.failure()
            self._unread += data

    def take(self) -> socket.socket:
        """The socket, once the last answer has come: what follows belongs to who takes it."""
        if self._unread:
            raise ConnectError(f"{self.target}: something else writes between there: {_last(self._unread)}")
        self._quiet = False
        return self.sock

    async def ended(self) -> None:
        """Wait until it has ended."""
        if self._process is not None:
            await self._process.wait()

    async def failure(self) -> ConnectError:
        """Why it ended, or does not go on."""
        process = self._process
        assert process is not None
        self.sock.close()
        code: int | None = None
        with suppress(TimeoutError):
            async with asyncio.timeout(LIMITS.close_timeout):
                code = await process.wait()
                if self._reading is not None:
                    await asyncio.shield(self._reading)
        return explain(self.target, code, list(self._lines), bytes(self._unread))

    async def close(self) -> None:
        """End it, with the jump hosts that it started. Closing twice is fine."""
        if self._sock is not None:
            self._sock.close()
        self._quiet = True
        process, self._process = self._process, None
        if process is None:
            return
        if process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, 15)  # it ends its jump hosts
            try:
                async with asyncio.timeout(SSH_LIMITS.end):
                    await process.wait()
            except TimeoutError:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, 9)
                await process.wait()
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.wait({self._reading})

    async def _read_errors(self) -> None:
        assert self._process is not None
        assert self._process.stderr is not None
        stream = self._process.stderr
        while True:
            try:
                line = await stream.readline()
            except ValueError:  # longer than any line of ssh
                continue
            if not line:
                return
            text = _shown(line, 300)
            if text:
                self._lines.append(text)
                log.log(logging.DEBUG if self._quiet else logging.INFO, "ssh %s: %s", self.target.login, text)


def explain(
    target: SSHTarget, code: int | None, lines: Sequence[str], printed: bytes | bytearray = b""
) -> ConnectError:
    """The error for a run of ssh that ended.

    Args:
        target: Where it was to log in.
        code: Its exit code; None if it has not ended.
        lines: What it said on standard error.
        printed: What came from the other side instead of an answer.
    """
    text, login, quoted = "\n".join(lines), target.login, ""
    for pattern, kind, sentence in _SENTENCES:
        found = re.search(pattern, text)
        if found is not None:
            quoted = found.groupdict().get("what") or ""
            return kind(f"{target}: {sentence.format(what=quoted, login=login, host=target.host)}")
    said = lines[-1] if lines else _last(printed)
    if code is not None and 0 <= code != 255:
        # 255 is that of ssh itself; others are of what ran there.
        said = _last(printed) or said
        return LaunchError(
            f"{target}: the account there can log in, but runs no command (exit code {code}"
            f"{f', and said: {said}' if said else ''}); try by hand:  ssh {login} true"
        )
    ending = "did not go on" if code is None else f"ended (exit code {code})" if code >= 0 else "was killed"
    return ConnectError(
        f"{target}: ssh {ending}{f', and said: {said}' if said else ' without a word'}; try by hand:  ssh {login} true"
    )


#: What ssh says -> the error, and its sentence. The first that fits counts.
_SENTENCES: list[tuple[str, type[ConnectError], str]] = [
    (
        r"REMOTE HOST IDENTIFICATION HAS CHANGED",
        LaunchError,
        "the host key there is another one than this machine knows: the host was set up anew, or somebody stands in "
        "between. If you know why it changed, forget the old one (ssh-keygen -R {host}), and log in once by hand to "
        "compare the new one:  ssh {login}",
    ),
    (
        r"Host key verification failed|No \S+ host key is known",
        LaunchError,
        "this machine does not know the host key there yet; log in once by hand, compare the key and accept it:  "
        "ssh {login}",
    ),
    (
        r"(?P<what>[^\n]*Permission denied \([^\n)]*\))",
        LaunchError,
        "the login was refused ({what}). ssh must not ask for a password here: use a key (ssh-copy-id) or an agent "
        "(ssh-add), until this works:  ssh -o BatchMode=yes {login} true",
    ),
    (
        r"(?P<what>Too many authentication failures)",
        LaunchError,
        "the login was refused ({what}): the agent offers too many keys; name the right one in the settings of ssh "
        "(IdentityFile and IdentitiesOnly yes)",
    ),
    (
        r"Could not resolve hostname (?P<what>[^\n]*)",
        LaunchError,
        "the host name does not resolve ({what}); correct it, or name it in the settings of ssh (Host, HostName)",
    ),
    (
        r"(?P<what>connect to host [^\n]*(refused|timed out|No route|unreachable)[^\n]*)",
        ConnectError,
        "no SSH server can be reached ({what}); the host is down, it has another port, or a firewall is in between",
    ),
    (
        r"(?P<what>[^\n]*(Bad configuration option|bad configuration options|Bad owner or permissions)[^\n]*)",
        LaunchError,
        "ssh cannot read its settings on this machine ({what})",
    ),
    (
        r"(?P<what>remote port forwarding failed[^\n]*)",
        LaunchError,
        "the SSH server does not make a socket there ({what}): it does not allow it (AllowStreamLocalForwarding), or "
        "the folder is not there",
    ),
]


def _last(printed: bytes | bytearray) -> str:
    """The last line of what was printed, to be shown."""
    lines = [line for line in printed.splitlines() if line.strip()]
    return _shown(lines[-1], 200) if lines else ""


def _shown(line: bytes | bytearray, limit: int) -> str:
    """A line of somebody else. An account that runs something else may give back what it was sent: a token too."""
    text = re.sub(r"(dm1_[0-9a-f]{8})_[\w-]+", r"\1_...", line.decode(errors="replace"))
    return sanitized(text.strip(), limit)
