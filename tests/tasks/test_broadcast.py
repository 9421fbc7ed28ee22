"""A broadcast handle travels as a digest; its value is loaded once."""

from __future__ import annotations

import numpy as np
import pytest

from distmap.errors import PayloadError
from distmap.tasks.broadcast import Broadcast, Dependencies, forget_value, keep_value
from distmap.tasks.payload import Payload, load_value
from distmap.tasks.pickling import dump_value


def there_and_back(value: object, needs: Dependencies | None = None) -> object:
    payload = dump_value(value, needs or Dependencies(), what="the value")
    return load_value(Payload(bytes(payload.head), tuple(bytearray(part) for part in payload.buffers)))


def test_a_broadcast_travels_as_a_reference() -> None:
    """The handle pickles to its digest and adds its value, and what that needs, to what must be sent before."""
    inner = Broadcast([1, 2])
    handle = Broadcast({"big": np.zeros(10_000), "inner": inner})
    needs = Dependencies()
    payload = dump_value([handle, lambda: handle], needs, what="")
    assert payload.nbytes < 2000
    assert set(needs.values) == {handle.digest, inner.digest}
    back, function = load_value(payload)
    assert back is handle
    assert function() is handle
    again = Dependencies()
    dump_value(handle, again, what="")
    assert again.values[handle.digest] is needs.values[handle.digest]
    handle.release()
    inner.release()


def test_a_broadcast_is_loaded_once_where_it_was_sent() -> None:
    """Where the value was sent, every handle of it gives the one loaded value; dropped, it says so."""
    source = Broadcast([1, 2])
    needs = Dependencies()
    payload = dump_value(source, needs, what="")
    blob = needs.values[source.digest]
    source.release()
    keep_value(blob.digest, blob.payload)
    first, second = load_value(payload), load_value(payload)
    assert first.value == [1, 2]
    assert first.value is second.value
    # A handle that goes on from a task names the same value and sends nothing.
    again = Dependencies()
    assert load_value(dump_value(first, again, what="")).value is first.value
    assert not again.blobs()
    forget_value(blob.digest)
    with pytest.raises(PayloadError, match="released"):
        load_value(payload).value.append(1)


def test_a_broadcast_outside_a_pool_does_not_pickle() -> None:
    """Pickling a handle by other means says where it works."""
    import pickle

    handle = Broadcast(1)
    with pytest.raises(PayloadError, match="inside functions, items and results"):
        pickle.dumps(handle)
    assert "Broadcast" in repr(handle)
    handle.release()
