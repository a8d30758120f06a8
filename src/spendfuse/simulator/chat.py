"""Chat completions, streamed or whole."""

import secrets
from dataclasses import dataclass

from spendfuse.simulator.answers import Answer, plan_answer
from spendfuse.simulator.asgi import EVENT_STREAM, Receive, Send, json_headers, send_body, send_start
from spendfuse.simulator.bill import OpenCall
from spendfuse.simulator.counting import InputCount, count_chat
from spendfuse.simulator.models import Model
from spendfuse.simulator.pace import sleep_until
from spendfuse.simulator.rendering import DONE, ERROR, ChatStream, chat_completion, chat_usage
from spendfuse.simulator.requests import ChatRequest, check_chat, check_window, model_for, parse
from spendfuse.simulator.serving import Arrival, fault_at, first_token, run_call, send_generated


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
    drop_at = _fault_at(call, arrival.behaviour.disconnect_after_tokens)
    if drop_at is not None:
        await sleep_until(call.open.pace.due_at_s(max(drop_at - 1, 0)), arrival.clock)
        await send_start(send, 200, json_headers(len(body)))
        await send_body(send, body[: len(body) // 2], more=True)
        arrival.bill.disconnect(call.open, arrival.now(), output_tokens=call.open.choices * drop_at)
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
    error_at = _fault_at(call, arrival.behaviour.stream_error_after_tokens)
    drop_at = _fault_at(call, arrival.behaviour.disconnect_after_tokens)
    if error_at is not None:
        await _send_deltas(call, arrival, stream, send, stop=error_at)
        arrival.bill.break_off(call.open, arrival.now(), output_tokens=call.open.choices * error_at)
        await send_body(send, ERROR)
    elif drop_at is not None:
        await _send_deltas(call, arrival, stream, send, stop=drop_at)
        # The server closes a connection whose answer was left incomplete.
        arrival.bill.disconnect(call.open, arrival.now(), output_tokens=call.open.choices * drop_at)
    else:
        await _send_deltas(call, arrival, stream, send, stop=call.answer.tokens)
        arrival.bill.complete(call.open, arrival.now())
        await send_body(send, stream.ends() + (stream.usage(call.usage) if with_usage else b"") + DONE)


async def _send_deltas(call: ChatCall, arrival: Arrival, stream: ChatStream, send: Send, *, stop: int) -> None:
    """Send the answer up to `stop` tokens, of which those of the reasoning are not seen."""
    hidden = call.answer.reasoning_tokens

    def render(start: int, upto: int, chunk_tokens: int) -> bytes:
        return stream.deltas(start - hidden, upto - hidden, chunk_tokens)

    await send_generated(call.open, arrival, send, render, start=hidden, stop=stop)


def _fault_at(call: ChatCall, after_visible_tokens: int | None) -> int | None:
    return fault_at(after_visible_tokens, hidden_tokens=call.answer.reasoning_tokens, tokens=call.answer.tokens)
