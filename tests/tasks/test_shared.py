"""What processes of one machine share is taken apart into secrets, descriptors and a sentence for everybody else."""

from __future__ import annotations

import gc
import multiprocessing
import os
import pickle
import socket
from multiprocessing import connection, context

import pytest

from distmap.errors import PayloadError
from distmap.tasks import shared
from distmap.tasks.broadcast import Dependencies
from distmap.tasks.kinds import is_shared
from distmap.tasks.payload import load_value
from distmap.tasks.pickling import dump_value
from distmap.tasks.shared import Descriptor, ReceivedDescriptor, adopt_tracker

pytestmark = pytest.mark.skipif(os.name != "posix", reason="descriptors")


@pytest.mark.parametrize(
    ("kind", "right"),
    [
        (socket.socket, True),
        (type(multiprocessing.get_context("spawn").Lock()), True),
        (connection.Connection, True),
        (socket.AddressFamily, False),
        (multiprocessing.TimeoutError, False),
        (multiprocessing.Process, False),
        (int, False),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_which_types_are_shared(kind: type, right: bool) -> None:
    """Locks, pipes and sockets; not enums, errors and processes of the same modules."""
    assert is_shared(kind) is right


def test_a_descriptor_lives_as_long_as_its_blob() -> None:
    """What a socket needs is a copy of its descriptor, the same at each call; it is closed with the last blob."""
    left, right = socket.socketpair()
    with left, right:
        needs, again = Dependencies(), Dependencies()
        payload = dump_value(right, needs, what="")
        dump_value(right, again, what="")
        assert needs.values.keys() == again.values.keys()
        [blob] = [blob for blob in needs.values.values() if blob.kind == "descriptor"]
        assert isinstance(blob.keep, Descriptor)
        fd = blob.keep.fd
        assert blob.payload.head == b"%d" % fd
        with load_value(payload) as copy:  # by a thread of this process
            copy.sendall(b"x")
        assert left.recv(1) == b"x"
        del needs, again, blob
        gc.collect()
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)
    assert context.get_spawning_popen() is None


def test_what_is_closed_has_no_descriptor() -> None:
    """That is an error of pickling and leaves nothing behind, to be closed or to complain of."""
    sock = socket.socket()
    sock.close()
    with pytest.raises(PayloadError, match="it cannot be pickled: OSError"):
        dump_value(sock, Dependencies(), what="it")
    gc.collect()


def test_what_was_not_sent_is_out_of_reach() -> None:
    """Whoever was sent neither secret nor descriptor is told why."""
    for load in (
        lambda: shared._make(bytes(16), "Lock", int, ()),
        lambda: shared._key(bytes(16)),
        lambda: pickle.loads(pickle.dumps(ReceivedDescriptor(bytes(16), "Connection"))).detach(),
    ):
        with pytest.raises(PayloadError, match="works in the process that made it"):
            load()


def test_a_tracker_of_its_own_is_left_alone() -> None:
    """Who has a tracker keeps it."""
    from multiprocessing import resource_tracker

    fd = resource_tracker.getfd()
    adopt_tracker(b"unknown")
    assert resource_tracker.getfd() == fd
