"""The spend report: what each value of a label spent, its share of the whole, and the total.

Pure. What is rounded for people is rounded so that it still adds up: the shares of a report to 100.0 %, its dollars to
the total shown.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from spendfuse.core.money import NANOS_PER_USD
from spendfuse.ledger.store import SpendRow

PERMILLE = 1_000
_DECIMALS = ((100, 2), (1, 4), (0, 6))
"""From so many dollars on, a table shows so many decimals."""


@dataclass(frozen=True, slots=True)
class SpendLine:
    """One line of the report. Costs in nano-dollars; `values` is how many values of the label it stands for.

    `rounded_cost` is the cost to the report's decimals, rounded so that the lines add up to the total.
    """

    value: str
    calls: int
    input_tokens: int
    output_tokens: int
    cost: int
    rounded_cost: int
    estimated_cost: int
    share_permille: int
    values: int


@dataclass(frozen=True, slots=True)
class SpendReport:
    """Spend by one label, the dearest first.

    `rest` is what the values beyond the top spent together, None when every value has its line. `total` covers all.
    `decimals` is how many decimals of a dollar people are shown.
    """

    label: str
    decimals: int
    lines: tuple[SpendLine, ...]
    rest: SpendLine | None
    total: SpendLine

    @property
    def all_lines(self) -> tuple[SpendLine, ...]:
        """The lines that add up to the total."""
        return self.lines if self.rest is None else (*self.lines, self.rest)


def spend_report(label: str, rows: Iterable[SpendRow], *, top: int | None = None) -> SpendReport:
    """The report of these rows, which come the dearest first; with `top` only so many have a line of their own."""
    ordered = list(rows)
    shown = ordered if top is None else ordered[:top]
    beyond = ordered[len(shown) :]
    groups = [[row] for row in shown] + ([beyond] if beyond else [])
    costs = [sum(row.cost for row in group) for group in groups]
    decimals = decimals_for(sum(costs))
    rounded = rounded_costs(costs, decimals=decimals)
    shares = shares_permille(costs)
    lines = [_line(*parts) for parts in zip(groups, rounded, shares, strict=True)]
    total = _line(ordered, sum(rounded), sum(shares))
    rest = lines.pop() if beyond else None
    return SpendReport(label, decimals, tuple(lines), rest, total)


def _line(rows: Sequence[SpendRow], rounded_cost: int, share_permille: int) -> SpendLine:
    return SpendLine(
        value=rows[0].value if len(rows) == 1 else "",
        calls=sum(row.calls for row in rows),
        input_tokens=sum(row.input_tokens for row in rows),
        output_tokens=sum(row.output_tokens for row in rows),
        cost=sum(row.cost for row in rows),
        rounded_cost=rounded_cost,
        estimated_cost=sum(row.estimated_cost for row in rows),
        share_permille=share_permille,
        values=sum(row.values for row in rows),
    )


def shares_permille(costs: Sequence[int]) -> list[int]:
    """Each cost's share of their sum in tenths of a percent, adding up to 1,000; all 0 when nothing was spent."""
    total = sum(costs)
    if total <= 0:
        return [0] * len(costs)
    return _apportion([cost * PERMILLE for cost in costs], unit=total, units=PERMILLE)


def rounded_costs(costs: Sequence[int], *, decimals: int) -> list[int]:
    """Nano-dollars, each rounded to so many decimals of a dollar, up or down, so that they add up to their sum, rounded
    to the nearest."""
    unit = NANOS_PER_USD // 10**decimals
    units = (2 * sum(costs) + unit) // (2 * unit)
    return [part * unit for part in _apportion(costs, unit=unit, units=units)]


def decimals_for(cost: int) -> int:
    """How many decimals of a dollar a table needs whose total is this cost (nano-dollars)."""
    return next(decimals for from_usd, decimals in _DECIMALS if cost >= from_usd * NANOS_PER_USD)


def _apportion(parts: Sequence[int], *, unit: int, units: int) -> list[int]:
    """Whole units for each part, `units` in all: what lies beyond whole units goes to the largest remainders."""
    whole = [part // unit for part in parts]
    by_remainder = sorted(range(len(parts)), key=lambda index: -(parts[index] % unit))
    for index in by_remainder[: units - sum(whole)]:
        whole[index] += 1
    return whole
