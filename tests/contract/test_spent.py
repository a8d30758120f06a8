"""A limit is spent from the first refusal that says so until its window turns or its amount is raised."""

import pytest
from ledger_harness import DAY, LIFETIME, NOON_NS, Harness, StoreHarness, claim, contract, limit

from spendfuse.core.limits import Limit
from spendfuse.core.windows import Span, window_at
from spendfuse.ledger.spent import PAST_KEPT_MS, SpentNote
from spendfuse.ledger.store import Ledger, Topic

NOON_MS = NOON_NS // 10**6
DAY_MS = 86_400_000
MIDNIGHT_MS = NOON_MS + DAY_MS // 2
ALL = limit("all", 1_000, per=DAY)
BY_USER = limit("user", 500, per=DAY, each=("user",))
FOREVER = limit("ever", 100, per=LIFETIME)


def note(one: Limit, subject: str = "[]", *, amount: int | None = None, now_ms: int = NOON_MS) -> SpentNote:
    """What a refusal at this instant says."""
    resets_at_ms = window_at(one.period, now_ms).ends_at_ms
    return SpentNote(one.name, subject, one.amount if amount is None else amount, resets_at_ms)


async def spent(ledger: Ledger) -> list[tuple[str, str, int, int | None]]:
    return [(one.limit.name, one.subject, one.since_ms, one.ends_at_ms) for one in await ledger.spent()]


@contract
async def test_a_limit_is_spent_once_for_each_subject_and_window_over_all_processes(harness: Harness) -> None:
    first, second = await harness.open(ALL, BY_USER, FOREVER), await harness.open(ALL, BY_USER, FOREVER)
    assert await first.note_spent([note(ALL), note(BY_USER, '["u1"]')])
    harness.clock.advance(ms=10)
    assert not await second.note_spent([note(ALL)])
    assert await second.note_spent([note(ALL), note(BY_USER, '["u2"]'), note(FOREVER)])
    assert await first.spent() == await second.spent()
    assert await spent(await harness.open_without_limits()) == [
        ("all", "[]", NOON_MS, MIDNIGHT_MS),
        ("user", '["u1"]', NOON_MS, MIDNIGHT_MS),
        ("user", '["u2"]', NOON_MS + 10, MIDNIGHT_MS),
        ("ever", "[]", NOON_MS + 10, None),
    ]


@contract
async def test_a_window_that_turns_ends_it_and_the_next_may_be_spent_too(harness: Harness) -> None:
    ledger = await harness.open(ALL, FOREVER)
    await ledger.note_spent([note(ALL), note(FOREVER)])
    harness.clock.advance(ms=DAY_MS // 2 - 1)
    assert len(await ledger.spent()) == 2
    harness.clock.advance(ms=1)
    assert [one.limit.name for one in await ledger.spent()] == ["ever"]
    assert await ledger.note_spent([note(ALL, now_ms=MIDNIGHT_MS)])
    assert await spent(ledger) == [("all", "[]", MIDNIGHT_MS, MIDNIGHT_MS + DAY_MS), ("ever", "[]", NOON_MS, None)]


@contract
async def test_a_note_that_comes_late_changes_nothing(harness: Harness) -> None:
    ledger = await harness.open(ALL, BY_USER)
    await ledger.set_amount("user", '["u1"]', 800)
    late = [note(BY_USER, '["u1"]', amount=500), note(ALL, now_ms=NOON_MS - DAY_MS), SpentNote("none", "[]", 1, None)]
    assert not await ledger.note_spent(late)
    assert await ledger.note_spent([note(BY_USER, '["u1"]', amount=800)])
    assert not await ledger.note_spent([])


@pytest.mark.parametrize(("amount", "is_over"), [(501, True), (500, False), (499, False)])
@contract
async def test_an_amount_that_is_raised_ends_it_and_one_that_is_not_does_not(
    harness: Harness, amount: int, is_over: bool
) -> None:
    ledger = await harness.open(ALL, BY_USER)
    await ledger.note_spent([note(BY_USER, '["u1"]'), note(BY_USER, '["u2"]')])
    before = (await ledger.revisions())[Topic.SPENT]
    await ledger.set_amount("user", '["u1"]', amount)
    assert [one.subject for one in await ledger.spent()] == (['["u2"]'] if is_over else ['["u1"]', '["u2"]'])
    assert ((await ledger.revisions())[Topic.SPENT] > before) is is_over


@contract
async def test_a_reset_to_a_larger_amount_ends_it_and_it_may_be_spent_again(harness: Harness) -> None:
    ledger = await harness.open(BY_USER)
    await ledger.set_amount("user", '["u1"]', 100)
    assert await ledger.note_spent([note(BY_USER, '["u1"]', amount=100)])
    await ledger.set_amount("user", '["u1"]', None)
    assert await ledger.spent() == []
    assert await ledger.note_spent([note(BY_USER, '["u1"]')])


@contract
async def test_a_config_with_another_amount_or_without_the_limit_ends_it(harness: Harness) -> None:
    ledger = await harness.open(ALL, BY_USER)
    await ledger.set_amount("user", '["u2"]', 300)
    await ledger.note_spent([note(ALL), note(BY_USER, '["u1"]'), note(BY_USER, '["u2"]', amount=300)])
    raised = await harness.open(ALL, limit("user", 501, per=DAY, each=("user",)))
    assert [(one.limit.name, one.subject) for one in await raised.spent()] == [("all", "[]"), ("user", '["u2"]')]
    without = await harness.open(BY_USER)
    assert [(one.limit.name, one.subject) for one in await without.spent()] == [("user", '["u2"]')]
    await harness.open(ALL, BY_USER)
    assert [(one.limit.name, one.subject) for one in await without.spent()] == [("user", '["u2"]')]


@claim
async def test_what_is_long_past_is_forgotten(store_harness: StoreHarness) -> None:
    hourly = limit("hour", 10, per=Span(3_600_000))
    ledger = await store_harness.open(hourly)
    await ledger.note_spent([note(hourly)])
    store_harness.clock.advance(ms=3_600_000 + PAST_KEPT_MS - 1)
    await ledger.note_spent([note(hourly, now_ms=NOON_MS + 3_600_000 + PAST_KEPT_MS - 1)])
    assert len(await store_harness.rows("SELECT since_ms FROM spent")) == 2
    store_harness.clock.advance(ms=1)
    await ledger.note_spent([note(hourly, now_ms=NOON_MS + 3_600_000 + PAST_KEPT_MS)])
    assert len(await store_harness.rows("SELECT since_ms FROM spent")) == 2
    await store_harness.close()
