"""What only a PostgreSQL store has: a server that can be away, connections that break, a schema, other processes."""

import asyncio
import logging
import random
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import asyncpg
import pytest
from faulty_wire import Fault, FaultyWire
from ledger_harness import (
    DAY,
    NOON_NS,
    admitted,
    back,
    charge,
    claim,
    committed,
    demand,
    limit,
    line_of,
    quote,
    refused,
    rid,
)
from postgres_harness import LEASE_S, PostgresHarness, execute, raw_connection, rows

from spendfuse.clock import FrozenClock
from spendfuse.core.decisions import Admitted
from spendfuse.core.errors import LedgerError, LedgerUnavailable
from spendfuse.core.limits import Unit
from spendfuse.core.reservations import CallIds, EntryKind, reservation_of
from spendfuse.core.windows import Span
from spendfuse.ledger import postgres_books, statements
from spendfuse.ledger.postgres import migrate_postgres, open_postgres
from spendfuse.ledger.statements import migrations
from spendfuse.ledger.store import KeyRecord, Ledger

LIMITS = (limit("total", 5_000), limit("user", 2_000, each=("user",)))
OTHERS = "SELECT pid FROM pg_stat_activity WHERE application_name = 'spendfuse'"
DEADLOCKS = "SELECT deadlocks FROM pg_stat_database WHERE datname = 'postgres'"


@claim
async def test_a_new_store_is_migrated_once_however_many_open_it_at_once(empty_postgres: str) -> None:
    harness = PostgresHarness(empty_postgres)
    await asyncio.gather(*[harness.open(*LIMITS) for _ in range(4)])
    applied = await harness.rows("SELECT number FROM migration ORDER BY number")
    assert applied == [(number,) for number, _, _ in migrations("postgres")]
    assert await harness.rows("SELECT count(*) FROM config") == [(1,)]
    assert len({owner for (owner,) in await harness.rows("SELECT owner_id FROM owner")}) == 4
    await harness.close()


@claim
async def test_migrating_says_what_it_applied_and_then_nothing(empty_postgres: str) -> None:
    assert await migrate_postgres(empty_postgres) == [f"{n:04}_{name}" for n, name, _ in migrations("postgres")]
    assert await migrate_postgres(empty_postgres) == []


@claim
async def test_a_store_of_a_newer_schema_is_refused_untouched(empty_postgres: str) -> None:
    harness = PostgresHarness(empty_postgres)
    await (await harness.open(*LIMITS)).close()
    execute(empty_postgres, "INSERT INTO migration (number, name) VALUES (9999, 'later')")
    with pytest.raises(LedgerError, match="schema 9999"):
        await harness.open(limit("other", 1))
    assert await harness.rows("SELECT count(*) FROM config") == [(1,)]


@claim
async def test_a_process_goes_on_while_a_newer_schema_is_applied(empty_postgres: str) -> None:
    harness = PostgresHarness(empty_postgres)
    ledger = await harness.open(*LIMITS)
    await admitted(ledger, 1, 100)
    for table in ("balance", "entry", "reservation", "label_set", "spend"):
        execute(empty_postgres, f"ALTER TABLE {table} ADD COLUMN later bigint NOT NULL DEFAULT 0")
    execute(empty_postgres, "INSERT INTO migration (number, name) VALUES (9999, 'later')")
    await admitted(ledger, 2, 100, labels={"user": "u2"})
    await ledger.settle(rid(1), charge(40))
    assert await committed(ledger, "total") == (40, 100)
    assert await ledger.audit() == []
    await harness.close()


@pytest.mark.parametrize("promise", ["off"])
@claim
async def test_a_store_that_may_lose_commits_is_refused(empty_postgres: str, promise: str) -> None:
    with pytest.raises(LedgerError, match="synchronous_commit"):
        await open_postgres(f"{empty_postgres}&synchronous_commit={promise}", limits=LIMITS)
    execute(empty_postgres, f"ALTER SYSTEM SET fsync = {promise}")
    execute(empty_postgres, "SELECT pg_reload_conf()")
    try:
        while await rows(empty_postgres, "SHOW fsync") != [(promise,)]:
            await asyncio.sleep(0.01)
        with pytest.raises(LedgerError, match="fsync off"):
            await open_postgres(empty_postgres, limits=LIMITS)
    finally:
        execute(empty_postgres, "ALTER SYSTEM RESET fsync")
        execute(empty_postgres, "SELECT pg_reload_conf()")
        while await rows(empty_postgres, "SHOW fsync") != [("on",)]:
            await asyncio.sleep(0.01)


