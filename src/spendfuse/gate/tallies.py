"""What this process's attempts add up to for breakers, until the store is told."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from spendfuse.core.breakers import Breaker, Burn, Counts, Drift, ErrorRate, MeanLatency
from spendfuse.core.labels import Labels
from spendfuse.gate.breaker_states import BreakerCopy
from spendfuse.ledger.breakers import Key

SUBJECTS_MAX = 10_000
"""More subjects than this between two flushes are not counted: clients can make up features."""


@dataclass(slots=True, eq=False)
class _Tally:
    breaker: Breaker
    calls: int = 0
    errors: int = 0
    timed: int = 0
    latency_ms: int = 0
    cost: int = 0
    output_tokens: int = 0

    def add(self, counts: Counts) -> None:
        self.calls += counts.calls
        self.errors += counts.errors
        self.timed += counts.timed
        self.latency_ms += counts.latency_ms
        self.cost += counts.cost
        self.output_tokens += counts.output_tokens

    @property
    def counts(self) -> Counts:
        return Counts(self.calls, self.errors, self.timed, self.latency_ms, self.cost, self.output_tokens)


class Tallies:
    """Counts by breaker and subject. On the way of every call: one subject for all breakers with the same labels."""

    def __init__(self, copy: BreakerCopy) -> None:
        self._copy = copy
        self._of_attempts: list[list[Breaker]] = []
        self._of_charges: list[list[Breaker]] = []
        self._tallies: dict[Key, _Tally] = {}

    def configure(self, breakers: Sequence[Breaker]) -> None:
        """Count for these breakers from now on."""
        self._of_attempts = _grouped([one for one in breakers if isinstance(one.trigger, ErrorRate | MeanLatency)])
        self._of_charges = _grouped([one for one in breakers if isinstance(one.trigger, Burn | Drift)])

    @property
    def wants_charges(self) -> bool:
        """Whether any breaker looks at what calls cost."""
        return bool(self._of_charges)

    def attempt(
        self, labels: Labels, closings: int, *, is_error: bool, whole_ms: int | None, first_token_ms: int | None
    ) -> None:
        """An attempt has ended, by success or error. Its times are None where they say nothing of its target."""
        for group in self._of_attempts:
            subject = group[0].subject_of(labels)
            for breaker in group:
                trigger = breaker.trigger
                if isinstance(trigger, MeanLatency):
                    ms = first_token_ms if trigger.to_first_token else whole_ms
                    if ms is not None and (tally := self._tally(breaker, subject, labels, closings)):
                        tally.timed += 1
                        tally.latency_ms += ms
                elif tally := self._tally(breaker, subject, labels, closings):
                    tally.calls += 1
                    tally.errors += is_error

    def charge(self, labels: Labels, closings: int, *, cost: int, output_tokens: int) -> None:
        """A call was charged."""
        for group in self._of_charges:
            subject = group[0].subject_of(labels)
            for breaker in group:
                if tally := self._tally(breaker, subject, labels, closings):
                    tally.calls += 1
                    tally.cost += cost
                    tally.output_tokens += output_tokens

    def forget(self, key: Key) -> None:
        """A breaker has closed: what was counted before does not count."""
        self._tallies.pop(key, None)

    def drain(self) -> list[tuple[Breaker, str, Counts]]:
        """All counts, which are zero then."""
        tallies, self._tallies = self._tallies, {}
        return [(tally.breaker, subject, tally.counts) for (_, subject), tally in tallies.items()]

    def restore(self, counts: Iterable[tuple[Breaker, str, Counts]]) -> None:
        """Put back what the store did not take."""
        for breaker, subject, one in counts:
            self._tallies.setdefault((breaker.name, subject), _Tally(breaker)).add(one)

    def _tally(self, breaker: Breaker, subject: str, labels: Labels, closings: int) -> _Tally | None:
        """Where to count an attempt that began when there had been so many closings; None where it does not count."""
        if breaker.match and not breaker.covers(labels):
            return None
        key = (breaker.name, subject)
        if closings != self._copy.closings and self._copy.closed_after(key, closings):
            return None
        tally = self._tallies.get(key)
        if tally is None and len(self._tallies) < SUBJECTS_MAX:
            tally = self._tallies[key] = _Tally(breaker)
        return tally


def _grouped(breakers: Sequence[Breaker]) -> list[list[Breaker]]:
    """By the labels that make up their subjects."""
    groups: dict[tuple[str, ...], list[Breaker]] = {}
    for breaker in breakers:
        groups.setdefault(breaker.each, []).append(breaker)
    return list(groups.values())
