"""Clients that speak to the ledger itself, and are less polite than a gate: they repeat, extend, settle and void
whatever they know of, late, twice, at any process."""

from dataclasses import replace

from world import World
from world_process import Process

from spendfuse.core.decisions import Fit
from spendfuse.core.money import Nanos
from spendfuse.core.quotes import CapRange, Quote
from spendfuse.core.reservations import CallIds, Charge, EntryKind, ReservationId, reservation_of
from spendfuse.core.usage import Usage
from spendfuse.core.windows import NS_PER_MS
from spendfuse.ledger.store import Demand
from spendfuse.ledger.verbs import BatchingLedger

USERS, FEATURES, ORGANIZATIONS, KEYS = ("a", "b"), ("x", "y"), ("o1", "o2"), ("app", "batch")
DIRECT_OWNER = 1_023
"""In the ids of reservations that no gate made."""
INPUT_NANOS, OUTPUT_NANOS = 1_000, 2_000


class LedgerClients:
    """Draws what they say. Their charges are their own: no provider has a bill of them."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.dice = world.dice
        self._ids = CallIds()
        self._direct: list[ReservationId] = []

    def labels(self, run: str) -> dict[str, str]:
        """Those of a call; `run` tells it from all others."""
        dice = self.dice
        return {
            "user": dice.choice(USERS),
            "feature": dice.choice(FEATURES),
            "organization": dice.choice(ORGANIZATIONS),
            "run": run,
        }

    def settle_late(self, process: Process) -> bool:
        """What a reservation cost is learned after it was expired or voided; False where there is none."""
        accounts = self.world.checker.books.accounts
        ended = [one for one in self._direct[-40:] if one in accounts and accounts[one].entries]
        late = [one for one in ended if accounts[one].kind in (EntryKind.EXPIRED, EntryKind.VOIDED)]
        if late:
            self._settle(process, self.dice.choice(late))
        return bool(late)

    def say(self, process: Process) -> None:
        """One verb."""
        world, dice = self.world, self.dice
        chance, cap = dice.random(), dice.randint(1, 800)
        if chance < 0.5 or not self._direct:
            self._reserve(process, cap)
            return
        if chance > 0.98:
            self._record(process, cap)
            return
        still_open = [one for one in self._direct[-40:] if one in world.checker.books.open]
        number = dice.choice(still_open if still_open and dice.random() < 0.8 else self._direct)
        if chance < 0.75:
            self._settle(process, number)
        elif chance < 0.85:
            world.note(f"void {number} at process {process.number}")
            world.asks.append(process.ask(lambda ledger: ledger.void(number)))
        elif chance < 0.95:
            quote, deadline_s, cap = _quote(10), dice.choice([1.0, 60.0, 900.0]), cap * 2
            world.note(f"extend {number} to {cap} at process {process.number}")
            world.asks.append(
                process.ask(lambda ledger: ledger.extend(number, quote=quote, cap=cap, deadline_s=deadline_s))
            )
        else:
            world.asks.append(process.ask(lambda ledger: ledger.expire_due()))

    def _record(self, process: Process, cap: int) -> None:
        """A call was served while the store was away; its reserve may have been committed all the same."""
        world, dice = self.world, self.dice
        demand = self._demand(cap)
        if dice.random() < 0.4:
            known = world.checker.books.accounts.get(dice.choice(self._direct))
            if known is not None:
                demand = replace(demand, reservation_id=ReservationId(known.number), labels=known.labels)
        usage = Usage(dice.randint(0, 20), dice.randint(0, cap))
        charge = Charge(usage, Nanos(usage.input_tokens * INPUT_NANOS + usage.output_tokens * OUTPUT_NANOS))
        at_ms = world.clock.now_ns() // NS_PER_MS - dice.choice([-5, 0, 1_000, 400_000, 4_000_000])
        world.note(f"record {demand.reservation_id} at {at_ms} at process {process.number}")
        for _ in range(dice.choice([1, 2])):
            world.asks.append(process.ask(lambda ledger: ledger.record(demand, charge, at_ms=at_ms)))

    def _demand(self, cap: int) -> Demand:
        dice = self.dice
        number = reservation_of(self._ids.mint(self.world.clock.now_ns() // NS_PER_MS, DIRECT_OWNER), 1)
        labels = self.labels(f"d{number}") | {"key": dice.choice(KEYS), "model": dice.choice(["plain", "frugal"])}
        if dice.random() < 0.5:
            labels["target"] = "plain/llama"
        return Demand(
            number,
            labels,
            _quote(dice.randint(0, 20)),
            CapRange(cap, dice.randint(0, cap)),
            dice.choice(list(Fit)),
            dice.choice([1.0, 30.0, 900.0]),
            dice.choice([2, 5, 1_000]),
        )

    def _reserve(self, process: Process, cap: int) -> None:
        world, dice = self.world, self.dice
        demand = self._demand(cap)
        number = demand.reservation_id
        self._direct.append(number)
        wait_s = dice.choice([0.0, 0.0, 2.0])
        world.note(f"reserve {number} at process {process.number}, cap {cap}")
        for _ in range(dice.choice([1, 1, 1, 2])):
            world.asks.append(process.ask(lambda ledger: ledger.reserve(demand, wait_s=wait_s)))

    def _settle(self, process: Process, number: ReservationId) -> None:
        world, dice = self.world, self.dice
        usage = Usage(dice.randint(0, 20), dice.randint(0, 900))
        cost = usage.input_tokens * INPUT_NANOS + usage.output_tokens * OUTPUT_NANOS
        charge = Charge(usage, Nanos(cost), estimated=dice.random() < 0.3)
        world.note(f"settle {number} at {cost} at process {process.number}")

        async def settle(ledger: BatchingLedger) -> object:
            return await ledger.settle(number, charge)

        for _ in range(dice.choice([1, 1, 1, 2])):
            world.asks.append(process.ask(settle))


def _quote(input_tokens: int) -> Quote:
    return Quote(input_tokens, input_tokens * INPUT_NANOS * 1_000, OUTPUT_NANOS * 1_000)
