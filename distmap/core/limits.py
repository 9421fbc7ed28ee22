"""Every number that bounds something, in one frozen place.

Owns limits and time constants only. Seconds and bytes throughout. Figures come from measurements or from the
practice named beside them; a test or the simulator may build a `Limits` with other values.
"""

from __future__ import annotations

from distmap.tasks._typing import NamedTuple


class Limits(NamedTuple):
    # chunk sizing (guided self-scheduling, Polychronopoulos & Kuck 1987; factoring, Hummel et al. 1992)
    #: A chunk aims at so much work; a slot's dispatch costs about 0.2 ms, so 20 ms keeps that near 1 %.
    chunk_seconds: float = 0.020
    #: ... or at so many round trips of its worker, whichever is longer.
    chunk_round_trips: float = 10.0
    #: At most 1/(remaining_share x slots) of what remains, so that the tail stays balanced.
    remaining_share: int = 4
    #: No chunk grows past this factor of the largest one that its job finished on that worker.
    growth: int = 64
    #: Below so much work (or a round trip of its worker) a chunk is not made smaller by remaining_share: its dispatch
    #: would cost more than it balances.
    chunk_floor_seconds: float = 0.001
    #: Never more items than this in one chunk (offsets are 32-bit on the wire; reports stay small).
    chunk_items: int = 1_000_000
    #: A chunk's input stops growing at so many bytes.
    chunk_bytes: int = 32 << 20
    #: Assignments a slot may hold: one that runs, one that waits.
    slot_depth: int = 2
    #: A place is kept so long for the job that reads a chunk for it; a slower input must not hold up other jobs.
    reservation_seconds: float = 0.050

    # memory
    #: Input and results of one job that are read but not consumed.
    job_bytes: int = 256 << 20
    #: Read-ahead of a streaming job, in chunks per slot.
    stream_chunks_per_slot: int = 2
    #: ... and of a fold, whose consumer never dawdles: a long item in front must not idle the slots behind it.
    fold_chunks_per_slot: int = 16

    def window(self, gather: str) -> int:
        """Chunks per slot that a job of this kind of gathering may have read and not consumed."""
        return self.fold_chunks_per_slot if gather == "fold" else self.stream_chunks_per_slot

    # failures
    item_deaths: int = 3
    host_losses: int = 10
    slot_deaths: int = 5
    slot_deaths_window: float = 30.0
    slot_rest: float = 60.0
    #: ... or so long where a job has no other slot to go on.
    slot_rest_alone: float = 5.0
    crash_loop_deaths: int = 10
    crash_loop_deaths_per_slot: int = 3

    # pools inside pools
    #: So many, one inside the other: a task process at that depth starts no pool of its own.
    pool_depth: int = 3

    # what travels with local modules to workers on other machines
    #: Data files of the packages that a call needs, all together; the smallest go first.
    data_bytes: int = 16 << 20
    #: ... and so many of them are looked at.
    data_files: int = 2_000
    #: Entries of a package's folder in which compiled modules are looked for.
    package_files: int = 10_000

    # leaving
    #: A task process that is told to leave has so long for its exit functions (atexit, threads, multiprocessing).
    leave_seconds: float = 1.0

    # cancelling
    #: From Interrupt to Kill of a slot that did not stop.
    interrupt_grace: float = 0.5

    # the wire
    #: Largest frame. 256 KB is on the plateau of throughput and keeps the loop's stalls at milliseconds.
    frame_bytes: int = 256 << 10
    #: Data bytes that may be unacknowledged: 32 MB keep 2.5 Gbit/s busy over a round trip of 100 ms.
    credit_bytes: int = 32 << 20
    #: Bytes that came in after which an acknowledgement is sent in a frame of its own, if no other frame carried it.
    ack_bytes: int = 2 << 20
    #: ... or frames.
    ack_frames: int = 64
    #: ... or seconds: until then the other side keeps the memory of what it sent.
    ack_delay: float = 0.05
    #: Seconds in which a side that leaves tries to send what is queued.
    close_grace: float = 2.0
    #: Largest message that is sent or accepted, all parts together.
    message_bytes: int = 8 << 30
    #: Largest meta block that is accepted: a report that names a million failed items needs 4 MB.
    meta_bytes: int = 16 << 20
    #: Messages of one sender that may be incomplete at once.
    streams: int = 1024
    #: A worker drops what tasks print while more bytes of it than this wait for the connection.
    unsent_output_bytes: int = 256 << 10

    # the handshake
    #: Bytes of the largest message of the handshake: any process that reaches the port may send one.
    handshake_bytes: int = 4096
    #: Characters of a worker's or pool's name.
    name_chars: int = 80
    #: Tags of a worker.
    tags: int = 16
    #: Characters of a tag.
    tag_chars: int = 40
    #: Slots of a worker.
    worker_slots: int = 4096
    #: Bytes of a token file that are read.
    token_file_bytes: int = 64 << 10

    # connections
    #: Seconds before each dial of a worker or pool that is not there. The first tries come quickly, so that a restarted
    #: one is found while a person looks on; the last pause repeats.
    redial: tuple[float, ...] = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
    #: Most of a pause that is added to it at random, so that many workers do not dial in step.
    redial_jitter: float = 0.25
    #: Seconds before a worker with another token or Python is dialled again: a person has to correct that first.
    redial_fatal: float = 30.0
    #: Seconds in which a pool that closes sends Bye to all its workers.
    hub_close: float = 5.0
    #: Seconds that a listener gives TLS, the HTTP upgrade and the proof of the token, each.
    hop_timeout: float = 5.0
    #: Seconds for the closing handshake of a WebSocket.
    close_timeout: float = 2.0
    #: Connections that may be without proof at once.
    unauthenticated: int = 32
    #: ... and from one address (IPv6: one /64).
    unauthenticated_per_address: int = 8
    #: Largest WebSocket message that is taken; a frame of a session has a quarter of it.
    websocket_bytes: int = 1 << 20
    #: Unsent bytes in the kernel: control messages stay quick while data flows (0.22 s instead of 0.71 s at 16 Mbit/s).
    unsent_bytes: int = 128 << 10

    # liveness
    beat_every: float = 5.0
    suspect_after: float = 10.0
    lost_after: float = 30.0
    #: A worker that is to leave without a pool (`--exit-if-orphaned`) waits so long for one.
    orphan_after: float = 120.0

    # load: above this fraction of host memory a worker gets nothing new while others can take it
    memory_pressure: float = 0.90


LIMITS = Limits()
