"""Workers on hosts that an SSH login reaches: started there, connected over the login itself, ended with the pool.

Owns the way to one such worker: which options its URL has, what is run there, what is said when that fails. It must not
know what ssh needs to log in (`transport/ssh.py`), nor what is sent once the worker is there. On one event loop.

    this machine                                      that host
    hub -- socket pair -- ssh  ==== network ====  sshd -- attach.py -- Unix socket -- distmap-worker

Nothing needs to be there but a Python: `attach.py` travels each time. The connection is the usual one, with TLS and
proof from end to end. If the network drops, the hub dials again: another login finds the same worker, and the session
goes on.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import re
import secrets
import shlex
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distmap._version import __version__
from distmap.core.ssh_limits import SSH_LIMITS
from distmap.errors import ConnectError, LaunchError, VersionMismatch
from distmap.transport.ssh import SSH
from distmap.transport.ssh_tunnel import SSHTunnel
from distmap.transport.ssh_url import SSHTarget, parse_ssh
from distmap.transport.token import Secret
from distmap.transport.url import WorkerURL
from distmap.wire.handshake import sanitized

log = logging.getLogger("distmap.ssh")

#: Options of a URL that are options of `distmap-worker`, and those that are not.
_PASSED = {"slots": "--slots", "name": "--name", "tag": "--tag", "memory_limit": "--memory-limit"}
_OPTIONS = (*_PASSED, "python", "install")

#: The minor version of Python: functions travel as bytecode.
_MINOR = f"{sys.version_info[0]}.{sys.version_info[1]}"

#: Finds a Python that runs, and gives it the program that comes on standard input. For any shell: it is in single
#: quotes, in one line, and uses nothing that a POSIX shell has not.
_FIND = (
    'm=$1; n=$2; shift 2; for p in "$@"; do case "$p" in "~/"*) p="$HOME/${p#??}";; esac; '
    'if "$p" -c "import sys; sys.exit(sys.version_info < (3, 7))" </dev/null >/dev/null 2>&1; then '
    'exec "$p" -c "import sys; exec(sys.stdin.buffer.read($n))" "$m"; fi; done; '
    'printf "\\n%s{\\"failed\\": \\"none\\"}\\n" "$m"'
)


class SSHWorker(SSHTunnel):
    """The way to one worker; its `hop` is for the hub.

    Args:
        text: The URL: `ssh://user@host?slots=8&python=/path/python&name=lab7&tag=gpu&memory_limit=2GB&install=1`.
        token: What the worker is given, on standard input.
        install: Whether to install distmap there if it is missing; the URL's own `install` wins.

    Raises:
        ConnectError: It is no such URL.
    """

    def __init__(self, text: str, token: Secret, install: bool = False) -> None:
        super().__init__(parse_ssh(text, _OPTIONS))
        options = self.target.options
        self._python = _checked_python(self.target)
        self._install = _switch(self.target, options["install"]) if "install" in options else install
        self._token = token
        #: Names the worker, so that a new login finds it. No secret.
        self._id = secrets.token_hex(8)
        self._arguments = _arguments(options)

    @property
    def url(self) -> WorkerURL:
        """What the worker is known by."""
        return self.target.url

    async def login(self) -> tuple[SSH, socket.socket]:
        """See SSHTunnel."""
        ssh = SSH(self.target)
        limit = SSH_LIMITS.install if self._install else SSH_LIMITS.login
        try:
            async with asyncio.timeout(limit):
                program = Path(__file__).with_name("attach.py").read_bytes()
                names = [self._python] if self._python else [f"python{_MINOR}", "python3", "python"]
                words = [ssh.mark, str(len(program)), *names]
                await ssh.start(f"sh -c '{_FIND}' sh {' '.join(map(shlex.quote, words))}")
                wheel, request = await asyncio.to_thread(self._request, limit)
                await ssh.send(program + json.dumps(request).encode() + b"\n")
                while not (answer := await ssh.answer()).get("connected"):
                    if "failed" in answer:
                        raise self._explain(answer)
                    self.doing = sanitized(str(answer.get("doing") or "installing distmap there"))
                    log.info("%s: %s", self.target, self.doing)
                    if answer.get("want") == "wheel":
                        await ssh.send(wheel)
                ssh.take()
        except TimeoutError:
            await ssh.close()
            raise ConnectError(f"{self.target}: {self.doing} took more than {limit:g} s, and was given up") from None
        except BaseException:
            await ssh.close()
            raise
        return ssh, ssh.sock

    def _request(self, seconds: float) -> tuple[bytes, dict[str, Any]]:
        """What `attach.py` is told, and the wheel that it may ask for."""
        wheel, install, requires = b"", None, list[str]()
        if self._install:
            from distmap.launch.wheel import make_wheel, requirements

            wheel, requires = make_wheel()[1], requirements()
            install = {"bytes": len(wheel), "sha256": hashlib.sha256(wheel).hexdigest()}
        request = {
            "id": self._id,
            "token": self._token.reveal(),
            "arguments": self._arguments,
            "python": self._python,
            "minor": _MINOR,
            "distmap": __version__,
            "install": install,
            "requires": requires,
            "seconds": int(seconds),
        }
        return wheel, request

    def _explain(self, answer: Mapping[str, Any]) -> ConnectError | VersionMismatch:
        """The error for what could not be done there."""
        text = sanitized(str(answer.get("text") or ""), 500)
        python = sanitized(str(answer.get("python") or "python"))
        found = ", ".join(sanitized(str(one)) for one in answer.get("found") or ())
        name_one = f"name the right one:  {self.target}?python=/path/to/python{_MINOR}"
        match answer["failed"]:
            case "none" if self._python:
                return LaunchError(f"{self.target}: there is no Python at {self._python}; {name_one}")
            case "none":
                return LaunchError(f"{self.target}: no Python is found there (python{_MINOR}, python3); {name_one}")
            case "python":
                return VersionMismatch(
                    f"{self.target}: this side runs Python {_MINOR}, and there is only {found}; functions travel only "
                    f"between equal minor versions. Install Python {_MINOR} there, or {name_one}"
                )
            case "distmap":
                return LaunchError(
                    f"{self.target}: distmap is not installed for {python} there; run there:  {python} -m pip install "
                    f"distmap=={__version__}  or let it be installed:  {self.target}?install=1  or {name_one}"
                )
            case "install":
                return LaunchError(
                    f"{self.target}: distmap could not be installed there ({text}); install it by hand, and {name_one}"
                )
            case "start":
                return LaunchError(f"{self.target}: distmap-worker did not start there ({text})")
        return LaunchError(f"{self.target}: the worker could not be started there ({text or answer['failed']})")


def _checked_python(target: SSHTarget) -> str:
    python = target.options.get("python", "")
    if re.search(r"[\x00-\x1f'!\\]", python) or python.startswith("-"):
        raise ConnectError(f"{target}: python={python!r} is no path of an interpreter that a shell can take")
    return python


def _switch(target: SSHTarget, text: str) -> bool:
    known = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
    if text.lower() not in known:
        raise ConnectError(f"{target}: install={text!r} is neither 1 nor 0")
    return known[text.lower()]


def _arguments(options: Mapping[str, str]) -> list[str]:
    """The command line of the worker. One word for each option, so that a value is never taken for another option."""
    tags = [f"--tag={tag}" for tag in options.get("tag", "").split(",") if tag]
    return [f"{_PASSED[name]}={value}" for name, value in options.items() if name in _PASSED and name != "tag"] + tags
