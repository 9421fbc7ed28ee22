"""Commands that start workers: their processes, what they say, and their end."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from support.waiting import eventually

from distmap.launch.command import CommandLauncher


def launched(command: str, test: Callable[[CommandLauncher], Awaitable[None]]) -> None:
    """Run a test of the launcher of a command."""

    async def main() -> None:
        launcher = CommandLauncher(command, "/the token", os.environ)
        try:
            await test(launcher)
        finally:
            await launcher.close()
        assert not await launcher.look()

    asyncio.run(asyncio.wait_for(main(), 30))


def test_a_command_is_told_everything_and_its_end_has_its_words() -> None:
    """Address, number and file of the token stand where it wants them; other braces stay; its start has an id."""

    async def test(launcher: CommandLauncher) -> None:
        (id,) = await launcher.start(7, "--relay wss://r/")
        await eventually(lambda: id in launcher._over)
        ended = await launcher.ended(id, expected=False)
        assert ended is not None
        assert not ended.well
        assert ended.words.endswith(
            f"ended with exit code 3 and said: 7|--relay wss://r/|/the token|/the token|{id}|x {{a}} oops"
        )

    script = 'echo "{n}|{url}|"{token_file}"|$DISTMAP_TOKEN_FILE|$DISTMAP_LAUNCH|${{X:-x {a}}"; echo oops >&2; exit 3'
    launched(script.replace("${{X:-x {a}}", "x {a}"), test)


def test_the_end_of_a_command_whose_worker_came_is_told_if_it_was_well() -> None:
    """It may have handed its worker over, to another machine or a queue; one that failed has not."""

    async def test(launcher: CommandLauncher) -> None:
        well, failed = [*await launcher.start(1, "0"), *await launcher.start(1, "3")]
        await eventually(lambda: {well, failed} <= {*launcher._over})
        assert await launcher.ended(failed, expected=True) is None
        ended = await launcher.ended(well, expected=True)
        assert ended is not None
        assert ended.well

    launched("exit {url}", test)


def test_without_a_number_it_is_run_so_many_times() -> None:
    """Each run is a start of its own; one that is told to end gets SIGTERM, and SIGKILL the second time."""

    async def test(launcher: CommandLauncher) -> None:
        first, second = await launcher.start(2, "wss://nb:1")
        assert {*await launcher.look()} == {first, second}
        await eventually(lambda: launcher._runs[first].words == launcher._runs[second].words == "ready")
        await launcher.end([first])
        await eventually(lambda: launcher._runs[first].words.endswith("not now"))
        await launcher.end([first])
        await eventually(lambda: first in launcher._over)
        ended = await launcher.ended(first, expected=False)
        assert ended is not None
        assert "ended by signal 9 and said: ready" in ended.words
        launcher._runs[second].signal(signal.SIGKILL)

    launched(": {url}; trap 'echo not now' TERM; echo ready; while :; do sleep 0.05; done", test)


@pytest.mark.parametrize("command", ["sleep 60 {url} & wait", "nosuch {url}", "{url} ) (", "exec sleep 60; {url}"])
def test_nothing_of_a_command_is_left(command: str) -> None:
    """Whatever it is, its processes, threads and pipes end with its launcher."""

    async def test(launcher: CommandLauncher) -> None:
        await launcher.start(1, "")

    launched(command, test)


@pytest.mark.timeout(60)
def test_a_killed_pool_takes_its_commands_with_it(tmp_path: Path, until: Callable[..., Any]) -> None:
    """If the process of the pool is killed, its commands are ended, though nobody is there to do it."""
    code = (
        "import asyncio, os\nfrom distmap.launch.command import CommandLauncher\n"
        "async def main():\n"
        "    launcher = CommandLauncher('echo $$ > {url}.new; mv {url}.new {url}; sleep 60', '', os.environ)\n"
        f"    await launcher.start(1, {str(tmp_path / 'pid')!r})\n    await asyncio.sleep(60)\n"
        "asyncio.run(main())"
    )
    kernel = subprocess.Popen([sys.executable, "-c", code])
    try:
        until((tmp_path / "pid").exists, 20)
    finally:
        kernel.kill()
        kernel.wait()
    group = int((tmp_path / "pid").read_text())

    def left() -> list[int]:
        return [one.pid for one in psutil.process_iter() if _group(one.pid) == group]

    until(lambda: not left(), 20)


def _group(pid: int) -> int:
    try:
        return os.getpgid(pid) if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE else 0
    except (ProcessLookupError, psutil.NoSuchProcess):
        return 0


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("distmap-worker", "launch= needs {url}"),
        ("distmap-worker {url} dm1_ab_cd", "launch= holds a token"),
    ],
)
def test_a_command_that_cannot_do_is_refused(command: str, words: str) -> None:
    """One without the address brings nobody; one with a token would show it to every user; it is not repeated."""
    with pytest.raises(ValueError, match=words) as info:
        CommandLauncher(command, "", {})
    assert "dm1_" not in str(info.value)
