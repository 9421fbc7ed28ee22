"""Pools that have their workers started by a command line."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import threading
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import psutil
import pytest

import distmap
from distmap.calls.launching import instead_of_name, launches
from distmap.transport.token import Secret

WORKER = "distmap-worker {url} --slots 1"


def test_which_arguments_start_workers() -> None:
    """Addresses of Slurm, alone or among others, and a command line."""
    assert launches(None, None) == launches([4, "wss://slurm:1"], None) == ()
    assert launches([4, "slurm://?workers=2"], "x {url}") == ("slurm://?workers=2", "x {url}")
    with pytest.raises(ValueError, match="launch must be a command line such as"):
        launches(None, "")


@pytest.mark.timeout(120)
def test_workers_are_kept_in_number_and_end_with_the_pool(
    until: Callable[..., Any], token_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Workers come, one that ends is replaced, one too many leaves when it has finished; no token is shown."""
    with distmap.Pool(launch=WORKER) as pool:
        assert pool.map(abs, [-1, -2]) == [1, 2]  # it waits for them
        pool.scale(2)
        pool.wait_for_workers(2, timeout=30)
        assert "'distmap-worker {url} --slots 1': 2 running" in repr(pool)
        assert "2 running" in pool._repr_mimebundle_()["text/html"]
        processes = psutil.Process().children(recursive=True)
        token = token_file.read_text().strip()
        assert not [one for one in processes if token in " ".join(one.cmdline())]
        pid = pool.map(lambda x: os.getppid(), [1])[0]
        os.kill(pid, signal.SIGTERM)  # as at the end of its time
        until(lambda: not psutil.pid_exists(pid), 30)
        pool.wait_for_workers(2, timeout=30)
        pid = pool.map(lambda x: os.getppid(), [1])[0]
        os.kill(pid, signal.SIGKILL)  # nobody has to wait whether it comes back
        until(lambda: "gone: what it was started by has ended" in caplog.text, 15)
        pool.wait_for_workers(2, timeout=15)
        job = pool.map_async(_held, range(6), chunksize=1)
        until(lambda: len([worker for worker in pool.workers if worker.state == "ready"]) == 2)
        pool.scale(1)
        assert sorted(job.get(30)) == [*range(6)]
        until(lambda: len(pool.workers) == 1 and "1 running" in repr(pool), 30)
        pool.scale(0)
        until(lambda: not pool.workers and "0 running" in repr(pool), 30)
        pool.scale(0, 2)  # the work brings them
        assert pool.map(abs, [-3]) == [3]
        assert job.progress is not None
        assert job.progress.deaths == 0


def _held(x: int) -> int:
    threading.Event().wait(0.1)
    return x


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("nosuchprogram {url}", r"'nosuchprogram {url}' ended with exit code 127 and said: .*not found"),
        ("echo no licence >&2; exit 3; {url}", "ended with exit code 3 and said: no licence"),
        ("kill -9 $$ {url}", "ended by signal 9 and said nothing"),
    ],
)
def test_a_command_that_fails_ends_a_call_with_its_words(command: str, words: str) -> None:
    """The call ends at once, whatever it may wait; the card says it too."""
    with distmap.Pool(launch=command, connect_timeout=3600) as pool:
        with pytest.raises(distmap.NoWorkers, match=words) as info:
            pool.map(abs, [1])
        assert isinstance(info.value.__cause__, distmap.LaunchError)
        with pytest.raises(distmap.NoWorkers, match=words):
            pool.wait_for_workers(1)
        assert "said" in repr(pool)


@pytest.mark.timeout(60)
def test_a_set_up_waits_for_the_first_worker() -> None:
    """`run` and `install` are for workers that are there, so they wait for one that was started, with tags too."""
    with distmap.Pool(launch=f"{WORKER} --tag big") as pool:
        assert [*pool.run(lambda: "ready", tags=["big"]).values()] == [["ready"]]
    with distmap.Pool(launch="echo no licence; exit 3; {url}", connect_timeout=3600) as pool:
        for set_up in (lambda: pool.run(print), lambda: pool.install("polars")):
            with pytest.raises(distmap.NoWorkers, match=r"no worker can come: .* and said: no licence"):
                set_up()
        pool.scale(0)  # nobody is to come: there is nothing to set up
        assert not pool.run(lambda: "ready")


@pytest.mark.parametrize(("command", "state"), [("sleep 60; {url}", "1 running"), ("echo 12.pbs", "1 handed over")])
def test_a_command_that_brings_nobody_is_waited_for_and_named(command: str, state: str) -> None:
    """One that runs on, or has handed its work to a queue, may still bring workers, for as long as a call may wait."""
    with distmap.Pool(launch=f"{command}; : {{url}}", connect_timeout=0.5) as pool:
        job = pool.map_async(abs, [1])
        assert job.progress is not None
        assert job.progress.awaited.startswith(f"'{command}; : {{url}}': ")
        with pytest.raises(distmap.NoWorkers, match=rf"no worker for 0.5 s.*{state}") as info:
            job.get(30)
    assert ("12.pbs" in str(info.value)) == (state == "1 handed over")


