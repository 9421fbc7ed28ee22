"""All workers, and an index of the slots that can take a chunk, the best first.

Owns workers, slots and the tag groups that index them. There is one group for each set of required tags. It keeps one
heap of slots for each level of load: empty slots, then slots with one chunk; slots of workers short of memory come
last. An entry whose stamp is old is dropped when it comes to the top, and a heap of mostly old entries is rebuilt. So
each change takes O(log n) time for n slots.
"""

from __future__ import annotations

import heapq
import math

from distmap.core.limits import Limits
from distmap.core.records import JobRecord, SlotEntry, SlotRecord, TagGroup, WorkerRecord


class WorkerIndex:
    """All workers that were not lost."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.workers: dict[int, WorkerRecord] = {}
        #: Ids of lost workers: events of them may still arrive.
        self.lost: set[int] = set()
        self.groups: dict[tuple[frozenset[str], frozenset[int]], TagGroup] = {}

    def tag_group(self, tags: frozenset[str], without: frozenset[int] = frozenset()) -> TagGroup:
        """The group of slots whose workers carry all these tags, without those of some workers."""
        group = self.groups.get((tags, without))
        if group is None:
            group = TagGroup(tags, [[] for _ in range(2 * self.limits.slot_depth)], without=without)
            self.groups[tags, without] = group
            for worker in self.workers.values():
                if group.takes(worker):
                    self._enter(worker, group)
        return group

    def leave_out(self, group: TagGroup, worker: WorkerRecord) -> None:
        """Leave one more worker out of a group, all of whose jobs have found that it cannot run them."""
        del self.groups[group.tags, group.without]
        group.without |= {worker.id}
        self.groups[group.tags, group.without] = group
        worker.groups.remove(group)
        group.capacity -= len(worker.slots) * (worker.state == "trusted")
        for slot in worker.slots:
            group.idle -= slot.level in (0, self.limits.slot_depth)
            group.free_places -= slot.free_places
        self.update_slots(worker)  # what stands for its slots in the heaps of the group is old now
        self._count_ahead(group)

    def remove_group(self, group: TagGroup) -> None:
        """Remove a group for whose tags no job asks any more; that of all slots is kept empty for the next job."""
        if not group.tags and not group.without:
            group.job_heap.clear()
            group.victims.clear()
            return
        del self.groups[group.tags, group.without]
        for worker in self.workers.values():
            if group in worker.groups:
                worker.groups.remove(group)

    def add(self, worker: WorkerRecord, slots: int) -> None:
        """Add a worker with this number of slots, all of them ready."""
        self.workers[worker.id] = worker
        worker.slots = [SlotRecord(worker, index) for index in range(slots)]
        for group in self.groups.values():
            if group.takes(worker):
                self._enter(worker, group)
        self.update_slots(worker)

    def remove(self, worker: WorkerRecord) -> None:
        """Remove a lost worker. Its state must be "lost" already, so that its slots leave the heaps."""
        self.update_slots(worker)
        del self.workers[worker.id]
        self.lost.add(worker.id)

    def set_state(self, worker: WorkerRecord, state: str) -> None:
        """Change the state of a worker, and with it the number of usable slots of its groups."""
        change = (state == "trusted") - (worker.state == "trusted")
        worker.state = state
        for group in worker.groups:
            group.capacity += change * len(worker.slots)
            self._count_ahead(group)

    def set_ahead(self, worker: WorkerRecord, ahead: float) -> bool:
        """Change how much is sent ahead to the worker; True if that changed."""
        if worker.ahead == ahead:
            return False
        worker.ahead = ahead
        for group in worker.groups:
            self._count_ahead(group)
        return True

    def update_slots(self, worker: WorkerRecord) -> None:
        """Update the entries of all slots of the worker."""
        for slot in worker.slots:
            self.update_slot(slot)

    def update_slot(self, slot: SlotRecord) -> None:
        """Update the entries of a slot whose load or state changed, or that of its worker."""
        # It runs twice for each chunk: so nothing is called that can stand here.
        limits, worker, held = self.limits, slot.worker, len(slot.queue)
        depth = limits.slot_depth
        level, places, ahead = -1, 0, False
        if slot.state == "ready" and worker.state == "trusted" and not slot.setup_calls and not worker.unready:
            pressed = worker.memory >= limits.memory_pressure
            if held < depth and worker.quiet_for is None:
                level, places = held + (depth if pressed else 0), depth - held
            elif worker.ahead and not pressed:
                ahead = slot.can_hold_more(limits)
        idle = (level in (0, depth)) - (slot.level in (0, depth))
        more = places - slot.free_places
        slot.level, slot.free_places = level, places
        slot.stamp += 1
        for group in worker.groups:
            group.idle += idle
            group.free_places += more
            if level >= 0:
                self._offer(group, slot)
            elif ahead:
                self._push(group, group.ahead_heap, held, slot)

    def _count_ahead(self, group: TagGroup) -> None:
        least = self.limits.ahead_least
        there = [
            one for one in self.workers.values() if one.ahead > least and one.state == "trusted" and group in one.groups
        ]
        group.ahead_slots = sum(len(worker.slots) for worker in there)
        group.ahead = max((worker.ahead for worker in there), default=0.0)

    def can_take(self, slot: SlotRecord) -> bool:
        """Whether something can be sent to the slot now."""
        worker = slot.worker
        return (
            slot.state == "ready"
            and worker.state == "trusted"
            and worker.quiet_for is None
            and len(slot.queue) < self.limits.slot_depth
        )

    def best_slot(self, group: TagGroup) -> SlotRecord | None:
        """The best slot that can take a chunk now."""
        for heap in group.slot_heaps:
            while heap:
                _, _, _, stamp, slot = heap[0]
                if stamp == slot.stamp:
                    return slot
                heapq.heappop(heap)
        return None

    def ahead_slot(self, group: TagGroup) -> SlotRecord | None:
        """The slot with the fewest chunks among those that have what slots usually have and may be sent more."""
        heap = group.ahead_heap
        while heap:
            _, _, _, stamp, slot = heap[0]
            if stamp == slot.stamp:
                return slot
            heapq.heappop(heap)
        return None

    def update_job(self, group: TagGroup, job: JobRecord) -> None:
        """Update the entry of a job whose scheduling key changed, or whether it wants a slot."""
        job.stamp += 1
        if job.wants_slot(self.limits):
            heap = group.job_heap
            heapq.heappush(heap, (job.scheduling_key(), job.stamp, job))
            if len(heap) > 64 and len(heap) > 4 * group.jobs:
                heap[:] = [entry for entry in heap if entry[1] == entry[2].stamp]
                heapq.heapify(heap)

    def next_job(self, group: TagGroup) -> JobRecord | None:
        """The job with the smallest scheduling key among those that want a slot."""
        heap = group.job_heap
        while heap:
            _, stamp, job = heap[0]
            if stamp == job.stamp:
                assert job.state == "running", "a job that is not running wants a slot"
                return job
            heapq.heappop(heap)
        return None

    def _enter(self, worker: WorkerRecord, group: TagGroup) -> None:
        """Add a worker and its slots to a group."""
        worker.groups.append(group)
        group.capacity += len(worker.slots) * (worker.state == "trusted")
        for slot in worker.slots:
            group.idle += slot.level in (0, self.limits.slot_depth)
            group.free_places += slot.free_places
            if slot.level >= 0:
                self._offer(group, slot)
        self._count_ahead(group)

    def _offer(self, group: TagGroup, slot: SlotRecord) -> None:
        """Add a slot to the heap of its level.

        Its rank is the time for a nominal chunk on the worker, in steps of 19 %; the smallest is the best. The steps
        are coarse on purpose: among workers of about the same speed the slot's index decides, so the first chunks are
        spread over the hosts.
        """
        worker = slot.worker
        rank = round(4 * math.log2(worker.rtt + self.limits.chunk_seconds * worker.slowness))
        self._push(group, group.slot_heaps[slot.level], rank, slot)

    def _push(self, group: TagGroup, heap: list[SlotEntry], rank: int, slot: SlotRecord) -> None:
        heapq.heappush(heap, (rank, slot.index, slot.worker.id, slot.stamp, slot))
        if len(heap) > 64 and len(heap) > 4 * group.capacity:
            heap[:] = [entry for entry in heap if entry[3] == entry[4].stamp]
            heapq.heapify(heap)
