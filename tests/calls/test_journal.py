"""Results are written first and handed over after that, in the order of the input where that counts."""

from __future__ import annotations

import queue
import threading

import pytest

from distmap.calls.journal import Journal, Order
from distmap.calls.results import Recalled
from distmap.checkpoint.schema import BY_PLACE, KEY
from distmap.checkpoint.sections import Behaviour
from distmap.checkpoint.store import close_store, open_store
from distmap.core.events import JobSpec
from distmap.driver.messages import Finished, Landed, Lost, Printed, ReportData, empty_snapshot
from distmap.errors import CheckpointError
from distmap.tasks.fingerprint import changes
from distmap.tasks.items import dump_items

BEHAVIOUR = Behaviour("f", "one", b"1", {}, {})


def landed(start, values, failed=()):
    report = ReportData(start, 0, len(values), tuple(failed), dump_items(list(values))[0].parts, "local", 10)
    return Landed(1, start, start, 0, len(values), report)


def finished(outcome="done"):
    return Finished(outcome, False, None, False, (), empty_snapshot(JobSpec()))


class Steered:
    """Notes what a journal does to its job."""

    def __init__(self):
        self.said, self.error = [], None
        self.given_up = False
        self.held, self.gone_on = threading.Event(), threading.Event()

    def hold(self):
        self.held.set()

    def go_on(self):
        self.gone_on.set()

    def end(self, error):
        self.error = error

    def say(self, sentence):
        self.said.append(sentence)

    def is_given_up(self):
        return self.given_up


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "x.sqlite")


@pytest.fixture
def start(path):
    """Starts a journal: gives it, its store, what it forwards and what it steers."""
    threads = []

    def begin(*, ordered=False, linger=0.0):
        store = open_store(path)
        out, steered = queue.SimpleQueue(), Steered()
        function = store.section(BEHAVIOUR, "error", changes).function
        journal = Journal(store, function, out.put, steered, ordered=ordered, linger=linger)
        thread = threading.Thread(target=journal.run)
        thread.start()
        threads.append((journal, thread))
        return journal, store, out, steered

    yield begin
    for journal, thread in threads:
        journal.take(finished("cancelled"))
        thread.join(20)
        assert not thread.is_alive()


def known_items(path):
    store = open_store(path)
    try:
        return store.section(BEHAVIOUR, "error", changes).items
    finally:
        close_store(store)


def test_a_result_is_handed_over_after_its_commit(path, start):
    """Whoever gets a result finds it in the file; failed items have none there; other messages do not wait."""
    journal, store, out, _ = start(linger=600)
    journal.expect(0, 4, BY_PLACE * 4)
    journal.take(landed(0, "abc", failed=[1]))
    journal.take(Printed())
    assert isinstance(out.get(timeout=10), Printed)
    assert store.section(BEHAVIOUR, "error", changes).items == 0
    journal.take(Lost(1, 0, 3, 3, "poison", (), None))
    journal.take(finished())
    assert isinstance(out.get(timeout=10), Landed)
    assert isinstance(out.get(timeout=10), Lost)
    assert out.get(timeout=10).outcome == "done"
    assert known_items(path) == 2


def test_what_has_come_is_written_when_python_ends(start):
    """A flush writes at once what would have waited, also of a journal that has ended."""
    journal, store, out, _ = start(linger=600)
    journal.expect(0, 2, BY_PLACE * 2)
    journal.take(landed(0, "ab"))
    journal.flush(20)
    assert store.section(BEHAVIOUR, "error", changes).items == 2
    journal.take(finished())
    assert isinstance(out.get(timeout=10), Landed)
    assert out.get(timeout=10).outcome == "done"
    journal.flush(20)


def test_many_items_are_written_without_waiting_for_more(start):
    """A thousand finished items are written at once."""
    journal, _, out, _ = start(linger=600)
    journal.expect(0, 1000, bytes(KEY))
    journal.take(landed(0, range(1000)))
    assert isinstance(out.get(timeout=10), Landed)


def test_a_full_disk_pauses_the_job_and_loses_nothing(path, start):
    """While it cannot be written nothing is handed over; when it can, the job goes on."""
    journal, store, out, steered = start()
    (pages,) = store._db.execute("PRAGMA page_count").fetchone()
    store._db.execute(f"PRAGMA max_page_count={pages}")
    journal.expect(0, 1, BY_PLACE)
    journal.take(landed(0, ["x" * 20 + str(list(range(20_000)))]))
    assert steered.held.wait(10)
    assert out.empty()
    store._db.execute("PRAGMA max_page_count=100000")
    assert isinstance(out.get(timeout=20), Landed)
    assert steered.gone_on.wait(10)
    assert [("cannot be written" in one, "goes on" in one) for one in steered.said] == [(True, False), (False, True)]
    journal.take(finished())
    assert out.get(timeout=10).outcome == "done"
    assert known_items(path) == 1


