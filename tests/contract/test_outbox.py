"""Alerts: each is written once, by the transaction that reaches its threshold, and one process at a time delivers."""

import asyncio
import random

import pytest
from ledger_harness import (
    ACME,
    DAY,
    LIFETIME,
    Harness,
    admitted,
    charge,
    contract,
    demand,
    limit,
    refused,
    rid,
)

from spendfuse.alerting.observing import Observer
from spendfuse.core.alerts import Alert, AlertKind, Phase, Severity, alert_id
from spendfuse.core.breakers import Breaker, ErrorRate
from spendfuse.core.limits import Limit, Shadow, Unit
from spendfuse.core.thresholds import shares_reached
from spendfuse.ledger.alerts import Claim, Delivery, DeliveryKey, Ended, Fate, OutboxWork, Routed, StoredAlert
from spendfuse.ledger.spent import SpentNote
from spendfuse.ledger.store import Ledger, RefusalCount

MONEY = limit("money", 100, per=DAY)
TARGET = {**ACME, "target": "openai/gpt-4o"}
LEASE_S = 30.0
DAY_MS = 86_400_000


async def _spend(ledger: Ledger, number: int, cost: int, **labels: str) -> None:
    await admitted(ledger, number, cost, labels={**ACME, **labels})
    await ledger.settle(rid(number), charge(cost))


async def _shares(ledger: Ledger) -> list[tuple[object, ...]]:
    """Every threshold that alerts were written for: limit, subject, share, amount, in the order of their writing."""
    return [
        (one.alert.facts["limit"], one.alert.subject, one.alert.facts["share"], one.alert.amount)
        for one in await ledger.alerts(0)
        if one.alert.kind is AlertKind.THRESHOLD
    ]


async def _work(ledger: Ledger, holder: str = "a") -> OutboxWork:
    work = await ledger.outbox_step(holder, lease_s=LEASE_S)
    assert work is not None
    return work


async def _only(ledger: Ledger) -> StoredAlert:
    (found,) = await ledger.alerts(0)
    return found


def _unpriced(model: str = "gpt-9") -> Alert:
    return Alert(AlertKind.UNPRICED, alert_id(AlertKind.UNPRICED, model), Severity.INFO, {"model": model})


@contract
async def test_each_share_is_told_when_it_is_settled_and_not_while_it_is_held(*, harness: Harness) -> None:
    ledger = await harness.open(MONEY)
    await admitted(ledger, 1, 90)
    assert await _shares(ledger) == []
    await ledger.settle(rid(1), charge(49))
    assert await _shares(ledger) == []
    await _spend(ledger, 2, 1)
    assert await _shares(ledger) == [("money", "[]", 50, 100)]
    await _spend(ledger, 3, 45)
    assert [share for _, _, share, _ in await _shares(ledger)] == [50, 80]
    alert = (await ledger.alerts(0))[1].alert
    assert (alert.severity, alert.facts["settled"]) == (Severity.WARNING, 95)


@contract
async def test_one_settle_over_several_thresholds_tells_each(*, harness: Harness) -> None:
    ledger = await harness.open(limit("money", 100, per=DAY), limit("user", 1_000, each=("user",)))
    await _spend(ledger, 1, 85)
    assert [share for _, _, share, _ in await _shares(ledger)] == [50, 80]


@contract
async def test_a_share_is_told_once_whatever_repeats_and_whoever_restarts(*, harness: Harness) -> None:
    ledger = await harness.open(MONEY)
    await _spend(ledger, 1, 60)
    await asyncio.gather(*[ledger.settle(rid(1), charge(60)) for _ in range(3)])
    for number in range(2, 6):
        again = await harness.open(MONEY)
        await _spend(again, number, 2)
        await _spend(ledger, number + 10, 2)
    assert [share for _, _, share, _ in await _shares(ledger)] == [50]


@contract
async def test_a_charge_that_is_corrected_and_made_again_is_no_second_alert(*, harness: Harness) -> None:
    ledger = await harness.open(MONEY)
    await admitted(ledger, 1, 60, deadline_s=1)
    harness.clock.advance(ms=2_000)
    await ledger.expire_due()
    assert [share for _, _, share, _ in await _shares(ledger)] == [50]
    await ledger.settle(rid(1), charge(10))
    await _spend(ledger, 2, 45)
    assert [share for _, _, share, _ in await _shares(ledger)] == [50]


