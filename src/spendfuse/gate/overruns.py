"""By how much quotes are multiplied since their target charged more than one of them."""

from spendfuse.ledger.store import Ledger


class Overruns:
    """This process's copy of the targets whose quotes are multiplied; empty until `load`, a `Follower`'s to repeat."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._percents: dict[str, int] = {}

    async def load(self) -> None:
        """Read them from the store."""
        self._percents = {one.target: one.percent for one in await self._ledger.overruns()}

    def percent_of(self, target: str) -> int:
        """What the quotes of a target are multiplied by, in percent: 100 for most."""
        return self._percents.get(target, 100)
