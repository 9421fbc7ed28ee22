"""The lanes of a job."""

from __future__ import annotations

import re
from random import Random

import pytest

from distmap.core.limits import LIMITS
from distmap.core.progress import Block, Device, Lane, Snapshot
from distmap.views.lanes import MAX_BLOCKS, MAX_LANES, lanes_html


def snapshot(*lanes: Lane, state: str = "running", elapsed: float = 10.0, deaths: int = 0) -> Snapshot:
    return Snapshot("f", state, 100, 5, 0, 1, 0, 0, 0, deaths, 0, elapsed, 1.0, None, lanes)  # type: ignore[arg-type]


def lane(name: str = "w", state: str = "busy", items: int = 5, *blocks: Block, rows: int = 1, flight: int = 2) -> Lane:
    return Lane(name, rows, state, items, 3, flight, 0.5, rows, blocks)  # type: ignore[arg-type]


def names(html: str) -> list[str]:
    return re.findall(r'title="(\w+), ', html)


def cells(html: str) -> list[str]:
    """The texts of the last row's cells, as they are without a style sheet."""
    row = html.rsplit("<tr", 1)[1]
    return [re.sub(r"<svg.*?</svg>|<[^>]*>", "", cell) for cell in re.findall(r"<td[^>]*>(.*?)</td>", row)]


def paths(html: str) -> dict[str, str]:
    return dict(re.findall(r'<path class="dm-block-(\w+)" d="([^"]*)"/>', html))


def test_gpus_in_a_lane() -> None:
    """While a job runs, a column says how busy the GPUs of each worker are, and of each under the pointer."""
    devices = Device("0", "A<100>", 0.5, 0.25), Device("1", "A<100>", 0.7), Device("2", "A<100>")
    shown = lanes_html(snapshot(lane("plain"), lane("gpu1")._replace(devices=devices)))
    assert "<th>GPU</th>" in shown
    assert cells(shown)[-1] == "60%, memory 25%"
    assert 'title="GPU 0 (A&lt;100&gt;): 50%, memory 25%' in shown
    assert "GPU 2 (A&lt;100&gt;): not known" in shown
    assert cells(lanes_html(snapshot(lane("gpu1")._replace(devices=devices), lane("plain"))))[-1] == "–"
    assert cells(lanes_html(snapshot(lane()._replace(devices=devices[2:]))))[-1] == "–"
    assert "GPU" not in lanes_html(snapshot(lane()._replace(devices=devices), state="done"))
    many = [lane(f"w{n}")._replace(devices=devices) for n in range(MAX_LANES + 2)]
    assert cells(lanes_html(snapshot(*many)))[-1] == "–"


def test_a_lane_in_words() -> None:
    """Name and state, items, share, chunks and what is in flight; the last only while the job runs."""
    assert cells(lanes_html(snapshot(lane()))) == ["w (busy)", "5", "50%", "3", "2"]
    assert cells(lanes_html(snapshot(lane(flight=0, state="idle")))) == ["w (idle)", "5", "50%", "3", "–"]
    assert cells(lanes_html(snapshot(lane(state="suspect")))) == ["w (silent)", "5", "50%", "3", "silent"]
    assert cells(lanes_html(snapshot(lane(state="lost")))) == ["w (lost)", "5", "–", "3", "lost"]
    assert cells(lanes_html(snapshot(lane(state="lost"), state="done"))) == ["w (lost)", "5", "lost", "3"]
    assert "In flight" not in lanes_html(snapshot(lane(), state="failed"))


def test_a_worker_out_of_reach_is_told_below_the_table() -> None:
    """Its row shows what it has in flight, and a line below says for how long it has been silent."""
    html = lanes_html(snapshot(lane(state="reconnecting")._replace(silent=12.0)))
    table, below = html.split("</table>")
    assert cells(table) == ["w (reconnecting)", "5", "50%", "3", "2"]
    assert re.sub("<[^>]*>", "", below) == "w: reconnecting for 12 s, 2 items are there"
    assert lanes_html(snapshot(lane(state="reconnecting"), state="failed")).endswith("</table>")


def test_no_worker_yet_is_said() -> None:
    """A job without workers says what it waits for, and says nothing when it is over."""
    assert "Waiting for a worker" in lanes_html(snapshot())
    queued = lanes_html(snapshot()._replace(awaited="Slurm: 2 queued <x>"))
    assert "Waiting for a worker" in queued
    assert "Slurm: 2 queued &lt;x&gt;" in queued
    assert lanes_html(snapshot(state="cancelled")) == ""


def test_blocks_are_lines_of_their_colour() -> None:
    """A thousand units are the whole time; neighbours have a hair between them; each row has its height."""
    html = lanes_html(
        snapshot(
            lane(
                "w",
                "busy",
                5,
                Block(0, 0.0, 1.0, "done"),
                Block(0, 1.0, 2.0, "done"),
                Block(0, 5.0, 6.0, "done"),
                Block(1, 0.0, 0.001, "failed"),
                Block(1, 2.0, 4.0, "retried"),
                Block(1, 9.999, 10.0, "lost"),
                Block(0, 8.0, 10.0, "running"),
                rows=2,
            )
        )
    )
    assert paths(html) == {
        "running": "M800 6h200",
        "done": "M0 6h100m2 0h98m300 0h100",
        "lost": "M996 18h4",
        "retried": "M200 18h200",
        "failed": "M0 18h4",
    }
    assert 'class="dm-timeline dm-rows-2"' in html
    assert paths(lanes_html(snapshot(lane("w", "busy", 5, Block(0, 0.0, 0.0, "done")), elapsed=0.0))) == {
        "done": "M0 12h1"
    }