@contract
async def test_expiries_and_late_charges_and_records_reach_thresholds_too(*, harness: Harness) -> None:
    ledger = await harness.open(limit("user", 100, per=DAY, each=("user",)))
    for number, user in enumerate(("expired", "late"), 1):
        await admitted(ledger, number, 60, labels={"user": user}, deadline_s=1)
    await ledger.void(rid(2))
    harness.clock.advance(ms=2_000)
    await ledger.expire_due()
    await ledger.settle(rid(2), charge(60))
    now_ms = harness.clock.now_ns() // 1_000_000
    await ledger.record(demand(3, 60, labels={"user": "recorded"}), charge(60), at_ms=now_ms)
    told = {(subject, share) for _, subject, share, _ in await _shares(ledger)}
    assert told == {('["expired"]', 50), ('["late"]', 50), ('["recorded"]', 50)}


@contract
async def test_all_of_it_follows_spent_and_not_what_is_settled(*, harness: Harness) -> None:
    ledger = await harness.open(MONEY)
    await _spend(ledger, 1, 100)
    assert [share for _, _, share, _ in await _shares(ledger)] == [50, 80]
    reason = (await refused(ledger, 2, 5)).reasons[0]
    note = SpentNote("money", "[]", reason.amount, reason.resets_at_ms)
    assert await ledger.note_spent([note])
    assert not await ledger.note_spent([note])
    spent = (await ledger.alerts(0))[-1].alert
    assert (spent.facts["share"], spent.facts["settled"], spent.severity) == (100, 100, Severity.CRITICAL)
    assert len(await ledger.alerts(0)) == 3


@contract
async def test_a_limit_that_never_refuses_and_one_of_requests_are_used_up_by_what_is_settled(
    *, harness: Harness
) -> None:
    shadow = limit("shadow", 100, per=DAY, on_exceed=Shadow())
    ledger = await harness.open(shadow, limit("calls", 4, unit=Unit.REQUESTS, per=DAY))
    for number in range(1, 5):
        await _spend(ledger, number, 40)
    told = await _shares(ledger)
    assert [share for name, _, share, _ in told if name == "shadow"] == [50, 80, 100]
    assert [share for name, _, share, _ in told if name == "calls"] == [50, 80, 100]


@contract
async def test_a_raised_amount_ends_its_alerts_and_has_thresholds_of_its_own(*, harness: Harness) -> None:
    ledger = await harness.open(MONEY)
    await _work(ledger)
    await _spend(ledger, 1, 60)
    await ledger.set_amount("money", "[]", 200)
    assert await ledger.has_outbox_work("a")
    work = await _work(ledger)
    assert [phase for _, phase in work.unrouted] == [Phase.RAISED, Phase.RESOLVED]
    assert (await _only(ledger)).resolution == "raised"
    await _spend(ledger, 2, 60)
    assert await _shares(ledger) == [("money", "[]", 50, 100), ("money", "[]", 50, 200)]


@contract
async def test_a_lowered_amount_is_measured_by_the_next_call(*, harness: Harness) -> None:
    ledger = await harness.open(MONEY)
    await _spend(ledger, 1, 60)
    await ledger.set_amount("money", "[]", 70)
    await _spend(ledger, 2, 1)
    assert [share for _, _, share, amount in await _shares(ledger) if amount == 70] == [50, 80]


@contract
async def test_alerts_end_with_their_window_and_the_next_one_has_its_own(*, harness: Harness) -> None:
    ledger = await harness.open(MONEY)
    await _spend(ledger, 1, 60)
    assert (await _work(ledger)).unrouted[-1][1] is Phase.RAISED
    harness.clock.advance(ms=DAY_MS)
    assert (await _work(ledger)).unrouted[-1][1] is Phase.RESOLVED
    assert (await _only(ledger)).resolution == "turned"
    await _spend(ledger, 2, 60)
    assert [share for _, _, share, _ in await _shares(ledger)] == [50, 50]


@contract
async def test_nobody_is_told_of_a_window_that_is_over(*, harness: Harness) -> None:
    ledger = await harness.open(MONEY)
    await admitted(ledger, 1, 60, deadline_s=2 * 86_400.0)
    harness.clock.advance(ms=DAY_MS)
    await ledger.settle(rid(1), charge(60))
    assert await ledger.alerts(0) == []


