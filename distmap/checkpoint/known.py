"""Which items of an input have a result in the checkpoint.

Owns the comparison of an input with what earlier calls left, and what is done about items that changed. Must not know
where items come from, nor jobs. In the thread that reads the input; it goes through the indices once, upwards.

An item is known by its key at its index. From the first item on that is not what the file says, the others are looked
for by their keys alone: so an inserted or removed item costs nothing. A result is used for one item only, as equal
items may have different results; with `seed=` it depends on the index, and is used there only.

An item *changed* if another item with a result was in its place, and that one is nowhere in the data any more. Behind
inserted or removed items that cannot be told: there all that is not known is new.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from distmap.checkpoint.keys import Keyer, is_installed
from distmap.checkpoint.schema import BY_PLACE, KEY
from distmap.checkpoint.sections import OnChange, Section
from distmap.checkpoint.store import KnownChunk, NoRoom, Store
from distmap.core.limits import LIMITS
from distmap.errors import CheckpointChanged, CheckpointError
from distmap.tasks._typing import NamedTuple
from distmap.tasks.failures import short_repr
from distmap.tasks.items import DumpedItem


class Run(NamedTuple):
    """Neighbours of the input that are all known from one report, or all unknown."""

    first: int
    count: int  # type: ignore[assignment]
    #: 0: unknown.
    report: int = 0
    #: Offset of the first of them in the chunk of the report.
    at: int = 0


class Dumped(NamedTuple):
    """An item of an iterator, pickled when it came: the iterator may change it afterwards."""

    key: bytes
    dumped: DumpedItem
    #: What messages call it.
    shown: str


#: A result: index of its item, report, offset in its chunk.
_Place = tuple[int, int, int]
#: Known items [lo, hi) of a stretch: report, offset of the first.
_Span = tuple[int, int, int, int]


class Known:
    """The known items of one call.

    Args:
        exact: a result counts at its own index only.
        rest: gives the items behind an index, if that has no effects; None: they cannot be looked at.
        tell: is given sentences for the user.
    """

    def __init__(
        self,
        store: Store,
        section: Section,
        keyer: Keyer,
        on_change: OnChange,
        *,
        exact: bool = False,
        rest: Callable[[int], Sequence[Any] | None] = lambda index: None,
        tell: Callable[[str], object] = lambda sentence: None,
    ) -> None:
        self._store, self._section, self._keyer = store, section, keyer
        self._on_change, self._exact, self._rest, self._tell = on_change, exact, rest, tell
        #: Nothing is known (any more).
        self._nothing = not section.items
        #: Chunks that reach to where we are or begin there, and the index up to which these were asked for.
        self._near: list[KnownChunk] = []
        self._asked = 0
        #: Something is not what the file says: from here on items are looked for by their keys.
        self._shifted = False
        #: A result of another index was used.
        self._moved = False
        self._places: dict[bytes, list[_Place]] | None = None
        #: Indices whose own and only result was used, as bits; all other results that were used, by index and key.
        self._used = bytearray()
        self._taken: set[tuple[int, bytes]] = set()
        self._behind: set[bytes] | None = None
        self.changed = 0

    def stretch(self, at: int, most: int) -> tuple[int, bool]:
        """How many items from index `at` on are best compared at once, and whether they are a block.

        Args:
            most: items that are wanted.
        """
        if self._nothing:
            return most, False
        look = LIMITS.checkpoint_look_items
        near = self._window(at, at + max(look, most))
        blocks = [chunk for chunk in near if chunk.is_block and chunk.first >= at]
        if here := [chunk.count for chunk in blocks if chunk.first == at]:
            return max(here), True
        if any(not chunk.is_block and chunk.first < at + look for chunk in near):
            most = max(look, most)
        # A block is compared from its beginning on.
        return min([most, *[chunk.first - at for chunk in blocks]]), False

    def runs(self, first: int, items: Any, keys: list[bytes | None]) -> list[Run]:
        """Cut the items from index `first` on into runs; `keys` is filled with the keys that had to be made.

        Raises:
            CheckpointChanged: an item changed, and on_change="error".
        """
        count = len(items)
        if self._nothing:
            return [Run(first, count)]
        near = self._window(first, first + count)
        spans, broken = self._blocks(near, first, items)
        spans += self._singles(near, first, items, keys, spans)
        runs = list(_cut(first, count, spans))
        if broken is not None and not any(run.report for run in runs):
            self._item_changed(
                first, f"items {first} to {first + broken.count - 1} of the data are", "other items were"
            )
        return runs

    # --- many items with one key --------------------------------------------------------------------------------------

    def _blocks(self, near: list[KnownChunk], first: int, items: Any) -> tuple[list[_Span], KnownChunk | None]:
        """What is known of blocks among these items; and one that begins here and is not what it was.

        A block may lie within another one: it filled a gap that was left there.
        """
        spans: list[_Span] = []
        broken = None
        for chunk in near:
            at = chunk.first - first
            if not chunk.is_block or at < 0 or at + chunk.count > len(items):
                continue
            if self._keyer.block(items[at : at + chunk.count]) != chunk.keys:
                broken = chunk if at == 0 else broken
                continue
            for report in chunk.reports:
                for lo, hi in report.spans():
                    spans += [(a, b, report.id, a - at) for a, b in _free(at + lo, at + hi, spans)]
        return sorted(spans), broken

    # --- items with keys of their own ---------------------------------------------------------------------------------

    def _singles(
        self, near: list[KnownChunk], first: int, items: Any, keys: list[bytes | None], spans: list[_Span]
    ) -> list[_Span]:
        found: list[_Span] = []
        candidates = _candidates(near, first, len(items))
        # Where there are few enough, an item without a result at its index is looked for elsewhere, too; not tiny ones.
        few = self._section.items <= LIMITS.checkpoint_search_items
        few = few and (len(candidates) > 0 or len(items) < LIMITS.checkpoint_block_items)
        search = not self._exact and (self._shifted or few)
        if not candidates and not search:
            return found
        for run in _cut(0, len(items), spans):
            if run.report:
                continue
            for i in range(run.first, run.first + run.count):
                here = candidates.get(i)
                if here is None and not search:
                    continue
                key = keys[i]
                if key is None:
                    key = keys[i] = self._keyer.item(items[i])
                place = self._find(first + i, key, here or ())
                if place is not None:
                    found.append((i, i + 1, place[1], place[2]))
                elif here:
                    search = not self._exact
                    self._look_at_displaced(first + i, items[i], here)
                    if self._nothing:
                        return found
        return found

    def _find(self, index: int, key: bytes, here: Sequence[tuple[bytes, int, int]]) -> _Place | None:
        """The result of an item: the one at its index, else any other that is not used yet."""
        for other, report, at in reversed(here):
            if other == key and (index, key) not in self._taken:
                if len(here) == 1:
                    self._mark(index)
                else:  # several calls left something here
                    self._taken.add((index, key))
                return index, report, at
        if here:
            self._shifted = True
        if self._exact or key == BY_PLACE:
            return None
        if self._places is None:
            self._places = self._all_places()
        places = self._places.get(key, [])
        while places:
            place = places.pop()
            if not self._is_marked(place[0]) and (place[0], key) not in self._taken:
                self._taken.add((place[0], key))
                self._moved = True
                return place
        return None

    def _all_places(self) -> dict[bytes, list[_Place]]:
        """Every result by its key; the earliest comes last."""
        places: defaultdict[bytes, list[_Place]] = defaultdict(list)
        at, step = 0, 100_000
        last = self._store.last_index(self._section)
        while at <= last:
            for chunk in self._store.chunks(self._section, at, at + step):
                for key, report, offset in _keyed(chunk, chunk.first, chunk.end):
                    places[key].append((chunk.first + offset, report, offset))
            at += step
        for found in places.values():
            found.reverse()
        return dict(places)

    def _mark(self, index: int) -> None:
        if index >> 3 >= len(self._used):
            self._used.extend(bytes((index >> 3) + 1024 - len(self._used)))
        self._used[index >> 3] |= 1 << (index & 7)

    def _is_marked(self, index: int) -> bool:
        return index >> 3 < len(self._used) and bool(self._used[index >> 3] >> (index & 7) & 1)

    # --- changes ------------------------------------------------------------------------------------------------------

    def _look_at_displaced(self, index: int, item: Any, here: Sequence[tuple[bytes, int, int]]) -> None:
        """Another item was here: if that one is somewhere else in the data, nothing changed but the order."""
        if self._moved:
            return  # items were inserted or removed before: what was here says nothing
        displaced = {key for key, _, _ in here if (index, key) not in self._taken}
        if displaced and self._behind is None and not self._exact:
            rest = self._rest(index)
            self._behind = set() if rest is None else {self._keyer.item(one) for one in rest}
        if displaced - (self._behind or set()):
            kind = type(item)
            shown = item.shown if kind is Dumped else short_repr(item)
            own = "" if is_installed(kind) else f", or another class {kind.__qualname__},"
            self._item_changed(index, f"item {index} of the data is {shown}", f"another item{own} was")

    def _item_changed(self, index: int, now: str, before: str) -> None:
        self.changed += 1
        if self._on_change == "keep" and self.changed > 1:
            return
        store, section = self._store, self._section
        sentence = f"{now}, and {before} there when the results in {store.path} were made"
        if self._on_change == "error":
            raise CheckpointChanged(
                f'{sentence}. on_change="keep" keeps the results of all other items and computes what changed, '
                f'"restart" forgets the results from item {index} on; for other data give checkpoint= another path'
            )
        if self._on_change == "keep":
            self._tell(f"{sentence}; what changed is computed, the other results are kept")
            return
        self._tell(f"{sentence}; everything from item {index} on is computed anew")
        try:
            store.forget(section, index)
        except NoRoom as error:
            raise CheckpointError(f"checkpoint {store.path} cannot be written: {error}") from error
        self._nothing = True

    # --- reading the file ---------------------------------------------------------------------------------------------

    def _window(self, lo: int, hi: int) -> list[KnownChunk]:
        """Chunks that share items with [lo, hi). `lo` never goes back."""
        if hi > self._asked:
            self._near += self._store.chunks(self._section, self._asked, hi)
            self._asked = hi
        self._near = [chunk for chunk in self._near if chunk.end > lo]
        return [chunk for chunk in self._near if chunk.first < hi]


def _keyed(chunk: KnownChunk, lo: int, hi: int) -> Iterator[tuple[bytes, int, int]]:
    """Key, report and offset of each known item of the chunk with an index from `lo` up to `hi`."""
    if chunk.is_block:
        return
    for report in chunk.reports:
        for begin, end in report.spans():
            for at in range(max(begin, lo - chunk.first), min(end, hi - chunk.first)):
                yield chunk.keys[KEY * at : KEY * (at + 1)], report.id, at


def _candidates(near: Sequence[KnownChunk], first: int, count: int) -> dict[int, list[tuple[bytes, int, int]]]:
    """What is known at each offset from index `first` on: key, report, offset in its chunk; the newest last."""
    found: defaultdict[int, list[tuple[bytes, int, int]]] = defaultdict(list)
    for chunk in near:
        for key, report, at in _keyed(chunk, first, first + count):
            found[chunk.first + at - first].append((key, report, at))
    return dict(found)


def _free(lo: int, hi: int, spans: Sequence[_Span]) -> list[tuple[int, int]]:
    """The parts of [lo, hi) that no span covers."""
    found = []
    for begin, end, _, _ in sorted(spans):
        if begin >= hi:
            break
        if lo < begin:
            found.append((lo, begin))
        lo = max(lo, end)
    return [*found, (lo, hi)] if lo < hi else found


def _cut(first: int, count: int, spans: Sequence[_Span]) -> Iterator[Run]:
    """Runs of all `count` items from index `first` on: those of the spans are known. Neighbours become one run."""
    at, held = 0, None
    for lo, hi, report, offset in sorted(spans):
        if held is not None and (held.report, held.first + held.count, held.at + held.count) == (
            report,
            first + lo,
            offset,
        ):
            held = held._replace(count=held.count + hi - lo)
        else:
            if held is not None:
                yield held
            if at < lo:
                yield Run(first + at, lo - at)
            held = Run(first + lo, hi - lo, report, offset)
        at = hi
    if held is not None:
        yield held
    if at < count:
        yield Run(first + at, count - at)
