"""All providers of a config at once, behind the contract of an upstream client: they answer in virtual time, by no
socket, and keep their own bill.

What a call meets (how long it takes, how long its answer would be, an error) follows from the seed, the number in its
prompt and how often that prompt has come, so it is the same through the gateway and straight.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

import orjson

from spendfuse.clock import Clock
from spendfuse.config import DialectName
from spendfuse.core.usage import Usage
from spendfuse.drill.prompts import count_of, number_of
from spendfuse.drill.stage import provider_at
from spendfuse.pricing.targets import PricedTarget
from spendfuse.simulator.answers import WORD
from spendfuse.simulator.behaviour import Behaviour
from spendfuse.simulator.bill import Bill, OpenCall
from spendfuse.simulator.models import Model
from spendfuse.simulator.pace import Pace, now_of
from spendfuse.upstream.client import FateUnknown, UpstreamRequest, UpstreamResponse, UpstreamTimeout
from spendfuse.wire import anthropic_usage, openai_usage
from spendfuse.wire.json_body import JsonObject, write

Behaves = Callable[[float], Behaviour]
"""How providers behave at a monotonic time."""
OUTPUT_TOKENS_MAX = 16_384
"""Where an answer ends for which nobody set a cap and whose model's own is not known."""
OK = 200
_NTH_MAX = 1_000_000
_COUNTS = "/count_tokens"


@dataclass(frozen=True, slots=True)
class Sold:
    """A target as its provider sells it."""

    api: DialectName
    priced: PricedTarget


@dataclass(frozen=True, slots=True)
class Asked:
    """A call as a provider gets it. `number` is its prompt's, by which equal prompts are known."""

    target: str
    number: int
    input_tokens: int
    cap: int | None


@dataclass(frozen=True, slots=True)
class Reply:
    """What a call meets: the status of its answer, its output tokens, and after how long it is there, whole."""

    status: int
    output_tokens: int
    after_s: float