@contract
async def test_alerts_end_when_their_limit_is_removed(*, harness: Harness) -> None:
    ledger = await harness.open(MONEY)
    await _spend(ledger, 1, 60)
    await _work(ledger)
    other = await harness.open(limit("other", 5))
    assert await other.has_outbox_work("a")
    await _work(other)
    assert (await _only(other)).resolution == "gone"


@contract
async def test_an_amount_of_nothing_has_no_shares(*, harness: Harness) -> None:
    ledger = await harness.open(limit("money", 0, per=DAY), limit("free", 0, unit=Unit.TOKENS, on_exceed=Shadow()))
    await admitted(ledger, 1, 0)
    await ledger.settle(rid(1), charge(0))
    assert await ledger.alerts(0) == []


@contract
async def test_an_overrun_is_told_once_until_it_is_cleared_and_then_is_over(*, harness: Harness) -> None:
    ledger = await harness.open(limit("much", 10_000))
    for number in (1, 2):
        await admitted(ledger, number, 10, labels=TARGET)
        await ledger.settle(rid(number), charge(20 * number))
        harness.clock.advance(ms=5_000)
    told = (await _only(ledger)).alert
    assert told.kind is AlertKind.OVERRUN
    assert (told.about, told.facts["charged"], told.facts["quoted"]) == ("openai/gpt-4o", 20, 10)
    await ledger.clear_overrun("openai/gpt-4o")
    await _work(ledger)
    assert (await _only(ledger)).resolution == "cleared"
    await admitted(ledger, 3, 10, labels=TARGET)
    await ledger.settle(rid(3), charge(20))
    assert len(await ledger.alerts(0)) == 2


@contract
async def test_an_alert_that_is_there_is_not_written_again(*, harness: Harness) -> None:
    one, other = await harness.open(MONEY), await harness.open(MONEY)
    assert await one.raise_alerts([_unpriced(), _unpriced("gpt-10")])
    assert not await other.raise_alerts([_unpriced(), _unpriced()])
    assert len(await other.alerts(0)) == 2


@contract
async def test_one_process_delivers_and_another_takes_over_when_its_lease_ends(*, harness: Harness) -> None:
    one, other = await harness.open(MONEY), await harness.open(MONEY)
    await one.raise_alerts([_unpriced()])
    assert await other.has_outbox_work("b")
    await _work(one, "a")
    assert not await other.has_outbox_work("b")
    assert await other.outbox_step("b", lease_s=LEASE_S) is None
    harness.clock.advance(ms=int(LEASE_S * 1_000) + 1)
    assert await other.has_outbox_work("b")
    await _work(other, "b")
    assert await one.outbox_step("a", lease_s=LEASE_S) is None


async def _routed(ledger: Ledger, *channels: str) -> OutboxWork:
    """Everything unrouted to these channels; what is due then."""
    routed = [Routed(stored.number, phase, channels, "{}") for stored, phase in (await _work(ledger)).unrouted]
    work = await ledger.outbox_step("a", lease_s=LEASE_S, routed=routed)
    assert work is not None
    return work


def _delivery(stored: StoredAlert, channel: str, phase: Phase = Phase.RAISED) -> Delivery:
    (found,) = [one for one in stored.deliveries if (one.channel, one.phase) == (channel, phase)]
    return found


@contract
async def test_a_delivery_is_claimed_before_it_is_sent_and_due_again_when_its_holder_dies(*, harness: Harness) -> None:
    ledger = await harness.open(MONEY)
    await ledger.raise_alerts([_unpriced()])
    (due,) = (await _routed(ledger, "team")).due
    assert due.stored.details == "{}"
    work = await ledger.outbox_step("a", lease_s=LEASE_S, claims=[Claim((due.key,), 60_000)])
    assert work is not None and work.due == ()
    harness.clock.advance(ms=60_000)
    other = await harness.open(MONEY)
    (again,) = (await _work(other, "b")).due
    assert (again.key, again.delivery.attempts) == (due.key, 1)
    work = await other.outbox_step("b", lease_s=LEASE_S, ended=[Ended((due.key,), Fate.SENT)])
    assert work is not None and work.due == () and list(work.sent_at_ms) == ["team"]
    assert _delivery(await _only(other), "team").fate is Fate.SENT
    assert not await other.has_outbox_work("b")


