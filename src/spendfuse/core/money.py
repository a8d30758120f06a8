"""Money as integers.

An amount is an integer of nano-dollars (1e-9 USD), a price an integer of pico-dollars (1e-12 USD) a token: $0.0375 per
million tokens is 37.5 nano-dollars a token, which only pico-dollars hold. Costs are added up in pico-dollars and
rounded up to nano-dollars once per call.
"""

from decimal import Decimal, InvalidOperation
from typing import NewType

Nanos = NewType("Nanos", int)
"""Nano-dollars, 1e-9 USD."""

NANOS_PER_USD = 1_000_000_000
PICOS_PER_NANO = 1_000
PICOS_PER_USD = NANOS_PER_USD * PICOS_PER_NANO
AMOUNT_MAX = 2**63 - 1
"""The largest amount a ledger can hold, in any unit (about $9.2 billion)."""


class AmountInvalid(ValueError):
    """A text is not an amount: not a number, negative, too fine or too large."""


def nanos_from_picos_up(picos: int) -> Nanos:
    """Round pico-dollars up to nano-dollars."""
    return Nanos(-(-picos // PICOS_PER_NANO))


def parse_exact(text: str | int | Decimal, *, scale: int, what: str) -> int:
    """Read a decimal number exactly as an integer of `1/scale` units, at most `AMOUNT_MAX`.

    Raises:
        AmountInvalid: not a finite decimal number, negative, finer than one unit, or too large.
    """
    try:
        number = Decimal(text)
    except InvalidOperation:
        raise AmountInvalid(f"{what} must be a number, got {text!r}") from None
    if not number.is_finite() or number < 0:
        raise AmountInvalid(f"{what} must be a finite number of at least 0, got {text!r}")
    if number.adjusted() > len(str(AMOUNT_MAX)):
        raise AmountInvalid(f"{what} is too large: {text!r}")
    numerator, denominator = number.as_integer_ratio()
    units, rest = divmod(numerator * scale, denominator)
    if rest:
        raise AmountInvalid(f"{what} is finer than 1/{scale}: {text!r}")
    if units > AMOUNT_MAX:
        raise AmountInvalid(f"{what} is too large: {text!r}")
    return units


def parse_usd(text: str | int | Decimal) -> Nanos:
    """Read dollars exactly as nano-dollars.

    Raises:
        AmountInvalid: as `parse_exact`.
    """
    return Nanos(parse_exact(text, scale=NANOS_PER_USD, what="an amount of dollars"))


def format_usd(nanos: int) -> str:
    """Dollars as an exact decimal string without exponent or trailing zeros, with at least two decimals."""
    sign = "-" if nanos < 0 else ""
    dollars, fraction = divmod(abs(nanos), NANOS_PER_USD)
    decimals = f"{fraction:09d}".rstrip("0").ljust(2, "0")
    return f"{sign}{dollars}.{decimals}"