@claim
async def test_a_server_that_is_not_there_is_unavailable_and_its_password_is_not_told(tmp_path: Path) -> None:
    with pytest.raises(LedgerUnavailable) as caught:
        await open_postgres(f"postgresql://me:secret-word@/db?host={tmp_path}", limits=LIMITS, timeout_s=1.0)
    assert "secret-word" not in f"{caught.value!r} {caught.value.__cause__!r}"


@pytest.mark.parametrize("change", ["UPDATE entry SET cost = 0", "DELETE FROM entry", "TRUNCATE entry"])
@claim
async def test_the_store_itself_refuses_to_change_entries(empty_postgres: str, change: str) -> None:
    """Invariant 14."""
    harness = PostgresHarness(empty_postgres)
    ledger = await harness.open(*LIMITS)
    await admitted(ledger, 1, 100)
    await ledger.settle(rid(1), charge(40))
    raw = await raw_connection(empty_postgres)
    with pytest.raises(asyncpg.IntegrityConstraintViolationError, match="entries"):
        await raw.execute(change)
    await raw.close()
    await harness.close()


@pytest.mark.parametrize("state", ["settled = -1", "reserved = -1", "settled = 5000, reserved = 1"])
@claim
async def test_the_store_itself_refuses_balances_that_break_the_invariants(empty_postgres: str, state: str) -> None:
    """Invariants 1 and 3."""
    harness = PostgresHarness(empty_postgres)
    await admitted(await harness.open(*LIMITS), 1, 100)
    raw = await raw_connection(empty_postgres)
    with pytest.raises(asyncpg.CheckViolationError):
        await raw.execute(f"UPDATE balance SET {state} WHERE subject = '[]'")
    await raw.close()
    await harness.close()


@claim
async def test_what_was_written_is_there_after_reopening(empty_postgres: str) -> None:
    harness = PostgresHarness(empty_postgres)
    first = await harness.open(*LIMITS)
    await admitted(first, 1, 100)
    entry = await first.settle(rid(1), charge(40))
    await first.close()
    second = await harness.open(*LIMITS)
    assert await second.settle(rid(1), charge(99)) == entry
    assert await committed(second, "total") == (40, 0)
    await harness.close()


async def _over(wire: FaultyWire, *, timeout_s: float = 5.0, clock: FrozenClock | None = None) -> Ledger:
    clock = clock or FrozenClock(NOON_NS)
    return await open_postgres(wire.dsn, limits=LIMITS, clock=clock, timeout_s=timeout_s, lease_s=LEASE_S)


@pytest.mark.parametrize("fault", [Fault.LOSE_COMMIT, Fault.LOSE_ANSWER])
@claim
async def test_a_connection_lost_in_a_commit_does_everything_once(empty_postgres: str, fault: Fault) -> None:
    """Invariants 5, 6 and 8: whether or not the server had committed, nobody can tell a difference."""
    wire = FaultyWire(empty_postgres)
    await wire.start()
    ledger = await _over(wire)
    for number in (1, 2, 3):
        await admitted(ledger, number, 100)
    await ledger.void(rid(3))
    wire.fault = fault
    settled, voided, late, extended, asked, again = await asyncio.gather(
        ledger.settle(rid(1), charge(60)),
        ledger.void(rid(2)),
        ledger.settle(rid(3), charge(30)),
        ledger.extend(rid(1), quote=quote(), cap=200, deadline_s=60),
        ledger.reserve(demand(4, 50)),
        ledger.reserve(demand(4, 70)),
    )
    assert wire.fault is Fault.NONE
    assert (settled.kind, settled.amounts.cost) == (EntryKind.SETTLED, 60)
    assert (voided.kind, late.kind, late.amounts.cost) == (EntryKind.VOIDED, EntryKind.LATE, 30)
    assert (extended, asked) == (False, Admitted(50, quote().at(50))) and again == asked
    assert await committed(ledger, "total") == (90, 50)
    assert await rows(empty_postgres, "SELECT count(*) FROM entry") == [(4,)]
    assert await ledger.audit() == []
    await ledger.close()
    await wire.stop()


