"""What is written down while a scenario plays: attempts, refusals, and when nothing got through any more."""

from collections import Counter
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
    refused_by: Counter[str] = field(default_factory=Counter[str])
    first: Refusal | None = None
    rest_from_s: float = 0.0
    """When the first refusal came since anything got through."""
    rest: Counter[str] = field(default_factory=Counter[str])
    """What has refused since then, how often."""
    final: Counter[str] = field(default_factory=Counter[str])
    """The same of refusals that no repetition can change."""

    def note(self, providers: SimulatedProviders, ask: Ask, heard: Heard) -> None:
        """An attempt is over."""
        counts = self._after_s >= 0
        self.attempts += counts
        if not heard.refused_by:
            return
        refusal = Refusal(max(self._after_s, 0.0), heard.refused_by)
        if not self.rest:
            self.rest_from_s = refusal.after_s
        self.rest[refusal.by] += 1
        self.final[refusal.by] += heard.is_final
        if counts:
            asked = ask.asked()
            self.refused_nanos += providers.price_of(asked, providers.next_reply(asked))
            self.refused_by[refusal.by] += 1
            self.first = self.first or refusal

    def note_reached(self) -> None:
        """A call has got to its provider."""
        self.rest.clear()
        self.final.clear()
        self.reached += self._after_s >= 0

    def stopped(self, *, for_good: bool, span_s: float) -> Refusal | None:
        """When nothing got through any more, and by what most of the time; None where something did up to the end.

        `for_good`: nobody could have got anything through, however long it went on.
        """
        if not self.rest or (not for_good and (span_s - self.rest_from_s) * REST_SHARE < span_s):
            return None
        ((by, _),) = (+self.final or self.rest).most_common(1)
        return Refusal(self.rest_from_s, by)

    @property
    def _after_s(self) -> float:
        return self.clock.monotonic_s() - self.begins_at_s
