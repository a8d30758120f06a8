"""What the ledger does about breakers, as its callers see it."""

from collections.abc import Mapping, Sequence

from spendfuse.core.breakers import Breaker, Counts
from spendfuse.ledger.batching import Batching
from spendfuse.ledger.breakers import (
    Attempts,
    BreakerChange,
    BreakerOperation,
    BreakerStates,
    CountAttempts,
    EndProbe,
    FollowSpent,
    ForceBreaker,
    PauseTarget,
    RenewProbe,
    TakeProbe,
)


class BreakerVerbs(Batching):
    """A `BreakerLedger` over an engine."""

    async def count_attempts(self, several: Sequence[Attempts]) -> BreakerStates:
        """See `BreakerLedger`."""
        return await self._break(CountAttempts(tuple(several)))

    async def follow_spent(self, breakers: Sequence[Breaker]) -> BreakerStates:
        """See `BreakerLedger`."""
        return await self._break(FollowSpent(tuple(breakers)))

    async def take_probe(self, several: Sequence[tuple[Breaker, str]], *, probe_id: int) -> BreakerStates:
        """See `BreakerLedger`."""
        return await self._break(TakeProbe(tuple(several), probe_id))

    async def renew_probe(self, several: Sequence[tuple[Breaker, str]], *, probe_id: int) -> BreakerStates:
        """See `BreakerLedger`."""
        return await self._break(RenewProbe(tuple(several), probe_id))

    async def end_probe(
        self, breaker: Breaker, subject: str, *, probe_id: int, succeeded: bool | None
    ) -> BreakerStates:
        """See `BreakerLedger`."""
        return await self._break(EndProbe(breaker, subject, probe_id, succeeded))

    async def force_breaker(
        self, breaker: Breaker, subject: str, *, is_open: bool, why: str, who: str
    ) -> BreakerStates:
        """See `BreakerLedger`."""
        return await self._break(ForceBreaker(breaker, subject, is_open, why, who))

    async def pause_target(self, target: str, *, ms: int, why: str) -> BreakerStates:
        """See `BreakerLedger`."""
        return await self._break(PauseTarget(target, ms, why))

    async def breakers(self) -> BreakerStates:
        """See `BreakerLedger`."""
        return await self._open_engine().breakers()

    async def breaker_changes(self, *, after: int = 0, newest: int | None = None) -> Sequence[BreakerChange]:
        """See `BreakerLedger`."""
        return await self._open_engine().breaker_changes(after=after, newest=newest)

    async def baseline(self, breaker: Breaker) -> Mapping[str, Counts]:
        """See `BreakerLedger`."""
        return await self._open_engine().baseline(breaker)

    async def _break(self, operation: BreakerOperation) -> BreakerStates:
        outcome = await self._submit(self._freeing, operation)
        assert isinstance(outcome, BreakerStates)
        return outcome
