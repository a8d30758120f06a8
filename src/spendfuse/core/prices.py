"""What tokens cost: a target's prices, the charge of a usage and the dearest that can apply."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime, timedelta

from spendfuse.core.calls import CacheWrite
from spendfuse.core.money import Nanos, nanos_from_picos_up
from spendfuse.core.usage import Usage


@dataclass(frozen=True, slots=True)
class Rates:
    """Pico-dollars a token, by what the token is; None where the provider has no such price of its own."""

    input: int
    output: int
    cache_read: int | None = None
    cache_write: int | None = None
    cache_write_long: int | None = None
    input_audio: int | None = None
    cache_read_audio: int | None = None
    output_audio: int | None = None
    request: int = 0
    """Pico-dollars a request, whatever its tokens."""

    def __post_init__(self) -> None:
        if any(value is not None and value < 0 for value in (getattr(self, one.name) for one in fields(self))):
            raise ValueError("a price is negative")

    @property
    def is_free(self) -> bool:
        """True when no usage at all can cost anything at these rates."""
        return not any(getattr(self, one.name) for one in fields(self))

    def cost_picos(self, usage: Usage) -> int:
        """The cost of a usage in pico-dollars.

        A part without a price of its own is charged as the dearest it could be: a cached token as plain input, a
        written one at the plain or the dearer known write price, audio at its own modality's dearest known price.
        """
        write = self.input if self.cache_write is None else self.cache_write
        audio = self.input if self.input_audio is None else self.input_audio
        return (
            usage.text_input_tokens * self.input
            + usage.cache_read_tokens * (self.input if self.cache_read is None else self.cache_read)
            + usage.cache_write_tokens * write
            + usage.cache_write_long_tokens * (write if self.cache_write_long is None else self.cache_write_long)
            + usage.input_audio_tokens * audio
            + usage.cache_read_audio_tokens * (audio if self.cache_read_audio is None else self.cache_read_audio)
            + (usage.output_tokens - usage.output_audio_tokens) * self.output
            + usage.output_audio_tokens * (self.output if self.output_audio is None else self.output_audio)
            + self.request
        )

    def dearest_input(self, *, audio: bool = False, cache_write: CacheWrite = CacheWrite.LONG) -> int:
        """The dearest price an input token can have; `audio` says that the call carries audio, `cache_write` for how
        long at most its input is kept.
        """
        text = max(self.input, self.cache_read or 0)
        if cache_write is not CacheWrite.NONE:
            text = max(text, self.cache_write or 0)
        if cache_write is CacheWrite.LONG:
            text = max(text, self.cache_write_long or 0)
        return max(text, self.input_audio or 0, self.cache_read_audio or 0) if audio else text

    def dearest_output(self, *, audio: bool = False) -> int:
        """The dearest price an output token can have; `audio` says that the call asks for audio."""
        return max(self.output, self.output_audio or 0) if audio else self.output


@dataclass(frozen=True, slots=True)
class Price:
    """The rates of one target at one time.

    `tiers` replace the base rates for the *whole* call when its input reaches their threshold (long context): pairs of
    (input tokens above which the tier applies, rates), thresholds ascending.
    `service_tiers` are the prices of named service tiers (`flex`, `priority`).
    """

    base: Rates
    tiers: tuple[tuple[int, Rates], ...] = ()
    service_tiers: dict[str, "Price"] = field(default_factory=dict["str", "Price"])

    def rates_for(self, input_tokens: int) -> Rates:
        """The rates of a call with this many input tokens."""
        rates = self.base
        for above, tier in self.tiers:
            if input_tokens > above:
                rates = tier
        return rates

    def rates_up_to(self, input_tokens: int) -> tuple[Rates, ...]:
        """All rates that can apply to a call of at most this many input tokens: what a quote has to cover."""
        if not self.tiers:
            return (self.base,)
        return (self.base, *(tier for above, tier in self.tiers if input_tokens > above))

    @property
    def is_free(self) -> bool:
        return self.base.is_free and all(tier.is_free for _, tier in self.tiers)

    def charge(self, usage: Usage) -> Nanos:
        """The cost of a usage in nano-dollars, rounded up once."""
        return nanos_from_picos_up(self.rates_for(usage.input_tokens).cost_picos(usage))


@dataclass(frozen=True, slots=True)
class DailyWindow:
    """Hours of the UTC day, from `start_s` up to but without `end_s` seconds; past midnight when the end is lower."""

    start_s: int
    end_s: int

    def holds_at(self, at: datetime) -> bool:
        """Whether an instant lies within."""
        midnight = _midnight(at)
        second = (at - midnight).total_seconds()
        if self.end_s < self.start_s:
            return second >= self.start_s or second < self.end_s
        return self.start_s <= second < self.end_s


@dataclass(frozen=True, slots=True)
class DatedPrice:
    """A price, the instant from which it holds (None: always) and the hours in which it does (None: all day)."""

    since: datetime | None
    price: Price
    daily: DailyWindow | None = None

    def is_settled_at(self, at: datetime) -> bool:
        """Whether the price holds from an instant on without end, unless a later one in its list does too."""
        return self.daily is None and (self.since is None or self.since <= at)

    def holds_at(self, at: datetime) -> bool:
        """Whether the price applies at an instant, unless a later one in its list does too."""
        return (self.since is None or self.since <= at) and (self.daily is None or self.daily.holds_at(at))


def price_at(prices: Sequence[DatedPrice], at: datetime) -> Price | None:
    """The last price of a list that holds at an instant (with a time zone); None when none does yet."""
    return next((one.price for one in reversed(prices) if one.holds_at(at)), None)


def prices_within(prices: Sequence[DatedPrice], at: datetime, span: timedelta) -> tuple[Price, ...]:
    """All prices that hold at some instant from `at` to `at + span` (at most a day): what a quote has to cover."""
    end = at + span
    changes = {one.since for one in prices if one.since is not None}
    for midnight in {_midnight(at), _midnight(end)}:
        for one in prices:
            if one.daily is not None:
                changes |= {midnight + timedelta(seconds=second) for second in (one.daily.start_s, one.daily.end_s)}
    instants = [at, *sorted(change for change in changes if at < change <= end)]
    return tuple(price for instant in instants if (price := price_at(prices, instant)) is not None)


def _midnight(at: datetime) -> datetime:
    return at.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
