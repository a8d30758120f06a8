"""What can happen in a simulated world, one step at a time.

A step that finds nothing to do is none: another one is drawn in its place. After each step the processes run: mostly
until nothing is left to do, sometimes one of them for a few turns of its event loop only, so that the next step, a
death for one, meets it half-way.
"""

from collections.abc import Callable
from dataclasses import dataclass

from gate_harness import CHAT, MESSAGES, chat, messages, request
from world import World, configs
from world_clients import LedgerClients
from world_engine import Fault
from world_process import Process

from spendfuse.core.labels import subject_of
from spendfuse.core.windows import NS_PER_MS
from spendfuse.ledger.operations import Operation

JUMPS_MS = (1, 40, 300, 1_000, 1_000, 2_500, 6_000, 31_000, 125_000, 700_000, 3_600_000)
FEW_FAULTS = (
    *(Fault.REFUSED, Fault.POISONED, Fault.ANSWER_LOST, Fault.BROKEN_OFF, Fault.HANGS, Fault.HANGS_THEN_FAILS),
    *(Fault.ANSWER_HANGS, Fault.DIES_BEFORE, Fault.DIES_AFTER, Fault.COMMIT_CUT, Fault.ANSWER_CUT),
    Fault.ALL_ANSWERS_CUT,
)
OUTAGES = (Fault.REFUSED, Fault.HANGS, Fault.HANGS_THEN_FAILS)


@dataclass(frozen=True, slots=True)
class Flavour:
    """What a seed has most of."""

    processes_max: int
    gate_share: float
    trouble: float