def test_nothing_is_text_inside_the_drawing() -> None:
    """It would stay where the drawing is taken away; so legend and axis are the style sheet's."""
    html = lanes_html(snapshot(lane("w", "busy", 5, Block(0, 0.0, 1.0, "done"))))
    assert re.sub(r"<[^>]*>", "", re.search(r"<svg.*</svg>", html).group()) == ""  # type: ignore[union-attr]
    for word in ("−0:10", "now", "done", "running"):
        assert f'data-t="{word}"' in html
    for word in ("retried", "failed", "lost"):
        assert f'data-t="{word}"' not in html
    html = lanes_html(snapshot(lane())._replace(failed=1, retried=1))
    for word in ("retried", "failed"):
        assert f'data-t="{word}"' in html
    over = lanes_html(snapshot(lane("w", "idle", 5, Block(0, 0.0, 1.0, "running")), state="cancelled", deaths=1))
    for word in ("0:00", "0:10", "done", "broken off", "lost"):
        assert f'data-t="{word}"' in over
    soon = lanes_html(snapshot(lane(), state="done", elapsed=0.25))
    assert "broken off" not in soon
    assert 'data-t="0 s"' in soon
    assert 'data-t="0.25 s"' in soon


@pytest.mark.parametrize("rows", [1, 2, 4])
def test_eight_lanes_are_less_than_8_kb(rows: int) -> None:
    """However many blocks a lane has, and whatever became of them; and the time they took shows."""
    random = Random(1)
    kinds = ("done", "done", "done", "retried", "failed", "lost")
    blocks, now = [], 0.0
    for at in range(LIMITS.timeline_blocks):
        seconds = random.expovariate(1.0)
        blocks.append(Block(at % rows, now, now + seconds, random.choice(kinds)))  # type: ignore[arg-type]
        now += seconds
    many = [lane(f"worker{at}", "busy", 5, *blocks, rows=rows) for at in range(40)]
    html = lanes_html(snapshot(*many, elapsed=now))
    assert len(html.encode()) < 8000
    drawn = paths(html)
    assert sum(d.count("h") for d in drawn.values()) <= MAX_BLOCKS
    for kind in ("done", "failed"):
        share = sum(block.end - block.begin for block in blocks if block.kind == kind) / now
        assert sum(map(int, re.findall(r"h(\d+)", drawn[kind]))) / 1000 == pytest.approx(share, abs=0.06)


def test_many_lanes_are_counted() -> None:
    """Past the limit they share a row."""
    many = [lane(f"w{at}", items=1) for at in range(MAX_LANES)]
    more = [lane("x", "lost", 4, flight=0), *(lane(f"y{at}", items=0) for at in range(23))]
    html = lanes_html(snapshot(*many, *more))
    assert html.count("<tr") == MAX_LANES + 2
    assert cells(html) == ["and 24 more workers", "1", "50%", "72", "48"]


def test_who_matters_is_shown() -> None:
    """Lost and silent workers first, then those that did most, in the order of their joining."""
    quiet = [lane(f"q{at}", items=1) for at in range(20)]
    html = lanes_html(snapshot(*quiet, lane("gone", "lost", 0), lane("mute", "suspect", 0), lane("hero", items=100)))
    assert names(html) == ["q0", "q1", "q2", "q3", "q4", "gone", "mute", "hero"]


def test_a_dead_fleet_does_not_hide_the_living() -> None:
    """Half of the rows stay for workers that are there."""
    dead = [lane(f"d{at}", "lost", 50) for at in range(20)]
    html = lanes_html(snapshot(*dead, *(lane(f"w{at}") for at in range(6))))
    assert names(html) == ["d16", "d17", "d18", "d19", "w0", "w1", "w2", "w3"]
    assert "and 18 more workers, 16 of them lost" in html
    assert names(lanes_html(snapshot(*dead, lane("w")))) == ["d0", "d1", "d2", "d16", "d17", "d18", "d19", "w"]
    assert cells(lanes_html(snapshot(*dead)))[2] == "0%"


def test_small_steps_do_not_change_who_is_shown() -> None:
    """The choice is rough, so that rows do not jump with every chunk."""
    lanes = [lane(f"w{at}", items=70 + at) for at in range(20)]
    later = [lane(f"w{at}", items=90 - at) for at in range(20)]
    assert names(lanes_html(snapshot(*lanes))) == names(lanes_html(snapshot(*later)))


def test_names_are_escaped() -> None:
    """A worker's name adds no tag, attribute or control character."""
    html = lanes_html(snapshot(lane("\"><img src=x onerror='y'>\x1b[2J")))
    assert "<img" not in html
    assert "\x1b" not in html
    assert 'title="&quot;&gt;&lt;img src=x onerror=&#x27;y&#x27;&gt;\\x1b[2J, 1 slot, busy"' in html
