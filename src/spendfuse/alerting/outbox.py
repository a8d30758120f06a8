"""The outbox's worker: takes alerts out of the store, and sends each to its channels until it is taken.

One runs in every process; whichever holds the store's lease does the work, and only while there is some. A message is
claimed in the store before it is sent and its end is written behind it, so a process that dies in between loses
nothing: once the claim's time is over another one tries again. No more than one message of a channel is under way, each
in a task of its own, so a receiver that hangs delays neither calls nor other channels.

Failure policy: open. Alerts keep no call from being served; a store that is away is asked again, and its absence told
once it is back.
"""

import asyncio
import logging
import uuid
from collections.abc import Callable, Sequence
from typing import Protocol

from spendfuse.alerting.details import details_of
from spendfuse.alerting.messages import Message, Wording, message_of, summary_of
from spendfuse.alerting.observing import Observer
from spendfuse.alerting.routing import GIVEN_UP_AFTER_MS, Sending, channels_of, kind_of, next_message, retry_in_ms
from spendfuse.clock import Clock
from spendfuse.config import Config
from spendfuse.config.alerts import Channel
from spendfuse.core.alerts import Phase
from spendfuse.core.errors import LedgerClosed, LedgerError, LedgerUnavailable
from spendfuse.core.windows import MS_PER_S
from spendfuse.ledger.alerts import ChannelHealth, Claim, Due, Ended, Fate, OutboxWork, Routed, StoredAlert
from spendfuse.ledger.store import Ledger

STEP_INTERVAL_S = 1.0
HEALTH_INTERVAL_S = 5.0
LEASE_S = 10.0
CLAIM_MS = 60_000
"""Longer than any message takes: after it, whoever claimed it must be dead."""
PAUSE_MAX_MS = 60_000
"""A channel that failed is tried again after so long at the latest, by the message that has waited longest."""
_ROUNDS_MAX = 20

logger = logging.getLogger("spendfuse.alerting")


class ChannelSender(Protocol):
    """A `Sender` that holds something."""

    async def send(self, message: Message) -> str | None: ...

    def close(self) -> None: ...


