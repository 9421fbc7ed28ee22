"""Every number that bounds something, in one frozen place; the other `*_limits.py` beside it have the rest.

Owns limits and time constants only. Seconds and bytes throughout. Figures come from measurements or from the
practice named beside them; a test or the simulator may build a `Limits` with other values.
"""

from __future__ import annotations

from distmap.tasks._typing import NamedTuple


class Limits(NamedTuple):
    # chunk sizing (guided self-scheduling, Polychronopoulos & Kuck 1987; factoring, Hummel et al. 1992)
    #: Seconds of work that a chunk aims at.
    chunk_seconds: float = 0.020
    #: Times what a chunk costs the loop that it aims at, if that is longer: so this is near 1 %.
    chunk_dispatches: float = 100.0
    #: Turns that a chunk aims at, if they take longer: in one turn all slots are given a chunk, one after the other.
    #: With two the loop is busy half of the time, whatever the number of slots.
    chunk_turns: float = 2.0
    #: Seconds that one chunk costs the loop, until they are measured.
    dispatch_seconds: float = 0.0002
    #: The most that counts of it: beyond that it is the chunk's bytes, which larger chunks cost as well.
    dispatch_most: float = 0.0005
    #: Round trips to its worker that a chunk aims at, if they take longer than `chunk_seconds`.
    chunk_round_trips: float = 10.0
    #: A chunk has at most 1/(this x slots) of the remaining items, so that all slots end at about the same time.
    remaining_share: int = 4
    #: A chunk has at most this many times the items of the largest chunk that its worker finished for the job, or half
    #: of its slot's share of all items.
    growth: int = 64
    #: Items of a chunk that waits behind the first item of its slot, before any was measured.
    unmeasured_items: int = 8 << 10
    #: Bytes of input of such a chunk.
    unmeasured_bytes: int = 1 << 20
    #: Seconds of work, or a round trip to its worker, or a turn, below which `remaining_share` makes no chunk smaller:
    #: handing it out would cost more than it balances.
    chunk_floor_seconds: float = 0.001
    #: What is left of a chunk comes back at its first report if it will take so many times what the chunk aimed at: its
    #: items are much slower than those before, and other slots and jobs would wait for it.
    chunk_overrun: float = 10.0
    #: Items of a chunk (offsets on the wire have 32 bits, and reports stay small).
    chunk_items: int = 1_000_000
    #: Bytes of input at which a chunk takes no further item.
    chunk_bytes: int = 32 << 20
    #: Attempts that a slot has: one that runs, one that waits.
    slot_depth: int = 2
    #: Seconds that a slot is reserved for a job that reads its input; then other jobs may take the slot.
    reservation_seconds: float = 0.050

    # work that is sent ahead, so that a slot goes on while its connection does not
    #: Seconds of work that a slot may hold beyond what runs, where a connection drops or its round trip varies.
    ahead_seconds: float = 15.0
    #: The same where nothing ever drops: chunks of tiny items are sent ahead, so that their process and the loop do not
    #: wait for each other after each of them. It opens no window of a stream.
    ahead_least: float = 0.002
    #: Attempts of such a slot that may wait. Chunks are made larger rather than more: each costs a message.
    ahead_chunks: int = 16
    #: Bytes of input of these attempts.
    ahead_bytes: int = 32 << 20
    #: Seconds for which an outage of a connection is remembered.
    outage_memory: float = 300.0

    # memory
    #: Bytes of input and results of a job that were read and not consumed.
    job_bytes: int = 256 << 20
    #: Chunks for each slot that a stream (`imap`) reads ahead.
    stream_chunks_per_slot: int = 2
    #: Seconds of its consumer's work that a stream or fold reads ahead, unless `buffer=` or `chunksize=` say otherwise.
    stream_seconds: float = 2.0
    #: Seconds of its work by which the pace of a consumer is measured.
    pace_seconds: float = 0.5
    #: Seconds after which the results that a consumer took from an iterator are counted as consumed.
    consumed_every: float = 0.05
    #: Chunks for each slot that a fold reads ahead. It consumes results at once; more chunks keep the slots busy behind
    #: a long item.
    fold_chunks_per_slot: int = 16

    def window(self, gather: str) -> int:
        """Chunks per slot that a job of this kind of gathering may have read and not consumed."""
        return self.fold_chunks_per_slot if gather == "fold" else self.stream_chunks_per_slot

    # failures
    #: Deaths of a task process that one item may cause, before it fails.
    item_deaths: int = 3
    #: Workers that may be lost while they run one item, before it fails.
    host_losses: int = 10
    #: Workers that may be lost while they run one item, until it runs alone on its worker: the next loss is its own.
    host_losses_beside: int = 5
    #: Deaths of a slot's process within `slot_deaths_window`, after which the slot rests.
    slot_deaths: int = 5
    #: Seconds in which `slot_deaths` are counted.
    slot_deaths_window: float = 30.0
    #: Seconds that such a slot rests.
    slot_rest: float = 60.0
    #: Seconds that it rests if a job has no other slot.
    slot_rest_alone: float = 5.0
    #: Deaths of task processes, without a finished item between them, after which a job fails.
    crash_loop_deaths: int = 10
    #: The same for each slot of the job; the larger number counts.
    crash_loop_deaths_per_slot: int = 3

    # what is remembered of jobs that are over
    #: Jobs that are over and keep their last snapshot.
    snapshots_kept: int = 256
    #: Functions whose pace is remembered for their next job.
    paces_kept: int = 256
    #: Jobs that are over and keep their timelines too: a megabyte or more each on large pools.
    timelines_kept: int = 8
    #: Blocks of a timeline for each worker and job: more cannot be told apart on a screen.
    timeline_blocks: int = 240

    # pools inside pools
    #: Pools inside pools: a task process at this depth starts no pool of its own.
    pool_depth: int = 3

    # what travels with local modules to workers on other machines
    #: Bytes of data files that travel with the local packages of a call; the smallest files go first.
    data_bytes: int = 16 << 20
    #: Data files that are looked at for a call.
    data_files: int = 2_000
    #: Entries of a package's folder that are searched for compiled modules.
    package_files: int = 10_000

    # what a task process holds
    #: Threads by which a task process may grow after its first task, before it is replaced.
    growth_threads: int = 256
    #: Open files, likewise: systems allow 1024 by default.
    growth_files: int = 512
    #: Processes that `multiprocessing` keeps there, likewise.
    growth_processes: int = 64
    #: Bytes of memory by which it may grow after its first task; twice as much as it had then is allowed as well.
    growth_bytes: int = 1 << 30
    #: Seconds that a process lives at least before it is replaced for its memory: what it loaded cost time.
    growth_seconds: float = 60.0
    #: Bytes of the smallest memory limit of a slot: Python with NumPy and pandas needs about as much.
    memory_limit_least: int = 64_000_000

    # items that run for long
    #: Seconds from which on the state of the process of an item is looked at: it may wait for what does not come.
    state_after: float = 5.0
    #: Seconds from which on an item is shown although its process is in no such state.
    long_item: float = 60.0

    # time limits of items
    #: Seconds that a task process has to write where it stands, before it is ended; most need a millisecond.
    stack_seconds: float = 1.0
    #: Seconds from SIGTERM to a process whose item ran too long until SIGKILL.
    terminate_seconds: float = 5.0
    #: Seconds after which a process that was killed and has not ended is given up, and its slot gets another one.
    give_up_seconds: float = 5.0

    # workers in batch jobs
    #: Seconds after which such a worker leaves that has no pool: the job is not to wait, and to be paid, for nobody.
    batch_orphan: float = 300.0
    #: Seconds that it has to finish what runs: less than the minute before its end in which a job is told.
    batch_drain: float = 50.0

    # GPUs
    #: Seconds between two looks at how busy they are: as often as heartbeats tell of it.
    device_every: float = 5.0
    #: Seconds for which the driver is waited for: one that has to wake a GPU takes two or three.
    device_seconds: float = 10.0

    # values that a process keeps
    #: Values of `distmap.per_process` that a process keeps: models are large, and a function seldom has many.
    per_process_values: int = 32

    # leaving
    #: Seconds that a task process has for its exit functions (atexit, threads, multiprocessing).
    leave_seconds: float = 2.0

    # cancelling
    #: Seconds from the interrupt of an item until its process is killed.
    interrupt_grace: float = 0.5

    #: Seconds that an interrupted call waits for the remote work to stop before it gives the prompt back.
    interrupt_wait: float = 2.0

    # calls
    #: Seconds after which a read of an iterator ends with the items that it has, at least one.
    read_seconds: float = 0.020
    #: Plain items of a chunk that the loop reads and pickles itself, in a millisecond or two.
    loop_read_items: int = 16 << 10
    #: Characters and bytes in these items.
    loop_read_bytes: int = 1 << 20
    #: Seconds between two calls of a function given as `progress=`.
    progress_every: float = 0.1
    #: Seconds between two wake-ups of a cell that awaits: without them the kernel's interrupt would not reach it
    #: (ipykernel#881).
    await_every: float = 0.2
    #: Seconds that a repr or a card waits for the loop.
    look_wait: float = 0.5
    #: Seconds after which workers forget a function that is not submitted any more.
    submit_linger: float = 2.0
    #: Seconds after a map in which workers keep its function, if that keeps no state, for the next map of it.
    recent_seconds: float = 0.25
    #: Functions that are kept so.
    recent_codes: int = 8
    #: Seconds in which submits that follow one that was sent wait for each other, if nobody waits for their results.
    submit_together: float = 0.002
    #: Seconds after a look at the files of a submitted function in which they are not looked at again.
    stamp_seconds: float = 0.020
    #: Seconds that `Pool()` waits for the workers that it dials.
    dial_wait: float = 2.0
    #: Seconds that `terminate()` waits. Engines take less, unless an item runs inline; then the loop ends after it.
    end_wait: float = 10.0

    # checkpoints
    #: Bytes of a report from which it is a file beside the database: 4 MB take 11 ms as a file, 37 ms in the database.
    checkpoint_inline_bytes: int = 256 << 10
    #: Seconds that finished results of a call that returns a list may wait to be written together.
    checkpoint_commit_seconds: float = 0.25
    #: Finished items that are written together at once.
    checkpoint_commit_items: int = 1000
    #: Items of a chunk from which plain ones have one key together: a key for each would cost more than `fn`.
    checkpoint_block_items: int = 256
    #: Items of an input that are compared with the file at once.
    checkpoint_look_items: int = 1000
    #: Seconds that an iterator may take for the items of a block, which are then compared with the file as one.
    checkpoint_block_seconds: float = 1.0
    #: Known items that a stream (`imap`) reads ahead of its consumer, if `buffer=` says nothing.
    checkpoint_ahead_items: int = 1000
    #: Items behind a changed one that are searched for the one that was in its place.
    checkpoint_search_items: int = 100_000
    #: Seconds between two heartbeats of the process that writes.
    checkpoint_heartbeat: float = 5.0
    #: Seconds without a heartbeat after which the owner of a checkpoint, if on another machine, is taken for gone.
    checkpoint_owner_lost: float = 60.0
    #: Seconds that Python, when it ends, waits for results to be written that have come.
    checkpoint_exit_wait: float = 2.0
    #: Seconds between two tries to write to a full disk.
    checkpoint_full_retry: float = 1.0

    # the wire
    #: Bytes of the largest frame. 256 KB give full throughput, and keep the loop busy for milliseconds only.
    frame_bytes: int = 256 << 10
    #: Bytes of data that may be unacknowledged: 32 MB keep 2.5 Gbit/s busy over a round trip of 100 ms.
    credit_bytes: int = 32 << 20
    #: Bytes of frames, those of control too, that may be unacknowledged: they are kept for a new connection.
    log_bytes: int = 64 << 20
    #: Bytes received after which an acknowledgement is sent in a frame of its own, if no other frame carried it.
    ack_bytes: int = 2 << 20
    #: Frames received after which the same happens.
    ack_frames: int = 64
    #: Seconds after which the same happens: until then the other side keeps the memory of what it sent.
    ack_delay: float = 0.05
    #: Seconds in which a side that leaves tries to send what is queued.
    close_grace: float = 2.0
    #: Bytes of the largest message that is sent or accepted, all parts together.
    message_bytes: int = 8 << 30
    #: Bytes of the largest meta block that is accepted: a report that names a million failed items needs 4 MB.
    meta_bytes: int = 16 << 20
    #: Messages of one sender that may be incomplete at once.
    streams: int = 1024
    #: Bytes of printed text that may wait for the connection; a worker drops what tasks print beyond that.
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
    #: GPUs of a worker that are named when it connects: more would not fit into one message.
    named_devices: int = 64
    #: Characters of the name of a GPU.
    device_chars: int = 40
    #: Slots of a worker.
    worker_slots: int = 4096
    #: Bytes of a token file that are read.
    token_file_bytes: int = 64 << 10

    # connections
    #: Seconds before each dial of a worker or pool that is not there. The first tries come quickly, so that a restarted
    #: one is found while a person looks on; the last pause repeats.
    redial: tuple[float, ...] = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
    #: Largest share of a pause that is added to it at random, so that many workers do not connect in step.
    redial_jitter: float = 0.25
    #: Seconds between two dials of a hub once the pool has been away for so long that an idle worker would leave.
    redial_hub: float = 60.0
    #: Seconds without work after which a worker behind a Jupyter server's proxy leaves, and waits to be called.
    idle_leave: float = 600.0
    #: Seconds before a worker that waits to be called dials again, once its connection has ended; twice as long each
    #: time, as each dial may count as activity of a user on a JupyterHub.
    call_redial: float = 2.0
    #: Seconds after which it takes a fresh connection for that, to see that the pool is still there; twice as long each
    #: time.
    call_held: float = 7200.0
    #: The longest of these pauses.
    call_most: float = 86_400.0
    #: The first port that a pool takes for the Jupyter server's proxy, and how many there are: below those that systems
    #: give out by themselves, so that the same notebook has the same port after a restart.
    notebook_ports: tuple[int, int] = (20_000, 10_000)
    #: Longest pause between two dials while a session waits to go on: results flow soon after the network is back.
    redial_session: float = 0.5
    #: The same while nothing listens on a host that answers: a notebook's kernel that restarts has its workers back
    #: within 2 s. A refused dial costs each side about a millisecond, a minute of processor time in a long night.
    redial_refused: float = 1.5
    #: Seconds between two lines of a worker's log which say that it still dials its pool.
    redial_log: float = 60.0
    #: Seconds after which a dial that has not ended is joined by another: a network that comes back lets a new one
    #: pass at once, and the old one only when the system sends its packet again.
    redial_join: float = 1.0
    #: Dials of one session at one time.
    redial_dials: int = 4
    #: Seconds between two looks at whether the network of this machine has changed, while something waits to dial.
    redial_look: float = 0.25
    #: Seconds in which nothing listens where a session was, until it is lost.
    refused_after: float = 3.0
    #: Seconds before a worker with another token or Python is dialled again: a person has to correct that first.
    redial_fatal: float = 30.0
    #: Seconds in which a pool that closes sends Bye to all its workers.
    hub_close: float = 5.0
    #: Seconds that a listener gives TLS, the HTTP upgrade and the proof of the token, each.
    hop_timeout: float = 5.0
    #: Seconds for the closing handshake of a WebSocket.
    close_timeout: float = 2.0
    #: Connections without proof at one time.
    unauthenticated: int = 32
    #: The same from one address (IPv6: one /64).
    unauthenticated_per_address: int = 8
    #: Bytes of the largest WebSocket message that is accepted; a frame of a session has a quarter of it.
    websocket_bytes: int = 1 << 20
    #: Bytes that wait to be taken by an other side. Only answers to its pings pass this; then the connection is cut.
    untaken_bytes: int = 4 << 20
    #: Unsent bytes in the kernel: control messages stay quick while data flows (0.22 s instead of 0.71 s at 16 Mbit/s).
    unsent_bytes: int = 128 << 10

    # a check of the way to a worker or pool
    #: Seconds that its measurements may take. The connection before them has the time of any other one.
    check_seconds: float = 10.0
    #: Round trips of which the shortest counts.
    check_round_trips: int = 5
    #: Seconds after which a transfer is long enough to tell the bandwidth; until then a larger one follows.
    check_transfer: float = 0.1
    #: Bytes that the other side moves for one check, both ways together.
    check_bytes: int = 16 << 20
    #: Checks of one pool at one time. They measure one after the other, and the other sides wait for so long.
    checks_at_once: int = 8

    # engines that somebody else runs
    #: Seconds that one may take until it has said who is there: a cluster of Ray starts in three or four.
    engine_open: float = 60.0
    #: Seconds, and one more for each MiB, after which calls no longer wait for its store to have a payload.
    engine_hand_over: float = 30.0
    #: Seconds in which what was made there is let go of.
    engine_close: float = 10.0
    #: Seconds without work after which the task processes in one of its workers leave.
    engine_idle: float = 60.0

    # liveness
    #: Seconds between two heartbeats.
    beat_every: float = 5.0
    #: Seconds of silence after which a worker gets no new work.
    suspect_after: float = 10.0
    #: Seconds of silence after which a worker is lost: so long its connection may be gone, and come back at no cost.
    reconnect_grace: float = 30.0
    #: Seconds of silence after which the side that dialled tries a second connection beside the first: longer than two
    #: heartbeats are apart.
    doubt_after: float = 6.5
    #: Seconds after which it does so if nothing that it sent is acknowledged, though the other side is heard. A frame
    #: takes 21 seconds at 100 kbit/s.
    stuck_after: float = 25.0
    #: Seconds without a connection to its pool after which a worker ends its tasks, and (`--exit-if-orphaned`) leaves.
    orphan_after: float = 120.0
    #: Seconds of silence after which a worker gives up a pool that is connected: its process may hold the GIL for long.
    pool_silence: float = 600.0

    # results that a worker keeps while its pool does not take them
    #: Bytes in memory; further results go to files.
    kept_bytes: int = 256 << 20
    #: Bytes in these files; then the task processes wait.
    spool_bytes: int = 8 << 30
    #: Bytes of each of these files; a larger result has a file of its own.
    spool_file_bytes: int = 64 << 20

    # items that failed, for `rerun_locally`
    #: Bytes of the items of a job that its errors keep, all together. Of its function they keep half as much.
    rerun_bytes: int = 32 << 20

    # load
    #: Used share of a host's memory above which its worker gets nothing new while others can take it.
    memory_pressure: float = 0.90


LIMITS = Limits()