@claim
async def test_a_key_stored_by_a_commit_whose_answer_was_lost_is_no_duplicate(empty_postgres: str) -> None:
    wire = FaultyWire(empty_postgres)
    await wire.start()
    ledger = await _over(wire)
    wire.fault = Fault.LOSE_ANSWER
    await ledger.add_key(KeyRecord("app", b"1" * 32))
    assert [key.name for key in await ledger.keys()] == ["app"]
    with pytest.raises(LedgerError, match="stored already"):
        await ledger.add_key(KeyRecord("app", b"1" * 32))
    await ledger.close()
    await wire.stop()


@claim
async def test_a_reserve_whose_commit_nobody_heard_of_is_voided(empty_postgres: str) -> None:
    """Who was told that the store is away will not make the call, so nothing may stay reserved for it."""
    wire = FaultyWire(empty_postgres)
    await wire.start()
    ledger = await _over(wire, timeout_s=0.3)
    await admitted(ledger, 1, 100)
    wire.fault = Fault.HOLD_COMMIT
    with pytest.raises(LedgerUnavailable):
        await ledger.reserve(demand(2, 100))
    await admitted(ledger, 3, 100)
    assert await committed(ledger, "total") == (0, 200)
    wire.fault = Fault.LOSE_ANSWER_AND_LEAVE
    with pytest.raises(LedgerUnavailable):
        await ledger.reserve(demand(4, 100))
    assert await rows(empty_postgres, "SELECT count(*) FROM reservation WHERE reservation_id = 4") == [(1,)]
    wire.resume()
    await back(ledger)
    await ledger.settle(rid(1), charge(10))
    assert await committed(ledger, "total") == (10, 100)
    assert await ledger.audit() == []
    await ledger.close()
    await wire.stop()


@claim
async def test_a_store_that_is_away_fails_verbs_at_once_and_comes_back_by_itself(empty_postgres: str) -> None:
    wire = FaultyWire(empty_postgres)
    await wire.start()
    ledger = await _over(wire)
    await admitted(ledger, 1, 100)
    await ledger.balances()
    await wire.stop()
    verbs = [ledger.reserve(demand(2, 10)), ledger.settle(rid(1), charge(5)), ledger.expire_due(), ledger.balances()]
    started_at = asyncio.get_running_loop().time()
    outcomes = await asyncio.gather(*verbs, ledger.revisions(), return_exceptions=True)
    assert asyncio.get_running_loop().time() - started_at < 2.0
    assert [type(one) for one in outcomes] == [LedgerUnavailable] * 5
    await wire.start()
    await back(ledger)
    assert (await ledger.settle(rid(1), charge(5))).amounts.cost == 5
    assert await committed(ledger, "total") == (5, 0)
    await ledger.close()
    await wire.stop()


@claim
async def test_a_store_that_hangs_fails_verbs_within_the_bound(empty_postgres: str) -> None:
    wire = FaultyWire(empty_postgres)
    await wire.start()
    ledger = await _over(wire, timeout_s=0.3)
    await admitted(ledger, 1, 100)
    wire.fault = Fault.HANG
    started_at = asyncio.get_running_loop().time()
    outcomes = await asyncio.gather(
        ledger.reserve(demand(2, 10)), ledger.settle(rid(1), charge(5)), return_exceptions=True
    )
    assert asyncio.get_running_loop().time() - started_at < 1.5
    assert [type(one) for one in outcomes] == [LedgerUnavailable] * 2
    wire.resume()
    await back(ledger)
    assert (await ledger.settle(rid(1), charge(5))).amounts.cost == 5
    assert await committed(ledger, "total") == (5, 0)
    await ledger.close()
    await wire.stop()


