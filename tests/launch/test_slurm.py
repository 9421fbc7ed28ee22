"""What the launcher of Slurm asks of its commands. With a real Slurm it runs in `reach/test_slurm_pool.py`."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from distmap.errors import LaunchError
from distmap.launch.slurm import SlurmLauncher
from distmap.launch.slurm_url import parse_slurm

#: Stands for a command of Slurm: keeps what it is given, and answers what a file says.
COMMAND = """#!/bin/sh
here=$(dirname "$0")
{ echo "$(basename "$0") $*"; [ -n "$SLURM_MEM_PER_CPU$DISTMAP_TOKEN" ] && echo LEAKED; cat; } >> "$here/log"
cat "$here/$(basename "$0").says" 2>/dev/null
exit "$(cat "$here/$(basename "$0").code" 2>/dev/null || echo 0)"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with commands that stand for those of Slurm."""
    for name in ("sbatch", "squeue", "scancel"):
        (tmp_path / name).write_text(COMMAND)
        (tmp_path / name).chmod(0o755)
    return tmp_path


def launcher(folder: Path, url: str) -> SlurmLauncher:
    path = os.pathsep.join([str(folder), os.environ["PATH"]])
    environ = {"PATH": path, "XDG_CACHE_HOME": str(folder / "cache"), "SLURM_MEM_PER_CPU": "1"}
    return SlurmLauncher(parse_slurm(url), "/home/me/the token", environ)


def test_a_start_is_a_job_array_of_the_recipe(folder: Path) -> None:
    """Options go to sbatch as they are, the script is that of the guide, in large numbers in several arrays."""
    (folder / "sbatch.says").write_text("77;cluster\n")

    async def main() -> None:
        slurm = launcher(folder, "slurm://?cpus=4&gpus=2&partition=a%20b&tag=big&setup=module%20load%20x")
        assert slurm.slots == 2
        assert (await slurm.start(1001, "wss://nb:1"))[-2:] == ["77_999", "77_0"]
        await slurm.close()

    asyncio.run(main())
    log = (folder / "log").read_text()
    assert "sbatch --parsable --partition=a b --job-name=distmap-" in log
    assert log.count("--array=0-999\n") == log.count("--array=0-0\n") == 1
    assert "#SBATCH --cpus-per-task=4\n" in log
    assert 'export DISTMAP_LAUNCH="${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}"\nmodule load x\n' in log
    assert "export DISTMAP_TOKEN_FILE='/home/me/the token'\n" in log
    assert "exec distmap-worker --tag=big wss://nb:1 --slots gpu " in log
    assert "LEAKED" not in log  # the pool may run in a job itself
    assert "scancel --name=distmap-" in log
    assert not list((folder / "cache").rglob("distmap-*"))


@pytest.mark.parametrize(
    ("answer", "code", "words"),
    [
        ("", 1, "Slurm: sbatch refused: sorry"),
        ("no id", 0, "sbatch did not name the job, and said: no id"),
    ],
)
def test_what_sbatch_says_is_in_the_error(folder: Path, answer: str, code: int, words: str) -> None:
    """A refusal, or an answer that is none, is one sentence."""
    (folder / "sbatch.says").write_text(answer or "sorry")
    (folder / "sbatch.code").write_text(str(code))
    with pytest.raises(LaunchError, match=words):
        asyncio.run(launcher(folder, "slurm://").start(1, "wss://nb:1"))


def test_a_machine_without_slurm_is_named(caplog: pytest.LogCaptureFixture) -> None:
    """The sentence says what is missing and where the pool has to be; as no job was asked for, none is looked for."""
    slurm = SlurmLauncher(parse_slurm("slurm://"), "", {"PATH": "/nowhere", "XDG_CACHE_HOME": "/tmp"})
    with pytest.raises(LaunchError, match="the command squeue is not on this machine; make the pool on a login node"):
        asyncio.run(slurm._ask("squeue"))
    with pytest.raises(LaunchError, match="the command sbatch is not on this machine"):
        asyncio.run(slurm.start(1, "wss://nb:1"))
    asyncio.run(slurm.close())
    assert not caplog.messages


def test_a_controller_that_is_away_changes_nothing(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What was known of the jobs stays; once it answers, jobs that are over have ended, and their logs are read."""
    (folder / "sbatch.says").write_text("77\n")

    async def main() -> None:
        slurm = launcher(folder, "slurm://")
        await slurm.start(3, "wss://nb:1")
        (folder / "squeue.code").write_text("1")
        slurm._looked = float("-inf")
        assert {*await slurm.look()} == {"77_0", "77_1", "77_2"}
        (folder / "squeue.code").write_text("0")
        (folder / "squeue.says").write_text("77_0|RUNNING|None\n77_1|PENDING|Priority\n77_2|COMPLETING|None\n5|x\n")
        slurm._looked = float("-inf")
        found = await slurm.look()
        assert [(id, one.state, one.reason) for id, one in found.items()] == [
            ("77_0", "running", ""), ("77_1", "queued", "Priority"),
        ]  # fmt: skip
        (slurm._logs / "77_2.log").write_text("no such\nfile\n")
        ended = await slurm.ended("77_2", expected=False)
        assert ended is not None
        assert ended.words.endswith("its log ends with: no such file")
        assert await slurm.ended("77_9", expected=True) is None
        (folder / "scancel.code").write_text("1")  # as if it had ended by itself
        await slurm.end(["77_0"])
        await slurm.close()
        assert (slurm._logs / "77_2.log").exists()  # a failure may have to be looked into
        left = f"jobs of the pool may be left in Slurm; end them by `scancel --name={slurm._job}`"
        assert f"{left}: Slurm: scancel refused" in caplog.messages[-1]

    asyncio.run(main())
