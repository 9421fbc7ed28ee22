"""The simulated network between the pool and one worker: real sessions over channels that break.

Owns the way of frames, and what each end knows of it: channels that are cut with what is under way, directions that
are blocked, ends that are stopped or whose clock jumps, the dialling of new channels. It must not know jobs or slots;
what messages mean is in `net_world.py`.

A channel is a stream of bytes: frames arrive in order, or not at all. After a cut they come again over the next
channel. Until an end has noticed that its channel is gone, it writes in vain.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from simulation.ledger import Broken

from distmap.wire.messages import Message
from distmap.wire.session import Session

if TYPE_CHECKING:
    from simulation.net_world import NetWorld

POOL, WORKER = 0, 1
#: Frames that the buffers of a blocked direction take; then the writer waits.
BUFFERED = 6


class End:
    """One end of a link: its session, its clock, and the channel that it believes in."""

    def __init__(self, link: Link, side: int) -> None:
        self.link = link
        self.side = side
        #: Added to the time of the world: clocks of two hosts have nothing in common.
        self.offset = link.world.rng.uniform(0.0, 1e6)
        self.session = Session(self.clock(), limits=link.world.limits)
        self.channel: int | None = 0
        self.stopped_until = 0.0
        self._waiting: deque[Callable[[], object]] = deque()
        self._going_on = False
        self.liveness = "fine"
        self.looked = self.heard = self.clock()
        self.ack_timer = False
        self.jumps = 0
        #: Messages that were sent and have not come out at the other end.
        self.under_way: Counter[Message] = Counter()

    def clock(self) -> float:
        return self.link.world.now + self.offset

    @property
    def stopped(self) -> bool:
        return self.stopped_until > 0.0

    def defer(self, action: Callable[[], object]) -> bool:
        """Whether the end is stopped; then the action happens when it goes on, in order.

        What such an action leads to waits for those behind it: a slot's reports stay in the order that it wrote them.
        """
        if self._going_on:
            self._going_on = False  # this is the action that has waited
        elif self.stopped or self._waiting:
            self._waiting.append(action)
            return True
        return False

    def stop(self, seconds: float) -> None:
        """Do nothing for a while, as after SIGSTOP."""
        world = self.link.world
        self.stopped_until = max(self.stopped_until, world.now + seconds)
        world.after(seconds, self._go_on)

    def _go_on(self) -> None:
        if self.stopped and self.stopped_until <= self.link.world.now + 1e-9:
            self.stopped_until = 0.0
            while self._waiting:
                action = self._waiting.popleft()
                self._going_on = True
                action()
                self._going_on = False
            self.link.pump(self.side)

    def send(self, message: Message, size: int = 0) -> None:
        if not self.session.over:
            self.under_way[message] += 1
            self.session.send(message, [bytes(size)] if size else ())
            self.link.pump(self.side)


class Link:
    """The network between the pool and one incarnation of a worker."""

    def __init__(self, world: NetWorld, worker: int, latency: float) -> None:
        self.world = world
        self.worker = worker
        self.latency = latency
        self.ends = (End(self, POOL), End(self, WORKER))
        #: Who dials when the channel is gone.
        self.dialer = world.rng.randrange(2)
        self.dialling = False
        self.last_channel = 0
        #: Dials that have not arrived yet: a late one takes the other end off its channel.
        self.knocking = 0
        #: The last channel that was cut: it may live a little longer.
        self.doomed = -1
        #: By sender: frames of channels up to this one are lost on their way; frames do not pass; those that wait.
        self.broken = [-1, -1]
        self.blocked = [False, False]
        self.buffer: list[deque[tuple[int, Any]]] = [deque(), deque()]
        self._due = [0.0, 0.0]
        #: The worker's process is gone.
        self.dead = False
        self.refused_since: float | None = None
        #: Both ends know that this session is over, or the worker is back under a new number.
        self.closed = False
        #: When the pool last took a frame.
        self.delivered = world.now
        for side in (POOL, WORKER):
            world.after(world.rng.uniform(0.0, world.tick_every), partial(self.tick, side))

    def alive(self) -> bool:
        """Whether neither end has given the other up."""
        return not (self.closed or self.dead or any(end.session.over for end in self.ends))

    def settled(self) -> bool:
        """Whether both ends are on one whole channel, and nothing is unacknowledged."""
        pool, worker = self.ends
        return (
            pool.channel is not None
            and pool.channel == worker.channel
            and pool.channel > max(*self.broken, self.doomed)
            and not self.knocking
            and pool.session.settled
            and worker.session.settled
        )

    # --- frames -------------------------------------------------------------------------------------------------------

    def pump(self, side: int) -> None:
        """Write what the session of an end gives out."""
        end, limits = self.ends[side], self.world.limits
        if end.stopped or end.channel is None or (side == WORKER and self.dead):
            return
        while len(self.buffer[side]) < BUFFERED and (frame := end.session.outgoing()) is not None:
            self.carry(side, end.channel, b"".join(frame))
        if end.session.log.nbytes > limits.log_bytes + limits.frame_bytes:
            raise Broken(f"the log of {end.session} has {end.session.log.nbytes} bytes")

    def carry(self, side: int, channel: int, what: bytes | int) -> None:
        """Put a frame on its way; a number is the answer to a dial: what the other end has received."""
        world = self.world
        if channel <= self.broken[side]:
            return world.count("a frame was lost")
        if self.blocked[side]:
            return self.buffer[side].append((channel, what))
        due = max(world.now + self.latency * (0.5 + world.rng.random()), self._due[side])
        self._due[side] = due
        world.at(due, partial(self.arrive, side, channel, what))

    def arrive(self, side: int, channel: int, what: bytes | int) -> None:
        """A frame arrives at the other end."""
        world, end = self.world, self.ends[not side]
        if channel <= self.broken[side]:
            return world.count("a frame was lost")
        if end.defer(partial(self.arrive, side, channel, what)) or (not side == WORKER and self.dead):
            return
        if isinstance(what, int):
            return self.granted(channel, what)
        if end.channel != channel:
            world.log.mended["a frame of an old channel was dropped"] += 1
            return
        if end.side == POOL:
            self.delivered = world.now
        end.heard = end.clock()
        given = end.session.incoming(what, end.clock())
        if world.has_fault("duplicate") and world.rng.random() < 0.05:
            world.count("a frame came twice")
            if end.session.incoming(what, end.clock()):
                raise Broken("a frame that came twice gave something twice")
        for message, _ in given:
            self.taken(end, message)
        self.pump(end.side)
        if end.session.owes and not end.ack_timer:
            end.ack_timer = True
            world.after(world.limits.ack_delay, partial(self.acknowledge, end))

    def taken(self, end: End, message: Message) -> None:
        sender = self.ends[not end.side]
        if not sender.under_way[message]:
            raise Broken(f"{message} came twice, or was never sent")
        sender.under_way[message] -= 1
        self.world.on_message(self, end.side, message)

    def acknowledge(self, end: End) -> None:
        if not end.defer(partial(self.acknowledge, end)):
            end.ack_timer = False
            if end.session.acknowledge():
                self.pump(end.side)

    # --- faults -------------------------------------------------------------------------------------------------------

    def cut(self, *, notices: tuple[bool, bool]) -> None:
        """The channel breaks: what is under way is lost, in one or both directions. Not every end notices."""
        rng = self.world.rng
        channel = self.doomed = self.last_channel
        for side in (POOL, WORKER):
            # What was sent before an orderly end may still arrive.
            if rng.random() < 0.8:
                self.broken[side] = channel
                self.buffer[side].clear()
        for side in (POOL, WORKER):
            if notices[side]:
                self.world.after(rng.uniform(0.0, 0.05), partial(self.notice, self.ends[side], channel))
        for side in (POOL, WORKER):
            self.world.after(0.05, partial(self.break_off, side, channel))

    def break_off(self, side: int, channel: int) -> None:
        self.broken[side] = max(self.broken[side], channel)

    def block(self, side: int, seconds: float) -> None:
        """Frames of an end do not pass for a while; buffers keep some of them."""
        self.blocked[side] = True
        self.world.after(seconds, partial(self.unblock, side))

    def unblock(self, side: int) -> None:
        self.blocked[side] = False
        waiting, self.buffer[side] = self.buffer[side], deque()
        for channel, what in waiting:
            self.carry(side, channel, what)
        self.pump(side)

    def jump(self, side: int, seconds: float) -> None:
        """The clock of an end goes forward at once."""
        self.ends[side].offset += seconds
        self.ends[side].jumps += 1

    # --- channels -----------------------------------------------------------------------------------------------------

    def notice(self, end: End, channel: int) -> None:
        """An end learns that its channel is gone."""
        if end.defer(partial(self.notice, end, channel)) or end.channel != channel:
            return
        self.detach(end)
        self.redial(end)

    def detach(self, end: End) -> None:
        """An end leaves its channel, if it has one."""
        if end.channel is not None:
            end.session.detached()
            end.channel = None
            self.world.on_channel(self, end.side, attached=False)

    def attach(self, end: End, number: int, received: int) -> None:
        """An end goes on over a new channel."""
        end.session.resume(received, end.clock())
        end.channel = number
        end.heard = end.clock()
        end.liveness = "fine"
        if end.side == POOL:
            self.delivered = self.world.now
        end.session.ping(end.clock())
        self.world.on_channel(self, end.side, attached=True)

    def redial(self, end: End) -> None:
        if end.side == self.dialer and not (self.dialling or self.closed or (end.side == WORKER and self.dead)):
            self.dialling = True
            self.world.after(self.latency, self.dial)

    def again(self) -> None:
        """Dial once more, a little later."""
        self.dialling = False
        if not self.world.finished():
            self.world.after(self.world.rng.choice((0.02, 0.05, 0.1)), partial(self.redial, self.ends[self.dialer]))

    def dial(self) -> None:
        """Try to make a new channel: the dialling end says what it has received."""
        world = self.world
        dials, other = self.ends[self.dialer], self.ends[not self.dialer]
        if self.closed or (self.dialer == WORKER and self.dead):
            self.dialling = False
            return
        if (any(self.blocked) and world.rng.random() < 0.5) or any(end.stopped for end in self.ends):
            return self.again()
        if self.dead:
            # Nobody listens there any more.
            self.refused_since = world.now if self.refused_since is None else self.refused_since
            if world.now - self.refused_since >= world.refused_after and not dials.session.over:
                world.lost(self, charged=True, why="refused")
            return None if dials.session.over else self.again()
        if dials.session.over or other.session.over:
            if any(self.blocked):
                return self.again()
            self.dialling = False
            return world.fence(self)
        self.detach(dials)
        self.last_channel += 1
        number = self.last_channel
        # A connection of its own: it may be late, and then also comes after a later one.
        slow = world.rng.uniform(0.0, 1.0) if self.blocked[self.dialer] or world.rng.random() < 0.1 else 0.0
        self.knocking += 1
        world.after(self.latency + slow, partial(self.knock, number, dials.session.received))
        world.after(10 * self.latency + 0.1, partial(self.late, number))

    def knock(self, number: int, received: int) -> None:
        """A dial arrives, unless its way is blocked."""
        again = partial(self.knock, number, received)
        if self.blocked[self.dialer]:
            return self.world.after(self.world.rng.uniform(0.0, 1.0), again)
        if self.ends[not self.dialer].defer(again):
            return None
        self.knocking -= 1
        return None if self.dialer == POOL and self.dead else self.answer(number, received)

    def answer(self, number: int, received: int) -> None:
        """The listening end is dialled: it leaves its old channel, and answers with what it has received.

        It cannot know that the dial is an old one, which the other end has given up.
        """
        end, other = self.ends[not self.dialer], self.ends[self.dialer]
        if end.session.over:
            if number == self.last_channel:
                self.world.after(self.latency, partial(self.world.fence, self))
            return
        if not end.session.can_resume(received):
            self.world.log.mended["a dial that came too late was refused"] += 1
            return
        if end.channel is not None:
            self.world.after(self.latency, partial(self.notice, other, end.channel))
        self.detach(end)
        self.carry(end.side, number, end.session.received)
        self.attach(end, number, received)
        self.pump(end.side)

    def granted(self, number: int, received: int) -> None:
        """The answer arrives: the dialling end goes on, too, unless it has given up this dial."""
        end, other = self.ends[self.dialer], self.ends[not self.dialer]
        if end.session.over:
            return
        if number != self.last_channel or end.channel is not None:
            self.world.after(self.latency, partial(self.notice, other, number))
            return
        self.dialling = False
        self.attach(end, number, received)
        self.pump(end.side)

    def late(self, number: int) -> None:
        """No answer came to this dial."""
        if self.dialling and self.ends[self.dialer].channel is None and number == self.last_channel:
            self.again()

    # --- the clock ----------------------------------------------------------------------------------------------------

    def tick(self, side: int) -> None:
        """What an end does by its clock: judge the silence, doubt the channel, send heartbeats."""
        world, end = self.world, self.ends[side]
        if end.defer(partial(self.tick, side)):
            return
        if end.session.over or self.closed or (side == WORKER and self.dead) or world.finished():
            if end.session.over and side == self.dialer:
                self.redial(end)
            return
        world.after(world.tick_every, partial(self.tick, side))
        now, limits = end.clock(), world.limits
        if now - end.looked > limits.beat_every:
            end.heard = now
        end.looked = now
        liveness = end.session.peer.liveness(now)
        if liveness != end.liveness:
            end.liveness = liveness
            world.on_liveness(self, side, liveness)
            if end.session.over:
                return self.redial(end)
        if now - end.heard >= 2.5 * limits.beat_every or end.channel is None:
            self.redial(end)
        if end.session.peer.beat_due(now) and end.channel is not None:
            if side == WORKER:
                world.beat(self)
            end.session.ping(now)
            self.pump(side)
