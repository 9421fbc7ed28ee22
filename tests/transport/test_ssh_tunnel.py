"""The logins of one way: shared while they are under way, held one for each connection, ended with it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from support.local_ssh import local_ssh
from support.waiting import eventually

from distmap.errors import ConnectError, LaunchError
from distmap.transport.ssh import SSH
from distmap.transport.ssh_tunnel import SSHTunnel
from distmap.transport.ssh_url import parse_ssh


class Echo(SSHTunnel):
    """Leads to something that says what it is told."""

    runs: list[SSH]

    async def login(self) -> tuple[SSH, socket.socket]:
        ssh = SSH(self.target)
        self.runs.append(ssh)
        try:
            await ssh.start(f'printf "%s\\n" "{ssh.mark}{{}}"; exec cat')
            await ssh.answer()
        except BaseException:
            await ssh.close()
            raise
        return ssh, ssh.take()


def run(scenario: Callable[[Echo], Awaitable[None]]) -> Echo:
    way = Echo(parse_ssh("ssh://lab7"))
    way.runs = []

    async def whole() -> None:
        try:
            await scenario(way)
        finally:
            await way.close()

    asyncio.run(whole())
    return way


def test_a_login_that_takes_longer_than_a_dial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dial gives up with the state of things, and the login goes on: a later dial takes it."""
    before = f"while ! [ -e {tmp_path}/go ]; do sleep 0.02; done"
    monkeypatch.setenv("DISTMAP_SSH", local_ssh(tmp_path, before))

    async def scenario(way: Echo) -> None:
        for _ in range(2):
            with pytest.raises(ConnectError, match="ssh://lab7: still logging in"):
                await way.tunnel(0.05)
        (tmp_path / "go").touch()
        with await way.tunnel(15) as sock:
            await asyncio.get_running_loop().sock_sendall(sock, b"x")
            assert await asyncio.get_running_loop().sock_recv(sock, 1) == b"x"

    assert len(run(scenario).runs) == 1


def test_each_connection_has_a_login_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two dials at one time get two sockets; when one is closed its ssh ends at the next dial."""
    monkeypatch.setenv("DISTMAP_SSH", local_ssh(tmp_path))

    async def scenario(way: Echo) -> None:
        first, second = await asyncio.gather(way.tunnel(15), way.tunnel(15))
        assert first is not second
        first.close()
        (await way.tunnel(15)).close()
        assert len(way.runs) == 3
        await asyncio.wait_for(asyncio.wait([asyncio.ensure_future(ssh.ended()) for ssh in way.runs[:2]],
                               return_when=asyncio.FIRST_COMPLETED), 10)  # fmt: skip
        second.close()

    run(scenario)


def test_a_login_that_nobody_waits_for_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dial that is given up takes its login along, unless another dial waits for it."""
    monkeypatch.setenv("DISTMAP_SSH", local_ssh(tmp_path, f"while ! [ -e {tmp_path}/go ]; do sleep 0.02; done"))

    async def scenario(way: Echo) -> None:
        dials = [asyncio.ensure_future(way.tunnel(15)) for _ in range(2)]
        await eventually(lambda: way.runs)
        dials[0].cancel()
        (tmp_path / "go").touch()
        (await dials[1]).close()
        assert len(way.runs) == 1
        (tmp_path / "go").unlink()
        dial = asyncio.ensure_future(way.tunnel(15))
        await eventually(lambda: len(way.runs) == 2)
        dial.cancel()
        await asyncio.wait({dial})
        await asyncio.wait_for(way.runs[1].ended(), 10)

    run(scenario)


def test_a_connection_that_has_ended_is_not_given_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A login that was done while nobody looked, and has ended, is replaced; one that fails is the dial's error."""
    go = tmp_path / "go"
    monkeypatch.setenv("DISTMAP_SSH", local_ssh(tmp_path, f"while ! [ -e {go} ]; do sleep 0.02; done"))

    async def scenario(way: Echo) -> None:
        with pytest.raises(ConnectError, match="still logging in"):
            await way.tunnel(0.01)
        go.touch()
        await eventually(lambda: way._opening is not None and way._opening.done())
        (ssh, _) = await way._opening  # type: ignore[misc]
        assert ssh._process is not None
        ssh._process.kill()
        await ssh.ended()
        (await way.tunnel(15)).close()
        assert len(way.runs) == 2
        monkeypatch.setenv("DISTMAP_SSH", "/no/ssh")
        with pytest.raises(LaunchError, match="is not on this machine"):
            await way.tunnel(15)

    run(scenario)
