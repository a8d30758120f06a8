"""Timeouts: LiteLLM's one number as our four."""

from decimal import Decimal

from spendfuse.config.values import Timeouts
from spendfuse.litellm_config.sections import plain

TimeoutTree = tuple[tuple[str, str], ...]
"""Our `timeouts`, hashable; empty for the defaults."""

_DEFAULTS = Timeouts()


def timeouts_of(timeout_s: Decimal | None, stream_timeout_s: Decimal | None) -> TimeoutTree:
    """LiteLLM's `timeout` bounds the wait for an answer, and `stream_timeout` the gaps of one that is streamed.

    A stream as a whole may last longer, as it may there.
    """
    if timeout_s is None and stream_timeout_s is None:
        return ()
    first_byte = timeout_s or Decimal(str(_DEFAULTS.first_byte_s))
    read = stream_timeout_s or first_byte
    connect = min(Decimal(str(_DEFAULTS.connect_s)), first_byte)
    total = max(Decimal(str(_DEFAULTS.total_s)), first_byte, read)
    each = {"connect": connect, "first_byte": first_byte, "read": read, "total": total}
    return tuple((name, f"{plain(seconds)}s") for name, seconds in each.items())


def longest_total_s(timeouts: TimeoutTree) -> Decimal:
    """The `total` of some timeouts in seconds."""
    return Decimal(dict(timeouts).get("total", f"{_DEFAULTS.total_s}s").removesuffix("s"))
