"""Everything outside `/v1`: health, and a clear 404."""

from collections.abc import Callable, Sequence

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from spendfuse.core.errors import LedgerUnavailable
from spendfuse.ledger.alerts import ChannelHealth
from spendfuse.server.run import ASGIApp


def others_app(
    outage: Callable[[], LedgerUnavailable | None],
    failing_channels: Callable[[], Sequence[ChannelHealth]],
    more: Sequence[Route] = (),
) -> ASGIApp:
    """The app for health checks, and `more`. `outage` says why calls can't be admitted. Anyone may ask, so it asks
    nobody else.

    Channels of alerts that can't be reached are named, and make nothing less ready: calls are served without them.
    """

    async def live(_: Request) -> JSONResponse:
        return JSONResponse({"status": "live"})

    async def ready(_: Request) -> JSONResponse:
        why = outage()
        if why is not None:
            return JSONResponse({"status": "unavailable", "reason": str(why)}, status_code=503)
        failing = failing_channels()
        if not failing:
            return JSONResponse({"status": "ready"})
        # Why stands in `spendfuse alerts list`.
        channels = {one.channel: {"waiting": one.waiting, "failed": one.failed} for one in failing}
        return JSONResponse({"status": "ready", "failing_channels": channels})

    async def unknown(request: Request, _: Exception) -> JSONResponse:
        message = (
            f"There is no {request.url.path} here. The API is below /v1, health at /health/live and /health/ready."
        )
        return JSONResponse(
            {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": "not_found"}}, 404
        )

    return Starlette(
        routes=[Route("/health/live", live), Route("/health/ready", ready), *more], exception_handlers={404: unknown}
    )