class Outbox:
    """Delivers from `run` until that is cancelled, and a `stop` after it ends what is under way."""

    def __init__(
        self, ledger: Ledger, config: Config, make_sender: Callable[[Channel], ChannelSender], clock: Clock
    ) -> None:
        self._ledger = ledger
        self._make_sender = make_sender
        self._clock = clock
        self._holder = uuid.uuid4().hex
        self._sending: dict[str, asyncio.Task[None]] = {}
        self._ended: list[Ended] = []
        self._failures: dict[str, int] = {}
        self._paused_until_s: dict[str, float] = {}
        self._leased_at_s = 0.0
        self._wake = asyncio.Event()
        self._senders: dict[str, ChannelSender] = {}
        self._looked_at_s = 0.0
        self.failing: Sequence[ChannelHealth] = ()
        """The channels that messages do not get through to, as of some seconds ago."""
        self._observer = Observer(ledger, clock)
        self.configure(config)

    def configure(self, config: Config) -> None:
        """Deliver by another config from now on; what is under way ends by the former."""
        self._config = config
        self._wording = Wording(config.timezone, config.alerting.dashboard_url)
        former, self._senders = self._senders, {}
        for sender in former.values():
            sender.close()
        self._observer.configure(config)

    async def run(self) -> None:
        """Work until cancelled, or until the ledger is closed."""
        while True:
            try:
                if (outage := self._ledger.outage) is not None:
                    raise outage
                await self._observer.observe()
                await self._work()
                await self._observer.tell_of_outage()
                await self._look_at_channels()
            except LedgerClosed:
                return
            except LedgerUnavailable as error:
                self._observer.note_outage(str(error))
            except LedgerError as error:
                logger.error("outbox_step_failed error=%s", error)
            try:
                async with asyncio.timeout(STEP_INTERVAL_S):
                    await self._wake.wait()
            except TimeoutError:
                pass
            self._wake.clear()

    async def stop(self, timeout_s: float) -> None:
        """Wait for the messages under way, and write down how they ended. One that takes longer is tried once more by
        whoever comes next."""
        if self._sending:
            await asyncio.wait(self._sending.values(), timeout=timeout_s)
            for task in self._sending.values():
                task.cancel()
        if self._ended or self._leased_at_s:
            try:
                # A lease of no time is free for the next.
                await self._ledger.outbox_step(self._holder, lease_s=0, ended=self._take_ended())
            except LedgerError as error:
                logger.warning("outbox_end_unwritten error=%s", error)
        for sender in self._senders.values():
            sender.close()

    async def _work(self) -> None:
        """Take steps while there is something to do that this process may do."""
        must_renew = self._sending and self._clock.monotonic_s() - self._leased_at_s > LEASE_S / 3
        if not self._ended and not must_renew and not await self._ledger.has_outbox_work(self._holder):
            return
        work = await self._step()
        for _ in range(_ROUNDS_MAX):
            if work is None:
                return
            routed = [await self._routed(stored, phase, work.now_ms) for stored, phase in work.unrouted]
            messages, waits = self._plan(work)
            if not routed and not messages and not waits:
                return
            claims = [Claim(tuple(due.key for due in several), CLAIM_MS) for several in messages.values()]
            self._ended += waits
            work = await self._step(routed, claims)
            if work is not None:
                for name, several in messages.items():
                    self._send(name, several, work.now_ms)

    async def _look_at_channels(self) -> None:
        now_s = self._clock.monotonic_s()
        if self._config.alerting.channels and now_s - self._looked_at_s >= HEALTH_INTERVAL_S:
            self.failing = await self._ledger.channel_health()
            self._looked_at_s = now_s

    async def _step(self, routed: Sequence[Routed] = (), claims: Sequence[Claim] = ()) -> OutboxWork | None:
        ended = self._take_ended()
        try:
            work = await self._ledger.outbox_step(
                self._holder, lease_s=LEASE_S, routed=routed, claims=claims, ended=ended
            )
        except LedgerError:
            self._ended = [*ended, *self._ended]
            raise
        if work is not None:
            self._leased_at_s = self._clock.monotonic_s()
        return work

    def _take_ended(self) -> list[Ended]:
        ended, self._ended = self._ended, []
        return ended

    async def _routed(self, stored: StoredAlert, phase: Phase, now_ms: int) -> Routed:
        """Who is told of an alert, with what was found out about it."""
        kind = kind_of(stored.alert, self._config.breakers)
        channels = channels_of(self._config.alerting, stored.alert, phase, kind)
        details = None
        if channels and phase is Phase.RAISED:
            details = await details_of(
                self._ledger, stored.alert, config=self._config, wording=self._wording, now_ms=now_ms
            )
        return Routed(stored.number, phase, channels, details)

    def _plan(self, work: OutboxWork) -> tuple[dict[str, list[Due]], list[Ended]]:
        """By channel what to send now as one message, and what has to wait."""
        by_channel: dict[str, list[Due]] = {}
        for due in work.due:
            by_channel.setdefault(due.delivery.channel, []).append(due)
        messages: dict[str, list[Due]] = {}
        waits: list[Ended] = []
        for name, due in by_channel.items():
            channel = self._config.alerting.channels.get(name)
            if channel is None:
                keys = tuple(one.key for one in due)
                waits.append(Ended(keys, Fate.FAILED, error="the channel is not in the config any more"))
                continue
            if name in self._sending:
                continue
            pause_s = self._paused_until_s.get(name, 0.0) - self._clock.monotonic_s()
            if pause_s > 0:
                keys = tuple(one.key for one in due)
                waits.append(Ended(keys, Fate.PENDING, retry_in_ms=int(pause_s * MS_PER_S) + 1))
                continue
            # Of those that failed, the one that has waited longest is first, so that one alone can't hold up the rest.
            due.sort(key=lambda one: one.delivery.next_try_at_ms if self._failures.get(name) else 0)
            sent_at_ms = work.sent_at_ms.get(name, ())
            timezone = self._config.timezone
            chosen = next_message(channel, due, sent_at_ms=sent_at_ms, now_ms=work.now_ms, timezone=timezone)
            if isinstance(chosen, Sending):
                messages[name] = list(chosen.due)
            else:
                keys = tuple(one.key for one in chosen.due)
                waits.append(Ended(keys, Fate.PENDING, retry_in_ms=chosen.for_ms))
        return messages, waits

    def _send(self, name: str, several: list[Due], now_ms: int) -> None:
        """Begin to send what has been claimed."""
        if len(several) == 1:
            message = message_of(several[0].stored, several[0].delivery.phase, self._wording)
        else:
            message = summary_of([(one.stored, one.delivery.phase) for one in several], self._wording)
        if name not in self._senders:
            self._senders[name] = self._make_sender(self._config.alerting.channels[name])
        task = asyncio.create_task(self._sent(name, several, message, now_ms), name=f"alert-{name}")
        self._sending[name] = task

    async def _sent(self, name: str, several: list[Due], message: Message, now_ms: int) -> None:
        try:
            error = await self._senders[name].send(message)
        except Exception as failure:
            error = type(failure).__name__
            logger.exception("alert_sender_failed channel=%s", name)
        finally:
            del self._sending[name]
        self._ended += self._endings(name, several, error, now_ms)
        self._wake.set()

    def _endings(self, name: str, several: list[Due], error: str | None, now_ms: int) -> list[Ended]:
        keys = tuple(one.key for one in several)
        if error is None:
            self._failures.pop(name, None)
            self._paused_until_s.pop(name, None)
            logger.info(
                "alert_sent channel=%s alert_id=%s alerts=%d", name, several[0].stored.alert.alert_id, len(keys)
            )
            return [Ended(keys, Fate.SENT)]
        failures = self._failures[name] = self._failures.get(name, 0) + 1
        pause_ms = min(PAUSE_MAX_MS, retry_in_ms(failures))
        self._paused_until_s[name] = self._clock.monotonic_s() + pause_ms / MS_PER_S
        logger.warning("alert_not_sent channel=%s alerts=%d error=%s", name, len(keys), error)
        return [_failed(one, error, now_ms) for one in several]


def _failed(due: Due, error: str, now_ms: int) -> Ended:
    """Another try after a while, or none any more."""
    first_ms = due.delivery.first_try_at_ms
    if first_ms is not None and now_ms - first_ms >= GIVEN_UP_AFTER_MS:
        return Ended((due.key,), Fate.FAILED, error=error)
    return Ended((due.key,), Fate.PENDING, retry_in_ms=retry_in_ms(due.delivery.attempts + 1), error=error)
