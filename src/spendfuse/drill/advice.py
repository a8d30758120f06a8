"""One line for a scenario that got far: the limit that would have stopped it earlier."""

from collections.abc import Callable, Sequence

from spendfuse.core.limits import Limit, Unit
from spendfuse.core.money import NANOS_PER_USD, format_usd
from spendfuse.core.windows import Span
from spendfuse.drill.losses import budget_of
from spendfuse.drill.rehearsal import Finding

SHARE = 10
"""A subject gets this part (a tenth) of the budget."""
_WITHOUT_BUDGET = 5 * NANOS_PER_USD
FAR = 2
"""A scenario got far when it cost at least this part (half) of the budget."""


def advice(finding: Finding, limits: Sequence[Limit]) -> str | None:
    """What to add; None where the limits did well."""
    budget = budget_of(limits)
    if finding.stopped is not None and (budget is None or finding.billed * FAR < budget.amount):
        return None
    amount = f"usd: {format_usd(_share_of(budget)).removesuffix('.00')}"
    for is_there, line in _LINES[finding.scenario.name]:
        if not any(one.is_enforced and is_there(one) for one in limits):
            return f"add {line.format(amount=amount)}"
    if finding.stopped is None:
        return "lower what covers it: its limits only slowed it down"
    return f'lower "{finding.stopped.by}", which let this much through'


def _share_of(budget: Limit | None) -> int:
    if budget is None:
        return _WITHOUT_BUDGET
    # In whole cents, so that it reads well.
    cent = NANOS_PER_USD // 100
    return max(cent, budget.amount // SHARE // cent * cent)


def _counts_money(limit: Limit) -> bool:
    return limit.unit.is_consumable


def _is_each(*labels: str) -> Callable[[Limit], bool]:
    return lambda limit: not set(labels).isdisjoint(limit.each)


def _bounds_each(*labels: str) -> Callable[[Limit], bool]:
    is_each = _is_each(*labels)
    return lambda limit: _counts_money(limit) and is_each(limit)


def _is_budget_of(period: type[Span] | None) -> Callable[[Limit], bool]:
    return lambda limit: (
        limit.unit is Unit.USD
        and not limit.each
        and not limit.match
        and (period is None or isinstance(limit.period, period))
    )


_LINES: dict[str, tuple[tuple[Callable[[Limit], bool], str], ...]] = {
    "retry-loop": (
        (_is_each("fingerprint"), "retry-loop: {{requests: 30, per: 5m, each: [key, user, fingerprint]}}"),
        (_bounds_each("run"), "run-budget: {{{amount}, per: lifetime, each: run}}"),
    ),
    "power-user": ((_bounds_each("user"), "user-day: {{{amount}, per: day, each: user}}"),),
    "long-answers": ((_bounds_each("feature"), "feature-day: {{{amount}, per: day, each: feature}}"),),
    "denial-of-wallet": (
        (_is_budget_of(None), "day-budget: {{{amount}, per: day}}"),
        (_is_budget_of(Span), "hour-budget: {{{amount}, per: hour}}"),
    ),
}
"""For each scenario what helps, the first first: whether a limit is that, and how it would be written."""
