"""What this process's attempts add up to for breakers, until the store is told."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from spendfuse.core.breakers import NOTHING_COUNTED, Breaker, Burn, Counts, Drift, ErrorRate, MeanLatency
from spendfuse.core.labels import Labels, subject_of
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


@dataclass(slots=True, eq=False)
class _Group:
    """Breakers that are told apart by the same labels, and the tallies of each subject that was met since the last
    flush, by the values of those labels."""

    each: tuple[str, ...]
    breakers: list[Breaker]
    met: dict[tuple[str, ...], list[_Tally]] = field(default_factory=dict[tuple[str, ...], list[_Tally]])


class Tallies:
    """Counts by breaker and subject. On the way of every call, so it looks up once for all breakers of a group."""

    def __init__(self, copy: BreakerCopy) -> None:
        self._copy = copy
        self._of_attempts: list[_Group] = []
        self._of_charges: list[_Group] = []
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
            for tally in self._of(group, labels, closings):
                trigger = tally.breaker.trigger
                if isinstance(trigger, MeanLatency):
                    ms = first_token_ms if trigger.to_first_token else whole_ms
                    if ms is not None:
                        tally.timed += 1
                        tally.latency_ms += ms
                else:
                    tally.calls += 1
                    tally.errors += is_error

    def charge(self, labels: Labels, closings: int, *, cost: int, output_tokens: int) -> None:
        """A call was charged."""
        for group in self._of_charges:
            for tally in self._of(group, labels, closings):
                tally.calls += 1
                tally.cost += cost
                tally.output_tokens += output_tokens

    def forget(self, key: Key) -> None:
        """A breaker has closed: what was counted before does not count."""
        self._tallies.pop(key, None)
        self._forget_met()

    def drain(self) -> list[tuple[Breaker, str, Counts]]:
        """All counts, which are zero then."""
        tallies, self._tallies = self._tallies, {}
        self._forget_met()
        counted = [(tally.breaker, subject, tally.counts) for (_, subject), tally in tallies.items()]
        return [one for one in counted if one[2] != NOTHING_COUNTED]

    def restore(self, counts: Iterable[tuple[Breaker, str, Counts]]) -> None:
        """Put back what the store did not take."""
        for breaker, subject, one in counts:
            self._tallies.setdefault((breaker.name, subject), _Tally(breaker)).add(one)

    def _of(self, group: _Group, labels: Labels, closings: int) -> Sequence[_Tally]:
        """Where to count an attempt that began when there had been so many closings."""
        values = tuple([labels.get(name, "") for name in group.each])
        met = group.met.get(values)
        if met is None or closings != self._copy.closings:
            return self._look_up(group, values, labels, closings)
        return met

    def _look_up(self, group: _Group, values: tuple[str, ...], labels: Labels, closings: int) -> list[_Tally]:
        subject = subject_of(labels, group.each)
        found: list[_Tally] = []
        for breaker in group.breakers:
            key = (breaker.name, subject)
            if self._copy.closed_after(key, closings):
                continue
            tally = self._tallies.get(key)
            if tally is None and len(self._tallies) < SUBJECTS_MAX:
                tally = self._tallies[key] = _Tally(breaker)
            if tally is not None:
                found.append(tally)
        if closings == self._copy.closings:
            group.met[values] = found
        return found

    def _forget_met(self) -> None:
        for group in (*self._of_attempts, *self._of_charges):
            group.met.clear()


def _grouped(breakers: Sequence[Breaker]) -> list[_Group]:
    groups: dict[tuple[str, ...], _Group] = {}
    for breaker in breakers:
        groups.setdefault(breaker.each, _Group(breaker.each, [])).breakers.append(breaker)
    return list(groups.values())
