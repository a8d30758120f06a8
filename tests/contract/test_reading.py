"""Spend, keys and refusals, on every engine."""

import pytest
from ledger_harness import NOON_NS, Harness, MemoryHarness, SqliteHarness, admitted, charge, contract, limit, rid
from postgres_harness import PostgresHarness

from spendfuse.core.errors import LedgerError
from spendfuse.ledger.store import KeyRecord, RefusalCount, SpendRow, Topic

NOON_MS = NOON_NS // 1_000_000
MINUTE_MS = 60_000


@contract
async def test_spend_adds_up_by_the_values_of_a_label(harness: Harness) -> None:
    ledger = await harness.open(limit("l", 10_000))
    u1, u2 = {"user": "u1", "run": "r1"}, {"user": "u2"}
    await admitted(ledger, 1, 100, labels=u1)
    await ledger.settle(rid(1), charge(40, input_tokens=5))
    await admitted(ledger, 2, 100, labels=u2, deadline_s=1)
    await admitted(ledger, 3, 100, labels={**u1, "run": "r2"})
    await ledger.settle(rid(3), charge(20, estimated=True))
    await admitted(ledger, 4, 100, labels=u1)
    await ledger.void(rid(4))
    harness.clock.advance(ms=1_000)
    await ledger.expire_due()
    assert await ledger.spend("user", since_ms=0) == [
        SpendRow("u2", 1, 0, 100, 100, 100),
        SpendRow("u1", 2, 5, 60, 65, 20),
    ]
    await ledger.settle(rid(2), charge(30))
    assert (await ledger.spend("user", since_ms=0))[1] == SpendRow("u2", 1, 0, 30, 30, 0)
    await ledger.settle(rid(4), charge(10))
    assert await ledger.spend("run", since_ms=0) == [
        SpendRow("r1", 2, 5, 50, 55, 0),
        SpendRow("", 1, 0, 30, 30, 0),
        SpendRow("r2", 1, 0, 20, 20, 20),
    ]


@pytest.mark.parametrize("label", ["user", "run"])
@contract
async def test_values_beyond_the_top_share_one_row(harness: Harness, label: str) -> None:
    ledger = await harness.open(limit("l", 10_000))
    for number, cost in enumerate((10, 30, 20, 5, 5), 1):
        await admitted(ledger, number, 100, labels={label: f"v{number}"})
        await ledger.settle(rid(number), charge(cost, input_tokens=1))
    dearest = [SpendRow("v2", 1, 1, 30, 31, 0), SpendRow("v3", 1, 1, 20, 21, 0)]
    others = SpendRow("", 3, 3, 20, 23, 0, values=3)
    assert await ledger.spend(label, since_ms=0, top=2) == [*dearest, others]
    assert len(await ledger.spend(label, since_ms=0, top=5)) == 5


CUTS = [(-90, None, 5), (-90, 90, 5), (-50, 20, 3), (-50, 20.001, 4), (0, 1, 1), (-7, -6, 0), (-20, 61, 3), (61, 0, 0)]


@pytest.mark.parametrize("label", ["user", "run"])
@pytest.mark.parametrize(("since_min", "until_min", "calls"), CUTS)
@contract
async def test_spend_is_cut_at_the_very_millisecond(
    harness: Harness, label: str, since_min: float, until_min: float | None, calls: int
) -> None:
    ledger = await harness.open(limit("l", 10_000))
    for number, minute in enumerate((-70, -50, 0, 19, 20), 1):
        harness.clock.time_ns = NOON_NS + minute * MINUTE_MS * 1_000_000
        await admitted(ledger, number, 10, labels={label: "x"})
    for number in range(1, 6):
        await ledger.settle(rid(number), charge(10))
    harness.clock.advance(ms=41 * MINUTE_MS)
    since_ms = NOON_MS + int(since_min * MINUTE_MS)
    until_ms = None if until_min is None else NOON_MS + int(until_min * MINUTE_MS)
    rows = await ledger.spend(label, since_ms=since_ms, until_ms=until_ms)
    assert sum(row.calls for row in rows) == calls


@contract
async def test_keys_are_stored_revoked_and_rotated(harness: Harness) -> None:
    ledger, other = await harness.open(), await harness.open_without_limits()
    before = await other.revisions()
    assert await other.revisions() == before
    key = KeyRecord("app", b"1" * 32, {"organization": "acme"}, ("headers",))
    await ledger.add_key(key)
    added = await other.revisions()
    assert added[Topic.KEYS] > before[Topic.KEYS]
    assert added[Topic.OVERRUNS] == before[Topic.OVERRUNS]
    (stored,) = await other.keys()
    assert (stored.name, stored.digest, dict(stored.labels), stored.labels_from, stored.created_at_ms) == (
        "app",
        b"1" * 32,
        {"organization": "acme"},
        ("headers",),
        NOON_MS,
    )
    with pytest.raises(LedgerError, match="app"):
        await ledger.add_key(KeyRecord("app", b"2" * 32))
    assert await ledger.revoke_key("app")
    assert not await ledger.revoke_key("app")
    await ledger.add_key(KeyRecord("app", b"2" * 32))
    with pytest.raises(LedgerError):
        await ledger.add_key(KeyRecord("again", b"1" * 32))
    assert [one.revoked_at_ms for one in await other.keys()] == [NOON_MS, None]
    assert (await other.revisions())[Topic.KEYS] > added[Topic.KEYS]


@contract
async def test_refusals_are_counted_by_the_hour(harness: Harness) -> None:
    ledger = await harness.open(limit("l", 1))
    one = RefusalCount("budget_exceeded", "l", "search", "u1")
    await ledger.count_refusals([one, one])
    await ledger.count_refusals([])
    await ledger.count_refusals([RefusalCount("budget_exceeded", "l", "search", "u1", count=5)])
    if isinstance(harness, MemoryHarness):
        assert sum(count.count for count in harness.store.refusals) == 7
        return
    assert isinstance(harness, SqliteHarness | PostgresHarness)
    rows = await harness.rows("SELECT * FROM refusal")
    assert rows == [(NOON_MS, "budget_exceeded", "l", "search", "u1", 0, 7)]


@contract
async def test_limits_over_all_calls_are_listed_before_their_first_call(harness: Harness) -> None:
    ledger = await harness.open(limit("all", 100), limit("user", 100, each=("user",)))
    assert [(line.limit_name, line.settled, line.reserved) for line in await ledger.balances()] == [("all", 0, 0)]
    assert await ledger.balances("user") == []
