"""The log of frames that are not acknowledged."""

from __future__ import annotations

import pytest

from distmap.errors import ProtocolError
from distmap.wire.frame_log import FrameLog


def log_of(*sizes: int) -> FrameLog:
    log = FrameLog()
    for size in sizes:
        log.add([bytes(size)], size, size)
    return log


def test_an_acknowledgement_frees_all_up_to_it() -> None:
    """Frames, their bytes and those of data; an older one changes nothing."""
    log = log_of(10, 20, 30)
    assert (len(log), log.sent, log.nbytes, log.in_flight) == (3, 3, 60, 60)
    for ack in (2, 1, 2):
        log.acknowledge(ack)
        assert (len(log), log.nbytes, log.in_flight, log.acked) == (1, 30, 30, 2)
    log.acknowledge(3)
    assert (len(log), log.nbytes) == (0, 0)


def test_what_was_never_sent_is_not_acknowledged() -> None:
    """Such a number is an error, and changes nothing."""
    log = log_of(10)
    with pytest.raises(ProtocolError, match="only 1 were sent"):
        log.acknowledge(2)
    assert len(log) == 1


def test_a_new_channel_is_given_what_is_left() -> None:
    """In order, each once; what is acknowledged meanwhile is left out, and each new channel begins anew."""
    log = log_of(10, 20, 30, 40)
    log.rewind(1)
    assert log.again() == [bytes(20)]
    log.acknowledge(3)
    assert log.again() == [bytes(40)]
    assert log.again() is None
    log.rewind(3)
    assert log.again() == [bytes(40)]


def test_a_wrong_number_of_a_new_channel_changes_nothing() -> None:
    """Fewer frames than were acknowledged, or more than were sent: an error."""
    log = log_of(10, 20, 30)
    log.rewind(1)
    for received in (0, 4):
        with pytest.raises(ProtocolError):
            log.rewind(received)
    assert log.again() == [bytes(20)]
