"""Group commit over an engine that runs batches: queues, waiting, cancellation; `verbs` says what goes in.

While one batch commits, the next one gathers; nothing ever sleeps to fill a batch. In a batch whatever frees room comes
first, then those who wait for room, then new reserves.

Failure policy: closed. A batch that fails is repeated operation by operation, so that a poisoned one fails alone; every
verb is idempotent, so repeating one whose commit was in doubt is safe. A caller whose operation has no outcome within
`timeout_s` gets `LedgerUnavailable`, wherever the store hangs; should its reserve be admitted after all, it is voided.

A store that has failed is tried once more at once; when that fails too, or takes longer than `PROBE_INTERVAL_S`, there
is an outage: whoever waits is told, whoever comes is told at once, and only a try now and then goes to the store until
one succeeds.
"""

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Sequence
from dataclasses import replace

from spendfuse.core.decisions import Admitted, Fit, Refused
from spendfuse.core.errors import LedgerClosed, LedgerError, LedgerUnavailable
from spendfuse.core.reservations import ReservationId, reservation_text
from spendfuse.ledger.operations import (
    Engine,
    Operation,
    Outcome,
    Reserve,
    Void,
)
from spendfuse.ledger.waiting import Pending, WaitingRoom

BATCH_MAX = 512
QUEUE_MAX = 10_000
STORE_TIMEOUT_S = 5.0
PROBE_INTERVAL_S = 0.25
"""How often a store that is away is tried."""
WAITERS_RETRY_S = 0.04
"""How often waiters are tried for what other processes freed; two of these stay within 100 ms."""

_log = logging.getLogger(__name__)

_Batch = list[tuple[Pending, Operation]]