def test_a_job_that_is_cancelled_waits_for_no_disk(start):
    """What was not written is not handed over, and the job ends."""
    journal, store, out, steered = start()
    (pages,) = store._db.execute("PRAGMA page_count").fetchone()
    store._db.execute(f"PRAGMA max_page_count={pages}")
    journal.expect(0, 1, BY_PLACE)
    journal.take(landed(0, [str(list(range(20_000)))]))
    assert steered.held.wait(10)
    journal.take(finished("cancelled"))
    assert out.get(timeout=20).outcome == "cancelled"
    assert isinstance(steered.error, CheckpointError)


def test_a_job_that_is_over_can_be_cancelled_while_the_disk_is_full(start):
    """Its last message waits for the disk, and is handed over when the user waits no more, or the pool has ended."""
    journal, store, out, steered = start()
    (pages,) = store._db.execute("PRAGMA page_count").fetchone()
    store._db.execute(f"PRAGMA max_page_count={pages}")
    journal.expect(0, 1, BY_PLACE)
    journal.take(landed(0, [str(list(range(20_000)))]))
    journal.take(finished("failed"))
    assert steered.held.wait(10)
    steered.given_up = True
    assert out.get(timeout=20).outcome == "failed"


def test_a_report_in_pieces_is_written_if_its_first_piece_failed(path, start):
    """Whoever decodes a piece takes the bytes out of the report; the pieces behind it are written all the same."""
    journal, _, out, _ = start()
    journal.expect(0, 3, BY_PLACE * 3)
    whole = landed(0, "abc", failed=[0])
    journal.take(whole._replace(hi=1))
    assert out.get(timeout=10).hi == 1
    whole.report.parts = ()
    journal.take(whole._replace(lo=1))
    journal.take(finished())
    assert out.get(timeout=10).lo == 1
    assert out.get(timeout=10).outcome == "done"
    assert known_items(path) == 2


def test_a_journal_ends_if_nobody_waits_any_more(path, start):
    """The last message of a job that was left never comes: what has come is written, and the file given back."""
    journal, _, out, _ = start(linger=600)
    journal.expect(0, 2, BY_PLACE * 2)
    journal.take(landed(0, "ab"))
    journal.stop()
    assert isinstance(out.get(timeout=10), Landed)
    journal.flush(20)
    journal.stop()
    assert known_items(path) == 2
    assert out.empty()


def test_a_job_that_was_left_waits_for_no_disk(start):
    """What cannot be written is given up with the job."""
    journal, store, out, steered = start()
    (pages,) = store._db.execute("PRAGMA page_count").fetchone()
    store._db.execute(f"PRAGMA max_page_count={pages}")
    journal.expect(0, 1, BY_PLACE)
    journal.take(landed(0, [str(list(range(20_000)))]))
    assert steered.held.wait(10)
    journal.stop()
    journal.flush(20)
    assert isinstance(steered.error, CheckpointError)
    assert out.empty()


def test_a_file_that_was_taken_over_ends_the_job(start):
    """Nothing is handed over that another process would not find; the job fails."""
    journal, store, out, steered = start()
    store._db.execute("UPDATE owner SET token = 'another'")
    journal.expect(0, 1, BY_PLACE)
    journal.take(landed(0, [1]))
    journal.take(finished())
    last = out.get(timeout=10)
    assert last.outcome == "failed"
    assert last.error is steered.error
    assert "taken over" in str(last.error)


def test_known_results_are_put_back_in_order():
    """Known and new results come each in order, and go on as one."""
    out = []
    order = Order(out.append, ordered=True)
    order.landed(landed(2, "ab"))
    order.known(Recalled(0, 1, 1, 0, None))
    assert [message.start for message in out] == [0]
    order.known(Recalled(1, 1, 1, 1, None))
    order.known(Recalled(4, 3, 1, 2, None))
    assert [message.start for message in out] == [0, 1, 2, 4]
    order.landed(landed(9, "z"))
    order.end()
    assert [message.start for message in out] == [0, 1, 2, 4, 9]


def test_without_an_order_all_goes_on_at_once():
    """Results for a list, or for whoever takes them as they come, wait for nothing."""
    out = []
    order = Order(out.append, ordered=False)
    order.landed(landed(5, "a"))
    order.known(Recalled(9, 1, 1, 0, None))
    assert [message.start for message in out] == [5, 9]
