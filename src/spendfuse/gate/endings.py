"""How a reservation ends, by what became of its attempt. Pure: the policy of DESIGN, "How a reservation ends".

A provider's own usage settles it. Proof that nothing was billed voids it. Everything else is charged at an upper bound
and marked `estimated`.
"""

import math
from dataclasses import dataclass

from spendfuse.core.quotes import Quote
from spendfuse.core.reservations import Charge
from spendfuse.core.usage import Usage

VOID_STATUSES = frozenset({*range(400, 500), 500, 502, 503, 508, 529}) - {408}
"""Errors by which a provider says that it made no output. Any other error status leaves the call's fate unknown."""
_SHORTEST_STREAM_S = 0.01


@dataclass(frozen=True, slots=True)
class Held:
    """What an open reservation holds: its quote at a cap of output tokens for each choice."""

    quote: Quote
    cap: int

    @property
    def output_tokens(self) -> int:
        """The output of all choices together."""
        return self.cap * self.quote.choices

    def charge_of_output(self, output_tokens: int) -> Charge:
        """The whole input bound and so much output, at the quote's own (dearest) prices, marked estimated."""
        quote = self.quote
        one_choice = Quote(quote.input_tokens, quote.fixed_picos, quote.output_picos)
        amounts = one_choice.at(output_tokens)
        return Charge(Usage(amounts.input_tokens, amounts.output_tokens), amounts.cost, estimated=True)


def charge_unknown(held: Held, *, elapsed_s: float, output_tokens_per_s_max: int, output_tokens_min: int = 0) -> Charge:
    """The charge of a call whose fate is unknown: its quote, but no more output than its target could have made.

    What is certain to have been made (`output_tokens_min`) is charged in any case, as overrun above the reservation.
    """
    possible = math.ceil(elapsed_s * output_tokens_per_s_max) * held.quote.choices
    return held.charge_of_output(max(output_tokens_min, min(held.output_tokens, possible)))


@dataclass(frozen=True, slots=True)
class Seen:
    """How many output tokens a stream has shown, all choices together: between `at_least` and `at_most`.

    They are equal where we hold the model's vocabulary.
    """

    at_least: int
    at_most: int


def charge_seen(held: Held, seen: Seen, *, tail_tokens: int) -> Charge:
    """The charge of a stream whose billed tokens are all visible and whose usage never came.

    The whole input, what was seen, and a tail for what was made but not delivered: at most the reservation. Only what
    is certain to have been made is charged above it, as overrun.
    """
    return held.charge_of_output(max(seen.at_least, min(held.output_tokens, seen.at_most + tail_tokens)))


def tail_tokens(*, seen_tokens: int, streamed_s: float, tail_s: float) -> int:
    """How many tokens a target makes in `tail_s` at the rate it has shown in this stream."""
    return math.ceil(seen_tokens * tail_s / max(streamed_s, _SHORTEST_STREAM_S))