class Batching:
    """Runs operations in batches. Bound to the event loop in which it was made; `start` must be called once."""

    def __init__(self, engine: Engine, *, timeout_s: float = STORE_TIMEOUT_S) -> None:
        self._engine = engine
        self._timeout_s = timeout_s
        self._loop = asyncio.get_running_loop()
        self._freeing: deque[Pending] = deque()
        self._reserves: deque[Pending] = deque()
        self._room = WaitingRoom()
        self._batch: _Batch = []
        self._waiters_tried_at = 0.0
        self._retry_timer: asyncio.TimerHandle | None = None
        self._work = asyncio.Event()
        self._watch: asyncio.TimerHandle | None = None
        self._batch_began_at = 0.0
        self._failure: LedgerUnavailable | None = None
        """Why the store failed last; None once it has taken something since."""
        self._outage: LedgerUnavailable | None = None
        self._is_closing = False
        self._pump_task: asyncio.Task[None] | None = None

    @property
    def outage(self) -> LedgerUnavailable | None:
        """See `Ledger`."""
        return _closed() if self._is_closing else self._outage

    def start(self) -> None:
        """Begin to run batches."""
        self._pump_task = self._loop.create_task(self._pump(), name="ledger-pump")

    async def close(self) -> None:
        """See `Ledger`. What was submitted before is committed first; who waits for room is sent away."""
        if self._is_closing:
            return
        self._is_closing = True
        for pending in self._room.empty():
            self._resolve(pending, _closed())
        if self._retry_timer is not None:
            self._retry_timer.cancel()
        self._work.set()
        if self._pump_task is not None and not (await asyncio.wait({self._pump_task}, timeout=self._timeout_s))[0]:
            self._pump_task.cancel()
            raise LedgerUnavailable("the store hangs; what this process holds expires once the process has ended")
        if self._watch is not None:
            self._watch.cancel()
        await self._engine.close()

    def _open_engine(self) -> Engine:
        if self._is_closing:
            raise _closed()
        return self._engine

    def _enqueue(self, queue: deque[Pending], operation: Operation, wait_s: float = 0.0) -> Pending:
        if (outage := self.outage) is not None:
            # Never the same exception twice: each raise of it would add to its traceback.
            raise type(outage)(str(outage))
        if len(queue) >= QUEUE_MAX:
            raise LedgerUnavailable(f"{QUEUE_MAX} operations wait for the store already")
        loop = self._loop
        pending = Pending(operation, loop.create_future(), loop.time() + self._timeout_s, wait_s)
        queue.append(pending)
        self._work.set()
        return pending

    async def _submit(self, queue: deque[Pending], operation: Operation, wait_s: float = 0.0) -> Outcome:
        pending = self._enqueue(queue, operation, wait_s)
        try:
            return await pending.future
        except asyncio.CancelledError:
            # It may have been admitted in the very turn of the event loop in which its caller left.
            self._void_if_admitted(pending)
            raise

    def _void_if_admitted(self, pending: Pending) -> None:
        future, operation = pending.future, pending.operation
        is_answered = future.done() and not future.cancelled() and future.exception() is None
        if isinstance(operation, Reserve) and is_answered and isinstance(future.result(), Admitted):
            self._void_unclaimed(operation.reservation_id)

    async def _pump(self) -> None:
        """Run batches until the ledger closes and nothing is left to do."""
        while True:
            self._work.clear()
            if self._failure is not None and not self._is_closing:
                await self._probe()
                continue
            self._batch = self._gather()
            if self._batch:
                await self._run_batch()
            elif self._is_closing:
                return
            else:
                await self._work.wait()

    def _gather(self) -> _Batch:
        """The next batch: what frees room, who waits for room, new reserves."""
        batch: _Batch = []
        _take(self._freeing, batch)
        if len(self._room) and (batch or self._loop.time() - self._waiters_tried_at >= WAITERS_RETRY_S):
            self._waiters_tried_at = self._loop.time()
            for waiter in list(self._room.next_tries()):
                if waiter.is_over:
                    self._dismiss(waiter)
                elif len(batch) < BATCH_MAX:
                    waiter.deadline = self._loop.time() + self._timeout_s
                    batch.append((waiter, waiter.operation))
        _take(self._reserves, batch)
        return batch

    async def _run_batch(self) -> None:
        self._batch_began_at = self._loop.time()
        if self._watch is None:
            self._watch = self._loop.call_later(self._timeout_s / 10, self._look_after_batch)
        outcomes = await self._outcomes([operation for _, operation in self._batch])
        for (pending, operation), outcome in zip(self._batch, outcomes, strict=True):
            if operation is pending.operation and pending.wait_s == 0 and not pending.future.done():
                _answer(pending.future, outcome)
            else:
                self._deliver(pending, operation, outcome)
        self._batch = []
        self._schedule_retry()

    async def _outcomes(self, operations: list[Operation]) -> Sequence[Outcome]:
        try:
            outcomes = await self._engine.run(operations)
        except LedgerUnavailable as error:
            self._failure = error
            return [error] * len(operations)
        except Exception as error:  # noqa: BLE001 - whatever it was, it must neither end the pump nor fail the others
            if len(operations) == 1:
                return [LedgerError(f"the ledger could not run {type(operations[0]).__name__}: {error!r}")]
            each: list[Outcome] = []
            for operation in operations:
                each += [self._failure] if self._failure is not None else await self._outcomes([operation])
            return each
        self._come_back()
        return outcomes

    async def _probe(self) -> None:
        """Try a store that has failed; where it fails again, there is an outage, and the next try comes later."""
        assert self._failure is not None
        doubt = self._loop.call_later(PROBE_INTERVAL_S, self._go_out, self._failure)
        try:
            await self._engine.run(())
        except Exception as error:  # noqa: BLE001 - whatever it was, it must not end the pump
            failed = (
                error if isinstance(error, LedgerUnavailable) else LedgerUnavailable(f"the store failed: {error!r}")
            )
            self._go_out(failed)
            if not self._is_closing:
                await self._pause(PROBE_INTERVAL_S)
        else:
            self._come_back()
        finally:
            doubt.cancel()

    async def _pause(self, pause_s: float) -> None:
        """Wait so long, or until the ledger closes."""
        self._work.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(pause_s):
                while not self._is_closing:
                    await self._work.wait()
                    self._work.clear()

    def _go_out(self, error: LedgerUnavailable) -> None:
        """The store is away: tell everybody who waits for it."""
        if self._outage is None:
            _log.error("store_away reason=%s", error)
        self._failure = self._outage = error
        waiting = [*self._freeing, *self._reserves, *self._room.empty()]
        self._freeing.clear()
        self._reserves.clear()
        for pending in waiting:
            self._resolve(pending, error)

    def _come_back(self) -> None:
        if self._outage is not None:
            _log.warning("store_back")
        self._failure = self._outage = None

    def _deliver(self, pending: Pending, operation: Operation, outcome: Outcome) -> None:
        if pending.is_over:
            self._dismiss(pending)
            if isinstance(outcome, Admitted) and isinstance(operation, Reserve):
                self._void_unclaimed(operation.reservation_id)
            return
        if isinstance(outcome, Refused) and outcome.can_wait:
            if operation is not pending.operation:
                return  # Its last try, at whatever is free, is queued already.
            if pending.wait_s > 0 and not self._is_closing and self._room.admit(pending, outcome):
                if pending.timer is None:
                    pending.timer = self._loop.call_later(pending.wait_s, self._try_last, pending)
                return
        self._resolve(pending, outcome)

    def _resolve(self, pending: Pending, outcome: Outcome) -> None:
        self._dismiss(pending)
        if pending.is_over:
            return
        _answer(pending.future, outcome)

    def _dismiss(self, pending: Pending) -> None:
        if pending.timer is not None:
            pending.timer.cancel()
        self._room.dismiss(pending)

    def _try_last(self, pending: Pending) -> None:
        """The waiting is over: take whatever useful cap is free, ahead of the calls that came later."""
        self._room.dismiss(pending)
        if pending.is_over:
            return
        assert isinstance(pending.operation, Reserve)
        pending.operation = Reserve(replace(pending.operation.demand, fit=Fit.FREE))
        pending.wait_s = 0.0
        pending.deadline = self._loop.time() + self._timeout_s
        self._reserves.appendleft(pending)
        self._work.set()

    def _schedule_retry(self) -> None:
        """While somebody waits, look regularly for what other processes freed or time brought."""
        if len(self._room) and self._retry_timer is None:
            self._retry_timer = self._loop.call_later(WAITERS_RETRY_S, self._retry)

    def _retry(self) -> None:
        self._retry_timer = None
        self._work.set()
        self._schedule_retry()

    def _look_after_batch(self) -> None:
        """Runs now and then, not once for each batch: a timer costs a tenth of what a batch does."""
        self._watch = None
        if self._batch or self._failure is not None:
            self._fail_overdue()
            self._watch = self._loop.call_later(self._timeout_s / 10, self._look_after_batch)

    def _fail_overdue(self) -> None:
        """The store hangs: tell every caller who has waited for it long enough."""
        now = self._loop.time()
        if self._batch and now - self._batch_began_at >= self._timeout_s:
            self._go_out(LedgerUnavailable(f"the store gave no answer within {self._timeout_s:g} s"))
        for queue in ([pending for pending, _ in self._batch], self._freeing, self._reserves):
            for pending in queue:
                if pending.deadline <= now and not pending.is_over:
                    error = LedgerUnavailable(f"the store gave no answer within {self._timeout_s:g} s")
                    self._resolve(pending, error)

    def _void_unclaimed(self, reservation_id: ReservationId) -> None:
        """Free a reservation whose caller left while it was being committed."""
        future: asyncio.Future[Outcome] = self._loop.create_future()
        future.add_done_callback(lambda done: _log_unclaimed(reservation_id, done))
        self._freeing.append(Pending(Void(reservation_id), future, self._loop.time() + self._timeout_s))
        self._work.set()


def _answer(future: asyncio.Future[Outcome], outcome: Outcome) -> None:
    if isinstance(outcome, LedgerError):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)


def _take(queue: deque[Pending], batch: _Batch) -> None:
    while queue and len(batch) < BATCH_MAX:
        pending = queue.popleft()
        if not pending.is_over:
            batch.append((pending, pending.operation))


def _closed() -> LedgerClosed:
    return LedgerClosed("the ledger of this process has been closed")


def _log_unclaimed(reservation_id: ReservationId, done: asyncio.Future[Outcome]) -> None:
    """Said in either case; a reservation that could not be voided ends at its deadline, charged at its quote."""
    error = None if done.cancelled() else done.exception()
    event = "reservation_voided" if error is None else "reservation_void_failed"
    _log.warning("%s reservation_id=%s reason=caller_left", event, reservation_text(reservation_id))
