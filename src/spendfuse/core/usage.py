"""What a call used, and how sure we are of it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Usage:
    """Billed tokens of one attempt.

    `input_tokens` and `output_tokens` are whole: the other fields are parts of them, each counted once. Text input is
    what remains of `input_tokens` after its parts, text output what remains of `output_tokens` after audio (reasoning
    is priced as text, so it stays in).
    """

    input_tokens: int
    output_tokens: int
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    """Written to a cache of the provider's shortest lifetime."""
    cache_write_long_tokens: int = 0
    """Written to a cache of a longer lifetime (an hour), which costs more."""
    input_audio_tokens: int = 0
    """Audio input that was not read from a cache."""
    cache_read_audio_tokens: int = 0
    output_audio_tokens: int = 0
    reasoning_tokens: int = 0

    def __post_init__(self) -> None:
        parts = self._parts_of_input()
        if min(parts) < 0 or self.output_audio_tokens < 0 or self.reasoning_tokens < 0 or self.output_tokens < 0:
            raise ValueError("usage has a negative count")
        if sum(parts) > self.input_tokens:
            raise ValueError("the parts of the input exceed input_tokens")
        if self.output_audio_tokens > self.output_tokens or self.reasoning_tokens > self.output_tokens:
            raise ValueError("a part of the output exceeds output_tokens")

    def _parts_of_input(self) -> tuple[int, ...]:
        return (
            self.cache_read_tokens,
            self.cache_write_tokens,
            self.cache_write_long_tokens,
            self.input_audio_tokens,
            self.cache_read_audio_tokens,
        )

    @property
    def text_input_tokens(self) -> int:
        """Input at the plain input price."""
        return self.input_tokens - sum(self._parts_of_input())

    @property
    def tokens(self) -> int:
        """All billed tokens, the measure of a `tokens` limit."""
        return self.input_tokens + self.output_tokens


NOTHING = Usage(0, 0)


@dataclass(frozen=True, slots=True)
class Exact:
    """The provider said what it billed."""

    usage: Usage


@dataclass(frozen=True, slots=True)
class AtLeast:
    """What was seen of an answer whose end, or usage, never came: the provider billed this much or more."""

    usage: Usage


Metered = Exact | AtLeast
