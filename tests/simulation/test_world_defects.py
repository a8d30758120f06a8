"""The simulator finds what it is there to find: a planted defect breaks the invariant that it should, in few steps.

The reference model, which would notice most of them first, looks away: each invariant's own check has to find its own.
"""

import itertools
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
from world_seeds import Failed, be_quiet, play

from spendfuse.core.decisions import Admitted, Refused, decide
from spendfuse.core.money import Nanos
from spendfuse.core.reservations import EntryKind
from spendfuse.gate.estimates import Estimate, Estimator
from spendfuse.gate.gate import Gate
from spendfuse.gate.relay import Attempt
from spendfuse.ledger import batch as batches
from spendfuse.ledger.batch import Batch
from spendfuse.ledger.endings import closed, late
from spendfuse.ledger.memory import MemoryEngine
from spendfuse.ledger.operations import Reserve, Settle
from spendfuse.ledger.rows import BalanceRow, Lines
from spendfuse.ledger.sqlite_batch import SqliteBatch
from spendfuse.ledger.sqlite_file import transaction
from spendfuse.ledger.sqlite_writer import SqliteWriter
from spendfuse.wire.openai_stream import ChatStreamMeter

SEEDS = range(12)
STEPS = 300
Plant = Callable[[pytest.MonkeyPatch], None]


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Worlds are noisy."""
    be_quiet()
    yield
    logging.disable(logging.NOTSET)


def _settle_counts_twice(patch: pytest.MonkeyPatch) -> None:
    end = BalanceRow.end

    def twice(self: BalanceRow, *, settled: int, reserved: int) -> None:
        end(self, settled=settled, reserved=reserved)
        if reserved < 0:
            end(self, settled=settled, reserved=0)

    patch.setattr(BalanceRow, "end", twice)


def _held_is_freed_twice(patch: pytest.MonkeyPatch) -> None:
    end = BalanceRow.end
    patch.setattr(
        BalanceRow, "end", lambda self, *, settled, reserved: end(self, settled=settled, reserved=2 * reserved)
    )


def _reserve_ignores_a_limit(patch: pytest.MonkeyPatch) -> None:
    def careless(*, balances: Sequence[Any], **others: Any) -> Admitted | Refused:
        return decide(balances=[one for one in balances if one.limit.name != "user-tokens"], **others)

    patch.setattr(batches, "decide", careless)


def _reserve_ignores_a_rate(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(batches, "decide", lambda *, rates, **others: decide(rates=[], **others))


def _a_refusal_takes_from_a_rate(patch: pytest.MonkeyPatch) -> None:
    reserve = Batch.reserve

    def greedy(self: Batch, operation: Reserve) -> Any:
        outcome = reserve(self, operation)
        if isinstance(outcome, Refused):
            attribution = self._books.attribution_of(operation.demand.labels)
            for rate in self._books.lines(attribution, self._now_ms).rates:
                rate.tat_ns += 1_000_000_000
                self._books.touch_rate(rate)
        return outcome

    patch.setattr(Batch, "reserve", greedy)


def _unknown_fate_is_given_back(patch: pytest.MonkeyPatch) -> None:
    def settle_unknown(self: Attempt) -> str:
        if not self.reservation.is_ended:
            self.reservation.void()
        return ""

    patch.setattr(Attempt, "_settle_unknown", settle_unknown)


def _expire_forgets_a_balance(patch: pytest.MonkeyPatch) -> None:
    expire = Batch.expire

    def forgetful(self: Batch, due: Any) -> Any:
        books: Any = self._books
        lines = books.lines

        def fewer(*which: Any) -> Lines:
            every = lines(*which)
            return replace(every, balances=every.balances[:-1])

        books.lines = fewer
        try:
            return expire(self, due)
        finally:
            del books.lines

    patch.setattr(Batch, "expire", forgetful)


def _expire_forgets_everything(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(SqliteBatch, "expire_due", lambda self, *, has_ownerless: ())


def _lost_commits_are_told(which: type[Reserve | Settle]) -> Plant:
    def plant(patch: pytest.MonkeyPatch) -> None:
        run, number = SqliteWriter.run, itertools.count(1)

        def liar(self: SqliteWriter, operations: Sequence[Any]) -> list[Any]:
            if not all(isinstance(one, which) for one in operations) or next(number) % 5:
                return run(self, operations)
            outcomes: list[Any] = []
            with self._lock:
                try:
                    with transaction(self._connection):
                        outcomes = self._run(operations)
                        raise InterruptedError
                except InterruptedError:
                    self._books.drop(self._applied)
            return outcomes

        patch.setattr(SqliteWriter, "run", liar)

    return plant


def _calls_go_up_unasked(patch: pytest.MonkeyPatch) -> None:
    async def admit(self: Gate, estimate: Estimate, *_: object) -> Admitted:
        wanted = estimate.caps.wanted
        return Admitted(wanted, estimate.quoted.quote.at(wanted))

    patch.setattr(Gate, "_reserve", admit)


def _more_goes_up_than_is_reserved(patch: pytest.MonkeyPatch) -> None:
    reserve = Gate._reserve

    async def generous(self: Gate, *asked: Any) -> Admitted | Refused:
        verdict = await reserve(self, *asked)
        return replace(verdict, cap=verdict.cap * 2) if isinstance(verdict, Admitted) else verdict

    patch.setattr(Gate, "_reserve", generous)


def _entries_change(patch: pytest.MonkeyPatch) -> None:
    write = SqliteBatch.write

    def forger(self: SqliteBatch) -> None:
        write(self)
        self._connection.execute("DROP TRIGGER IF EXISTS entry_never_changes")
        self._connection.execute("UPDATE entry SET written_at_ms = written_at_ms + 1")

    patch.setattr(SqliteBatch, "write", forger)


def _calls_settle_in_the_window_of_now(patch: pytest.MonkeyPatch) -> None:
    close = Batch._close
    patch.setattr(
        Batch,
        "_close",
        lambda self, known, ending: close(self, replace(known, reserved_at_ms=self._now_ms), ending),
    )


def _quotes_are_too_low(patch: pytest.MonkeyPatch) -> None:
    rough = Estimator.rough

    def cheap(self: Estimator, *asked: Any) -> Any:
        estimate = rough(self, *asked)
        if not isinstance(estimate, Estimate):
            return estimate
        quote = estimate.quoted.quote
        lower = replace(quote, fixed_picos=quote.fixed_picos // 50, output_picos=quote.output_picos // 50)
        return replace(estimate, quoted=replace(estimate.quoted, quote=lower))

    patch.setattr(Estimator, "rough", cheap)


def _estimates_are_nothing(patch: pytest.MonkeyPatch) -> None:
    charge_unknown = Attempt._charge_unknown

    def free(self: Attempt, **known: Any) -> Any:
        return replace(charge_unknown(self, **known), cost=Nanos(0))

    patch.setattr(Attempt, "_charge_unknown", free)


def _charges_stop_at_what_is_held(patch: pytest.MonkeyPatch) -> None:
    def clamped(number: Any, kind: Any, charge: Any, held: Any) -> Any:
        return closed(number, kind, replace(charge, cost=Nanos(min(charge.cost, held.cost))), held)

    patch.setattr(batches, "closed", clamped)


def _every_late_message_is_one_more_entry(patch: pytest.MonkeyPatch) -> None:
    settle = MemoryEngine._settle

    def again(self: MemoryEngine, operation: Settle) -> Any:
        known = self._store.reservations.get(operation.reservation_id)
        if known is not None and known.endings and known.endings[0].entry.kind is not EntryKind.SETTLED:
            known.endings.append(late(known.endings[0].entry, operation.charge))
            return known.endings[-1].entry
        return settle(self, operation)

    patch.setattr(MemoryEngine, "_settle", again)


def _repeated_reserves_move_the_deadline(patch: pytest.MonkeyPatch) -> None:
    reserve = MemoryEngine._reserve

    def renewing(self: MemoryEngine, operation: Reserve) -> Any:
        known = self._store.reservations.get(operation.reservation_id)
        if known is not None and not known.endings:
            known.deadline_ms += 1
        return reserve(self, operation)

    patch.setattr(MemoryEngine, "_reserve", renewing)


def _streams_are_altered(patch: pytest.MonkeyPatch) -> None:
    feed = ChatStreamMeter.feed
    patch.setattr(ChatStreamMeter, "feed", lambda self, chunk: feed(self, chunk).replace(b"hello", b"Hello"))


def _an_engine_has_rules_of_its_own(patch: pytest.MonkeyPatch) -> None:
    def stingy(**asked: Any) -> Admitted | Refused:
        outcome = decide(**asked)
        if isinstance(outcome, Admitted) and outcome.cap > 1:
            return Admitted(outcome.cap - 1, asked["quote"].at(outcome.cap - 1), outcome.would_refuse)
        return outcome

    patch.setattr(batches, "decide", stingy)


DEFECTS: list[tuple[Plant, str, set[int]]] = [
    (_held_is_freed_twice, "sqlite", {1}),
    (_reserve_ignores_a_limit, "sqlite", {2, 3}),
    (_reserve_ignores_a_rate, "sqlite", {2}),
    (_a_refusal_takes_from_a_rate, "sqlite", {4}),
    (_every_late_message_is_one_more_entry, "memory", {5, 6}),
    (_repeated_reserves_move_the_deadline, "memory", {6}),
    (_charges_stop_at_what_is_held, "sqlite", {7}),
    (_lost_commits_are_told(Settle), "sqlite", {7}),
    (_settle_counts_twice, "sqlite", {3, 8}),
    (_expire_forgets_a_balance, "sqlite", {8}),
    (_calls_settle_in_the_window_of_now, "sqlite", {9}),
    (_quotes_are_too_low, "memory", {10}),
    (_unknown_fate_is_given_back, "memory", {7, 11}),
    (_estimates_are_nothing, "memory", {7, 11}),
    (_expire_forgets_everything, "sqlite", {12}),
    (_calls_go_up_unasked, "memory", {13}),
    (_more_goes_up_than_is_reserved, "memory", {13}),
    (_lost_commits_are_told(Reserve), "sqlite", {13}),
    (_entries_change, "sqlite", {14}),
    (_streams_are_altered, "memory", {17}),
    (_an_engine_has_rules_of_its_own, "sqlite", {18}),
]


@pytest.mark.parametrize(
    ("plant", "engine", "numbers"), DEFECTS, ids=[f"{min(n)}-{p.__name__.strip('_')}" for p, _, n in DEFECTS]
)
def test_a_planted_defect_is_found_and_told_as_what_it_breaks(
    plant: Plant, engine: str, numbers: set[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    with pytest.raises(Failed) as failed:
        for seed in SEEDS:
            play(engine, seed, steps=STEPS, is_shadowed=18 in numbers)
    assert failed.value.number in numbers, failed.value
    assert f"make soak SECONDS=0 ENGINE={engine} SEED=" in str(failed.value)


def test_every_invariant_has_a_defect_that_breaks_it() -> None:
    assert set().union(*[numbers for _, _, numbers in DEFECTS]) == {*range(1, 15), 17, 18}
