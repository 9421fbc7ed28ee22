"""Who may write to a checkpoint."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from sqlite3 import Connection

import pytest

from distmap.checkpoint.owner import Owner, Process, is_alive, started, this_process
from distmap.checkpoint.schema import connect
from distmap.errors import CheckpointInUse


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Connection]:
    connection = connect(str(tmp_path / "x.sqlite"), create=True)
    yield connection
    connection.close()


def put(db: Connection, process: Process, heartbeat: float) -> None:
    db.execute("INSERT OR REPLACE INTO owner VALUES (1, 'other', ?, ?, ?, ?, ?, ?)", (*process, 0.0, heartbeat))


def test_a_second_process_is_refused_by_name_until_the_first_has_died(db: Connection) -> None:
    """While another process of this machine lives its number and host are named; once it was killed it is stale."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        me = this_process()
        put(db, me._replace(pid=child.pid, started=started(child.pid)), heartbeat=0.0)
        with pytest.raises(CheckpointInUse, match=rf"in use by process {child.pid} on {me.host}"):
            Owner("x.sqlite").take(db)
        child.send_signal(signal.SIGSTOP)
        assert is_alive(me._replace(pid=child.pid, started=started(child.pid)), 0.0), "suspended is not gone"
        child.kill()
    owner = Owner("x.sqlite")
    owner.take(db)
    owner.beat(db)
    owner.release(db)
    assert not db.execute("SELECT * FROM owner").fetchall()


def test_another_machine_is_known_by_its_heartbeat(db: Connection) -> None:
    """The owner on another machine is there as long as its heartbeat is fresh."""
    other = Process(1, "elsewhere", "boot", "1")
    put(db, other, time.time())
    with pytest.raises(CheckpointInUse, match="process 1 on elsewhere"):
        Owner("x.sqlite").take(db)
    put(db, other, time.time() - 1000)
    Owner("x.sqlite").take(db)


def test_another_boot_and_another_start_are_another_process() -> None:
    """A number of before a restart of the machine, or one that was given again, is nobody."""
    me = this_process()
    if not me.boot:
        pytest.skip("this system does not tell when processes began")
    parent = me._replace(pid=os.getppid(), started=started(os.getppid()))
    assert is_alive(parent, 0.0)
    assert not is_alive(parent._replace(boot="before"), time.time())
    assert not is_alive(parent._replace(started="1"), time.time())


def test_where_no_start_is_told_a_number_counts_with_its_heartbeat_only() -> None:
    """There the number may be another process's by now: it must not keep the file for ever."""
    parent = this_process()._replace(pid=os.getppid(), started="")
    assert is_alive(parent, time.time())
    assert not is_alive(parent, time.time() - 1000)
    assert not is_alive(parent._replace(pid=2**22 + 1), time.time())


def test_who_was_replaced_writes_no_more(db: Connection) -> None:
    """A process that was taken for gone learns it at its next transaction."""
    owner = Owner("x.sqlite")
    owner.take(db)
    put(db, Process(7, "elsewhere", "", ""), time.time())
    with pytest.raises(CheckpointInUse, match=r"taken over .* process 7 on elsewhere"):
        owner.beat(db)
    owner.release(db)
    assert db.execute("SELECT pid FROM owner").fetchone() == (7,)
