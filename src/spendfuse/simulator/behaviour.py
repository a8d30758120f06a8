"""How the simulated provider behaves: its speed, the length of its answers and its faults.

Nothing here draws from a random source: what the k-th call since the behaviour
was set meets follows from the seed and k alone, so a run can be repeated.
"""

import math
from dataclasses import dataclass
from hashlib import blake2b
from statistics import NormalDist
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, TypeAdapter

Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Factor = Annotated[float, Field(gt=0, allow_inf_nan=False)]


@dataclass(frozen=True, slots=True)
class LogNormal:
    """A log-normal distribution by its median and the standard deviation of its logarithm."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    median: Factor
    sigma: Seconds

    def at(self, fraction: float) -> float:
        """The value below which `fraction` (open interval 0 to 1) of all values lie."""
        return self.median * math.exp(self.sigma * NormalDist().inv_cdf(fraction))


@dataclass(frozen=True, slots=True)
class Errors:
    """Which calls are answered with an error, before any output: those that any of the three rules picks."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    status: Annotated[int, Field(ge=400, le=599)] = 500
    probability: Fraction = 0.0
    every: Count = 0
    """Every k-th call; 0 picks none."""
    next_calls: Count = 0
    """The first calls after the behaviour was set."""


@dataclass(frozen=True, slots=True)
class Behaviour:
    __pydantic_config__ = ConfigDict(extra="forbid")

    seed: int = 0

    latency_s: Seconds | LogNormal = 0.0
    """Time before the first byte of a stream, before the first token of any answer."""
    output_tokens: Count | LogNormal = 100
    """How long answers would be, per choice, if no cap cut them; without reasoning."""
    reasoning_tokens: Count = 0
    """Billed and generated before the visible output of each choice; the cap covers them too. On messages they are
    the thinking of a call that asks for it (32 tokens if this is 0), and shown."""
    chunk_tokens: Positive = 10
    chunk_interval_s: Seconds = 0.0
    """Every so often `chunk_tokens` are generated per choice, whether or not anyone reads them; 0 is at once."""
    tool_call: bool = False
    """Call the first of the tools that a request offers instead of answering with text."""
    cached_fraction: Fraction = 0.0
    """Part of the input that is billed as read from the cache; on messages `cache_control` alone decides."""

    errors: Errors | None = None
    retry_after: Count | None = None
    """Seconds, sent as a header with injected errors."""
    hang: bool = False
    """Take the call and never answer."""
    disconnect_after_tokens: Count | None = None
    """Drop the connection after so many visible tokens of each choice."""
    stream_error_after_tokens: Count | None = None
    """End a stream with an error event after so many visible tokens of each choice, and bill what was generated."""
    omit_usage: bool = False
    omit_stream_usage: bool = False
    """Ignore `stream_options`; on messages, leave usage out of every event."""
    ignore_cap: bool = False
    """Generate all that the answer would have, whatever the cap."""
    cap_factor: Factor = 1.0
    """Stop at so many times the cap instead of at the cap: 2 doubles it."""
    bill_abandoned: Literal["full", "generated"] = "full"
    """What a call that is not streamed costs when its client has left: the whole answer or what was generated."""

    image_url_size: tuple[Positive, Positive] = (768, 2048)
    """Width and height that an image behind a URL is taken to have; the default bills the most that tiles can."""
    file_tokens: Count = 20_000
    """What a file by its id costs."""
    file_page_tokens: Count = 1_000
    """What a page of an inline PDF costs."""
    audio_tokens_per_s: Count = 100

    def latency_s_of(self, call_number: int) -> float:
        if isinstance(self.latency_s, LogNormal):
            return self.latency_s.at(self._fraction(call_number, "latency"))
        return self.latency_s

    def output_tokens_of(self, call_number: int) -> int:
        if isinstance(self.output_tokens, LogNormal):
            return round(self.output_tokens.at(self._fraction(call_number, "output")))
        return self.output_tokens

    def error_status_of(self, call_number: int) -> int | None:
        """The status of the error that meets the call (calls are numbered from 1), if one does."""
        errors = self.errors
        if errors is None:
            return None
        picked = (
            call_number <= errors.next_calls
            or (errors.every > 0 and call_number % errors.every == 0)
            or self._fraction(call_number, "error") < errors.probability
        )
        return errors.status if picked else None

    def _fraction(self, call_number: int, purpose: str) -> float:
        """A number strictly between 0 and 1, even over calls and unrelated between purposes."""
        digest = blake2b(f"{self.seed}:{call_number}:{purpose}".encode(), digest_size=8).digest()
        # 52 bits: with the half added the sum is still exact, so neither 0 nor 1 can come out.
        return ((int.from_bytes(digest) >> 12) + 0.5) / 2**52


_BEHAVIOUR = TypeAdapter(Behaviour)


def parse_behaviour(text: bytes | str) -> Behaviour:
    """A behaviour from JSON; what is not named has its default.

    Raises:
        ValueError: it is not JSON, or a field is unknown or out of range.
    """
    return _BEHAVIOUR.validate_json(text)
