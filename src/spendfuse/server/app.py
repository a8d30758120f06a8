"""The ASGI app: `/v1` bare, for speed; everything else is Starlette's.

Reads a request whole, within bounds and only after its key was accepted, and cancels the gate's work when the client
leaves.
"""

import asyncio
from collections.abc import Collection, Mapping, Sequence

from spendfuse.core.calls import Operation
from spendfuse.core.refusals import Code, Deny
from spendfuse.gate.gate import Gate
from spendfuse.gate.requests import Request
from spendfuse.server.auth import Keyring
from spendfuse.server.cycle import CALL, HardenedCycle
from spendfuse.server.downstream import AsgiDownstream, Message, Receive, Send
from spendfuse.server.peers import Peers
from spendfuse.server.run import ASGIApp
from spendfuse.wire.dialect import Answer, Dialect
from spendfuse.wire.labels import labels_from_headers
from spendfuse.wire.models import models_answer

API = "/v1/"
_IDENTITY = (b"", b"identity")


class App:
    """Serves the API with one gate; `others` serves every path outside `/v1/`."""

    def __init__(
        self,
        *,
        gate: Gate,
        keyring: Keyring,
        dialects: Mapping[str, Dialect],
        models: Collection[str],
        others: ASGIApp,
        peers: Peers | None,
        body_bytes_max: int,
        via: str,
    ) -> None:
        """`dialects` by path below `/v1/`, chat and messages among them; `models` are the public names; without `peers`
        calls have no address. `via` is what this gateway adds to `Via`.
        """
        self._gate = gate
        self._keyring = keyring
        self._dialects = {API + path: dialect for path, dialect in dialects.items()}
        self._default, self._anthropic = dialects[Operation.CHAT.value], dialects[Operation.MESSAGES.value]
        self._models = models
        self._others = others
        self._peers = peers
        self._body_bytes_max = body_bytes_max
        self._via = via.encode()
        # Asked for once: `get_running_loop` is a system call before Python 3.12.
        self._loop = asyncio.get_running_loop()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        path: str = scope["path"]
        if scope["type"] != "http" or not path.startswith(API):
            await self._others(scope, receive, send)
            return
        down = AsgiDownstream(send, scope[CALL])
        headers = _by_name(scope["headers"])
        caller = self._keyring.caller(headers)
        if isinstance(caller, Deny):
            caller = await self._keyring.caller_anew(headers)
        dialect = self._dialects.get(path) or self._dialect_of(headers)
        if isinstance(caller, Deny):
            await down.answer(dialect.refuse(caller))
        elif path == "/v1/models" or path.startswith("/v1/models/"):
            await down.answer(self._answer_models(scope["method"], path, headers))
        else:
            denied = self._deny_head(scope["method"], path, headers) or labels_from_headers(scope["headers"])
            if isinstance(denied, Deny):
                await down.answer(dialect.refuse(denied))
                return
            body = await self._read_body(receive)
            if isinstance(body, Deny):
                await down.answer(dialect.refuse(body))
            elif body is not None:
                ip = self._peers.ip_of(scope["client"][0], headers) if self._peers else ""
                request = Request(dialect, caller, denied, ip, headers, body)
                await self._serve_while_there(request, down, scope[CALL])

    def _deny_head(self, method: str, path: str, headers: Mapping[bytes, bytes]) -> Deny | None:
        if path not in self._dialects:
            return Deny(Code.NOT_FOUND, f"There is no {path} here. Served: {', '.join(self._dialects)}, /v1/models.")
        if method != "POST":
            return Deny(Code.METHOD_NOT_ALLOWED, f"{path} takes POST, not {method}.")
        if self._via in headers.get(b"via", b""):
            return Deny(
                Code.LOOP_DETECTED,
                "The call has come through this gateway before: a provider's base_url leads back to it. "
                "Correct that, also in the environment (OPENAI_BASE_URL, ANTHROPIC_BASE_URL).",
            )
        if headers.get(b"content-encoding", b"").lower() not in _IDENTITY:
            return Deny(
                Code.UNSUPPORTED_ENCODING, "A compressed body can't be checked. Send it without Content-Encoding."
            )
        return None

    async def _read_body(self, receive: Receive) -> bytes | Deny | None:
        """The whole body; None when the client left before its end."""
        chunks: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            chunk: bytes = message.get("body", b"")
            size += len(chunk)
            if size > self._body_bytes_max:
                return Deny(Code.REQUEST_TOO_LARGE, f"The body is larger than {self._body_bytes_max:,} bytes.")
            chunks.append(chunk)
            if not message.get("more_body", False):
                return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def _dialect_of(self, headers: Mapping[bytes, bytes]) -> Dialect:
        """Whose words a client understands, where its path does not say so."""
        return self._anthropic if b"anthropic-version" in headers else self._default

    def _answer_models(self, method: str, path: str, headers: Mapping[bytes, bytes]) -> Answer:
        dialect = self._dialect_of(headers)
        if method not in ("GET", "HEAD"):
            return dialect.refuse(Deny(Code.METHOD_NOT_ALLOWED, f"{path} takes GET, not {method}."))
        answer = models_answer(path.removeprefix("/v1/models").removeprefix("/"), self._models)
        return dialect.refuse(answer) if isinstance(answer, Deny) else answer

    async def _serve_while_there(self, request: Request, down: AsgiDownstream, call: HardenedCycle) -> None:
        """Serve a request, and cancel that at once when its client leaves."""
        if call.disconnected:
            return
        task = asyncio.current_task(self._loop)
        assert task is not None
        call.on_leave = task.cancel
        try:
            await self._gate.serve(request, down)
        except asyncio.CancelledError:
            if not call.disconnected:
                raise
            task.uncancel()
        finally:
            call.on_leave = None


def _by_name(lines: Sequence[tuple[bytes, bytes]]) -> Mapping[bytes, bytes]:
    """Headers by their names. One that comes in several lines has all their values, so that none is overlooked."""
    headers = dict(lines)
    if len(headers) == len(lines):
        return headers
    headers.clear()
    for name, value in lines:
        headers[name] = headers[name] + b", " + value if name in headers else value
    return headers
