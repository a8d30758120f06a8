"""Chat completions, streamed or whole."""

import secrets
from dataclasses import dataclass

from spendfuse.simulator.answers import Answer, plan_answer
from spendfuse.simulator.asgi import Receive, Send, json_headers, send_body, send_start
from spendfuse.simulator.bill import OpenCall
from spendfuse.simulator.counting import InputCount, count_chat
from spendfuse.simulator.models import Model
from spendfuse.simulator.pace import sleep_until
from spendfuse.simulator.rendering import DONE, ChatStream, chat_completion, chat_usage
from spendfuse.simulator.requests import ChatRequest, check_chat, check_window, model_for, parse
from spendfuse.simulator.serving import Arrival, first_token, run_call

# What is due is sent in pieces of this size, so that a reader who stalls stalls us too.
TOKENS_PER_SEND = 1_000

EVENT_STREAM = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]


@dataclass(frozen=True, slots=True)
class ChatCall:
    """A call on the bill with what its answer needs."""

    open: OpenCall
    answer: Answer
    usage: dict[str, object]
    usage_asked: bool

    @property
    def created(self) -> int:
        return int(self.open.started_at)


async def serve_chat(arrival: Arrival, receive: Receive, send: Send) -> None:
    request = parse(ChatRequest, arrival.http.body)
    model = model_for(request.model, "chat.completions")
    check_chat(request, model)
    count = await arrival.counted(count_chat, request, model.images, arrival.behaviour)
    check_window(model, input_tokens=count.tokens, cap=request.cap)
    call = _take(arrival, request, model, count)
    answering = _stream(call, arrival, send) if call.open.stream else _complete(call, arrival, send)
    await run_call(call.open, arrival, receive, answering)


def _take(arrival: Arrival, request: ChatRequest, model: Model, count: InputCount) -> ChatCall:
    answer = plan_answer(request, model, arrival.behaviour, call_number=arrival.number)
    cached_tokens = int(count.tokens * arrival.behaviour.cached_fraction)
    options = request.stream_options
    call = OpenCall(
        id=f"chatcmpl-{secrets.token_hex(12)}",
        endpoint="chat.completions",
        model=model,
        started_at=arrival.received.epoch_s,
        pace=arrival.pace(answer.tokens),
        headers=tuple(arrival.http.headers),
        input_tokens=count.tokens,
        cached_tokens=cached_tokens,
        choices=request.choices,
        cap=request.cap,
        stream=bool(request.stream),
        stream_options=None if options is None else options.model_dump(),
    )
    usage = chat_usage(count, answer, cached_tokens=cached_tokens, choices=request.choices)
    return ChatCall(call, answer, usage, request.usage_asked)


async def _complete(call: ChatCall, arrival: Arrival, send: Send) -> None:
    """The whole answer at once, when its last token is there."""
    await first_token(call.open, arrival)
    body = chat_completion(
        call.answer,
        call_id=call.open.id,
        created=call.created,
        model=call.open.model.name,
        choices=call.open.choices,
        usage=None if arrival.behaviour.omit_usage else call.usage,
    )
    drop_at = _drop_at(call, arrival)
    if drop_at is not None:
        await sleep_until(call.open.pace.due_at_s(max(call.answer.reasoning_tokens + drop_at - 1, 0)), arrival.clock)
        await send_start(send, 200, json_headers(len(body)))
        await send_body(send, body[: len(body) // 2], more=True)
        _drop(call, arrival, drop_at)
        return
    await sleep_until(call.open.pace.ends_at_s, arrival.clock)
    # Closed before the last byte leaves: whoever has the answer finds it on the bill.
    arrival.bill.complete(call.open, arrival.now())
    await send_start(send, 200, json_headers(len(body)))
    await send_body(send, body)


async def _stream(call: ChatCall, arrival: Arrival, send: Send) -> None:
    with_usage = call.usage_asked and not arrival.behaviour.omit_stream_usage
    stream = ChatStream.of(
        call.answer,
        call_id=call.open.id,
        created=call.created,
        model=call.open.model.name,
        choices=call.open.choices,
        with_usage=with_usage,
    )
    await first_token(call.open, arrival)
    await send_start(send, 200, EVENT_STREAM)
    await send_body(send, stream.heads(), more=True)
    drop_at = _drop_at(call, arrival)
    if drop_at is not None:
        await _send_deltas(call, arrival, stream, send, stop=drop_at)
        _drop(call, arrival, drop_at)
        return
    await _send_deltas(call, arrival, stream, send, stop=call.answer.visible_tokens)
    arrival.bill.complete(call.open, arrival.now())
    await send_body(send, stream.ends() + (stream.usage(call.usage) if with_usage else b"") + DONE)


async def _send_deltas(call: ChatCall, arrival: Arrival, stream: ChatStream, send: Send, *, stop: int) -> None:
    """Send visible tokens up to `stop` as they come into being; what a slow reader missed comes in larger pieces."""
    pace, reasoning = call.open.pace, call.answer.reasoning_tokens
    sent = 0
    while sent < stop:
        await sleep_until(pace.due_at_s(reasoning + sent), arrival.clock)
        there = pace.generated(arrival.clock.monotonic_s()) - reasoning
        upto = min(there, stop, sent + TOKENS_PER_SEND)
        if upto > sent:
            await send_body(send, stream.deltas(sent, upto, pace.chunk_tokens), more=True)
            sent = upto


def _drop_at(call: ChatCall, arrival: Arrival) -> int | None:
    """After how many visible tokens the behaviour drops the connection, if this answer gets that far."""
    drop_at = arrival.behaviour.disconnect_after_tokens
    return drop_at if drop_at is not None and drop_at <= call.answer.visible_tokens else None


def _drop(call: ChatCall, arrival: Arrival, visible_tokens: int) -> None:
    """Bill what was generated; the server closes a connection whose answer was left incomplete."""
    tokens = call.open.choices * (call.answer.reasoning_tokens + visible_tokens)
    arrival.bill.disconnect(call.open, arrival.now(), output_tokens=tokens)
