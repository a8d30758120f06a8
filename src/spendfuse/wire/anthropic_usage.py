"""The `usage` objects of Anthropic and those who answer like it, read so that no token is missed.

A stream says its usage in parts: the input as it begins, the output, and what has changed, as it ends. Counts are
cumulative and may be null. Where two readings are possible the dearer one is taken: it is bounded by the reservation,
and money that was spent must not vanish.
"""

from spendfuse.core.usage import AtLeast, Exact, Metered, Usage
from spendfuse.wire.json_body import Json, JsonObject

_COUNT_MAX = 2**40
"""More tokens than any call has: a count above it is no count."""
_INPUT, _OUTPUT = "input_tokens", "output_tokens"
_READ, _WRITTEN = "cache_read_input_tokens", "cache_creation_input_tokens"
_SHORT, _LONG = "ephemeral_5m_input_tokens", "ephemeral_1h_input_tokens"
_THINKING = "thinking_tokens"


def metered_usage(value: Json) -> Metered:
    """One whole `usage` object as the charge's tokens: exact, or at least what it does say."""
    tally = UsageTally()
    tally.take(value)
    return tally.metered()


def usage_object(usage: Usage) -> JsonObject:
    """A usage in Anthropic's own form."""
    written = usage.cache_write_tokens + usage.cache_write_long_tokens
    read = usage.cache_read_tokens + usage.cache_read_audio_tokens
    return {
        _INPUT: usage.input_tokens - written - read,
        _WRITTEN: written,
        _READ: read,
        "cache_creation": {_SHORT: usage.cache_write_tokens, _LONG: usage.cache_write_long_tokens},
        _OUTPUT: usage.output_tokens,
    }


class UsageTally:
    """The usage objects of one answer, merged: each count at the most that was said of it."""

    __slots__ = ("_counts", "_is_sound", "_longs_are_known")

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._is_sound = True
        self._longs_are_known = True

    def take(self, value: Json) -> None:
        """A further object; what is no object says nothing."""
        if not isinstance(value, dict):
            return
        for name in (_INPUT, _WRITTEN, _READ, _OUTPUT):
            # A count that cannot be read is missing from the sum.
            self._is_sound &= self._take(value, name)
        written, output = value.get("cache_creation"), value.get("output_tokens_details")
        if isinstance(written, dict):
            self._take(written, _SHORT)
            self._longs_are_known &= self._take(written, _LONG)
        if isinstance(output, dict):
            self._take(output, _THINKING)

    @property
    def has_thinking(self) -> bool:
        """Some output was thinking, by its own count."""
        return self._counts.get(_THINKING, 0) > 0

    def metered(self) -> Metered:
        """The tokens so far: exact where input and output were said, every count of them could be read, and there is
        any input at all.
        """
        counts = self._counts
        short, long, read = counts.get(_SHORT, 0), counts.get(_LONG, 0), counts.get(_READ, 0)
        rest = max(0, counts.get(_WRITTEN, 0) - short - long)
        if long or not self._longs_are_known:
            long += rest
        else:
            # A provider without a breakdown has only the shortest lifetime.
            short += rest
        thinking, output = counts.get(_THINKING, 0), counts.get(_OUTPUT, 0)
        if thinking > output:
            # A part that is larger than the whole was left out of it.
            output += thinking
        usage = Usage(
            input_tokens=counts.get(_INPUT, 0) + short + long + read,
            output_tokens=output,
            cache_read_tokens=read,
            cache_write_tokens=short,
            cache_write_long_tokens=long,
            reasoning_tokens=thinking,
        )
        is_exact = self._is_sound and _INPUT in counts and _OUTPUT in counts and usage.input_tokens > 0
        return Exact(usage) if is_exact else AtLeast(usage)

    def _take(self, value: JsonObject, name: str) -> bool:
        """Take one count; False when there is one that cannot be read."""
        count = value.get(name)
        if count is None:
            return True
        if type(count) is not int or not 0 <= count <= _COUNT_MAX:
            return False
        self._counts[name] = max(count, self._counts.get(name, 0))
        return True
