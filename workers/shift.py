"""What a worker does with requests, one step after the other; when, and how it waits between them, is its caller's.

leftovers -> serve: take, settle (one group of writes), end (one pipeline) -> serve ... now and then: look after others

While a batch is settled Redis works on the end of the one before it, and takes the next one where more is waiting.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress

import structlog
from redis import Redis
from redis.exceptions import RedisError

from broker import claim_next, presence
from broker.aftermath import follow_families, on_time
from broker.answers import Answer, Word
from broker.batch import Settled, settle_batch
from broker.clock import Steady, monotonic_ms
from broker.coordinator import Context
from broker.door import Taken
from broker.families import Descent
from broker.settings import Settings
from workers import left_behind, shedding
from workers.admission import admitted
from workers.fault_points import At, nowhere
from workers.finishing import finish, post_end
from workers.inflight import ASKED, session_name
from workers.lean_redis import flush
from workers.refusals import Refusals
from workers.store_watch import StoreWatch
from workers.taking import Hand, Taker

log = structlog.get_logger(__name__)

CROWD = 512
"""Requests in a list that will take many batches anyway."""
LATELY_MS = 20
"""Where holders of leases have sent something for as long, more of theirs is likely to come."""
BESIDE_HOLDERS = 8
"""Others' requests in a batch while there is a crowd of them and holders send: whatever comes while a batch is settled
waits for it. A crowd drains a quarter slower for that, and renewals wait half as long."""
TAKE_OVERS_MAX = 64
"""Portions taken over one after the other; what a dead worker's slots hold beyond that, the next look takes over."""
TAKE_OVER_MS = 500
"""Nor does it take over another after as long: each is a batch of its own, and all who queue wait meanwhile."""
TAKEN_OVER_AT_ONCE = 8
"""Requests of such a portion: less than what a worker may have died of."""


def _nothing() -> None:
    """Nobody waits meanwhile."""


