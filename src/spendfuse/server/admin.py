"""The admin API, below `/admin/api`: for whoever holds the admin key, from the networks that the config names.

Failure policy: closed. Without an admin key in the config there is nothing here; a request from elsewhere, or without
the key, learns nothing but that.
"""

import hmac
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import cast

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from spendfuse.config import Config
from spendfuse.core.breakers import PAUSE, Breaker
from spendfuse.core.errors import LedgerError, LedgerUnavailable
from spendfuse.core.labels import LabelInvalid, label_value, subject_values
from spendfuse.core.windows import MS_PER_S
from spendfuse.ledger.breakers import BreakerChange, BreakerStates
from spendfuse.ledger.store import Ledger
from spendfuse.reports.breakers import BreakerRow, SubjectInvalid, breaker_rows, subject_named
from spendfuse.server.auth import digest_of

API = "/admin/api"
BODY_BYTES_MAX = 16_384
LOG_LAST = 200
BY_API = "admin API"

Json = str | int | bool | None | Sequence["Json"] | Mapping[str, "Json"]
Answer = Callable[[Request], Awaitable[Response]]


class AdminApi:
    """What an admin may see and do, over one ledger."""

    def __init__(
        self, config: Config, ledger: Ledger, on_breakers: Callable[[BreakerStates], None] = lambda _: None
    ) -> None:
        """`on_breakers` learns at once what was changed here."""
        self._breakers = {one.name: one for one in (*config.breakers, PAUSE)}
        self._key_digest = config.admin_key_digest
        self._from: tuple[IPv4Network | IPv6Network, ...] = config.admin_from
        self._ledger = ledger
        self._on_breakers = on_breakers

    def routes(self) -> list[Route]:
        """None at all without a key."""
        if self._key_digest is None:
            return []
        paths: list[tuple[str, str, Answer]] = [
            ("/breakers", "GET", self._list),
            ("/breakers/log", "GET", self._log),
            ("/breakers/{name}/open", "POST", self._open),
            ("/breakers/{name}/close", "POST", self._close),
        ]
        return [Route(API + path, self._guarded(answer), methods=[method]) for path, method, answer in paths]

    def _guarded(self, answer: Answer) -> Answer:
        async def answer_admins(request: Request) -> Response:
            if not self._is_near(request):
                return _error(403, "forbidden", "The admin API is not served to this address: see admin_from.")
            if not self._has_key(request):
                return _error(401, "invalid_admin_key", "Send the admin key as `Authorization: Bearer KEY`.")
            try:
                return await answer(request)
            except LedgerUnavailable as error:
                return _error(503, "store_unavailable", str(error))
            except LedgerError as error:
                return _error(500, "failed", str(error))

        return answer_admins

    def _is_near(self, request: Request) -> bool:
        if request.client is None:
            return False
        peer = ip_address(request.client.host)
        mapped = peer.ipv4_mapped if isinstance(peer, IPv6Address) else None
        return any((mapped or peer) in network for network in self._from)

    def _has_key(self, request: Request) -> bool:
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        given = digest_of(key.strip().encode("utf-8", "surrogateescape"))
        assert self._key_digest is not None
        return scheme.lower() == "bearer" and hmac.compare_digest(given, self._key_digest)

    async def _list(self, _: Request) -> Response:
        states = await self._ledger.breakers()
        rows = breaker_rows(tuple(self._breakers.values()), states.lines)
        return JSONResponse({"breakers": [_row(one) for one in rows]})

    async def _log(self, _: Request) -> Response:
        changes = await self._ledger.breaker_changes(newest=LOG_LAST)
        return JSONResponse({"changes": [_change(one) for one in changes]})

    async def _open(self, request: Request) -> Response:
        return await self._force(request, is_open=True)

    async def _close(self, request: Request) -> Response:
        return await self._force(request, is_open=False)

    async def _force(self, request: Request, *, is_open: bool) -> Response:
        name = request.path_params["name"]
        breaker = self._breakers.get(name)
        if breaker is None:
            return _error(404, "not_found", f"No breaker is named {name!r}. There are: {', '.join(self._breakers)}.")
        try:
            subject, why, who = _asked(await _body(request), breaker)
        except ValueError as error:
            return _error(400, "invalid_request", str(error))
        if is_open and not (breaker.opens and why):
            rule = "`why` is missing." if breaker.opens else "This breaker only raises alerts (opens: false)."
            return _error(400, "invalid_request", rule)
        told = await self._ledger.force_breaker(breaker, subject, is_open=is_open, why=why or "closed by hand", who=who)
        self._on_breakers(told)
        (line,) = told.lines
        return JSONResponse(_row(BreakerRow(breaker, subject, line.state)))


async def _body(request: Request) -> Mapping[str, object]:
    read = b""
    async for chunk in request.stream():
        read += chunk
        if len(read) > BODY_BYTES_MAX:
            raise ValueError(f"The body is larger than {BODY_BYTES_MAX:,} bytes.")
    try:
        body: object = json.loads(read or b"{}")
    except ValueError:
        raise ValueError("The body is not JSON.") from None
    if not isinstance(body, dict):
        raise ValueError("The body is not a JSON object.")
    known = cast("Mapping[str, object]", body)
    if unknown := sorted(known.keys() - {"for", "why", "who"}):
        raise ValueError(f"Unknown: {', '.join(unknown)}. Known are for, why and who.")
    return known


def _asked(body: Mapping[str, object], breaker: Breaker) -> tuple[str, str, str]:
    """The subject, why and who."""
    values, why, who = body.get("for", []), body.get("why", ""), body.get("who", "")
    if not isinstance(values, list) or not all(isinstance(one, str) for one in cast("list[object]", values)):
        raise ValueError("`for` must be a list of texts, in the order of the breaker's `each`.")
    if not isinstance(why, str) or not isinstance(who, str):
        raise ValueError("`why` and `who` must be texts.")
    try:
        texts = cast("list[str]", values)
        stored = [label_value("for", one) if one else "" for one in texts]
        return subject_named(breaker, stored), why.strip(), who.strip() or BY_API
    except (SubjectInvalid, LabelInvalid) as error:
        raise ValueError(str(error)) from None


def _row(row: BreakerRow) -> Mapping[str, Json]:
    state = row.state
    return {
        "breaker": row.breaker.name,
        "subject": None if row.subject is None else dict(row.labels),
        "state": state.phase.value,
        "since": _time(state.since_ms),
        "tries_at": _time(row.tries_at_ms),
        "opens": row.breaker.opens,
        "who": state.who if state.since_ms else None,
        "why": state.why or None,
    }


def _change(one: BreakerChange) -> Mapping[str, Json]:
    return {
        "number": one.number,
        "at": _time(one.at_ms),
        "breaker": one.breaker,
        "subject": dict(zip(one.each, subject_values(one.subject), strict=True)),
        "from": one.before.value,
        "to": one.after.value,
        "who": one.who,
        "why": one.why,
    }


def _time(ms: int | None) -> str | None:
    return datetime.fromtimestamp(ms / MS_PER_S, UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if ms else None


def _error(status: int, code: str, message: str) -> JSONResponse:
    return JSONResponse({"error": {"message": message, "type": "admin_error", "param": None, "code": code}}, status)
