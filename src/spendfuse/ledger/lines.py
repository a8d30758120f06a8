"""Balances and rates as `limits list` shows them."""

from spendfuse.core.limits import Limit
from spendfuse.ledger.definitions import Override
from spendfuse.ledger.store import BalanceLine


def balance_line(
    limit: Limit, subject: str, override: Override | None, *, settled: int, reserved: int, resets_at_ms: int | None
) -> BalanceLine:
    """One balance in its current window."""
    return BalanceLine(
        limit_name=limit.name,
        unit=limit.unit.value,
        period=str(limit.period),
        each=limit.each,
        subject=subject,
        amount=limit.amount if override is None else override.amount,
        is_overridden=override is not None,
        is_enforced=limit.is_enforced,
        settled=settled,
        reserved=reserved,
        resets_at_ms=resets_at_ms,
        override_ends_at_ms=None if override is None else override.until_ms,
    )


def rate_line(limit: Limit, subject: str, override: Override | None, tat_ns: int, now_ns: int) -> BalanceLine:
    """One rate; of its burst, `settled` is in use now."""
    amount = limit.amount if override is None else override.amount
    in_use = 0
    if amount > 0:
        refill = limit.refill_of(amount)
        in_use = refill.burst - refill.available(tat_ns, now_ns)
    return balance_line(limit, subject, override, settled=in_use, reserved=0, resets_at_ms=None)


def always_shown(each: tuple[str, ...]) -> set[str]:
    """A limit over all calls has a line before its first call."""
    return set() if each else {"[]"}