class Shift:
    """One worker's part in serving. A RedisError passes through: what was in hand then is among the `leftovers`."""

    def __init__(
        self,
        context: Context,
        connection: Redis,
        worker: str,
        queues: Sequence[str],
        settings: Settings,
        *,
        steady_ms: Steady = monotonic_ms,
        at: At = nowhere,
    ) -> None:
        self.settled = 0
        """Requests settled so far."""
        self.session = worker
        """The name that its lists have at present: see `workers/inflight.py`."""
        self._sessions = 0
        self._collected = worker
        """The last session that began with what those before it had left."""
        self._context = context
        self._redis = connection
        self._worker = worker
        self._queues = queues
        self._settings = settings
        self._steady_ms = steady_ms
        self._at = at
        self._taker = Taker(connection, worker, queues, steady_ms=steady_ms)
        self._slots = ASKED
        self._holders_ms = steady_ms() - LATELY_MS
        """When holders last sent something, on this host's monotonic clock."""
        self._in_haste = False
        """Whether holders send while others queue: then batches are short, and taken just before they are settled."""
        self._asked: Callable[[], Hand] | None = None
        """A batch that Redis was asked for, and that may be in flight already."""
        self._ending: Callable[[], None] | None = None
        """The end of a batch, which is on its way."""
        self._store_watch = StoreWatch(context.store, worker, steady_ms=steady_ms)
        self._refusals = Refusals(worker, steady_ms=steady_ms)
        self._descent = Descent()
        """Jobs that have ended and whose children are still to be looked at."""

    @property
    def upcoming(self) -> str:
        """The session that is next."""
        return session_name(self._worker, self._sessions + 1)

    def leftovers(self) -> Hand:
        """Begin a session: what was in hand when Redis went away, or was full."""
        self._asked = None
        self._context.ready_sets.forget()
        with suppress(RedisError):  # what failed may have come after it, and nobody else sees to its end
            self._end()
        # The last one may have begun, too, though nobody heard of it. What began in between is taken over, if anything.
        before = list(dict.fromkeys((self._collected, self.session)))
        self.session = self.upcoming
        self._sessions += 1
        self._taker = Taker(self._redis, self.session, self._queues, steady_ms=self._steady_ms)
        hand = left_behind.own_leftovers(self._redis, self.session, before=before, steady_ms=self._steady_ms)
        self._collected = self.session
        return hand

    def serve(self, hands: Sequence[Hand] = (), *, meanwhile: Callable[[], None] = _nothing) -> bool:
        """Settle and answer `hands`, or else a batch that is taken now. Whether to come again, before any wait.

        `meanwhile` is called where not, while Redis still works on the end of it: the wait for what comes next begins.
        """
        hands = hands or [self.take()]
        for hand in hands:
            flush(self._redis)  # the answers of the one before are not to wait for this one's settlement
            self._look_at(hand)
            if hand.longest and self._asked is None and not self._in_haste:
                self._ask()
                flush(self._redis)
            self._settle(hand)
        more = self._asked is not None or any(len(hand.entries) > 1 or hand.longest for hand in hands)
        if more and self._asked is None:
            self._ask()  # in one write with the end of this batch: where several came, others have come meanwhile
        flush(self._redis)
        if not more:
            meanwhile()
            self._end()
            if self._descent:
                follow_families(self._context, self._redis, self._descent, now_ms=hands[-1].clock.now_ms())
        return more or bool(self._descent)

    def stop(self, hands: Sequence[Hand] = ()) -> None:
        """Settle `hands`, and all else that is in hand, and take nothing more."""
        for hand in hands:
            self.settle(hand)
        if self._asked is not None:
            self.settle(self.take())
        self._end()
        self._refusals.tell(at_once=True)

    def tell(self) -> None:
        """Say in the log what it does not say at once. To be called now and then."""
        self._refusals.tell()

    def settle(self, hand: Hand) -> None:
        """Settle a batch and answer it. Afterwards nothing of it is in flight."""
        self._settle(hand)
        self._end()

    def take(self) -> Hand:
        """The batch that was asked for, now or before."""
        if self._asked is None:
            self._ask()
        assert self._asked is not None, "it was asked for"
        hand, self._asked = self._asked(), None
        return hand

    def relieve(self) -> bool:
        """Settle and answer a batch of what holders ask, in a Redis that is full of it; whether there was any."""
        hand = self._taker.take_anyway(self._slots[0], at_most=self._settings.batch_max)
        self.settle(hand)
        return bool(hand.entries)

    def _ask(self) -> None:
        """Have the next batch brought, into the slot that the last one does not stand in."""
        self._slots = self._slots[::-1]
        batch_max = self._settings.batch_max
        others = min(batch_max, BESIDE_HOLDERS) if self._in_haste else batch_max
        self._asked = self._taker.ask(self._slots[0], at_most=batch_max, others=others)

    def _look_at(self, hand: Hand) -> None:
        now_ms = self._steady_ms()
        if hand.holders:
            self._holders_ms = now_ms
        self._in_haste = hand.longest > CROWD and now_ms - self._holders_ms < LATELY_MS

    def _end(self) -> None:
        """Wait for the end of the last batch."""
        ending, self._ending = self._ending, None
        if ending is not None:
            ending()
            self._at("finished")

    def _settle(self, hand: Hand) -> None:
        if hand.longest > self._settings.queue_max:
            self._turn_away()
        if not hand.entries:
            return
        self._at("taken")
        batch, refused = admitted(self._context, self._redis, hand.entries, now_ms=hand.clock.now_ms())
        taken = [request for _, request in batch]
        results = self._settled(taken, hand)
        self._store_watch.after(results)
        self._at("settled")
        settled = list(zip([entry for entry, _ in batch], results, strict=True))
        self._end()  # of the batch before this one: Redis had the time of this one's settlement for it
        now_ms = hand.clock.now_ms()
        self._ending = post_end(
            self._context, self._redis, self.session, settled, refused, descent=self._descent, now_ms=now_ms
        )
        self.settled += len(batch)
        self._refusals.after(refused)

    def _settled(self, taken: Sequence[Taken], hand: Hand) -> list[Settled]:
        """What became of these. A mistake of ours leaves that unknown, also to those who sent them: they ask again.

        Left in hand, they would stop this worker, and then each that takes them over.
        """
        try:
            return settle_batch(self._context, self._redis, taken, clock=hand.clock, worker=self._worker)
        except RedisError:
            raise
        except Exception:
            log.exception("batch_failed", worker=self._worker, count=len(taken))
            return [Settled(each.request, Answer(Word.OUTCOME_UNKNOWN), seal=each.seal) for each in taken]

    def _turn_away(self) -> None:
        """Answer what the queues can't hold, without a look at the store."""
        hand = shedding.take_surplus(
            self._redis,
            self.session,
            self._queues,
            queue_max=self._settings.queue_max,
            steady_ms=self._steady_ms,
        )
        batch, refused = admitted(self._context, self._redis, hand.entries, now_ms=hand.clock.now_ms())
        entropy = self._context.entropy
        told = [
            (entry, Settled(taken.request, shedding.overloaded(entropy, resend=taken.resend), seal=taken.seal))
            for entry, taken in batch
        ]
        finish(self._context, self._redis, self.session, told, refused, now_ms=hand.clock.now_ms())
        self._refusals.after(refused)
        log.warning("requests_turned_away", worker=self._worker, count=len(told))

    def look_after(self, now_ms: int) -> bool:
        """Requests of dead workers, waits that are over, grants that nobody reads. Whether to serve before any wait:
        those who died may have left a family.
        """
        began_ms = self._steady_ms()
        for _ in range(TAKE_OVERS_MAX):
            left = left_behind.take_over(
                self._redis,
                self.session,
                dead_after_ms=self._settings.takeover_ms,
                at_most=min(TAKEN_OVER_AT_ONCE, self._settings.batch_max),
                steady_ms=self._steady_ms,
            )
            if not left.entries:
                break
            log.warning("requests_taken_over", worker=self._worker, count=len(left.entries))
            self._at("taken_over")
            self.settle(left)
            if self._steady_ms() - began_ms >= TAKE_OVER_MS:
                break
        claim_next.end_waits(self._redis, now_ms)
        on_time(self._context, self._redis, now_ms)
        presence.take_back_unread(self._redis, self._context.entropy, now_ms=now_ms, door=self._context.door)
        return bool(self._descent)
