"""The quote: the priced upper bound of a call, as a function of its output cap."""

from dataclasses import dataclass
from typing import assert_never

from spendfuse.core.limits import Unit
from spendfuse.core.money import PICOS_PER_NANO, Nanos, nanos_from_picos_up


@dataclass(frozen=True, slots=True)
class Amounts:
    """What one reservation holds, or what one entry charged, in every unit at once. Nano-dollars and tokens."""

    cost: Nanos
    input_tokens: int
    output_tokens: int

    def of(self, unit: Unit) -> int:
        """The amount in a limit's unit; a request and a call in flight count one each."""
        match unit:
            case Unit.USD:
                return self.cost
            case Unit.TOKENS:
                return self.input_tokens + self.output_tokens
            case Unit.INPUT_TOKENS:
                return self.input_tokens
            case Unit.OUTPUT_TOKENS:
                return self.output_tokens
            case Unit.REQUESTS | Unit.CONCURRENT:
                return 1
            case _:
                assert_never(unit)


@dataclass(frozen=True, slots=True)
class Quote:
    """An upper bound of everything that can be billed for a call, whatever its output cap turns out to be.

    `fixed_picos` covers the whole input bound at the dearest price, and fees; `output_picos` is the dearest price of
    one output token; `choices` is how many answers a cap applies to (choices x prompts). A quote at cap `c` is
    `Amounts(ceil(fixed_picos + c * choices * output_picos), input_tokens, c * choices)`: affine in `c`, so that the
    largest cap that fits an amount is a division.
    """

    input_tokens: int
    fixed_picos: int
    output_picos: int
    choices: int = 1

    def __post_init__(self) -> None:
        if min(self.input_tokens, self.fixed_picos, self.output_picos) < 0 or self.choices < 1:
            raise ValueError("a quote holds no negative amount")

    def at(self, cap: int) -> Amounts:
        """The amounts to hold for an output cap of `cap` tokens for each choice."""
        output_tokens = cap * self.choices
        return Amounts(
            nanos_from_picos_up(self.fixed_picos + output_tokens * self.output_picos), self.input_tokens, output_tokens
        )

    def cap_within(self, unit: Unit, amount: int) -> int | None:
        """The largest cap whose quote is at most `amount` of a unit.

        -1 when not even an empty answer fits; None when any cap does, as output costs nothing in this unit.
        """
        if self.at(0).of(unit) > amount:
            return -1
        match unit:
            case Unit.USD:
                each = self.choices * self.output_picos
                return (amount * PICOS_PER_NANO - self.fixed_picos) // each if each else None
            case Unit.TOKENS:
                return (amount - self.input_tokens) // self.choices
            case Unit.OUTPUT_TOKENS:
                return amount // self.choices
            case Unit.INPUT_TOKENS | Unit.REQUESTS | Unit.CONCURRENT:
                return None
            case _:
                assert_never(unit)


@dataclass(frozen=True, slots=True)
class CapRange:
    """Which output caps a call can do with, in tokens for each choice.

    `wanted` is reserved when it fits. `useful` is the least that is worth sending. `modest` is for a caller who named
    no cap: it takes the place of `wanted` where that would take more than a tenth of what a balance has left.
    """

    wanted: int
    useful: int
    modest: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.useful <= self.wanted:
            raise ValueError("the useful minimum must lie between 0 and the wanted cap")
        if self.modest is not None and not self.useful <= self.modest <= self.wanted:
            raise ValueError("the modest cap must lie between the useful minimum and the wanted cap")
