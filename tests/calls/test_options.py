"""Options are checked where they are given, and errors name them."""

from __future__ import annotations

import pytest

from distmap.calls.options import MapOptions


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"chunksize": 0}, ValueError, "chunksize must be a whole number of at least 1, or None; got 0"),
        ({"chunksize": 1.5}, TypeError, "chunksize must be a whole number of at least 1, or None; got 1.5"),
        ({"retries": -1}, ValueError, "retries must be a whole number of at least 0; got -1"),
        ({"timeout": 0}, ValueError, "timeout must be a number of seconds above 0, or None; got 0"),
        ({"on_error": "ignore"}, ValueError, 'on_error must be "raise", "return" or "skip"; got'),
        ({"tags": "gpu"}, TypeError, "tags must be a collection"),
        ({"checkpoint": ""}, ValueError, "checkpoint must be the path of a file"),
        ({"checkpoint": 3}, TypeError, "checkpoint must be the path of a file"),
        ({"on_change": "ask"}, ValueError, 'on_change must be "error", "restart" or "keep"; got'),
        ({"progress": 3}, TypeError, "progress must be"),
        ({"chunk_size": 3}, TypeError, "unknown option 'chunk_size'; the options are chunksize"),
    ],
)
def test_a_bad_option_is_named(options, error, words):
    """Each wrong option raises an error that says what was expected."""
    with pytest.raises(error, match=words):
        MapOptions.of(options)


def test_good_options_pass():
    """Options keep what they were given; the rest has its default."""
    chosen = MapOptions.of({"chunksize": 5, "on_error": "skip", "progress": print})
    assert (chosen.chunksize, chosen.on_error, chosen.retries) == (5, "skip", 0)


@pytest.mark.parametrize("output", [True, False, "item"])
def test_output_takes_three_values(output):
    """True, False and "item" are taken."""
    assert MapOptions(output=output).output == output


@pytest.mark.parametrize("output", ["worker", None, 2])
def test_other_outputs_are_refused(output):
    """Anything else is refused, with what there is."""
    with pytest.raises(ValueError, match='output must be True, False or "item"'):
        MapOptions(output=output)