@claim
async def test_rows_that_another_transaction_holds_fail_verbs_within_the_bound(empty_postgres: str) -> None:
    clock = FrozenClock(NOON_NS)
    ledger = await open_postgres(empty_postgres, limits=LIMITS, clock=clock, timeout_s=0.3, lease_s=LEASE_S)
    await admitted(ledger, 1, 10)
    raw = await raw_connection(empty_postgres)
    await raw.execute("BEGIN")
    await raw.execute("SELECT * FROM balance FOR UPDATE")
    started_at = asyncio.get_running_loop().time()
    with pytest.raises(LedgerUnavailable):
        await ledger.reserve(demand(2, 10))
    assert asyncio.get_running_loop().time() - started_at < 1.5
    assert await committed(ledger, "total") == (0, 10)  # who only reads does not wait
    await raw.execute("ROLLBACK")
    await raw.close()
    await back(ledger)
    await ledger.settle(rid(1), charge(5))
    assert await committed(ledger, "total") == (5, 0)
    await ledger.close()


@claim
async def test_a_window_that_turns_while_a_batch_waits_counts_the_call_in_the_new_one(empty_postgres: str) -> None:
    """Invariant 9: the store's time once the locks are held, not the time when the batch began."""
    harness = PostgresHarness(empty_postgres)
    harness.clock.time_ns = NOON_NS // (86_400 * 10**9) * 86_400 * 10**9 + 86_399 * 10**9
    ledger = await harness.open(limit("day", 100, per=DAY))
    await admitted(ledger, 1, 10)
    raw = await raw_connection(empty_postgres)
    await raw.execute("BEGIN")
    await raw.execute("SELECT * FROM balance FOR UPDATE")
    writer = ledger._engine._writer  # type: ignore[attr-defined]
    writer._clock = None  # from here on the store's own time, which is another day's
    asked = asyncio.ensure_future(ledger.reserve(demand(2, 95)))
    while not await rows(empty_postgres, "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'"):
        await asyncio.sleep(0.005)
    assert not asked.done()
    await raw.execute("ROLLBACK")
    await raw.close()
    assert isinstance(await asked, Admitted)
    held = await harness.rows("SELECT reserved FROM balance ORDER BY window_no")
    assert sorted(held) == [(10,), (95,)]
    writer._clock = harness.clock
    await harness.close()


@claim
async def test_leases_are_renewed_and_end_by_the_clock_of_the_store(empty_postgres: str) -> None:
    """Invariant 12."""
    one = await open_postgres(empty_postgres, limits=LIMITS, lease_s=0.6)
    two = await open_postgres(empty_postgres, limits=LIMITS, lease_s=0.6)
    await admitted(one, 1, 100)
    leases = {await _lease_ms(empty_postgres, two.owner_id)}
    entries = await two.expire_due()
    while not entries:
        await asyncio.sleep(0.05)
        entries = await two.expire_due()
        leases.add(await _lease_ms(empty_postgres, two.owner_id))
    assert [(entry.reservation_id, entry.kind) for entry in entries] == [(1, EntryKind.EXPIRED)]
    assert len(leases) > 2
    assert (await one.settle(rid(1), charge(60))).kind is EntryKind.LATE
    await one.close()
    await two.close()


async def _lease_ms(dsn: str, owner_id: int) -> int:
    ((lease_until_ms,),) = await rows(dsn, f"SELECT lease_until_ms FROM owner WHERE owner_id = {owner_id}")
    return lease_until_ms


@claim
async def test_the_keeper_is_alone_with_the_store_only_when_an_amount_has_ended(empty_postgres: str) -> None:
    """While another batch runs, expiring goes on; an amount that has ended waits for it."""
    harness = PostgresHarness(empty_postgres)
    ledger = await harness.open(*LIMITS)
    now_ms = NOON_NS // 10**6
    await ledger.set_amount("total", "[]", 7, until_ms=now_ms + 1_000)
    await admitted(ledger, 1, 5, deadline_s=0.5)
    raw = await raw_connection(empty_postgres)
    await raw.execute("BEGIN")
    await raw.execute("SELECT pg_advisory_xact_lock_shared(store_lock_1())")
    harness.clock.advance(ms=999)
    assert len(await ledger.expire_due()) == 1
    harness.clock.advance(ms=1)
    expiring = asyncio.ensure_future(ledger.expire_due())
    while not await rows(empty_postgres, "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'"):
        await asyncio.sleep(0.005)
    assert not expiring.done()
    await raw.execute("ROLLBACK")
    assert await expiring == ()
    assert (await line_of(ledger, "total")).amount == 5_000
    await raw.execute("BEGIN")
    await raw.execute("SELECT pg_advisory_xact_lock_shared(store_lock_1())")
    assert await ledger.expire_due() == ()
    await raw.close()
    await harness.close()


