"""The gate: the whole way of a call, from parsed bytes to an ended reservation.

    parse -> route -> labels -> carry -> quote -> reserve (wait, fit) -> attempt -> relay -> settle or void

Failure policy: closed. What can't be priced, bounded, attributed or reserved is refused, and a store that is away
refuses every call. One owner at a time has to end a reservation: `_admit` hands it to the attempt, which ends it on
every way out; if the process dies, the keeper does.
"""

import asyncio
import contextlib
from dataclasses import dataclass
from functools import partial

from spendfuse.clock import Clock
from spendfuse.config import Config
from spendfuse.core.calls import Call, Operation
from spendfuse.core.decisions import Admitted, Fit, Reason, Refused
from spendfuse.core.errors import LedgerUnavailable, ReservationUnknown
from spendfuse.core.labels import Labels
from spendfuse.core.limits import Limit, RouteTo
from spendfuse.core.refusals import UNAVAILABLE_RETRY_S, Code, Deny, deny_refused
from spendfuse.core.reservations import CallId, CallIds, ReservationId, call_text, reservation_of
from spendfuse.core.windows import NS_PER_MS
from spendfuse.gate.attribution import Attribution
from spendfuse.gate.counting import ProviderCounts
from spendfuse.gate.endings import Held
from spendfuse.gate.estimates import Estimate, Estimator
from spendfuse.gate.events import RefusalCounts
from spendfuse.gate.exchanges import Exchanges
from spendfuse.gate.overruns import Overruns
from spendfuse.gate.relay import Attempt
from spendfuse.gate.requests import Caller, Downstream, Request
from spendfuse.gate.reservations import Endings, OpenReservation
from spendfuse.gate.routes import Rotation, Route, Routes
from spendfuse.gate.spent import SpentLimits
from spendfuse.gate.unpriced import UnpricedModels
from spendfuse.ledger.store import Demand, Ledger
from spendfuse.upstream.client import UpstreamClient
from spendfuse.wire.dialect import Answer, Exchange

_NO_RESERVATION = ReservationId(0)
_TARGET_LABELS = frozenset({"target", "provider"})
CALL_ID_HEADER = "x-spendfuse-call-id"
CAP_HEADER = "x-spendfuse-max-tokens"


@dataclass(frozen=True, slots=True)
class Admission:
    """An admitted call: how it is carried out, the estimate it was admitted by, its open reservation, and the cap to
    send (None: send none).
    """

    exchange: Exchange
    estimate: Estimate
    reservation: OpenReservation
    cap: int | None

    @property
    def route(self) -> Route:
        return self.estimate.route


@dataclass(frozen=True, slots=True)
class _Passage:
    """A route that a call can take, the call in its provider's words, and the routes behind it."""

    route: Route
    exchange: Exchange
    call: Call
    others: tuple[Route, ...]


