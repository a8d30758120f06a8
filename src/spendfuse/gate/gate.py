"""The gate: the whole way of a call, from parsed bytes to an ended reservation.

    parse -> route -> labels -> breakers -> carry -> quote -> reserve (wait, fit) -> attempt -> relay -> settle or void

Failure policy: closed. What can't be priced, bounded, attributed or reserved is refused, and so is every call while the
store is away, but for those of which all limits say otherwise (`gate.unreserved`). One owner at a time has to end a
reservation: `_admit` hands it to the attempt, which ends it on every way out; if the process dies, the keeper does.
"""

from dataclasses import dataclass
from functools import partial

from spendfuse.config import Config
from spendfuse.core.calls import Call, Operation
from spendfuse.core.decisions import Admitted, Fit, Reason, Refused
from spendfuse.core.errors import LedgerUnavailable
from spendfuse.core.labels import Labels
from spendfuse.core.limits import Limit, RouteTo
from spendfuse.core.refusals import UNAVAILABLE_RETRY_S, Code, Deny, deny_refused
from spendfuse.core.reservations import ATTEMPTS_MAX, CallId, ReservationId, call_text, reservation_of
from spendfuse.core.windows import NS_PER_MS
from spendfuse.gate.attribution import Attribution
from spendfuse.gate.breaker_states import Probing
from spendfuse.gate.counting import ProviderCounts
from spendfuse.gate.endings import Held
from spendfuse.gate.estimates import Estimate, Estimator
from spendfuse.gate.exchanges import Exchanges
from spendfuse.gate.relay import Attempt
from spendfuse.gate.requests import Caller, Downstream, Request
from spendfuse.gate.reservations import OpenReservation
from spendfuse.gate.routes import Rotation, Route, Routes
from spendfuse.gate.shared import Shared
from spendfuse.gate.unreserved import UNRESERVED_ATTEMPT, UNRESERVED_HEADER, Unreserved
from spendfuse.gate.watches import AttemptWatch
from spendfuse.ledger.store import Demand
from spendfuse.wire.dialect import Answer, Exchange

_TARGET_LABELS = frozenset({"target", "provider"})
CALL_ID_HEADER = "x-spendfuse-call-id"
CAP_HEADER = "x-spendfuse-max-tokens"


@dataclass(frozen=True, slots=True)
class Admission:
    """An admitted call: how it is carried out, the estimate it was admitted by, its open reservation, the cap to send
    (None: send none), and what breakers see of it.
    """

    exchange: Exchange
    estimate: Estimate
    reservation: OpenReservation
    cap: int | None
    watch: AttemptWatch
    is_reserved: bool = True

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


@dataclass(slots=True)
class _Asking:
    """What a call asks the ledger under: its ids, its labels at a route, and the breakers that it may be a probe of.

    Not frozen, as those take twice as long to make.
    """

    call_id: CallId
    reservation_id: ReservationId
    labels: Labels
    probing: Probing


