"""Workers over SSH: a real sshd on loopback, the real ssh, keys, an agent, a jump host, and all that can go wrong."""

from __future__ import annotations

import getpass
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil
import pytest
from support.dialled import dialled
from support.optional import needs, optional
from support.services import free_port, program, running
from support.waiting import until

import distmap
from distmap import LaunchError, NoWorkers, Pool
from distmap.testing.workers import WorkerProcess
from distmap.transport.token import load_token

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="ssh:// needs Linux or macOS"),
    pytest.mark.timeout(60),
]

MINOR = f"{sys.version_info[0]}.{sys.version_info[1]}"


class Host:
    """A host that ssh reaches, under several names in the settings of ssh."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = folder / "home"
        self.config = folder / "config"

    def workers(self) -> list[psutil.Process]:
        """The workers that were started there."""
        found = []
        for process in psutil.process_iter():
            try:
                words = process.cmdline()
            except psutil.Error:
                continue
            if any(word.startswith(f"{self.folder}/distmap-ssh-") for word in words):
                found.append(process)
        return found

    def left(self) -> list[Path]:
        """What workers have left in its temporary folder."""
        return list(self.folder.glob("distmap-ssh-*/*"))


def _key(path: Path) -> str:
    subprocess.run([program("ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-f", path], check=True)
    return " ".join(path.with_suffix(".pub").read_text().split()[:2])


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """An SSH server of the user that runs the tests."""
    folder, port = tmp_path_factory.mktemp("ssh"), free_port()
    server, host = program("sshd"), Host(folder)
    program("ssh")
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # it insists
    host.home.mkdir()
    (host.home / ".bashrc").write_text("echo welcome to this host; printf 'no newline'\n")
    key, other = _key(folder / "host"), _key(folder / "other")
    (folder / "authorized").write_text(_key(folder / "user") + "\n")
    (folder / "known").write_text(f"[127.0.0.1]:{port} {key}\n")
    (folder / "known-other").write_text(f"[127.0.0.1]:{port} {other}\n")
    (folder / "known-none").touch()
    environment = {"HOME": host.home, "TMPDIR": folder, "PYTHONPATH": os.environ.get("PYTHONPATH", "")}
    settings = {
        "Port": port,
        "ListenAddress": "127.0.0.1",
        "HostKey": folder / "host",
        "AuthorizedKeysFile": folder / "authorized",
        "PasswordAuthentication": "no",
        "KbdInteractiveAuthentication": "no",
        "UsePAM": "no",
        "StrictModes": "no",
        "PidFile": "none",
        "SetEnv": " ".join(f"{name}={value}" for name, value in environment.items() if value),
    }
    (folder / "sshd_config").write_text("".join(f"{name} {value}\n" for name, value in settings.items()))
    host.config.write_text(f"""
        Host jumped
            ProxyJump lab
        Host unknown
            UserKnownHostsFile {folder}/known-none
        Host changed
            UserKnownHostsFile {folder}/known-other
        Host refused
            IdentityFile {folder}/other
        Host agent
            IdentityAgent {folder}/agent
        Host closed
            Port {free_port()}
        Host * !agent !refused
            IdentityFile {folder}/user
        Host *
            HostName 127.0.0.1
            Port {port}
            User {getpass.getuser()}
            UserKnownHostsFile {folder}/known
            GlobalKnownHostsFile none
            IdentityAgent none
            IdentitiesOnly yes
    """)
    with running([server, "-D", "-e", "-f", folder / "sshd_config"], folder / "sshd.log", port=port):
        yield host


@pytest.fixture
def host(sshd: Host, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    """The server; at the end nothing of a worker is left there."""
    monkeypatch.setenv("DISTMAP_SSH", f"ssh -F {sshd.config}")
    yield sshd
    until(lambda: not sshd.workers() and not sshd.left(), 30, "the worker leaves")


def url(host: str, python: str | Path = sys.executable, **options: Any) -> str:
    return f"ssh://{host}?python={python}&slots=1" + "".join(f"&{key}={value}" for key, value in options.items())


def logins() -> set[int]:
    """The processes of ssh that this one has started."""
    return {one.pid for one in psutil.Process().children() if one.name() == "ssh"}


def refused(name: str, python: str | Path = sys.executable, **options: Any) -> str:
    """Why a call of a pool fails at once."""
    with Pool(url(name, python, **options)) as pool, pytest.raises(NoWorkers) as caught:
        pool.map(abs, [1])
    return str(caught.value)


def test_a_worker_is_started_and_ends_with_the_pool(host: Host, token_file: Path) -> None:
    """One URL is all: a key logs in, the options count, no port is opened, and the token is nowhere to be seen."""
    with Pool(url("lab", name="lab7", tag="far,big")) as pool:
        (worker,) = pool.wait_for_workers()
        assert (worker.name, worker.slots, worker.tags) == ("lab7", 1, {"far", "big"})
        assert (worker.address, worker.way) == ("ssh://lab", "end to end")
        k = 3
        assert pool.map(lambda x: k * x, range(100)) == [3 * x for x in range(100)]
        (process,) = host.workers()
        assert not [one for one in process.net_connections() if one.status == psutil.CONN_LISTEN and one.laddr.port]
        token = token_file.read_text().strip()
        for one in [process, *psutil.Process().children(recursive=True)]:
            assert token not in " ".join(one.cmdline()) + str(one.environ())
    assert not logins()


@pytest.mark.skipif(sys.platform != "linux", reason="looks at processes of the other side")
def test_a_login_that_breaks_costs_nothing(host: Host, tmp_path: Path) -> None:
    """The ssh of a running map is killed twice: another one takes its place, and no item runs again."""
    path = str(tmp_path / "ran")

    def work(item: int) -> int:
        import time

        with open(path, "ab", buffering=0) as file:
            file.write(b"%d\n" % item)
        time.sleep(0.02)
        return item

    def ran() -> list[int]:
        return sorted(map(int, Path(path).read_text().split())) if os.path.exists(path) else []

    with Pool(url("lab")) as pool:
        pool.wait_for_workers()
        job = pool.map_async(work, range(150))
        for enough in (20, 60):
            until(lambda enough=enough: len(ran()) >= enough, 20)
            before = {one.pid for one in psutil.Process().children() if one.name() == "ssh"}
            for pid in before:
                os.kill(pid, signal.SIGKILL)
            until(
                lambda before=before: {one.pid for one in psutil.Process().children() if one.name() == "ssh"} - before
            )
        assert job.result(30) == list(range(150))
        assert job.stats["losses"] == job.stats["requeued"] == 0
    assert ran() == list(range(150))


def test_a_kernel_that_is_killed(host: Host, token_file: Path) -> None:
    """Its login ends with it, though nobody says goodbye; the worker waits for a while, and then leaves."""
    code = f"from distmap import Pool; pool = Pool({url('lab')!r}); print(pool.map(abs, [-1]), flush=True); input()"
    kernel = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with kernel:
        assert kernel.stdout is not None
        assert kernel.stdout.readline() == "[1]\n"
        (login,) = (one for one in psutil.Process(kernel.pid).children() if one.name() == "ssh")
        kernel.kill()
    until(lambda: not login.is_running())
    (worker,) = host.workers()
    until(lambda: "out of reach" in (host.left()[0] / "log").read_text())
    # The two minutes that it waits are too long for a test.
    worker.kill()
    until(lambda: not host.workers())
    for folder in host.left():
        shutil.rmtree(folder)


def test_a_jump_host(host: Host) -> None:
    """A host behind another one is reached as in a terminal; so are several hosts and this machine in one pool."""
    with Pool([url("jumped"), url("lab"), 1]) as pool:
        pool.wait_for_workers(3)
        assert {worker.address for worker in pool.workers} == {"ssh://jumped", "ssh://lab", "local"}
        assert pool.map(abs, range(-50, 0)) == list(range(50, 0, -1))
        checked = pool.check()
        assert checked.ok, checked
        assert [one.url for one in checked] == ["ssh://jumped", "ssh://lab"]


def test_an_agent_holds_the_key(host: Host) -> None:
    """A key that only the agent has is enough."""
    agent = host.folder / "agent"
    assert "refused" in refused("agent")
    with running([program("ssh-agent"), "-D", "-a", agent], host.folder / "agent.log"):
        add, env = [program("ssh-add"), "-q", host.folder / "user"], {**os.environ, "SSH_AUTH_SOCK": str(agent)}
        # Its socket is there a moment before it listens.
        until(lambda: subprocess.run(add, env=env, capture_output=True).returncode == 0, 15)
        host.config.write_text(host.config.read_text().replace("IdentitiesOnly yes", "IdentitiesOnly no"))
        try:
            with Pool(2) as pool:
                pool.add(url("agent"))
                assert len(pool.wait_for_workers(2)) == 2
        finally:
            host.config.write_text(host.config.read_text().replace("IdentitiesOnly no", "IdentitiesOnly yes"))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("unknown", r"does not know the host key there yet.*  ssh unknown"),
        ("changed", r"another one than this machine knows.*ssh-keygen -R changed"),
        ("refused", r"the login was refused \(.*Permission denied \(publickey\)\).*ssh-copy-id"),
    ],
)
def test_a_login_that_fails_says_what_to_do(host: Host, name: str, words: str) -> None:
    """Host keys and logins that ssh refuses end the wait at once, with one sentence."""
    with Pool(url(name)) as pool:
        with pytest.raises(NoWorkers, match=f"ssh://{name}: .*{words}") as caught:
            pool.map(abs, [1])
        assert isinstance(caught.value.__cause__, LaunchError)


def test_a_host_without_a_server(host: Host) -> None:
    """A port where nobody listens is named."""
    with Pool(url("closed"), connect_timeout=1) as pool, pytest.raises(NoWorkers, match="no SSH server can be reached"):
        pool.map(abs, [1])


def _bare(folder: Path) -> Path:
    """A Python with all that distmap needs, but without distmap."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    site = next(folder.glob("lib/python*/site-packages"))
    names, seen = ["distmap"], set()
    while names:
        name = names.pop()
        for needed in metadata.requires(name) or []:
            one, _, condition = needed.partition(";")
            one = "".join(char if char.isalnum() or char in "-_." else " " for char in one).split()[0]
            if "extra" not in condition and one not in seen:
                seen.add(one)
                names += [one] if _installed(one) else []
        if name != "distmap":
            for file in metadata.files(name) or []:
                top = Path(str(file.locate())).parents[len(file.parts) - 2] if len(file.parts) > 1 else file.locate()
                link = site / file.parts[0]
                if file.parts[0] not in ("..", "__pycache__") and not link.exists():
                    link.symlink_to(top)
    return folder / "bin" / "python"