def test_what_cannot_be_scaled_or_added_says_so() -> None:
    """A pool without a launcher has nothing to scale; one that is there takes no launcher; a range is one."""
    with distmap.Pool(1) as pool:
        with pytest.raises(ValueError, match=r"is for a pool whose workers are started for it.*has none"):
            pool.scale(2)
        with pytest.raises(TypeError, match=r"add\(...\) takes"):
            pool.add("slurm://?workers=2")
    with distmap.Pool(launch="sleep 60; : {url}") as pool:
        with pytest.raises(ValueError, match="most of at least 3; got 2"):
            pool.scale(3, 2)
        with pytest.raises(ValueError, match=r"at most 10000 workers of a launcher; got scale\(10001\)"):
            pool.scale(10_001)
        with pytest.raises(ValueError, match=r"got scale\(0, 1000000\)"):
            pool.scale(0, 1_000_000)
        with pytest.raises(TypeError, match="least must be a whole number"):
            pool.scale(1.5)  # type: ignore[arg-type]
        pool.scale(0)


def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home without anything in it, for a pool that is given its token."""
    for name in ("HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    return tmp_path / "home"


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_a_pool_that_cannot_be_made_leaves_no_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its private file goes at once, whatever has failed: the port, or a launcher before another one."""
    home, token = _home(tmp_path, monkeypatch), Secret.generate()
    with socket.create_server(("127.0.0.1", 0)) as other:
        with pytest.raises(distmap.ConnectError):
            distmap.Pool(launch=WORKER, token=token, listen=f"wss://127.0.0.1:{other.getsockname()[1]}")
        assert not _files(home)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(distmap.LaunchError, match="sbatch is not on this machine"):
        distmap.Pool("slurm://", launch=WORKER, token=token)
    assert not _files(home)


def test_an_interrupted_start_leaves_no_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, until: Callable[..., Any]
) -> None:
    """While `sbatch` takes its time an interrupt ends it, and cancels what it may have submitted."""
    home = _home(tmp_path, monkeypatch)
    for name, script in (("sbatch", 'touch "$0.runs"; exec sleep 60'), ("scancel", 'echo "$@" > "$0.said"')):
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", os.pathsep.join([str(tmp_path), os.environ["PATH"]]))

    def interrupt() -> None:
        until((tmp_path / "sbatch.runs").exists, 30)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        distmap.Pool("slurm://", token=Secret.generate())
    thread.join()
    assert (tmp_path / "scancel.said").read_text().startswith("--name=distmap-")
    assert not _files(home)


def test_a_host_whose_name_leads_nowhere_is_reached_by_its_address(
    monkeypatch: pytest.MonkeyPatch, until: Callable[..., Any]
) -> None:
    """Workers are given an address of this machine then; where the name is known, they are given that."""

    def unknown(*_: Any) -> None:
        raise socket.gaierror

    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: [])
    assert instead_of_name() == ""
    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    address = instead_of_name()
    assert ip_address(address)
    monkeypatch.undo()
    monkeypatch.setattr("distmap.calls.launching.instead_of_name", lambda: address)
    with distmap.Pool(launch="echo {url}") as pool:
        until(lambda: f"said: wss://{address}:" in repr(pool))


def test_workers_come_through_a_jupyter_server_as_the_kernel_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, until: Callable[..., Any]
) -> None:
    """What the kernel shows to its own hub is in a private file for the time, and not in the command."""
    for name, value in (("XDG_CONFIG_HOME", str(tmp_path)), ("HOME", str(tmp_path)), ("JUPYTERHUB_API_TOKEN", "hubs")):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("JUPYTERHUB_SERVICE_PREFIX", "/user/ann/")
    monkeypatch.delenv("DISTMAP_HEADER_FILE", raising=False)
    command = "cat $DISTMAP_HEADER_FILE; echo {url}; exit 3"
    with distmap.Pool(listen="https://hub.example/user/ann/lab", launch=command, connect_timeout=0.1) as pool:
        until(lambda: re.search(r"said: Authorization: token hubs wss://hub\.example/user/ann/proxy/\d+", repr(pool)))
        assert [path.name.partition("-")[0] for path in tmp_path.rglob("*") if path.is_file()] == ["launch"]
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.timeout(90)
def test_mpiexec_starts_workers(needs: Callable[[bool, str], None]) -> None:
    """Two workers of one mpiexec, without a line of MPI in them."""
    needs(shutil.which("mpiexec") is not None, "mpiexec")
    command = "mpiexec --allow-run-as-root --oversubscribe -n 2 distmap-worker {url} --slots 1"
    with distmap.Pool(launch=command) as pool:
        pool.wait_for_workers(2, timeout=50)
        assert pool.map(abs, range(-9, 0)) == [*range(9, 0, -1)]
        assert "1 running" in repr(pool)