class SimulatedProviders:
    """An `UpstreamClient`. `sold` has the targets by their names; `on_call` is told of each call that is taken."""

    def __init__(
        self,
        sold: Mapping[str, Sold],
        clock: Clock,
        behaves: Behaves,
        on_call: Callable[[], None] = lambda: None,
    ) -> None:
        self._sold = sold
        self._clock = clock
        self._behaves = behaves
        self._on_call = on_call
        self._times_asked: Counter[int] = Counter()
        self.bill = Bill()

    @asynccontextmanager
    async def post(self, request: UpstreamRequest) -> AsyncGenerator[UpstreamResponse]:
        """See `UpstreamClient`."""
        body = orjson.loads(request.body)
        target = f"{provider_at(request.url)}/{body['model']}"
        input_tokens = count_of(request.body)
        if request.url.endswith(_COUNTS):
            yield _Response(OK, write({"input_tokens": input_tokens}))
            return
        cap = body.get("max_completion_tokens") or body.get("max_tokens")
        asked = Asked(target, number_of(request.body), input_tokens, cap)
        reply = await self.take(asked, timeout_s=min(request.first_byte_timeout_s, request.total_timeout_s))
        yield _Response(reply.status, self._body(asked, reply))

    async def close(self) -> None:
        """See `UpstreamClient`."""

    def begin_bill(self) -> None:
        """Bill all calls from now on anew; those that run are on the former bill."""
        self.bill = Bill()

    async def take(self, asked: Asked, *, timeout_s: float) -> Reply:
        """Take a call, and answer it when its time has come. Who leaves before that pays for the whole answer.

        Raises:
            UpstreamTimeout: there was no answer in time.
        """
        reply = self.next_reply(asked)
        self._times_asked[asked.number] += 1
        self._on_call()
        call, bill = self._opened(asked, reply), self.bill
        bill.open(call)
        try:
            if reply.after_s > timeout_s:
                await asyncio.sleep(timeout_s)
                raise UpstreamTimeout(f"no answer within {timeout_s:g} s")
            await asyncio.sleep(reply.after_s)
        except (asyncio.CancelledError, FateUnknown):
            bill.cancel(call, now_of(self._clock), output_tokens=call.total_tokens)
            raise
        if reply.status == OK:
            bill.complete(call, now_of(self._clock))
        else:
            bill.fail(call, now_of(self._clock), status=reply.status)
        return reply

    def next_reply(self, asked: Asked) -> Reply:
        """What the call would meet now."""
        behaviour = self._behaves(self._clock.monotonic_s())
        meets = asked.number * _NTH_MAX + self._times_asked[asked.number]
        latency_s = behaviour.latency_s_of(meets)
        status = behaviour.error_status_of(meets)
        if status is not None:
            return Reply(status, 0, latency_s)
        cap = asked.cap or self._sold[asked.target].priced.caps.output_tokens_max or OUTPUT_TOKENS_MAX
        tokens = min(behaviour.output_tokens_of(meets), cap)
        chunks = -(-tokens // behaviour.chunk_tokens)
        return Reply(OK, tokens, latency_s + chunks * behaviour.chunk_interval_s)

    def price_of(self, asked: Asked, reply: Reply) -> int:
        """What the provider bills for this reply, in nano-dollars."""
        if reply.status != OK:
            return 0
        return self._model(asked).cost_nanos(
            input_tokens=asked.input_tokens, cached_tokens=0, output_tokens=reply.output_tokens
        )

    def _opened(self, asked: Asked, reply: Reply) -> OpenCall:
        now = now_of(self._clock)
        return OpenCall(
            id=f"drill-{asked.number}-{self._times_asked[asked.number]}",
            endpoint="chat.completions",
            model=self._model(asked),
            started_at=now.epoch_s,
            pace=Pace(now.monotonic_s + reply.after_s, reply.output_tokens, max(reply.output_tokens, 1), 0.0),
            headers=(),
            input_tokens=asked.input_tokens,
            cached_tokens=0,
            cap=asked.cap,
        )

    def _model(self, asked: Asked) -> Model:
        """The model as it is billed at this size of input: by the config's own prices, as no other are known."""
        priced = self._sold[asked.target].priced
        at = datetime.fromtimestamp(now_of(self._clock).epoch_s, UTC)
        rates = priced.price(at).rates_for(asked.input_tokens)
        return Model(
            name=asked.target,
            input_picos_per_token=rates.input,
            output_picos_per_token=rates.output,
            request_picos=rates.request,
            window_tokens=priced.caps.context_window or 0,
            output_tokens_max=priced.caps.output_tokens_max or OUTPUT_TOKENS_MAX,
        )

    def _body(self, asked: Asked, reply: Reply) -> bytes:
        if reply.status != OK:
            return write({"error": {"message": "The server had an error.", "type": "server_error", "code": None}})
        usage = Usage(asked.input_tokens, reply.output_tokens)
        is_cut = asked.cap is not None and reply.output_tokens >= asked.cap
        if self._sold[asked.target].api is DialectName.ANTHROPIC:
            return write(_message(asked, usage, "max_tokens" if is_cut else "end_turn"))
        return write(_completion(asked, usage, "length" if is_cut else "stop"))


@dataclass(frozen=True, slots=True)
class _Response:
    status: int
    body: bytes

    @property
    def headers(self) -> Mapping[str, str]:
        return {"content-type": "application/json"}

    async def chunks(self) -> AsyncIterator[bytes]:
        yield self.body

    async def read(self, bytes_max: int) -> bytes:
        return self.body


def _completion(asked: Asked, usage: Usage, finish_reason: str) -> JsonObject:
    message: JsonObject = {"role": "assistant", "content": WORD, "refusal": None}
    return {
        "id": f"chatcmpl-drill-{asked.number}",
        "object": "chat.completion",
        "created": 0,
        "model": asked.target,
        "choices": [{"index": 0, "message": message, "finish_reason": finish_reason}],
        "usage": openai_usage.usage_object(usage),
    }


def _message(asked: Asked, usage: Usage, stop_reason: str) -> JsonObject:
    return {
        "id": f"msg_drill_{asked.number}",
        "type": "message",
        "role": "assistant",
        "model": asked.target,
        "content": [{"type": "text", "text": WORD}],
        "stop_reason": stop_reason,
        "stop_sequence": None,
        "usage": anthropic_usage.usage_object(usage),
    }
