"""A checkpoint outlives what goes wrong: a killed kernel, kills at random instants, a full disk."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.kernels import Kernel

import distmap

TESTS = Path(__file__).resolve().parents[1]
ITEMS = 300

CELL = """
import os, time
import distmap

scale = 3

def work(x):
    with open("ran", "a") as file:
        file.write(f"{x}\\n")
    time.sleep(0.01)
    return helper(x)

def helper(x):
    return scale * x

with distmap.Pool(2) as pool:
    found = pool.map(work, range(300), checkpoint="scores.sqlite")
"""
MOVED = "# Run again after the restart.\n" + CELL.replace(
    "    return scale * x", "    # as before\n    return scale * x"
)


def ran(folder: Path) -> list[int]:
    path = folder / "ran"
    return [int(line) for line in path.read_text().split()] if path.exists() else []


@pytest.mark.own_leaks("threads", "descriptors")
@pytest.mark.timeout(90)
def test_a_new_kernel_goes_on_where_a_killed_one_was(tmp_path: Path, until: Any) -> None:
    """The same cell, with another number and a comment, computes only what is not in the checkpoint, and says so."""
    path = tmp_path / "scores.sqlite"
    kernel = Kernel(tmp_path)
    try:
        kernel.start(CELL)
        until(lambda: len(ran(tmp_path)) >= ITEMS // 2, 30)
        os.kill(kernel.manager.provisioner.pid, signal.SIGKILL)  # type: ignore[union-attr]
    finally:
        kernel.close()
    known = distmap.checkpoint_info(path).items
    assert 0 < known < ITEMS
    before = dict(distmap.Checkpoint(path).results())
    assert before == {at: 3 * at for at in before}

    (tmp_path / "ran").unlink()
    kernel = Kernel(tmp_path)
    try:
        kernel.run("1 + 1").run(MOVED)
        assert kernel.error is None
        assert sorted(ran(tmp_path)) == [x for x in range(ITEMS) if x not in before]
        assert kernel.run("print(found == [3 * x for x in range(300)])").printed == "True\n"
        shown = " ".join(re.sub(r"<[^>]*>", "", str(data)) for data in kernel.displays.values())
        assert f"{known} of {ITEMS} from scores.sqlite" in shown
        kernel.run("scale = 4\nwith distmap.Pool(2) as pool: pool.map(work, range(300), checkpoint='scores.sqlite')")
        assert kernel.raised == "CheckpointChanged"
        assert "the global scale changed" in kernel.traceback
    finally:
        kernel.close()


@pytest.mark.timeout(60)
def test_kernels_that_are_killed_at_random_instants_lose_nothing(tmp_path: Path) -> None:
    """A few kills of the script that makes two hundred."""
    script = [sys.executable, str(TESTS / "chaos" / "checkpoint_kills.py"), "--kills", "3", "--seed", "1"]
    env = {**os.environ, "PYTHONPATH": str(TESTS.parent)}
    command = [*script, "--where", "local"]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


FULL = """
import logging, os, random, sys, threading
import distmap

folder = sys.argv[1]
ballast = os.path.join(folder, "ballast")
with open(ballast, "wb") as file:
    file.write(bytes(1_500_000))
paused = threading.Event()


class Watch(logging.Handler):
    def emit(self, record):
        if "cannot be written" in record.getMessage():
            paused.set()


logging.getLogger("distmap").addHandler(Watch())


def make_room():
    assert paused.wait(30)
    print("paused", flush=True)
    os.remove(ballast)


def data(x):
    return random.Random(x).randbytes(20_000)


with distmap.Pool(2, progress=False) as pool:
    thread = threading.Thread(target=make_room)
    thread.start()
    found = pool.map(data, range(60), checkpoint=os.path.join(folder, "full.sqlite"))
    thread.join()
print(found == [data(x) for x in range(60)], distmap.checkpoint_info(os.path.join(folder, "full.sqlite")).items)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="namespaces are Linux's")
def test_a_full_disk_pauses_a_job_until_there_is_room(tmp_path: Path, needs: Any) -> None:
    """On a file system of 2 MB: the job says that it pauses, and ends well when a file is removed."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["unshare", "-rm", "sh", "-c", f'mount -t tmpfs -o size=2m tmpfs {folder} && exec "$@"', "sh"]
    try:
        able = subprocess.run([*mount, "true"], capture_output=True, timeout=10, check=False).returncode == 0
    except FileNotFoundError:
        able = False
    needs(able, "a mount namespace (unshare -rm)")
    command = [*mount, sys.executable, "-c", FULL, str(folder)]
    env = {**os.environ, "PYTHONPATH": str(TESTS.parent)}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=18, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[:2] == ["paused", "True 60"]
