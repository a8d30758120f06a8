"""The reference model beside the engine under test: it is fed the same operations in the order of their commits, and
has to give the same answers."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from world_books import Violated
from world_store import Session, at_once

from spendfuse.clock import FrozenClock
from spendfuse.core.errors import LedgerError
from spendfuse.core.limits import Limit, Unit
from spendfuse.core.reservations import ReservationId
from spendfuse.core.windows import Window
from spendfuse.ledger.applied import window_of
from spendfuse.ledger.endings import settled_by
from spendfuse.ledger.memory import MemoryEngine
from spendfuse.ledger.memory_store import MemoryStore, Reservation
from spendfuse.ledger.operations import ExpireDue, Operation, Outcome, Void

Totals = tuple[int, int]


class _Indexed(dict[ReservationId, Reservation]):
    """Reservations, and which of them count in one balance."""

    def __init__(self) -> None:
        super().__init__()
        self.members: dict[tuple[str, int], dict[str, list[Reservation]]] = defaultdict(lambda: defaultdict(list))
        """By limit and window, and then by subject."""
        self.limits: dict[str, Limit] = {}

    def __setitem__(self, number: ReservationId, one: Reservation) -> None:
        super().__setitem__(number, one)
        for limit in self.limits.values():
            self._count(limit, one)

    def know(self, limit: Limit) -> None:
        """Index by one more limit."""
        if limit.identity not in self.limits:
            self.limits[limit.identity] = limit
            for one in self.values():
                self._count(limit, one)

    def _count(self, limit: Limit, one: Reservation) -> None:
        if limit.covers(one.labels):
            window = window_of(limit, one.reserved_at_ms)
            self.members[limit.identity, window.number][limit.subject_of(one.labels)].append(one)


class _Fold(Mapping[str, Totals]):
    """Settled and reserved of every subject, added up only when they are asked for."""

    def __init__(self, unit: Unit, members: Mapping[str, list[Reservation]]) -> None:
        self._unit = unit
        self._members = members

    def __getitem__(self, subject: str) -> Totals:
        settled = reserved = 0
        if subject not in self._members:
            raise KeyError(subject)
        for one in self._members[subject]:
            if one.endings:
                settled += sum([settled_by(self._unit, ending.entry) for ending in one.endings])
            else:
                reserved += one.held.of(self._unit)
        return settled, reserved

    def __iter__(self) -> Iterator[str]:
        return iter(self._members)

    def __len__(self) -> int:
        return len(self._members)


class IndexedStore(MemoryStore):
    """The reference model's store, which adds up only what counts in a balance instead of all that there is."""

    __slots__ = ("index",)

    def __init__(self) -> None:
        super().__init__()
        self.index = _Indexed()
        self.reservations = self.index

    def _fold(self, limit: Limit, window: Window) -> Mapping[str, Totals]:
        self.index.know(limit)
        return _Fold(limit.unit, self.index.members[limit.identity, window.number])


class Shadow:
    """One reference model for one store under test."""

    def __init__(self, clock: FrozenClock) -> None:
        self._clock = clock
        self.store = IndexedStore()
        self._engines: dict[int, MemoryEngine] = {}
        """By the number of the process."""
        self._owners: dict[int, int] = {}
        """What an owner of the store under test is called here."""
        self._gone: list[tuple[int, int]] = []
        """Owners that are known to be gone as soon as another process looks: process and owner here."""

    def opened(self, process: int, limits: tuple[Limit, ...], owner_id: int) -> None:
        """A process opened the store."""
        self._engines[process] = engine = MemoryEngine(limits, self._clock, self.store)
        self._owners[owner_id] = engine.owner_id

    def gone(self, process: int, owner_id: int) -> None:
        """A process died, or its lease ended."""
        self._gone.append((process, self._owners[owner_id]))

    def regained(self, process: int) -> None:
        """It is not gone after all."""
        self._gone = [one for one in self._gone if one[0] != process]

    def registered_anew(self, process: int, owner_id: int) -> None:
        """A process that was taken for dead is another owner from now on."""
        self.store.owners_ever += 1
        self._engines[process].owner_id = self._owners[owner_id] = self.store.owners_ever
        self.store.owners.add(self.store.owners_ever)

    def closed(self, process: int) -> None:
        """A process left in good order."""
        at_once(self._engines.pop(process).close())

    def run(self, process: int, operations: Sequence[Operation], doubtful: Sequence[ReservationId]) -> list[Outcome]:
        """What the reference model answers."""
        if any(isinstance(one, ExpireDue) for one in operations):
            for other, owner in self._gone:
                if other != process:
                    self.store.owners.discard(owner)
            self._gone = [one for one in self._gone if one[0] == process]
        every = [*[Void(one) for one in doubtful], *operations]
        return at_once(self._engines[process].run(every))[len(doubtful) :]

    def compare(self, operations: Sequence[Operation], told: Sequence[Outcome], here: Sequence[Outcome]) -> None:
        """Both answers have to be the same."""
        for operation, one, other in zip(operations, told, here, strict=True):
            if _comparable(one) != _comparable(other):
                raise Violated(18, f"{operation} gave {one!r}, the reference model says {other!r}")

    def compare_reports(self, process: int, session: Session, labels: Sequence[str]) -> None:
        """Both stores have to report the same."""
        engine = self._engines[process]
        for verb, arguments in (("balances", (None,)), ("overruns", ())):
            ours, theirs = at_once(getattr(engine, verb)(*arguments)), session.ask(verb, *arguments)
            if sorted(ours, key=repr) != sorted(theirs, key=repr):
                raise Violated(18, f"{verb}: {theirs}, the reference model says {ours}")
        both = (at_once(engine.alerts(0)), session.ask("alerts", 0))
        ours, theirs = [{one.alert.alert_id: one.alert for one in told} for told in both]
        if ours != theirs:
            raise Violated(16, f"alerts: {theirs}, the reference model says {ours}")
        for label in labels:
            ours = at_once(engine.spend(label, since_ms=0, until_ms=None, top=3))
            theirs = session.ask("spend", label, since_ms=0, until_ms=None, top=3)
            if ours != theirs:
                raise Violated(18, f"spend by {label}: {theirs}, the reference model says {ours}")


def _comparable(outcome: Outcome) -> object:
    return type(outcome) if isinstance(outcome, LedgerError) else outcome
