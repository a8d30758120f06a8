"""The prompt cache of the Messages API: which part of an input is written, read or neither.

A prefix is known by what it holds and by the model that read it. Unlike the
vendor's, it has no least size, so that short prompts can show what it does.
"""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Ttl = Literal["5m", "1h"]
TTL_S: Mapping[Ttl, int] = {"5m": 300, "1h": 3_600}

ENTRIES_MAX = 10_000


@dataclass(frozen=True, slots=True)
class Boundary:
    """The end of one block of a prompt: the tokens up to there and what they are; `ttl` if it is a breakpoint."""

    tokens: int
    digest: bytes
    ttl: Ttl | None


@dataclass(frozen=True, slots=True)
class CachedInput:
    """An input by how it is billed; what is neither read nor written costs the plain price."""

    tokens: int
    read_tokens: int = 0
    write_5m_tokens: int = 0
    write_1h_tokens: int = 0

    @property
    def write_tokens(self) -> int:
        return self.write_5m_tokens + self.write_1h_tokens

    @property
    def plain_tokens(self) -> int:
        return self.tokens - self.read_tokens - self.write_tokens


@dataclass(frozen=True, slots=True)
class _Entry:
    ttl: Ttl
    expires_at_s: float


class PromptCache:
    """The newest prefixes that breakpoints marked. Times are monotonic seconds; each use renews an entry's life."""

    def __init__(self) -> None:
        self._entries: OrderedDict[tuple[str, bytes], _Entry] = OrderedDict()

    def split(self, model: str, tokens: int, boundaries: tuple[Boundary, ...], now_s: float) -> CachedInput:
        """How an input of `tokens` is billed: the longest known prefix is read, the rest up to breakpoints written."""
        marked = _up_to_last_breakpoint(boundaries)
        if not marked:
            return CachedInput(tokens)
        known = self._longest_known(model, marked, now_s)
        read = 0 if known is None else known.tokens
        hour = max((boundary.tokens for boundary in marked if boundary.ttl == "1h"), default=0)
        upto_hour = max(read, hour)
        return CachedInput(tokens, read, marked[-1].tokens - upto_hour, upto_hour - read)

    def remember(self, model: str, boundaries: tuple[Boundary, ...], now_s: float) -> None:
        """Keep the prefixes at the breakpoints, and renew the one that was read."""
        marked = _up_to_last_breakpoint(boundaries)
        known = self._longest_known(model, marked, now_s)
        if known is not None and known.ttl is None:
            key = (model, known.digest)
            self._keep(key, self._entries[key].ttl, now_s)
        for boundary in marked:
            if boundary.ttl is not None:
                self._keep((model, boundary.digest), boundary.ttl, now_s)

    def _longest_known(self, model: str, boundaries: tuple[Boundary, ...], now_s: float) -> Boundary | None:
        for boundary in reversed(boundaries):
            entry = self._entries.get((model, boundary.digest))
            if entry is not None and now_s < entry.expires_at_s:
                return boundary
        return None

    def _keep(self, key: tuple[str, bytes], ttl: Ttl, now_s: float) -> None:
        self._entries[key] = _Entry(ttl, now_s + TTL_S[ttl])
        self._entries.move_to_end(key)
        if len(self._entries) > ENTRIES_MAX:
            self._entries.popitem(last=False)


def _up_to_last_breakpoint(boundaries: tuple[Boundary, ...]) -> tuple[Boundary, ...]:
    marks = [index for index, boundary in enumerate(boundaries) if boundary.ttl is not None]
    return boundaries[: marks[-1] + 1] if marks else ()