class Steps:
    """Draws what happens next."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.dice = dice = world.dice
        self.flavour = Flavour(dice.randint(2, 4), dice.choice([0.0, 0.5, 0.5, 0.9, 1.0]), dice.choice([0, 1, 1, 3]))
        self._clients = LedgerClients(world)
        trouble, gate_share = self.flavour.trouble, self.flavour.gate_share
        self._kinds: dict[Callable[[], bool], float] = {
            self._begin: 30 * gate_share,
            self._speak: 40 * (1 - gate_share),
            self._go_on: 20 * gate_share,
            self._leave: 5 * gate_share,
            self._pass_time: 20,
            self._run_one: 8,
            self._duplicate: 4,
            self._settle_late: 2,
            self._set_amount: 2,
            self._change_config: 0.2,
            self._reload: 0.6,
            self._start: 4,
            self._drain: 0.4,
            self._kill: 0.5 + trouble,
            self._fail: 2 * trouble,
            self._break: 0.7 * trouble,
            self._heal: 3 * trouble,
            self._stall: 0.7 * trouble,
            self._clear_overrun: 0.5,
        }

    def take(self) -> None:
        """One step, and what follows from it at once."""
        kinds, weights = list(self._kinds), list(self._kinds.values())
        while not self.dice.choices(kinds, weights)[0]():
            pass
        self._run_some()
        self.world.look_after()

    def finish(self) -> None:
        """Let everything end: the store is well, calls end, processes drain or die, a new one sees to the rest."""
        world = self.world
        for process in world.processes:
            process.is_stalled = False
            process.engine.heal()
        for hold in world.provider.holds:
            hold.set()
        for jump_ms in [1_000] * 5 + [130_000, 1_000, 1_000]:
            world.clock.advance(ms=jump_ms)
            self._settle_down()
        for process in list(world.processes):
            if not process.is_draining and self.dice.random() < 0.5:
                self._drain_one(process)
            self._settle_down()
        for _ in range(70):
            world.clock.advance(ms=1_000)
            self._settle_down()
        for process in list(world.processes):
            world.kill(process)
        process = world.start()
        for _ in range(3):
            world.clock.advance(ms=1_000_000)
            self._settle_down()
            world.clock.advance(ms=1_000)
            self._settle_down()
        assert process in world.processes

    def _settle_down(self) -> None:
        for process in self.world.processes:
            process.loop.run()
        self.world.look_after()

    def _run_some(self) -> None:
        world, dice = self.world, self.dice
        able = [one for one in world.processes if not one.is_stalled]
        if able and dice.random() < 0.3:
            dice.choice(able).loop.run(dice.choice([1, 2, 4, 8, 16]))
            return
        dice.shuffle(able)
        for process in able:
            process.loop.run()

    def _able(self) -> Process | None:
        able = [one for one in self.world.processes if not one.is_draining and not one.engine.is_dead]
        return self.dice.choice(able) if able else None

    # What clients do.

    def _begin(self) -> bool:
        """A client calls a gateway."""
        world, dice, process = self.world, self.dice, self._able()
        if process is None:
            return False
        world.calls_ever += 1
        number = world.calls_ever
        model, dialect = dice.choices(
            [("plain", CHAT), ("haiku", CHAT), ("haiku", MESSAGES), ("gpt-4o-mini", CHAT)], [6, 1, 2, 1]
        )[0]
        if dialect is MESSAGES:
            body = messages(model, metadata={"user_id": str(number)})
        else:
            body = chat(model, user=str(number))
        body["stream"] = dice.random() < 0.4
        cap = dice.choice([None, 10, 200, 300, 600, 1_200])
        if cap is not None:
            body["max_tokens"] = cap
        is_same = model != "haiku" or dialect is MESSAGES
        asked = request(body, claimed=self._clients.labels(str(number)), dialect=dialect)
        world.calls[number] = process.serve(number, asked, is_same_dialect=is_same)
        world.note(f"call {number} of {model} at process {process.number}, cap {cap}, stream {body['stream']}")
        return True

    def _go_on(self) -> bool:
        """The provider makes progress on some calls."""
        waiting = self.world.provider.holds = [one for one in self.world.provider.holds if not one.is_set()]
        for hold in self.dice.sample(waiting, min(len(waiting), self.dice.randint(1, 4))):
            hold.set()
        return bool(waiting)

    def _leave(self) -> bool:
        """A client goes away."""
        calls = self.world.calls
        if not calls:
            return False
        call = calls[self.dice.choice(list(calls))]
        self.world.note(f"the client of call {call.number} leaves")
        return call.task.cancel()

    def _speak(self) -> bool:
        """A client speaks to the ledger itself, one to four verbs at once."""
        process = self._able()
        if process is None:
            return False
        for _ in range(self.dice.randint(1, 4)):
            self._clients.say(process)
        return True

    def _settle_late(self) -> bool:
        """What a reservation cost is learned after it was expired or voided."""
        process = self._able()
        return process is not None and self._clients.settle_late(process)

    def _duplicate(self) -> bool:
        """Messages that were answered before come again, each twice, at any process."""
        world = self.world
        able = [one for one in world.processes if one.is_fit_since_ns is not None and one.loop.is_idle]
        if not able or not world.history or any(one.has_lost_lease for one in able):
            return False
        process = self.dice.choice(able)
        some: list[Operation] = [one for one, _ in self.dice.choices(world.history, k=self.dice.randint(1, 3))]
        world.note(f"{len(some)} messages come twice more at process {process.number}")
        world.is_repeating = True
        try:
            process.engine.repeat([*some, *some])
        finally:
            world.is_repeating = False
        return True

    # What operators do.

    def _set_amount(self) -> bool:
        """The amount of a limit is set for a subject, or reset."""
        process, dice = self._able(), self.dice
        if process is None:
            return False
        limit = dice.choice([one for one in process.config.limits if not one.is_rate and one.name != "everything"])
        subject = subject_of(self._clients.labels("1"), limit.each)
        amount = dice.choice([None, None, 0, limit.amount // 2, limit.amount * 2])
        until_ms = None
        if amount is not None and dice.random() < 0.5:
            until_ms = self.world.clock.now_ns() // NS_PER_MS + dice.choice([500, 60_000, 4_000_000])
        self.world.note(f"{limit.name} for {subject} is set to {amount} until {until_ms}")
        self.world.asks.append(
            process.ask(lambda ledger: ledger.set_amount(limit.name, subject, amount, until_ms=until_ms))
        )
        return True

    def _reload(self) -> bool:
        """Processes load another config while they run; those that do not refuse to reserve until they do so too."""
        process = self._able()
        if process is None:
            return False
        config = self.dice.choice(configs())
        able = [process] if self.dice.random() < 0.3 else self.world.processes
        self.world.config = config
        self.world.note(f"processes {[one.number for one in able]} load config {configs().index(config)}")
        for one in able:
            if not one.is_draining and not one.engine.is_dead:
                self.world.asks.append(one.reload(config))
        return True

    def _clear_overrun(self) -> bool:
        process = self._able()
        if process is None:
            return False
        self.world.asks.append(process.ask(lambda ledger: ledger.clear_overrun("plain/llama")))
        return True

    def _change_config(self) -> bool:
        """From now on processes start with other limits; those that run refuse to reserve."""
        self.world.config = self.dice.choice(configs())
        return self._start() or self._kill()

    def _start(self) -> bool:
        world = self.world
        if len(world.processes) >= self.flavour.processes_max:
            return False
        world.start()
        return True

    def _drain(self) -> bool:
        process = self._able()
        if process is None or len(self.world.processes) < 2:
            return False
        self._drain_one(process)
        return True

    def _drain_one(self, process: Process) -> None:
        self.world.note(f"process {process.number} drains")
        process.drain([one for one in self.world.calls.values() if one.process is process])

    # What goes wrong.

    def _kill(self) -> bool:
        if not self.world.processes:
            return False
        process = self.dice.choice(self.world.processes)
        self.world.note(f"process {process.number} is killed")
        self.world.kill(process)
        return True

    def _fail(self) -> bool:
        """The next batches of a process fail."""
        process = self._able()
        if process is None:
            return False
        faults = self.dice.choices(FEW_FAULTS, k=self.dice.randint(1, 2))
        self.world.note(f"process {process.number} is about to meet {[one.name for one in faults]}")
        process.engine.faults.extend(faults)
        return True

    def _break(self) -> bool:
        """The store is away for a process, or for all."""
        world = self.world
        outage = self.dice.choice(OUTAGES)
        process = self._able()
        if process is None:
            return False
        away = [process] if self.dice.random() < 0.5 else world.processes
        world.note(f"the store is away for {[one.number for one in away]}: {outage.name}")
        for one in away:
            one.engine.outage = outage
        return True

    def _heal(self) -> bool:
        """The store is well again, and whoever was stalled goes on."""
        world = self.world
        ill = [one for one in world.processes if one.is_stalled or one.engine.is_ill]
        for one in ill:
            one.is_stalled = False
            one.engine.heal()
        if ill:
            world.note(f"well again: {[one.number for one in ill]}")
        return bool(ill)

    def _stall(self) -> bool:
        """A process stands still: paused, swapped out, cut off."""
        process = self._able()
        if process is None:
            return False
        self.world.note(f"process {process.number} stands still")
        process.is_stalled = True
        return True

    # Time.

    def _pass_time(self) -> bool:
        world = self.world
        jump_ms = self.dice.choice(JUMPS_MS)
        if self.dice.random() < 0.05:
            # To just before the next hour, in which windows turn.
            jump_ms = 3_600_000 - world.clock.now_ns() // NS_PER_MS % 3_600_000 - self.dice.choice([0, 1, 2])
        world.note(f"{jump_ms} ms pass")
        for process in world.processes:
            process.note_pause()
        world.clock.advance(ms=max(1, jump_ms))
        return True

    def _run_one(self) -> bool:
        """A process goes on by a few turns of its event loop."""
        able = [one for one in self.world.processes if not one.is_stalled and not one.loop.is_idle]
        if not able:
            return False
        self.dice.choice(able).loop.run(self.dice.choice([1, 3, 10]))
        return True
