"""Thresholds and forecasts, by arithmetic alone."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spendfuse.core.alerts import AlertKind, Severity
from spendfuse.core.limits import Limit, Reject, Shadow, Unit
from spendfuse.core.money import AMOUNT_MAX
from spendfuse.core.thresholds import (
    DAY_MS,
    Course,
    forecast_alert,
    next_share_at,
    shares_of_settled,
    shares_reached,
    spent_alert,
    spent_at_ms,
    threshold_alert,
)
from spendfuse.core.windows import Calendar, CalendarUnit, Lifetime, Window, window_at

MONTH = Calendar(CalendarUnit.MONTH)
NOON_MS = 1_795_262_400_000  # 2026-11-21 12:00 UTC
NOVEMBER = window_at(MONTH, NOON_MS)
MONEY = Limit("money", Unit.USD, 100, MONTH)
SHARES = st.lists(st.integers(1, 100), max_size=6)
AMOUNTS = st.integers(0, 10**15)


def _limit(shares: list[int], *, shadow: bool = False) -> Limit:
    on_exceed = Shadow() if shadow else Reject()
    return Limit("money", Unit.USD, 100, MONTH, on_exceed=on_exceed, alert_at=tuple(shares))


@given(SHARES, AMOUNTS, AMOUNTS, st.booleans())
def test_a_share_is_reached_exactly_when_that_part_of_the_amount_is_settled(
    shares: list[int], amount: int, settled: int, shadow: bool
) -> None:
    reached = shares_reached(_limit(shares, shadow=shadow), amount=amount, settled=settled)
    counted = {share for share in shares if share < 100 or shadow}
    expected = {share for share in counted if amount > 0 and settled * 100 >= share * amount}
    assert reached == tuple(sorted(expected))


@given(SHARES, AMOUNTS, AMOUNTS)
def test_below_the_next_share_nothing_changes_and_at_it_something_does(
    shares: list[int], amount: int, settled: int
) -> None:
    limit = _limit(shares, shadow=True)
    at = next_share_at(limit, amount=amount, settled=settled)
    now = shares_reached(limit, amount=amount, settled=settled)
    assert at > settled
    if at == AMOUNT_MAX:
        assert now == shares_reached(limit, amount=amount, settled=max(settled, amount))
        return
    assert shares_reached(limit, amount=amount, settled=at - 1) == now
    assert len(shares_reached(limit, amount=amount, settled=at)) > len(now)


@given(st.lists(st.integers(0, 200), max_size=20), SHARES)
def test_over_any_history_the_alerts_are_those_of_the_highest_point(steps: list[int], shares: list[int]) -> None:
    limit = _limit(shares)
    told: set[str] = set()
    settled = highest = alerts_from = 0
    for step in steps:
        settled = max(0, settled + step - 50)
        highest = max(highest, settled)
        if settled >= alerts_from:
            alerts_from = next_share_at(limit, amount=1_000, settled=settled)
            for share in shares_reached(limit, amount=1_000, settled=settled):
                alert = threshold_alert(limit, "[]", NOVEMBER, share=share, amount=1_000, settled=settled)
                told.add(alert.alert_id)
    assert len(told) == len(shares_reached(limit, amount=1_000, settled=highest))


def test_all_of_it_follows_spent_but_where_nothing_refuses_or_requests_are_counted() -> None:
    assert shares_of_settled(MONEY) == (50, 80)
    assert shares_of_settled(Limit("shadow", Unit.USD, 1, MONTH, on_exceed=Shadow())) == (50, 80, 100)
    assert shares_of_settled(Limit("calls", Unit.REQUESTS, 1, MONTH)) == (50, 80, 100)


def test_spent_is_told_only_to_those_who_asked_for_all_of_it() -> None:
    alert = spent_alert(MONEY, "[]", NOVEMBER, amount=100, settled=97)
    assert alert is not None
    assert (alert.severity, alert.facts["share"], alert.facts["settled"]) == (Severity.CRITICAL, 100, 97)
    assert spent_alert(_limit([50]), "[]", NOVEMBER, amount=100, settled=97) is None


def test_an_alert_is_another_one_by_limit_subject_window_share_and_amount_and_by_nothing_else() -> None:
    by_user = Limit("money", Unit.USD, 100, MONTH, each=("user",))
    december = window_at(MONTH, NOVEMBER.ends_at_ms or 0)

    def number(limit: Limit = MONEY, subject: str = "[]", window: Window = NOVEMBER, **more: int) -> str:
        fields = {"share": 50, "amount": 100, "settled": 50, **more}
        return threshold_alert(limit, subject, window, **fields).alert_id

    each = [number(), number(share=80), number(amount=200), number(window=december)]
    each += [number(by_user, '["a"]'), number(by_user, '["b"]')]
    assert len(set(each)) == len(each)
    assert number(settled=63) == number()


def _spent_at(settled: int, last_day: int, *, now_ms: int = NOON_MS, window: Window = NOVEMBER) -> int | None:
    return spent_at_ms(Course(1_000, settled, last_day), window, now_ms)


def test_a_longer_window_is_forecast_by_the_mean_of_its_own_rate_and_that_of_the_last_day() -> None:
    # 20.5 days for 820: 40 a day. Nothing in the last day: 20 a day, 9 days for what is left.
    assert _spent_at(820, 0) == NOON_MS + 9 * DAY_MS
    assert _spent_at(820, 40) == NOON_MS + 180 * DAY_MS // 40
    assert _spent_at(410, 0) is None, "not before the window turns"


def test_on_its_first_day_a_longer_window_goes_by_the_last_day() -> None:
    now_ms = NOVEMBER.starts_at_ms + DAY_MS // 2
    assert _spent_at(100, 90, now_ms=now_ms) == now_ms + 10 * DAY_MS
    assert _spent_at(100, 0, now_ms=now_ms) is None


def test_a_day_is_forecast_by_itself_from_its_second_quarter_on() -> None:
    day = window_at(Calendar(CalendarUnit.DAY), NOON_MS)
    assert _spent_at(800, 5, window=day) == NOON_MS + DAY_MS // 8
    assert _spent_at(800, 5, window=day, now_ms=day.starts_at_ms + DAY_MS // 5) is None
    assert _spent_at(400, 0, window=day) is None


@given(st.integers(0, 10**12), st.integers(0, 10**12), st.integers(1, 29 * 86_400_000))
def test_a_forecast_lies_between_now_and_the_turn_of_the_window(settled: int, last_day: int, elapsed_ms: int) -> None:
    now_ms = NOVEMBER.starts_at_ms + elapsed_ms
    at_ms = spent_at_ms(Course(10**12, settled, last_day), NOVEMBER, now_ms)
    assert at_ms is None or now_ms < at_ms < (NOVEMBER.ends_at_ms or 0)


def test_what_never_turns_or_is_spent_already_has_no_forecast() -> None:
    lifetime = window_at(Lifetime(), NOON_MS)
    assert _spent_at(900, 900, window=lifetime) is None
    assert _spent_at(1_000, 1_000) is None


def test_a_forecast_is_told_once_for_each_window_and_amount() -> None:
    alert = forecast_alert(MONEY, "[]", NOVEMBER, Course(1_000, 820, 40), NOON_MS)
    later = forecast_alert(MONEY, "[]", NOVEMBER, Course(1_000, 900, 80), NOON_MS + DAY_MS)
    assert alert is not None and later is not None
    assert alert.kind is AlertKind.FORECAST and alert.alert_id == later.alert_id
    raised = forecast_alert(MONEY, "[]", NOVEMBER, Course(1_001, 900, 80), NOON_MS + DAY_MS)
    assert raised is not None and raised.alert_id != alert.alert_id


@pytest.mark.parametrize("unit", [Unit.REQUESTS, Unit.CONCURRENT])
def test_only_money_and_tokens_are_forecast(unit: Unit) -> None:
    limit = Limit("calls", unit, 100, MONTH)
    assert forecast_alert(limit, "[]", NOVEMBER, Course(1_000, 820, 40), NOON_MS) is None
    assert forecast_alert(_limit([]), "[]", NOVEMBER, Course(1_000, 820, 40), NOON_MS) is None