@contract
async def test_a_failed_try_waits_and_tells_why(*, harness: Harness) -> None:
    ledger = await harness.open(MONEY)
    await ledger.raise_alerts([_unpriced()])
    (due,) = (await _routed(ledger, "team")).due
    await ledger.outbox_step("a", lease_s=LEASE_S, claims=[Claim((due.key,), 60_000)])
    failed = Ended((due.key,), Fate.PENDING, retry_in_ms=5_000, error="connection refused")
    assert (await ledger.outbox_step("a", lease_s=LEASE_S, ended=[failed])) is not None
    (health,) = await ledger.channel_health()
    assert (health.channel, health.waiting, health.error) == ("team", 1, "connection refused")
    assert not await ledger.has_outbox_work("a")
    harness.clock.advance(ms=5_000)
    assert await ledger.has_outbox_work("a")
    given_up = Ended((due.key,), Fate.FAILED, error="connection refused")
    await ledger.outbox_step("a", lease_s=LEASE_S, ended=[given_up])
    assert _delivery(await _only(ledger), "team").fate is Fate.FAILED


@contract
async def test_that_it_is_over_is_told_after_that_it_is(*, harness: Harness) -> None:
    ledger = await harness.open(MONEY)
    await _spend(ledger, 1, 60)
    (raised,) = (await _routed(ledger, "team")).due
    harness.clock.advance(ms=DAY_MS)
    work = await _routed(ledger, "team")
    assert [one.key for one in work.due] == [raised.key]
    work = await ledger.outbox_step("a", lease_s=LEASE_S, ended=[Ended((raised.key,), Fate.SENT)])
    assert work is not None
    assert [one.key for one in work.due] == [DeliveryKey(raised.key.number, "team", Phase.RESOLVED)]


@contract
async def test_who_lost_the_lease_still_says_what_it_sent_and_nothing_else(*, harness: Harness) -> None:
    ledger = await harness.open(MONEY)
    await ledger.raise_alerts([_unpriced()])
    (due,) = (await _routed(ledger, "team")).due
    harness.clock.advance(ms=int(LEASE_S * 1_000) + 1)
    await _work(ledger, "b")
    sent = await ledger.outbox_step(
        "a",
        lease_s=LEASE_S,
        routed=[Routed(due.key.number, Phase.RAISED, ("other",))],
        ended=[Ended((due.key,), Fate.SENT)],
    )
    assert sent is None
    assert [(one.channel, one.fate) for one in (await _only(ledger)).deliveries] == [("team", Fate.SENT)]


@pytest.mark.parametrize("seed", range(6))
@contract
async def test_processes_that_spend_at_once_write_exactly_what_an_oracle_says(seed: int, *, harness: Harness) -> None:
    """Invariant 16."""
    limits: tuple[Limit, ...] = (
        limit("money", 900, per=DAY),
        limit("user", 300, per=LIFETIME, each=("user",)),
        limit("shadow", 200, each=("feature",), on_exceed=Shadow()),
    )
    dice = random.Random(seed)
    ledgers = [await harness.open(*limits) for _ in range(3)]
    settled: dict[tuple[str, str], int] = {}
    expected: set[tuple[object, ...]] = set()

    async def call(number: int, ledger: Ledger, cost: int, labels: dict[str, str]) -> None:
        outcome = await ledger.reserve(demand(number, 100, labels=labels))
        if isinstance(outcome, type(None)) or not hasattr(outcome, "held"):
            return
        await ledger.settle(rid(number), charge(cost))
        for one in limits:
            key = (one.name, one.subject_of(labels))
            settled[key] = settled.get(key, 0) + cost
            for share in shares_reached(one, amount=one.amount, settled=settled[key]):
                expected.add((*key, share, one.amount))

    for wave in range(6):
        calls = [
            call(
                wave * 10 + place + 1,
                dice.choice(ledgers),
                dice.randint(0, 100),
                {"user": dice.choice("ab"), "feature": dice.choice("xy")},
            )
            for place in range(8)
        ]
        await asyncio.gather(*calls)
        if dice.random() < 0.4:
            ledgers[dice.randrange(3)] = await harness.open(*limits)
    told = await _shares(ledgers[0])
    assert len(told) == len(set(told))
    assert set(told) == expected


