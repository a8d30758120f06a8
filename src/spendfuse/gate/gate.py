"""The gate: the whole way of a call, from parsed bytes to an ended reservation.

    parse -> route -> labels -> quote -> reserve (wait, fit) -> attempt -> relay -> settle or void

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
from spendfuse.core.calls import Call
from spendfuse.core.decisions import Admitted, Fit, Reason, Refused
from spendfuse.core.errors import LedgerUnavailable, ReservationUnknown
from spendfuse.core.labels import Labels
from spendfuse.core.limits import RouteTo
from spendfuse.core.refusals import UNAVAILABLE_RETRY_S, Code, Deny, deny_refused
from spendfuse.core.reservations import CallId, CallIds, ReservationId, call_text, reservation_of
from spendfuse.core.windows import NS_PER_MS
from spendfuse.gate.attribution import Attribution
from spendfuse.gate.endings import Held
from spendfuse.gate.estimates import Estimate, Estimator
from spendfuse.gate.events import RefusalCounts
from spendfuse.gate.overruns import Overruns
from spendfuse.gate.relay import Attempt
from spendfuse.gate.requests import Caller, Downstream, Request
from spendfuse.gate.reservations import Endings, OpenReservation
from spendfuse.gate.routes import Route, Routes
from spendfuse.ledger.store import Demand, Ledger
from spendfuse.upstream.client import UpstreamClient
from spendfuse.wire.dialect import Answer

_NO_RESERVATION = ReservationId(0)
CALL_ID_HEADER = "x-spendfuse-call-id"
CAP_HEADER = "x-spendfuse-max-tokens"


@dataclass(frozen=True, slots=True)
class Admission:
    """An admitted call: the estimate it was admitted by, its open reservation, the cap to send (None: send none)."""

    estimate: Estimate
    reservation: OpenReservation
    cap: int | None

    @property
    def route(self) -> Route:
        return self.estimate.route


class Gate:
    """Serves calls against one config, one ledger and one upstream client. One per process."""

    def __init__(self, *, config: Config, routes: Routes, ledger: Ledger, client: UpstreamClient, clock: Clock) -> None:
        self._config = config
        self._routes = routes
        self._ledger = ledger
        self._client = client
        self._clock = clock
        self._ids = CallIds()
        self.overruns = Overruns(ledger)
        self._estimator = Estimator(config.limits, self.overruns, output_tokens_default=config.output_tokens_default)
        self._finishing: set[asyncio.Task[Deny | None]] = set()
        self._attribution = Attribution(config.limits)
        self.endings = Endings(ledger)
        self.refusals = RefusalCounts(ledger)

    async def serve(self, request: Request, down: Downstream) -> None:
        """Serve one request. Cancel it when the client leaves: its reservation then is ended in the background."""
        call_id = self._ids.mint(self._clock.now_ns() // NS_PER_MS, self._ledger.owner_id)
        denied = await self._serve(request, call_id, down)
        if denied is not None:
            told = request.dialect.refuse(denied)
            await down.answer(Answer(told.status, (*told.headers, (CALL_ID_HEADER, call_text(call_id))), told.body))

    async def _serve(self, request: Request, call_id: CallId, down: Downstream) -> Deny | None:
        call = request.dialect.parse(request.body)
        if isinstance(call, Deny):
            return call
        admission = await self._admit(request, call, reservation_of(call_id, 1))
        if isinstance(admission, Deny):
            return admission
        attempt = self._attempt(request, call, admission, down, call_text(call_id))
        try:
            body = request.dialect.render(call, admission.route.wire, cap=admission.cap)
            upstream = admission.route.request(call.operation, request.dialect.headers_upstream(request.headers), body)
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
        route = self._routes.get(call.model)
        tried = {call.model}
        while True:
            if isinstance(route, Deny):
                return route
            labels = self._attribution.labels_of(request, call, route.labels)
            if isinstance(labels, Deny):
                self.refusals.count(labels, request.caller.labels)
                return labels
            admission = await self._admit_at(route, call, labels, caller=request.caller, reservation_id=reservation_id)
            if isinstance(admission, Admission):
                return admission
            elsewhere = self._route_instead(admission.reasons, tried)
            if elsewhere is None:
                self.refusals.count(admission, labels)
                return admission
            route = elsewhere

    def _route_instead(self, reasons: tuple[Reason, ...], tried: set[str]) -> Route | None:
        """The first route that refusing limits lead to, that can be used and that was not tried yet."""
        for reason in reasons:
            instead = reason.limit.on_exceed
            if isinstance(instead, RouteTo) and instead.model not in tried:
                tried.add(instead.model)
                route = self._routes.get(instead.model)
                if isinstance(route, Route):
                    return route
        return None

    async def _admit_at(
        self, route: Route, call: Call, labels: Labels, *, caller: Caller, reservation_id: ReservationId
    ) -> Admission | Deny:
        """Reserve at one route: by bytes if they fit, else by tokens if those can be counted; wait; fit; or refuse."""
        estimate = self._estimator.rough(call, route, labels)
        if isinstance(estimate, Deny):
            return estimate
        try:
            verdict = await self._reserve(estimate, caller, reservation_id)
            if isinstance(verdict, Refused) and self._estimator.counting_may_help(estimate, verdict):
                estimate = await self._estimator.counted(estimate)
                verdict = await self._reserve(estimate, caller, reservation_id)
        except LedgerUnavailable as error:
            return Deny(Code.STORE_UNAVAILABLE, f"No call is admitted: {error}.", retry_after_s=UNAVAILABLE_RETRY_S)
        if isinstance(verdict, Refused):
            return deny_refused(verdict, self._clock.now_ns() // NS_PER_MS)
        self.refusals.count_shadow(verdict.would_refuse, labels)
        reservation = self.endings.opened(reservation_id, Held(estimate.quoted.quote, verdict.cap))
        return Admission(estimate, reservation, verdict.cap if estimate.sends_cap else None)

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

    def _attempt(self, request: Request, call: Call, admission: Admission, down: Downstream, call_id: str) -> Attempt:
        headers = [(CALL_ID_HEADER, call_id)]
        if admission.cap is not None and admission.cap != call.cap:
            headers.append((CAP_HEADER, str(admission.cap)))
        return Attempt(
            call=call,
            dialect=request.dialect,
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
