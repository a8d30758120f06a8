"""How much a scenario may cost before a drill fails: a share of the budget, or dollars."""

from collections.abc import Sequence
from dataclasses import dataclass

from spendfuse.core.limits import Limit, Unit
from spendfuse.core.money import AmountInvalid, parse_exact, parse_usd

_SHARE_SCALE = 1_000
"""Shares are read to a thousandth of a percent."""


def budget_of(limits: Sequence[Limit]) -> Limit | None:
    """The budget that losses are measured by: the smallest limit in money over all calls, whatever its period.

    Not one that tells calls apart or covers only some, nor one that refuses nothing.
    """
    over_all = [one for one in limits if one.unit is Unit.USD and one.is_enforced and not one.each and not one.match]
    return min(over_all, key=lambda one: one.amount, default=None)


@dataclass(frozen=True, slots=True)
class MaxLoss:
    """As it was said. Either `nanos`, or `share`: thousandths of a percent of the budget."""

    text: str
    nanos: int | None = None
    share: int | None = None

    def allowed(self, budget: Limit | None) -> int | None:
        """The dearest that a scenario may be, in nano-dollars; None where that is a share of a budget that is not
        there: then no loss has a bound, and every one is too much.
        """
        if self.nanos is not None:
            return self.nanos
        if budget is None or self.share is None:
            return None
        return budget.amount * self.share // (100 * _SHARE_SCALE)


def parse_max_loss(text: str) -> MaxLoss:
    """Read `25%`, or dollars: `5`, `$5`.

    Raises:
        AmountInvalid: it is neither.
    """
    bare = text.strip()
    if bare.endswith("%"):
        return MaxLoss(bare, share=parse_exact(bare[:-1], scale=_SHARE_SCALE, what="a share of the budget"))
    try:
        return MaxLoss(bare, nanos=parse_usd(bare.removeprefix("$")))
    except AmountInvalid:
        raise AmountInvalid(f"{text!r} is neither a share of the budget such as 25% nor dollars such as 5") from None


def exceeds(billed: int, allowed: int | None) -> bool:
    """Whether a scenario's bill is more than it may be."""
    return billed > (0 if allowed is None else allowed)