class Gate:
    """Serves calls against one config. A reload makes another gate: calls in flight keep theirs, and what has to live
    on is `shared` with it.
    """

    def __init__(self, *, config: Config, routes: Routes, exchanges: Exchanges, shared: Shared) -> None:
        self._config = config
        self._routes = routes
        self._exchanges = exchanges
        self._attribution = Attribution(config.limits)
        self._estimator = Estimator(
            config.limits, shared.overruns, shared.learned, output_tokens_default=config.output_tokens_default
        )
        self._counts = ProviderCounts(shared.client)
        self._shared = shared
        self._ledger = shared.ledger
        self._clock = shared.clock
        self.endings = shared.endings
        self.refusals = shared.refusals
        self.breakers = shared.breakers
        self.unpriced = shared.unpriced
        self._unreserved = Unreserved(config.limits, shared)

    async def serve(self, request: Request, down: Downstream) -> None:
        """Serve one request. Cancel it when the client leaves: its reservation then is ended in the background."""
        call_id = self._shared.ids.mint(self._clock.now_ns() // NS_PER_MS, self._ledger.owner_id)
        denied = await self._serve(request, call_id, down)
        if denied is not None:
            told = request.dialect.refuse(denied)
            await down.answer(Answer(told.status, (*told.headers, (CALL_ID_HEADER, call_text(call_id))), told.body))

    async def _serve(self, request: Request, call_id: CallId, down: Downstream) -> Deny | None:
        call = request.dialect.parse(request.body, request.headers)
        if isinstance(call, Deny):
            return call
        admission = await self._admit(request, call, call_id)
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
            admission.watch.left()
            raise
        if call.stream or not admission.route.finishes_abandoned:
            return await attempt.run(upstream)
        return await self._shared.finish(attempt.run(upstream))

    async def _admit(self, request: Request, call: Call, call_id: CallId) -> Admission | Deny:
        """Reserve a call's quote on all limits that cover it, at its route or where limits and breakers lead to."""
        rotation = self._routes.get(call.model)
        if isinstance(rotation, Deny):
            return rotation
        routes, tried, attempt = rotation.turn(), {call.model}, 1
        while True:
            passage = self._passage(routes, request, call)
            if isinstance(passage, Deny):
                return passage
            labels = self._attribution.labels_of(request, call, passage.route.labels)
            if isinstance(labels, Deny):
                self.refusals.count(labels, request.caller.labels)
                return labels
            admission = await self._admit_past_breakers(passage, request, labels, call_id, attempt)
            if isinstance(admission, Admission):
                return admission
            if admission.code is Code.BREAKER_OPEN:
                # Its reservation may have been made and voided: another one needs a number of its own, which is not
                # that of a call without a reservation either.
                attempt = max(attempt, UNRESERVED_ATTEMPT) + 1
                elsewhere = passage.others if attempt <= ATTEMPTS_MAX else ()
            else:
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

    async def _admit_past_breakers(
        self, passage: _Passage, request: Request, labels: Labels, call_id: CallId, attempt: int
    ) -> Admission | Deny:
        """Reserve at one route, unless a breaker is open that covers the call."""
        probing = self.breakers.look(labels)
        if isinstance(probing, Deny):
            return probing
        asking = _Asking(call_id, reservation_of(call_id, attempt), labels, probing)
        if not probing:
            return await self._admit_at(passage, request, asking)
        with self.breakers.copy.asking(probing):
            return await self._admit_at(passage, request, asking)

    async def _admit_at(self, passage: _Passage, request: Request, asking: _Asking) -> Admission | Deny:
        """Reserve at one route: by bytes if they fit, else by tokens if those can be counted; wait; fit; or refuse."""
        counts = self._counts.of(passage.call, passage.exchange, passage.route, request.headers)
        estimate = self._estimator.rough(passage.call, passage.route, asking.labels, counts)
        if isinstance(estimate, Deny):
            return estimate
        caller, reservation_id = request.caller, asking.reservation_id
        try:
            verdict = await self._reserve(estimate, caller, reservation_id)
            if isinstance(verdict, Refused) and self._estimator.counting_may_help(estimate, verdict):
                estimate = await self._estimator.counted(estimate)
                verdict = await self._reserve(estimate, caller, reservation_id)
        except LedgerUnavailable as error:
            begun = await self._unreserved.begin(asking.call_id, self._demand(estimate, caller, reservation_id), error)
            if begun is None:
                return Deny(Code.STORE_UNAVAILABLE, f"No call is admitted: {error}.", retry_after_s=UNAVAILABLE_RETRY_S)
            return await self._admitted(passage, estimate, begun, asking, is_reserved=False)
        if isinstance(verdict, Refused):
            self._shared.spent.note(verdict.reasons)
            return deny_refused(verdict, self._clock.now_ns() // NS_PER_MS)
        self.refusals.count_shadow(verdict.would_refuse, asking.labels)
        reservation = self.endings.opened(reservation_id, Held(estimate.quoted.quote, verdict.cap))
        return await self._admitted(passage, estimate, reservation, asking)

    async def _admitted(
        self,
        passage: _Passage,
        estimate: Estimate,
        reservation: OpenReservation,
        asking: _Asking,
        *,
        is_reserved: bool = True,
    ) -> Admission | Deny:
        """The admission; or, its reservation voided, why it may not go: a breaker may have opened while it waited for
        room, or another call is the probe.
        """
        watch = self.breakers.watch(asking.labels, is_stream=passage.call.stream)
        if not self.breakers.copy.is_calm:
            try:
                denied = await self.breakers.admit(watch, asking.probing, reservation.id)
            except BaseException:
                reservation.void()
                raise
            if denied is not None:
                reservation.void()
                return denied
        if self.breakers.wants_charges:
            reservation.on_charge = watch.charged
        cap = reservation.held.cap if estimate.sends_cap else None
        return Admission(passage.exchange, estimate, reservation, cap, watch, is_reserved)

    async def _reserve(self, estimate: Estimate, caller: Caller, reservation_id: ReservationId) -> Admitted | Refused:
        demand = self._demand(estimate, caller, reservation_id)
        return await self._ledger.reserve(demand, wait_s=0.0 if estimate.can_count else self._config.busy_wait_s)

    def _demand(self, estimate: Estimate, caller: Caller, reservation_id: ReservationId) -> Demand:
        return Demand(
            reservation_id,
            estimate.labels,
            estimate.quoted.quote,
            estimate.caps,
            Fit.WHOLE if estimate.can_count else Fit.LOWER,
            self._config.reservation_deadline_s,
            caller.new_subjects_per_hour,
        )

    def _attempt(self, admission: Admission, down: Downstream, call_id: str, *, client_cap: int | None) -> Attempt:
        headers = [(CALL_ID_HEADER, call_id)]
        if admission.cap is not None and admission.cap != client_cap:
            headers.append((CAP_HEADER, str(admission.cap)))
        if not admission.is_reserved:
            headers.append(UNRESERVED_HEADER)
        return Attempt(
            call=admission.estimate.call,
            exchange=admission.exchange,
            route=admission.route,
            reservation=admission.reservation,
            down=down,
            client=self._shared.client,
            clock=self._clock,
            headers=tuple(headers),
            deadline_s=self._config.reservation_deadline_s,
            observe_output=partial(self._estimator.observe, admission.estimate),
            watch=admission.watch,
        )

    @property
    def needs_peers(self) -> bool:
        """Whether requests have to say where they come from."""
        return self._attribution.uses_ip


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