BREAKER = Breaker("errors", ErrorRate(10), each=("target",))


async def _force(ledger: Ledger, *, is_open: bool) -> None:
    await ledger.force_breaker(BREAKER, '["openai/gpt-4o"]', is_open=is_open, why="it lies", who="ops")


@contract
async def test_a_breaker_is_told_of_once_when_it_opens_and_over_when_it_closes(*, harness: Harness) -> None:
    ledger = await harness.open(MONEY)
    await _work(ledger)
    for _ in range(2):
        await _force(ledger, is_open=True)
        await _force(ledger, is_open=True)
        assert await ledger.has_outbox_work("a")
        await _work(ledger)
        await _work(ledger)
        harness.clock.advance(ms=1_000)
        await _force(ledger, is_open=False)
        await _work(ledger)
    told = await ledger.alerts(0)
    assert [(one.alert.kind, one.alert.about, one.resolution) for one in told] == [
        (AlertKind.BREAKER, "errors", "closed")
    ] * 2
    assert told[0].alert.facts["subject"] == "target=openai/gpt-4o"
    assert (told[0].alert.facts["why"], told[0].alert.facts["who"]) == ("it lies", "ops")


@contract
async def test_who_spends_a_limit_is_told_under_its_subject(*, harness: Harness) -> None:
    by_user = limit("user", 1_000, each=("user",), match={"feature": frozenset({"search", "chat"})})
    by_run = limit("run", 1_000, each=("run",))
    ledger = await harness.open(by_user, by_run)
    labels = [("u1", "search", 30), ("u1", "chat", 50), ("u1", "other", 70), ("u2", "chat", 90)]
    for number, (user, feature, cost) in enumerate(labels, 1):
        await _spend(ledger, number, cost, user=user, feature=feature, run="r")
    rows = await ledger.spenders("feature", by_user, '["u1"]', since_ms=0)
    assert [(row.value, row.cost, row.calls) for row in rows] == [("chat", 50, 1), ("search", 30, 1)]
    assert await ledger.spenders("feature", by_run, '["r"]', since_ms=0) == []
    settled = await ledger.settled_since(harness.clock.now_ns() // 1_000_000 - 3_600_000)
    assert settled == {("user", '["u1"]'): 80, ("user", '["u2"]'): 90}


@contract
async def test_refusals_are_added_up_by_reason_limit_feature_and_user(*, harness: Harness) -> None:
    ledger = await harness.open(MONEY)
    one, other = RefusalCount("budget_exceeded", "money", "chat", "u1"), RefusalCount("rate", "calls", "", "")
    await ledger.count_refusals([one, other, RefusalCount("budget_exceeded", "money", "chat", "u1", 1, shadow=True)])
    harness.clock.advance(ms=3_600_000)
    await ledger.count_refusals([one])
    now_ms = harness.clock.now_ns() // 1_000_000
    found = await ledger.refusals(now_ms - 3 * 3_600_000, now_ms + 1)
    assert [(row.code, row.count) for row in found] == [("budget_exceeded", 2), ("rate", 1)]
    assert [row.count for row in await ledger.refusals(now_ms - 1_800_000, now_ms + 1)] == [1]


@contract
async def test_an_outage_is_told_once_it_is_over_and_once_by_all_processes_that_saw_it(harness: Harness) -> None:
    ledgers = [await harness.open(MONEY), await harness.open(MONEY)]
    observers = [Observer(one, harness.clock) for one in ledgers]
    began_ms = harness.clock.now_ns() // 1_000_000
    for why in ("the store is away", "it still is"):
        for observer in observers:
            observer.note_outage(why)
        harness.clock.advance(ms=45_000)
    assert not await ledgers[0].alerts(0)
    for observer in (*observers, *observers):
        await observer.tell_of_outage()
    told = (await _only(ledgers[1])).alert
    assert (told.kind, told.severity) == (AlertKind.STORE_DOWN, Severity.CRITICAL)
    assert told.facts == {"from_ms": began_ms, "until_ms": began_ms + 90_000, "why": "the store is away"}
    harness.clock.advance(ms=600_000)
    observers[0].note_outage("once more")
    await observers[0].tell_of_outage()
    assert len(await ledgers[0].alerts(0)) == 2
