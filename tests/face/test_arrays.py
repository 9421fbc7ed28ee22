"""NumPy arrays and pandas frames: no rows copied one by one, slices joined, arrays folded, seeds reproducible."""

from __future__ import annotations

import operator

import pytest

import distmap

np = pytest.importorskip("numpy")

#: The shared pool lives longer than a test; its fixture checks what it leaves.
pytestmark = pytest.mark.own_leaks


def test_map_over_an_array_iterates_its_first_axis(pool2):
    """`map` over a matrix gives fn one row at a time, in order."""
    data = np.arange(600.0).reshape(200, 3)
    shapes_and_sums = pool2.map(lambda row: (row.shape, float(row.sum())), data)
    assert shapes_and_sums == [((3,), float(row.sum())) for row in data]


def test_rows_of_an_array_are_views_of_a_chunk(pool2):
    """Rows reach fn as views of one buffer, not as copies of their own."""
    assert all(pool2.map(lambda row: row.base is not None, np.zeros((100, 4)), chunksize=25))


@pytest.mark.parametrize(
    "data",
    [
        np.arange(50),
        np.arange(100).reshape(50, 2)[::-2],
        np.asfortranarray(np.arange(100.0).reshape(20, 5)),
        np.array(["a", "bc", "d"]),
        np.array([1, "x", None], dtype=object),
        np.array([(1, 2.5), (3, 4.5)], dtype=[("i", "i4"), ("f", "f8")]),
        np.array(["2026-01-01", "2026-02-01"], dtype="datetime64[D]"),
        np.zeros((0, 3)),
        np.zeros((3, 0)),
        np.ma.masked_array([1, 2, 3], mask=[0, 1, 0]),
    ],
    ids=lambda data: f"{data.dtype}-{data.shape}",
)
def test_map_over_arrays_of_any_kind(pool2, data):
    """Strided, Fortran, text, object, record, date, empty and masked arrays iterate as `for` does."""
    got = pool2.map(lambda x: x, data)
    assert len(got) == len(data)
    for mine, expected in zip(got, data, strict=True):
        assert type(mine) is type(expected)
        assert str(mine) == str(expected)


def test_results_that_are_arrays_are_ours_to_write(pool2):
    """Small and large arrays come back equal and writable."""
    for size in (10, 10_000, 400_000):
        got = pool2.map(lambda x, size=size: np.full(size, x), range(4))
        for x, array in enumerate(got):
            assert (array == x).all()
            assert array.shape == (size,)
            array += 1


def test_large_arrays_survive_the_whole_way(pool2):
    """Arrays of several megabytes go in and come out unchanged, and stay so when later ones come."""
    data = [np.random.default_rng(x).random(300_000) for x in range(12)]
    got = pool2.map(lambda array: array * 2, data)
    for mine, given in zip(got, data, strict=True):
        np.testing.assert_array_equal(mine, given * 2)


def test_results_survive_the_pool():
    """Arrays that came back stay valid after the pool is gone."""
    with distmap.Pool(1) as pool:
        got = pool.map(lambda x: np.full(400_000, float(x)), range(3))
    assert [float(array.mean()) for array in got] == [0.0, 1.0, 2.0]
    got[0][:] = 5


@pytest.mark.parametrize("batch_size", [None, 7, 1000])
def test_map_batches_of_an_array(pool2, batch_size):
    """`map_batches` gives fn slices of an array and concatenates what it returns into one array."""
    data = np.arange(300.0).reshape(100, 3)
    got = pool2.map_batches(lambda part: part.sum(axis=1), data, batch_size)
    assert isinstance(got, np.ndarray)
    np.testing.assert_array_equal(got, data.sum(axis=1))


def test_map_batches_gets_array_slices(pool2):
    """Each batch is an array of batch_size rows."""
    data = np.arange(30).reshape(10, 3)
    got = pool2.map_batches(lambda part: np.array([part.shape]), data, batch_size=4)
    assert got.tolist() == [[4, 3], [4, 3], [2, 3]]


def test_map_batches_of_a_frame(pool2):
    """`map_batches` slices a DataFrame by rows and joins frames again, index kept; Series likewise."""
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame({"a": range(50), "b": list("xyzuv") * 10}, index=range(100, 150))
    got = pool2.map_batches(lambda part: part.assign(c=part["a"] * 2), frame, batch_size=8)
    pd.testing.assert_frame_equal(got, frame.assign(c=frame["a"] * 2))
    series = pool2.map_batches(lambda part: part["a"] + 1, frame, 8)
    pd.testing.assert_series_equal(series, frame["a"] + 1)


