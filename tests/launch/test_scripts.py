"""Job scripts are ones that a shell takes, and start the worker that was asked for."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.services import program

import distmap
from distmap.launch.scripts import pbs, slurm, slurm_worker

LINE = "distmap-worker wss://nb:8786"
KINDS = pytest.mark.parametrize("write", [slurm, pbs], ids=["slurm", "pbs"])


def accepted(script: str) -> str:
    """The script, once bash has taken it as one."""
    done = subprocess.run(
        [program("bash"), "-n"], input=script, capture_output=True, text=True, timeout=10, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    return script


@KINDS
def test_the_shell_takes_the_script(write: Callable[..., str]) -> None:
    """Whatever is in the line and the options, the script is one for bash; options of the job stand before it."""
    odd = "distmap-worker 'https://hub/user/o'\"'\"'neil/proxy/80/'"
    script = accepted(write(odd, nodes=3, cpus=8, token_file="/home/o'neil/my token", setup="module load a\nb c"))
    assert "module load a\nb c\n" in script
    assert "export DISTMAP_TOKEN_FILE='/home/o'\"'\"'neil/my token'\n" in script
    assert "DISTMAP_HEADER_FILE" in script  # the way of that URL leads through a proxy
    head, _, rest = script.partition("\nset -e\n")
    assert head.startswith("#!/bin/bash\n")
    assert not re.search(r"^#(SBATCH|PBS)", rest, re.M)
    assert "--exit-if-orphaned 300" in script


def test_slurm_is_told_what_was_asked_for() -> None:
    """Nodes, cores, GPUs, time and anything else are options of the job; a GPU job has a slot for each GPU."""
    script = accepted(slurm(LINE, nodes=2, cpus=8, gpus=4, time="2-00:00:00", more=["--partition=gpu", "--account=x"]))
    options = re.findall(r"^#SBATCH (.*)$", script, re.M)
    for option in ("--nodes=2", "--ntasks-per-node=1", "--cpus-per-task=8", "--gres=gpu:4", "--time=2-00:00:00"):
        assert option in options
    assert options[-2:] == ["--partition=gpu", "--account=x"]
    assert "--slots gpu " in script
    assert "--cpus-per-task=" not in "\n".join(re.findall(r"^#SBATCH (.*)$", slurm(LINE), re.M))


@pytest.mark.timeout(40)
def test_the_script_for_pbs_starts_a_worker(
    tmp_path: Path, until: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What `pbsdsh` is given starts a worker, in an environment without variables. (There is no PBS to be had.)"""
    fake = tmp_path / "pbsdsh"
    fake.write_text('#!/bin/bash\n[ "$1" = -- ] && shift && exec env -i "$@"\n')
    fake.chmod(0o755)
    path = f"export PATH={tmp_path}:{Path(sys.executable).parent}:$PATH"
    with distmap.Pool(listen="wss://127.0.0.1:0") as pool:
        script = accepted(pool.worker_command("pbs", cpus=2, gpus=0, setup=path))
        assert "#PBS -l select=1:ncpus=2\n" in script
        monkeypatch.setenv("PBS_JOBID", "17.head")
        job = subprocess.Popen(
            [program("bash"), "-s"], stdin=subprocess.PIPE, cwd=tmp_path, text=True, stderr=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            assert job.stdin is not None
            with job.stdin as pipe:
                pipe.write(script)
            (worker,) = pool.wait_for_workers(1, timeout=25)
            assert worker.name.endswith("-17")
            assert pool.map(abs, [-1, -2]) == [1, 2]
            job.terminate()
            assert job.wait(15) == 0
        finally:
            job.kill()
            job.wait(5)
    assert ":ngpus=2" in pbs(LINE, gpus=2)


@KINDS
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"nodes": 0}, "nodes of a job script must be a whole number of at least 1; got 0"),
        ({"cpus": "8"}, "cpus of a job script must be a whole number of at least 1; got '8'"),
        ({"gpus": True}, "gpus of a job script must be a whole number of at least 0; got True"),
        ({"time": "an hour"}, "must be text such as .* got 'an hour'"),
        ({"time": 60}, "must be text such as .* got 60"),
    ],
)
def test_senseless_options_are_named(write: Callable[..., str], options: dict[str, Any], words: str) -> None:
    """An option that is not what it must be is an error here, and not one of the batch system hours later."""
    with pytest.raises(ValueError, match=words):
        write(LINE, **options)


def test_where_the_token_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """The file of this pool's token by default; where the token has none, the usual place in the home of the nodes."""
    monkeypatch.setenv("DISTMAP_TOKEN_FILE", "/shared/token")
    assert "export DISTMAP_TOKEN_FILE=/shared/token\n" in slurm(LINE)
    monkeypatch.delenv("DISTMAP_TOKEN_FILE")
    monkeypatch.setenv("DISTMAP_TOKEN", "dm1_secret")
    script = slurm(LINE)
    assert 'export DISTMAP_TOKEN_FILE="$HOME/.config/distmap/token"\n' in script
    assert "secret" not in script


def test_a_worker_of_a_pool_is_the_job_itself() -> None:
    """It takes the place of the script and is told alone that its time is up; options stand as for other scripts."""
    script = accepted(
        slurm_worker(LINE, cpus=8, gpus=0, time="60", token_file="/home/o'neil/my token", setup=["module load a"])
    )
    assert "#SBATCH --signal=B:TERM@60\n" in script
    assert "srun" not in script
    assert "export DISTMAP_TOKEN_FILE='/home/o'\"'\"'neil/my token'\n" in script
    assert script.splitlines()[-1].startswith(f"exec {LINE} --slots ")
    gpu = slurm_worker(LINE, cpus=None, gpus=2, time="60", token_file="t", setup=[])
    assert "--gres=gpu:2" in gpu
    assert "--slots gpu " in gpu
    with pytest.raises(ValueError, match="cpus of a job script"):
        slurm_worker(LINE, cpus=0, gpus=0, time="60", token_file="t", setup=[])


def test_the_guide_shows_the_script_as_it_is() -> None:
    """The script in the guide is the one that is printed."""
    guide = (Path(__file__).parents[2] / "docs" / "how-to" / "slurm.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"```bash\n(.*?)```", guide, re.S)
    token = "/home/me/.config/distmap/token"
    assert shown == slurm("distmap-worker wss://login1:8786", cpus=16, token_file=token)
