"""What is written down while a scenario plays: attempts, refusals, and when nothing got through any more."""

from dataclasses import dataclass, field

from spendfuse.clock import Clock
from spendfuse.drill.clients import Ask
from spendfuse.drill.provider import SimulatedProviders
from spendfuse.drill.refusals import Heard

REST_SHARE = 10
"""A scenario was stopped when nothing got through in at least this part (a tenth) of its time, its last."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """A refusal: how many seconds after the beginning, and by what."""

    after_s: float
    by: str


@dataclass(slots=True)
class Tally:
    """Counts from a beginning on (a monotonic time). What came before is ordinary; but who could not get anything
    through any more by then was stopped at the beginning.
    """

    clock: Clock
    begins_at_s: float
    attempts: int = 0
    refused_nanos: int = 0
    """What the refused attempts would have cost."""
    reached: int = 0
    """Attempts that got to a provider."""
    refused_by: dict[str, int] = field(default_factory=dict[str, int])
    first: Refusal | None = None
    rest: Refusal | None = None
    """The first refusal since anything got through."""
    final: Refusal | None = None
    """The first one since then that no repetition can change."""

    def note(self, providers: SimulatedProviders, ask: Ask, heard: Heard) -> None:
        """An attempt is over."""
        counts = self._after_s >= 0
        self.attempts += counts
        if not heard.refused_by:
            return
        refusal = Refusal(max(self._after_s, 0.0), heard.refused_by)
        self.rest = self.rest or refusal
        if heard.is_final:
            self.final = self.final or refusal
        if counts:
            asked = ask.asked()
            self.refused_nanos += providers.price_of(asked, providers.next_reply(asked))
            self.refused_by[heard.refused_by] = self.refused_by.get(heard.refused_by, 0) + 1
            self.first = self.first or refusal

    def note_reached(self) -> None:
        """A call has got to its provider."""
        self.rest = self.final = None
        self.reached += self._after_s >= 0

    def stopped(self, *, span_s: float) -> Refusal | None:
        """When nothing got through any more, by what was to last; None where something did up to the end."""
        rest = self.rest
        if rest is None or (self.final is None and (span_s - rest.after_s) * REST_SHARE < span_s):
            return None
        return Refusal(rest.after_s, (self.final or rest).by)

    @property
    def _after_s(self) -> float:
        return self.clock.monotonic_s() - self.begins_at_s
