"""One run of ssh: its command line, its answers, its end, and the sentences for what it says."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from support.local_ssh import local_ssh

from distmap.core.ssh_limits import SSH_LIMITS
from distmap.errors import ConnectError, LaunchError
from distmap.transport.ssh import SSH, command_of, explain
from distmap.transport.ssh_url import SSHTarget, parse_ssh

TARGET = parse_ssh("ssh://ann@lab7")


def test_the_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """ssh never asks, and the host is no option whatever it is called; DISTMAP_SSH may name another program."""
    monkeypatch.setenv("DISTMAP_SSH", "sh -F 'my config'")
    words = command_of(TARGET, "true", ["-N"])
    assert words[:4] == ["sh", "-F", "my config", "-N"]
    assert words[-5:] == ["-l", "ann", "--", "lab7", "true"]
    assert "BatchMode=yes" in words
    monkeypatch.setenv("DISTMAP_SSH", "/no/ssh")
    with pytest.raises(LaunchError, match="the program /no/ssh is not on this machine"):
        command_of(TARGET, "true")


def test_answers_among_noise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a login shell prints is passed over; then the socket is the caller's, and its end ends ssh."""
    monkeypatch.setenv("DISTMAP_SSH", local_ssh(tmp_path, "printf 'hello\\nno newline'"))

    async def talk() -> None:
        ssh = SSH(TARGET)
        await ssh.start(f'read a; printf "%s\\n" "{ssh.mark}$a"; exec cat')
        await ssh.send(b'{"x": 1}\n')
        assert await ssh.answer() == {"x": 1}
        sock = ssh.take()
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(sock, b"abc")
        assert await loop.sock_recv(sock, 3) == b"abc"
        sock.close()
        await ssh.ended()
        await ssh.close()
        await ssh.close()

    asyncio.run(talk())


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("echo This account is closed; exit 1", r"runs no command \(exit code 1, and said: This account is closed\)"),
        ("echo what is this >&2; exit 255", r"ssh ended \(exit code 255\), and said: what is this; try by hand"),
        ("exit 255", r"ssh ended \(exit code 255\) without a word"),
        ("exec <&- >&-; exec sleep 20", "ssh did not go on without a word"),
    ],
)
def test_a_run_that_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, words: str
) -> None:  # fmt: skip
    """Instead of an answer comes an error with what was said, and no process stays."""
    monkeypatch.setenv("DISTMAP_SSH", local_ssh(tmp_path))

    async def talk() -> None:
        ssh = SSH(TARGET)
        try:
            await ssh.start(command)
            await ssh.answer()
        finally:
            await ssh.close()

    with pytest.raises(ConnectError, match=words):
        asyncio.run(talk())


def test_a_shell_that_prints_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Noise is bounded, and whatever ignores the end of ssh is killed."""
    monkeypatch.setenv("DISTMAP_SSH", local_ssh(tmp_path))
    monkeypatch.setattr("distmap.transport.ssh.SSH_LIMITS", SSH_LIMITS._replace(end=0.2))

    async def talk() -> None:
        ssh = SSH(TARGET)
        try:
            await ssh.start("trap '' TERM PIPE; while :; do echo noise 2>/dev/null; done")
            await ssh.answer()
        finally:
            await ssh.close()

    with pytest.raises(LaunchError, match=r"prints without end .*\(noise\)"):
        asyncio.run(talk())


@pytest.mark.parametrize(
    ("said", "kind", "words"),
    [
        (
            "@@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @@\nHost key verification failed.",
            LaunchError,
            "-R lab7",
        ),
        ("No ED25519 host key is known for lab7\nHost key verification failed.", LaunchError, "compare the key"),
        ("ann@lab7: Permission denied (publickey).", LaunchError, r"refused \(ann@lab7: Permission denied"),
        ("Received disconnect from 1.2.3.4: 2: Too many authentication failures", LaunchError, "too many keys"),
        ("ssh: Could not resolve hostname jump: Name or service not known", LaunchError, r"resolve \(jump: Name"),
        ("ssh: connect to host lab7 port 22: Connection refused", ConnectError, r"port 22: Connection refused\)"),
        ("ssh: connect to host lab7 port 22: Connection timed out", ConnectError, "no SSH server can be reached"),
        ("/c: terminating, 1 bad configuration options", LaunchError, "cannot read its settings"),
        ("Error: remote port forwarding failed for listen path /x", LaunchError, "AllowStreamLocalForwarding"),
    ],
)
def test_sentences(said: str, kind: type[ConnectError], words: str) -> None:
    """What ssh says becomes one sentence that names the host and what to do."""
    error = explain(SSHTarget("lab7", "ann"), 255, said.splitlines())
    assert type(error) is kind
    assert str(error).startswith("ssh://ann@lab7: ")
    with pytest.raises(kind, match=words):
        raise error