class Gate:
    """Serves calls against one config, one ledger and one upstream client. One per process."""

    def __init__(
        self,
        *,
        config: Config,
        routes: Routes,
        exchanges: Exchanges,
        ledger: Ledger,
        client: UpstreamClient,
        clock: Clock,
    ) -> None:
        self._config = config
        self._routes = routes
        self._exchanges = exchanges
        self._ledger = ledger
        self._client = client
        self._clock = clock
        self._ids = CallIds()
        self.overruns = Overruns(ledger)
        self._estimator = Estimator(config.limits, self.overruns, output_tokens_default=config.output_tokens_default)
        self._counts = ProviderCounts(client)
        self._finishing: set[asyncio.Task[Deny | None]] = set()
        self._attribution = Attribution(config.limits)
        self.endings = Endings(ledger)
        self.refusals = RefusalCounts(ledger)
        self.spent = SpentLimits(ledger)
        self.unpriced = UnpricedModels(ledger, clock)

    async def serve(self, request: Request, down: Downstream) -> None:
        """Serve one request. Cancel it when the client leaves: its reservation then is ended in the background."""
        call_id = self._ids.mint(self._clock.now_ns() // NS_PER_MS, self._ledger.owner_id)
        denied = await self._serve(request, call_id, down)
        if denied is not None:
            told = request.dialect.refuse(denied)
            await down.answer(Answer(told.status, (*told.headers, (CALL_ID_HEADER, call_text(call_id))), told.body))

    async def _serve(self, request: Request, call_id: CallId, down: Downstream) -> Deny | None:
        call = request.dialect.parse(request.body, request.headers)
        if isinstance(call, Deny):
            return call
        admission = await self._admit(request, call, reservation_of(call_id, 1))
        if isinstance(admission, Deny):
            self.unpriced.note(admission, call.model)
            return admission
        attempt = self._attempt(admission, down, call_text(call_id), client_cap=call.cap)
        exchange = admission.exchange
        try:
            body = exchange.render(admission.estimate.call, admission.route.wire, cap=admission.cap)
            upstream = admission.route.request(exchange.operation, exchange.headers_upstream(request.headers), body)
        except Exception:
            # A defect of ours; nothing has been sent.
            admission.reservation.void()
            raise
        if call.stream or not admission.route.finishes_abandoned:
            return await attempt.run(upstream)
        finishing = asyncio.create_task(attempt.run(upstream))
        self._finishing.add(finishing)
        finishing.add_done_callback(self._finishing.discard)
        return await asyncio.shield(finishing)

    async def _admit(self, request: Request, call: Call, reservation_id: ReservationId) -> Admission | Deny:
        """Reserve a call's quote on all limits that cover it, at its route or at those that its limits lead to."""
        rotation = self._routes.get(call.model)
        if isinstance(rotation, Deny):
            return rotation
        routes, tried = rotation.turn(), {call.model}
        while True:
            passage = self._passage(routes, request, call)
            if isinstance(passage, Deny):
                return passage
            labels = self._attribution.labels_of(request, call, passage.route.labels)
            if isinstance(labels, Deny):
                self.refusals.count(labels, request.caller.labels)
                return labels
            admission = await self._admit_at(passage, request, labels, reservation_id)
            if isinstance(admission, Admission):
                return admission
            elsewhere = self._routes_instead(admission.reasons, passage.others, tried)
            if not elsewhere:
                self.refusals.count(admission, labels)
                return admission
            routes = elsewhere

    def _passage(self, routes: tuple[Route, ...], request: Request, call: Call) -> _Passage | Deny:
        """The first of some routes whose provider can be told of the call; where none can, why the first can't."""
        denied: Deny | None = None
        for at, route in enumerate(routes):
            exchange = self._exchanges.get((request.dialect.operation, route.api))
            if exchange is None:
                denied = denied or _deny_path(route, request.dialect.operation)
                continue
            carried = exchange.carry(call)
            if not isinstance(carried, Deny):
                return _Passage(route, exchange, carried, routes[at + 1 :])
            denied = denied or carried
        assert denied is not None, "a rotation has a route"
        return denied

    def _routes_instead(
        self, reasons: tuple[Reason, ...], others: tuple[Route, ...], tried: set[str]
    ) -> tuple[Route, ...]:
        """The model's other targets where only limits of this one refused, else the first model that a refusing limit
        leads to, that can be used and that was not tried yet.
        """
        if reasons and others and all(_is_of_target(reason.limit) for reason in reasons):
            return others
        for reason in reasons:
            instead = reason.limit.on_exceed
            if isinstance(instead, RouteTo) and instead.model not in tried:
                tried.add(instead.model)
                rotation = self._routes.get(instead.model)
                if isinstance(rotation, Rotation):
                    return rotation.turn()
        return ()

    async def _admit_at(
        self, passage: _Passage, request: Request, labels: Labels, reservation_id: ReservationId
    ) -> Admission | Deny:
        """Reserve at one route: by bytes if they fit, else by tokens if those can be counted; wait; fit; or refuse."""
        counts = self._counts.of(passage.call, passage.exchange, passage.route, request.headers)
        estimate = self._estimator.rough(passage.call, passage.route, labels, counts)
        if isinstance(estimate, Deny):
            return estimate
        caller = request.caller
        try:
            verdict = await self._reserve(estimate, caller, reservation_id)
            if isinstance(verdict, Refused) and self._estimator.counting_may_help(estimate, verdict):
                estimate = await self._estimator.counted(estimate)
                verdict = await self._reserve(estimate, caller, reservation_id)
        except LedgerUnavailable as error:
            return Deny(Code.STORE_UNAVAILABLE, f"No call is admitted: {error}.", retry_after_s=UNAVAILABLE_RETRY_S)
        if isinstance(verdict, Refused):
            self.spent.note(verdict.reasons)
            return deny_refused(verdict, self._clock.now_ns() // NS_PER_MS)
        self.refusals.count_shadow(verdict.would_refuse, labels)
        reservation = self.endings.opened(reservation_id, Held(estimate.quoted.quote, verdict.cap))
        return Admission(passage.exchange, estimate, reservation, verdict.cap if estimate.sends_cap else None)

    async def _reserve(self, estimate: Estimate, caller: Caller, reservation_id: ReservationId) -> Admitted | Refused:
        demand = Demand(
            reservation_id,
            estimate.labels,
            estimate.quoted.quote,
            estimate.caps,
            Fit.WHOLE if estimate.can_count else Fit.LOWER,
            self._config.reservation_deadline_s,
            caller.new_subjects_per_hour,
        )
        return await self._ledger.reserve(demand, wait_s=0.0 if estimate.can_count else self._config.busy_wait_s)

    def _attempt(self, admission: Admission, down: Downstream, call_id: str, *, client_cap: int | None) -> Attempt:
        headers = [(CALL_ID_HEADER, call_id)]
        if admission.cap is not None and admission.cap != client_cap:
            headers.append((CAP_HEADER, str(admission.cap)))
        return Attempt(
            call=admission.estimate.call,
            exchange=admission.exchange,
            route=admission.route,
            reservation=admission.reservation,
            down=down,
            client=self._client,
            clock=self._clock,
            headers=tuple(headers),
            deadline_s=self._config.reservation_deadline_s,
            observe_output=partial(self._estimator.observe, admission.estimate),
        )

    @property
    def needs_peers(self) -> bool:
        """Whether requests have to say where they come from."""
        return self._attribution.uses_ip

    async def check_ready(self) -> None:
        """Whether the store takes transactions now.

        Raises:
            LedgerUnavailable: it doesn't, so no call is admitted; the message says why.
        """
        with contextlib.suppress(ReservationUnknown):
            await self._ledger.void(_NO_RESERVATION)

    async def drain(self, timeout_s: float) -> None:
        """Wait for calls that go on without their client, cutting those that outlast the time, then for the ends of all
        reservations.
        """
        if self._finishing:
            await asyncio.wait(self._finishing, timeout=timeout_s)
            for late in tuple(self._finishing):
                late.cancel()
            await asyncio.gather(*self._finishing, return_exceptions=True)
        await self.endings.drain(timeout_s)
        await self.refusals.flush()
        await self.spent.flush()


def _is_of_target(limit: Limit) -> bool:
    """Whether a limit tells targets apart, so that another one may still have room."""
    return not _TARGET_LABELS.isdisjoint((*limit.each, *limit.match))


def _deny_path(route: Route, operation: Operation) -> Deny:
    return Deny(
        Code.INVALID_REQUEST,
        f'The model "{route.name}" is served by a provider that speaks {route.api.value}, to which calls of '
        f"/v1/{operation.value} can't be carried.",
        "model",
    )
