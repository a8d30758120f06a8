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
    """Counts from a beginning on (a monotonic time); what came before is ordinary."""

    clock: Clock
    begins_at_s: float
    attempts: int = 0
    refused_nanos: int = 0
    """What the refused attempts would have cost."""
    reached: int = 0
    """Attempts that got to a provider."""
    refused_by: dict[str, int] = field(default_factory=dict[str, int])
    first: Refusal | None = None
    last_stop: Refusal | None = None
    """The first refusal since anything got through."""

    def note(self, providers: SimulatedProviders, ask: Ask, heard: Heard) -> None:
        """An attempt is over."""
        after_s = self._after_s
        if after_s < 0:
            return
        self.attempts += 1
        if heard.refused_by:
            asked = ask.asked()
            self.refused_nanos += providers.price_of(asked, providers.next_reply(asked))
            self.refused_by[heard.refused_by] = self.refused_by.get(heard.refused_by, 0) + 1
            refusal = Refusal(after_s, heard.refused_by)
            self.first = self.first or refusal
            self.last_stop = self.last_stop or refusal

    def note_reached(self) -> None:
        """A call has got to its provider."""
        if self._after_s >= 0:
            self.reached += 1
            self.last_stop = None

    def stopped(self, *, for_good: bool, span_s: float) -> Refusal | None:
        """When nothing got through any more; None where something did up to the end."""
        stop = self.last_stop
        if stop is None or for_good or (span_s - stop.after_s) * REST_SHARE >= span_s:
            return stop
        return None

    @property
    def _after_s(self) -> float:
        return self.clock.monotonic_s() - self.begins_at_s
