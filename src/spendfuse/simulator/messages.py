"""Messages, streamed or whole, and the counting of their tokens."""

import re
import secrets
from dataclasses import dataclass

import orjson

from spendfuse.simulator.asgi import (
    EVENT_STREAM,
    Receive,
    Send,
    json_headers,
    run_while_connected,
    send_body,
    send_json,
    send_start,
)
from spendfuse.simulator.bill import OpenCall
from spendfuse.simulator.claude_models import ClaudeModel
from spendfuse.simulator.errors import ProviderError, injected_error
from spendfuse.simulator.messages_answers import MessageAnswer, plan_message
from spendfuse.simulator.messages_cache import CachedInput
from spendfuse.simulator.messages_checks import check_prompt, check_request, check_window, model_of
from spendfuse.simulator.messages_counting import PromptCount, count_prompt
from spendfuse.simulator.messages_errors import error_event, request_id_header
from spendfuse.simulator.messages_rendering import MessageStream, message_usage, whole_message
from spendfuse.simulator.messages_requests import MessagesRequest, Prompt, parse_prompt
from spendfuse.simulator.pace import sleep_until
from spendfuse.simulator.serving import Arrival, fault_at, first_token, run_call, send_generated

BODY_BYTES_MAX = 32 * 1024 * 1024
OVERLOADED = 529

_VERSION = re.compile(r"\d{4}-\d{2}-\d{2}")


@dataclass(frozen=True, slots=True)
class MessageCall:
    """A call on the bill with what its answer needs."""

    open: OpenCall
    model: ClaudeModel
    answer: MessageAnswer
    count: PromptCount
    billed: CachedInput


async def serve_messages(arrival: Arrival, receive: Receive, send: Send) -> None:
    _check_http(arrival)
    request = parse_prompt(MessagesRequest, arrival.http.body)
    model = model_of(request)
    check_request(request, model)
    count = await arrival.counted(count_prompt, request, arrival.behaviour)
    check_window(model, input_tokens=count.tokens, max_tokens=request.max_tokens)
    call = _take(arrival, request, model, count)
    answering = _stream(call, arrival, send) if call.open.stream else _complete(call, arrival, send)
    await run_call(call.open, arrival, receive, answering)


async def serve_count_tokens(arrival: Arrival, receive: Receive, send: Send) -> None:
    """Free, and so not on the bill; injected errors, latency and hanging meet it as they meet any other request."""
    _check_http(arrival)
    prompt = parse_prompt(Prompt, arrival.http.body)
    check_prompt(prompt, model_of(prompt))
    count = await arrival.counted(count_prompt, prompt, arrival.behaviour)
    await run_while_connected(receive, _answer_count(count.tokens, arrival, send))


async def _answer_count(tokens: int, arrival: Arrival, send: Send) -> None:
    await sleep_until(arrival.pace(0).starts_at_s, arrival.clock)
    status = arrival.behaviour.error_status_of(arrival.number)
    if status is not None:
        raise injected_error(status, arrival.behaviour.retry_after)
    await send_json(send, 200, {"input_tokens": tokens}, headers=request_id_header(arrival.request_id))


def _check_http(arrival: Arrival) -> None:
    version = arrival.http.headers.get("anthropic-version")
    if version is None:
        raise ProviderError(400, "anthropic-version: header is required")
    if not _VERSION.fullmatch(version):
        raise ProviderError(400, f'anthropic-version: "{version}" is not a valid version')
    if len(arrival.http.body) > BODY_BYTES_MAX:
        raise ProviderError(413, f"Request exceeds the maximum size of {BODY_BYTES_MAX} bytes")


def _take(arrival: Arrival, request: MessagesRequest, model: ClaudeModel, count: PromptCount) -> MessageCall:
    answer = plan_message(request, arrival.behaviour, call_number=arrival.number)
    billed = arrival.cache.split(model.name, count.tokens, count.boundaries, arrival.now().monotonic_s)
    call = OpenCall(
        id=f"msg_{secrets.token_hex(12)}",
        endpoint="messages",
        model=model,
        started_at=arrival.received.epoch_s,
        pace=arrival.pace(answer.tokens),
        headers=tuple(arrival.http.headers),
        input_tokens=billed.tokens,
        cached_tokens=billed.read_tokens,
        cache_write_5m_tokens=billed.write_5m_tokens,
        cache_write_1h_tokens=billed.write_1h_tokens,
        cap=request.max_tokens,
        stream=bool(request.stream),
    )
    return MessageCall(call, model, answer, count, billed)


async def _begin(call: MessageCall, arrival: Arrival) -> None:
    """Wait for the first token; from then on others find the prompt in the cache."""
    await first_token(call.open, arrival)
    arrival.cache.remember(call.model.name, call.count.boundaries, arrival.now().monotonic_s)


async def _complete(call: MessageCall, arrival: Arrival, send: Send) -> None:
    """The whole answer at once, when its last token is there."""
    await _begin(call, arrival)
    usage = message_usage(
        call.billed,
        output_tokens=call.answer.tokens,
        inference_geo=call.model.inference_geo,
        thinking_tokens=call.answer.thinking_tokens,
    )
    message = whole_message(
        call.answer,
        call_id=call.open.id,
        model=call.model.name,
        usage=None if arrival.behaviour.omit_usage else usage,
    )
    body = orjson.dumps(message)
    headers = [*json_headers(len(body)), *request_id_header(arrival.request_id)]
    drop_at = _fault_at(call, arrival.behaviour.disconnect_after_tokens)
    if drop_at is not None:
        await sleep_until(call.open.pace.due_at_s(max(drop_at - 1, 0)), arrival.clock)
        await send_start(send, 200, headers)
        await send_body(send, body[: len(body) // 2], more=True)
        arrival.bill.disconnect(call.open, arrival.now(), output_tokens=drop_at)
        return
    await sleep_until(call.open.pace.ends_at_s, arrival.clock)
    # Closed before the last byte leaves: whoever has the answer finds it on the bill.
    arrival.bill.complete(call.open, arrival.now())
    await send_start(send, 200, headers)
    await send_body(send, body)


async def _stream(call: MessageCall, arrival: Arrival, send: Send) -> None:
    stream = MessageStream(
        call.answer,
        call_id=call.open.id,
        model=call.model.name,
        billed=call.billed,
        inference_geo=call.model.inference_geo,
        with_usage=not arrival.behaviour.omit_stream_usage,
    )
    await _begin(call, arrival)
    await send_start(send, 200, [*EVENT_STREAM, *request_id_header(arrival.request_id)])
    await send_body(send, stream.start(), more=True)
    error_at = _fault_at(call, arrival.behaviour.stream_error_after_tokens)
    drop_at = _fault_at(call, arrival.behaviour.disconnect_after_tokens)
    if error_at is not None:
        await send_generated(call.open, arrival, send, stream.deltas, start=0, stop=error_at)
        arrival.bill.break_off(call.open, arrival.now(), output_tokens=error_at)
        await send_body(send, error_event(OVERLOADED, arrival.request_id))
    elif drop_at is not None:
        await send_generated(call.open, arrival, send, stream.deltas, start=0, stop=drop_at)
        arrival.bill.disconnect(call.open, arrival.now(), output_tokens=drop_at)
    else:
        await send_generated(call.open, arrival, send, stream.deltas, start=0, stop=call.answer.tokens)
        arrival.bill.complete(call.open, arrival.now())
        await send_body(send, stream.end())


def _fault_at(call: MessageCall, after_visible_tokens: int | None) -> int | None:
    return fault_at(after_visible_tokens, hidden_tokens=call.answer.thinking_tokens, tokens=call.answer.tokens)
