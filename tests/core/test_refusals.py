"""What a refused caller is told: the strongest reason's code, every reason's arithmetic, and when to come back."""

import pytest

from spendfuse.core.decisions import Reason, Refused, Shortfall
from spendfuse.core.limits import Limit, Unit
from spendfuse.core.refusals import BUSY_RETRY_S, Code, deny_refused
from spendfuse.core.windows import Calendar, CalendarUnit, Lifetime, Period, Span

NOW_MS = 1_795_262_400_000  # 2026-11-21 12:00 UTC
MIDNIGHT_MS = NOW_MS + 12 * 3_600_000
DAY = Calendar(CalendarUnit.DAY)
CENT = 10_000_000


def reason(
    shortfall: Shortfall,
    *,
    name: str = "limit",
    unit: Unit = Unit.USD,
    per: Period = DAY,
    amount: int = 500 * CENT,
    settled: int = 0,
    reserved: int = 0,
    need: int = 31 * CENT,
    need_useful: int | None = None,
    resets_at_ms: int | None = MIDNIGHT_MS,
    retry_at_ms: int | None = None,
) -> Reason:
    limit = Limit(name, unit, amount, per, each=("feature",))
    return Reason(
        shortfall=shortfall,
        limit=limit,
        subject='["search"]',
        amount=amount,
        settled=settled,
        reserved=reserved,
        need=need,
        need_useful=need if need_useful is None else need_useful,
        resets_at_ms=resets_at_ms,
        retry_at_ms=retry_at_ms,
    )


RATE = {"unit": Unit.REQUESTS, "per": Span(60_000), "amount": 60, "settled": 60, "need": 1, "resets_at_ms": None}


@pytest.mark.parametrize(
    ("shortfall", "code", "status", "may_retry"),
    [
        (Shortfall.EXCEEDS, "call_exceeds_limit", 400, False),
        (Shortfall.SPENT, "budget_exceeded", 402, False),
        (Shortfall.RATE, "rate_limit_exceeded", 429, None),
        (Shortfall.BUSY, "budget_busy", 429, None),
    ],
)
def test_each_shortfall_has_the_code_and_status_of_the_design(
    shortfall: Shortfall, code: str, status: int, may_retry: bool | None
) -> None:
    deny = deny_refused(Refused((reason(shortfall),)), NOW_MS)
    assert (deny.code.text, deny.code.status, deny.code.may_retry) == (code, status, may_retry)
    assert shortfall.value == code


def test_only_what_may_pass_later_says_when() -> None:
    for shortfall in Shortfall:
        deny = deny_refused(Refused((reason(shortfall),)), NOW_MS)
        assert (deny.retry_after_s is not None) == (deny.code.status == 429)


@pytest.mark.parametrize(("wait_ms", "retry_after_s"), [(1, 1), (1_000, 1), (1_001, 2), (59_999, 60), (-5, 1)])
def test_a_rate_is_waited_for_in_whole_seconds_rounded_up(wait_ms: int, retry_after_s: int) -> None:
    limited = reason(Shortfall.RATE, **RATE, retry_at_ms=NOW_MS + wait_ms)
    assert deny_refused(Refused((limited,)), NOW_MS).retry_after_s == retry_after_s


def test_of_several_rates_the_slowest_is_waited_for() -> None:
    rates = tuple(reason(Shortfall.RATE, **RATE, retry_at_ms=NOW_MS + wait_ms) for wait_ms in (2_000, 9_000, 1))
    assert deny_refused(Refused(rates), NOW_MS).retry_after_s == 9


def test_a_place_in_flight_has_no_known_time_and_is_worth_a_second() -> None:
    place = reason(Shortfall.RATE, unit=Unit.CONCURRENT, per=Lifetime(), amount=4, reserved=4, need=1)
    assert deny_refused(Refused((place,)), NOW_MS).retry_after_s == 1


def test_calls_in_flight_are_waited_for_a_moment() -> None:
    assert deny_refused(Refused((reason(Shortfall.BUSY),)), NOW_MS).retry_after_s == BUSY_RETRY_S


def test_the_message_has_limit_subject_have_need_reset_and_next_step() -> None:
    spent = reason(Shortfall.SPENT, name="feature-day", settled=470 * CENT, reserved=18 * CENT)
    assert deny_refused(Refused((spent,)), NOW_MS).message == (
        'limit "feature-day" (feature=search): $5.00, $0.12 left ($0.18 held by calls in flight), '
        "call needs up to $0.31; resets 2026-11-22 00:00 UTC. "
        "Retrying does not help until the limit resets or is raised."
    )


def test_the_message_says_the_least_that_would_do() -> None:
    large = reason(
        Shortfall.EXCEEDS, unit=Unit.TOKENS, per=Lifetime(), amount=500, need=4_196, need_useful=612, resets_at_ms=None
    )
    assert deny_refused(Refused((large,)), NOW_MS).message == (
        'limit "limit" (feature=search): 500 tokens, 500 tokens left, '
        "call needs up to 4,196 tokens and at least 612 tokens. "
        "The call is larger than the whole limit: send less input or lower its output cap."
    )


def test_all_reasons_are_told_under_the_code_of_the_strongest() -> None:
    limited = reason(Shortfall.RATE, **RATE, name="rate", retry_at_ms=NOW_MS + 5_000)
    deny = deny_refused(Refused((reason(Shortfall.SPENT, name="month"), limited)), NOW_MS)
    assert deny.code is Code.BUDGET_EXCEEDED
    assert 'limit "month"' in deny.message and 'limit "rate"' in deny.message
    assert [one.limit.name for one in deny.reasons] == ["month", "rate"]


def test_every_code_on_the_wire_is_its_own() -> None:
    texts = [code.text for code in Code]
    assert len(set(texts)) == len(texts)


def test_what_may_be_charged_again_is_never_recommended_for_a_retry() -> None:
    for code in (Code.UPSTREAM_FAILED, Code.UPSTREAM_TIMEOUT):
        assert code.may_retry is False