@pytest.mark.parametrize("on_error", ["raise", "skip"])
def test_map_batches_without_rows(pool2, on_error):
    """What fn would have made of them nobody knows: the result is of the data's kind, and fn is never called."""
    pd = pytest.importorskip("pandas")

    def fail(part):
        raise ValueError("never called")

    empty = pool2.map_batches(fail, np.zeros((0, 3), np.float32), on_error=on_error)
    assert isinstance(empty, np.ndarray)
    assert (empty.shape, empty.dtype) == ((0, 3), np.float32)
    frame = pool2.map_batches(fail, pd.DataFrame({"a": [1]})[:0], on_error=on_error)
    assert (list(frame.columns), len(frame)) == (["a"], 0)
    assert len(pool2.map_batches(fail, pd.Series([], dtype=float), on_error=on_error)) == 0
    for data in ([], (), range(0), iter([])):
        assert pool2.map_batches(fail, data, on_error=on_error) == []


def test_map_batches_of_which_none_is_left(pool2):
    """When every batch was skipped the result has no rows either."""
    pd = pytest.importorskip("pandas")
    data = pd.DataFrame({"a": range(10)})
    assert len(pool2.map_batches(lambda part: part.nothing, data, on_error="skip")) == 0


def test_map_reduce_folds_arrays_in_place(pool2):
    """A reducer that works in place folds into `initial` itself: one array is held, however many land."""
    total = np.zeros(1000)
    got = pool2.map_reduce(lambda x: np.full(1000, float(x)), range(100), operator.iadd, initial=total)
    assert got is total
    assert (total == sum(range(100))).all()


def test_map_reduce_in_place_without_initial(pool2):
    """Without `initial` the first array may be folded into as well."""
    for size in (100, 300_000):
        got = pool2.map_reduce(lambda x, size=size: np.full(size, float(x)), range(20), operator.iadd)
        assert (got == sum(range(20))).all()


def test_a_captured_array_is_shared_and_read_only(pool2):
    """An array over 1 MB that fn captures is the same in every slot, and mapped read-only."""
    big = np.random.default_rng(1).random(400_000)
    got = pool2.map(lambda i: (float(big[i]), bool(big.flags.writeable)), range(50), chunksize=1)
    assert got == [(float(big[i]), False) for i in range(50)]


def test_a_captured_array_is_captured_as_it_is_at_the_call(pool2):
    """Changing the captured array between two calls changes what the second call sees."""
    big = np.zeros(400_000)
    look = lambda i: float(big[i])  # noqa: E731  (the same function object twice)
    assert pool2.map(look, range(3)) == [0.0, 0.0, 0.0]
    big[:3] = 7
    assert pool2.map(look, range(3)) == [7.0, 7.0, 7.0]


def draws(pool, chunksize, seed):
    return pool.map(lambda x: float(distmap.rng().random()), range(40), seed=seed, chunksize=chunksize)


def test_seed_gives_the_same_numbers_whatever_the_chunks_and_slots(pool2):
    """`distmap.rng()` depends on (seed, item index) only."""
    expected = [float(np.random.default_rng(np.random.SeedSequence(7, spawn_key=(x,))).random()) for x in range(40)]
    with distmap.Pool(1) as pool1:
        assert draws(pool1, None, 7) == expected
    assert [draws(pool2, size, 7) for size in (None, 1, 7, 40)] == [expected] * 4
    assert draws(pool2, None, 8) != expected
    assert len(set(expected)) == 40


def test_seed_holds_for_every_call(pool2):
    """The same items get the same numbers in imap, starmap and map_reduce."""
    draw = lambda x: float(distmap.rng().random())  # noqa: E731  (travels by value)
    expected = pool2.map(draw, range(20), seed=3)
    assert list(pool2.imap(draw, range(20), seed=3)) == expected
    assert pool2.starmap(draw, [(x,) for x in range(20)], seed=3) == expected
    assert pool2.map_reduce(lambda x: [draw(x)], range(20), operator.add, seed=3) == expected


def test_several_draws_of_one_item_continue_one_stream(pool2):
    """`rng()` called twice in one item is the same Generator."""
    got = pool2.map(lambda x: [float(distmap.rng().random()), float(distmap.rng().random())], range(3), seed=1)
    for x, pair in enumerate(got):
        rng = np.random.default_rng(np.random.SeedSequence(1, spawn_key=(x,)))
        assert pair == [float(rng.random()), float(rng.random())]


def test_rng_outside_a_task_says_so():
    """Outside a task `rng()` raises an error that says where it works."""
    with pytest.raises((distmap.DistmapError, RuntimeError), match="seed"):
        distmap.rng()


def test_map_over_an_array_scalar_is_a_type_error(pool2):
    """A zero-dimensional array does not iterate."""
    with pytest.raises(TypeError):
        pool2.map(abs, np.array(5))