def _installed(name: str) -> bool:
    try:
        metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return False
    return True


@pytest.mark.skipif(bool(os.environ.get("PYTHONPATH")), reason="a bare Python would find distmap there")
def test_a_host_without_distmap(host: Host, tmp_path: Path) -> None:
    """It is named; with install=1 a wheel of this version goes there, without a package index, and stays for later."""

    def where() -> tuple[str, str]:
        from importlib.metadata import version

        import distmap

        return distmap.__file__, version("distmap")

    python = _bare(tmp_path / "bare")
    sentence = refused("lab", python)
    assert f"distmap is not installed for {python} there" in sentence
    assert "ssh://lab?install=1" in sentence
    with Pool(url("lab", python), install=True) as pool:
        pool.wait_for_workers()
        assert pool.map(abs, [-1, -2]) == [1, 2]
        assert host.workers()[0].cmdline()[0].startswith(str(host.home / ".local" / "share" / "distmap"))
        path, version = pool.apply(where)
        assert path.startswith(str(host.home))
        assert version == distmap.__version__
    with Pool(url("lab", python)) as pool:
        assert pool.map(abs, [-3]) == [3]


def test_another_python_there(host: Host, tmp_path: Path) -> None:
    """A Python of another minor version is refused before anything is started, and so is one that is not there."""
    stub = tmp_path / "python"
    answer = '{"python": "3.9.2", "executable": "/usr/bin/python3.9", "distmap": null, "path": []}'
    stub.write_text(f'#!/bin/sh\n[ "$3" = {MINOR} ] && echo \'{answer}\' || exec {sys.executable} "$@"\n')
    stub.chmod(0o755)
    sentence = refused("lab", stub)
    assert f"this side runs Python {MINOR}, and there is only 3.9.2 (/usr/bin/python3.9)" in sentence
    assert "there is no Python at /no/python" in refused("lab", "/no/python")