@claim
async def test_an_amount_ends_by_the_clock_of_the_store(empty_postgres: str) -> None:
    ledger = await open_postgres(empty_postgres, limits=LIMITS, lease_s=LEASE_S)
    ((now_ms,),) = await rows(empty_postgres, "SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint")
    with pytest.raises(LedgerError, match="over already"):
        await ledger.set_amount("total", "[]", 7, until_ms=now_ms)
    await ledger.set_amount("total", "[]", 7, until_ms=now_ms + 1_000)
    while (await line_of(ledger, "total")).is_overridden:
        await ledger.expire_due()
        await asyncio.sleep(0.02)
    ((then_ms,),) = await rows(empty_postgres, "SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint")
    assert then_ms >= now_ms + 1_000
    await ledger.close()


@claim
async def test_processes_that_meet_on_many_rows_never_lock_each_other_out(empty_postgres: str) -> None:
    """Invariants 2, 4 and 8: batches, new windows, limits applied and amounts set, all at once, with no deadlock."""
    before = await rows(empty_postgres, DEADLOCKS)
    limits = (
        limit("user", 600, each=("user",)),
        limit("feature", 900, each=("feature",)),
        limit("rate", 10_000, unit=Unit.REQUESTS, per=Span(60_000), each=("user",)),
        limit("second", 10_000, unit=Unit.TOKENS, per=Span(1_000), each=("feature",)),
        limit("run", 4_000, each=("run",)),
    )
    ledgers = [await open_postgres(empty_postgres, limits=limits, lease_s=LEASE_S) for _ in range(4)]
    dice = random.Random(7)

    async def call(ledger: Ledger, ids: CallIds) -> None:
        number = reservation_of(ids.mint(1_800_000_000_000, ledger.owner_id), 1)
        labels = {
            "user": f"u{dice.randint(1, 9)}",
            "feature": f"f{dice.randint(1, 5)}",
            "run": f"r{dice.randint(1, 3)}",
        }
        outcome = await ledger.reserve(demand(number, dice.randint(1, 60), useful=1, labels=labels))
        if isinstance(outcome, Admitted):
            spent = charge(dice.randint(0, outcome.cap) // 4)
            first, second = await asyncio.gather(ledger.settle(number, spent), ledger.settle(number, spent))
            assert first == second

    async def work(ledger: Ledger) -> None:
        ids = CallIds()
        for round_ in range(12):
            await asyncio.gather(*[call(ledger, ids) for _ in range(8)])
            if round_ % 4 == 1:
                await ledger.set_amount("user", f'["u{dice.randint(1, 9)}"]', dice.randint(200, 800))
            await ledger.expire_due()

    async def apply() -> None:
        for _ in range(5):
            another = await open_postgres(empty_postgres, limits=limits, lease_s=LEASE_S)
            await another.close()

    await asyncio.gather(apply(), *[work(ledger) for ledger in ledgers])
    assert await ledgers[0].audit() == []
    lines = await ledgers[0].balances()
    assert all(line.reserved == 0 for line in lines)
    assert next(line.settled for line in lines if line.limit_name == "run") > 0
    for ledger in ledgers:
        await ledger.close()
    # A server process counts its deadlocks at the latest when it ends.
    while await rows(empty_postgres, OTHERS):
        await asyncio.sleep(0.01)
    assert await rows(empty_postgres, DEADLOCKS) == before


WORKER = textwrap.dedent(
    """
    import asyncio, random, sys, time
    sys.path.insert(0, sys.argv[2])
    from ledger_harness import charge, demand
    from test_postgres_store import LIMITS
    from spendfuse.core.decisions import Admitted
    from spendfuse.core.reservations import CallIds, reservation_of
    from spendfuse.ledger.postgres import open_postgres

    async def call(ledger, ids, dice):
        for _ in range(int(sys.argv[4])):
            number = reservation_of(ids.mint(time.time_ns() // 1_000_000, ledger.owner_id), 1)
            cap = dice.randint(1, 200)
            labels = {"user": f"u{dice.randint(1, 4)}"}
            outcome = await ledger.reserve(demand(number, cap, useful=1, labels=labels))
            if isinstance(outcome, Admitted):
                if dice.random() < 0.7:
                    spent = charge(dice.randint(0, outcome.cap) // 8)
                    await asyncio.gather(ledger.settle(number, spent), ledger.settle(number, spent))
                else:
                    await ledger.void(number)

    async def main():
        ledger = await open_postgres(sys.argv[1], limits=LIMITS, lease_s=1.0)
        print("open", flush=True)
        ids, dice = CallIds(), random.Random(int(sys.argv[3]))
        await asyncio.gather(*[call(ledger, ids, dice) for _ in range(12)])
        await ledger.close()

    asyncio.run(main())
    """
)


def _worker(dsn: str, seed: int, calls: int) -> "subprocess.Popen[bytes]":
    folder = str(Path(__file__).parent)
    return subprocess.Popen([sys.executable, "-c", WORKER, dsn, folder, str(seed), str(calls)], stdout=subprocess.PIPE)


@claim
async def test_processes_that_share_a_store_never_exceed_a_limit_and_may_be_killed(empty_postgres: str) -> None:
    """Invariants 2, 5, 6, 8 and 12, over real processes, one of them killed, and the store's own snapshots."""
    ledger = await open_postgres(empty_postgres, limits=LIMITS, lease_s=1.0)
    workers = [_worker(empty_postgres, seed, 60) for seed in range(2)]
    victim = _worker(empty_postgres, 9, 1_000_000)
    assert victim.stdout is not None
    assert await asyncio.to_thread(victim.stdout.readline) == b"open\n"
    while (await committed(ledger, "total"))[0] == 0:
        await asyncio.sleep(0.005)
    victim.send_signal(signal.SIGKILL)
    looks = 0
    while any(worker.poll() is None for worker in workers):
        for line in await ledger.balances():
            assert line.settled + line.reserved <= line.amount
            looks += 1
        await asyncio.sleep(0.02)
    assert [worker.wait() for worker in workers] == [0, 0]
    assert looks > 0
    victim.wait()
    for one in (*workers, victim):
        assert one.stdout is not None
        one.stdout.close()
    while await rows(empty_postgres, f"SELECT 1 FROM owner WHERE owner_id <> {ledger.owner_id}"):
        await ledger.expire_due()
        await asyncio.sleep(0.02)
    assert await ledger.audit() == []
    lines = await ledger.balances()
    assert all(line.reserved == 0 and line.settled <= line.amount for line in lines)
    await ledger.close()


@claim
async def test_a_batch_that_another_process_came_between_runs_again(
    empty_postgres: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Two processes open the same balance and intern the same labels at once: one of them breaks a key."""
    harness = PostgresHarness(empty_postgres)
    ledgers = [await harness.open(limit("user", 100, each=("user",))) for _ in range(3)]
    with caplog.at_level(logging.WARNING):
        for round_ in range(10):
            asked = [
                ledger.reserve(demand(3 * round_ + place, 40, labels={"user": f"u{round_}"}))
                for place, ledger in enumerate(ledgers, 1)
            ]
            outcomes = await asyncio.gather(*asked)
            assert sorted(isinstance(one, Admitted) for one in outcomes) == [False, True, True]
    assert await harness.rows("SELECT count(*) FROM balance") == [(10,)]
    assert (await refused(ledgers[0], 99, 40, labels={"user": "u0"})).can_wait
    assert caplog.records == []
    await harness.close()


@claim
async def test_a_process_that_must_forget_reads_again(empty_postgres: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres_books, "ROWS_MAX", 2)
    harness = PostgresHarness(empty_postgres)
    ledger = await harness.open(*LIMITS)
    for number in range(1, 9):
        await admitted(ledger, number, 10, labels={"user": f"u{number}", "run": f"r{number}"})
    ends = [ledger.settle(rid(number), charge(5)) for number in range(1, 9)]
    assert [entry.amounts.cost for entry in await asyncio.gather(*ends)] == [5] * 8
    assert await committed(ledger, "total") == (40, 0)
    assert await ledger.audit() == []
    await harness.close()


def test_the_folder_of_sql_is_used_to_the_last_statement() -> None:
    ledger = Path(statements.__file__).parent
    code = "".join(file.read_text() for file in ledger.glob("postgres*.py"))
    unused = [file.stem for file in (ledger / "sql" / "postgres").iterdir() if f'"{file.stem}"' not in code]
    assert unused == []