def test_no_ssh_here(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an SSH client the sentence says what to install."""
    monkeypatch.setenv("DISTMAP_SSH", "/no/ssh -x")
    assert "the program /no/ssh is not on this machine; install OpenSSH's client" in refused("lab")


def test_the_socks_proxy_of_ssh(sshd: Host, tmp_path: Path) -> None:
    """What `ssh -D` opens leads to a worker that only the other host reaches."""
    optional("python_socks", needs)
    port = free_port()
    command = [program("ssh"), "-F", sshd.config, "-N", "-D", f"127.0.0.1:{port}", "lab"]
    with running(command, tmp_path / "log", port=port), WorkerProcess("--port", "0", "--slots", "1") as worker:
        dialled(worker.url, load_token(), proxy=f"socks5h://127.0.0.1:{port}")


def test_two_sides_meet_at_a_login_node(host: Host, token_file: Path) -> None:
    """The line that the pool prints brings a worker; each side's login may break, and nothing of it stays."""
    with Pool(listen="ssh://lab") as pool:
        url = str(pool.url)
        assert re.fullmatch(rf"ssh://lab{host.folder}/distmap-\d+/pool-[0-9a-f]{{8}}\.sock", url)
        assert f"distmap-worker {url}\n" in f"{pool.worker_command()}\n"
        path = Path(url.removeprefix("ssh://lab"))
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == stat.S_IMODE(path.parent.stat().st_mode) & 0o077 == 0
        assert pool.check(url).ok
        with WorkerProcess(url, "--slots", "1", "--name", "far", token_file=token_file) as worker:
            worker.line("stdout", f"registered with {url}")
            assert pool.map(abs, range(-50, 0)) == list(range(50, 0, -1))
            assert [one.name for one in pool.workers] == ["far"]
            job = pool.map_async(slow, range(100))
            until(lambda: job.progress is not None and job.progress.done > 5, 20)
            for pid in logins() | {one.pid for one in psutil.Process(worker.pid).children() if one.name() == "ssh"}:
                os.kill(pid, signal.SIGKILL)
            assert job.result(40) == list(range(100))
            assert job.stats["losses"] == job.stats["requeued"] == 0
    until(lambda: not path.parent.exists(), 20)


def slow(item: int) -> int:
    """An item that takes a moment."""
    import time

    time.sleep(0.02)
    return item


def test_a_login_node_where_nobody_is(host: Host, token_file: Path, tmp_path: Path) -> None:
    """A pool takes the place of a socket that was left; a worker says if it cannot log in, or names no socket."""
    path = host.folder / "left.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    with Pool(listen=f"ssh://lab{path}") as pool:
        assert pool.url == f"ssh://lab{path}"
        assert pool.check().ok
        check = [sys.executable, "-m", "distmap.worker.cli", "--check", pool.url]
        done = subprocess.run(check, capture_output=True, text=True, timeout=30)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "Every hop is passed" in done.stdout
    assert not path.exists()
    with pytest.raises(LaunchError, match=r"does not make a socket there .*AllowStreamLocalForwarding"):
        Pool(listen="ssh://lab/no/folder/x.sock")
    with pytest.raises(LaunchError, match="does not know the host key"):
        Pool(listen="ssh://unknown")
    for url, words in (("ssh://refused/x.sock", "the login was refused"), ("ssh://lab", "names no socket there")):
        with WorkerProcess(url, token_file=token_file) as worker:
            assert words in worker.line("stderr", "ssh://")
            assert worker.wait() == 2
