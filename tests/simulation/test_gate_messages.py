"""Calls of Anthropic's dialect, and chat calls carried to its providers: counts, quotes, ends and what goes up."""

import asyncio
import json
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from gate_harness import (
    CAP_HEADER,
    CHAT,
    COST_HEADER,
    COUNT_TOKENS,
    MESSAGES,
    Client,
    World,
    chat,
    gate_test,
    messages,
    spin,
)
from scripted_upstream import (
    SSE_HEADERS,
    Play,
    Step,
    claude_answer,
    claude_delta,
    claude_end,
    claude_event,
    claude_start,
    claude_usage,
    counted,
    failing,
    is_count,
    stream,
    words,
)

from spendfuse.gate.counting import COUNT_TIMEOUT_S, PAUSE_S
from spendfuse.upstream.client import FateUnknown, NeverSent, UpstreamRequest, UpstreamTimeout
from spendfuse.wire.dialect import Dialect

INPUT_PICOS, CACHE_PICOS, CACHE_HOUR_PICOS, OUTPUT_PICOS = 3_000_000, 3_750_000, 6_000_000, 15_000_000
WINDOW = 200_000
TEMPLATE_TOKENS = 128
LONG = words(600)
COUNT = 610
COUNT_BOUND = -(-COUNT * 103 // 100) + 32
ROOM = "  room: {input_tokens: 3000, per: lifetime}"
VERSION = {b"anthropic-version": b"2023-06-01", b"x-api-key": b"sk-of-the-client"}
WAYS = {"messages": (MESSAGES, messages), "translated": (CHAT, lambda **fields: chat("claude", **fields))}
Body = Callable[..., dict[str, object]]


def _answers(world: World, *, counts: Play, calls: Play | None = None) -> None:
    """What counts and what calls are answered with."""
    answer = calls or Play([claude_answer()])
    world.upstream.play = lambda request: counts if is_count(request) else answer


def _counts(world: World) -> list[UpstreamRequest]:
    return [request for request in world.upstream.requests if is_count(request)]


async def _call(world: World, body: Mapping[str, object], **of_request: Any) -> Client:
    return await world.call(body, **{"dialect": MESSAGES, **of_request})


def _bytes(body: Mapping[str, object]) -> int:
    """The input bound of a body of nothing but text, by its bytes."""
    return len(json.dumps(body)) + TEMPLATE_TOKENS


@pytest.mark.parametrize("way", WAYS)
@gate_test(limits=ROOM)
async def test_the_provider_is_asked_to_count_only_when_bytes_do_not_fit(world: World, way: str) -> None:
    dialect, body = WAYS[way]
    _answers(world, counts=counted(COUNT))
    assert (await world.call(body(content=words(300)), dialect=dialect)).status == 200
    assert _counts(world) == []
    assert world.last.held.input_tokens > 1_800
    assert (await world.call(body(content=LONG), dialect=dialect)).status == 200
    (asked,) = _counts(world)
    assert asked.url == "https://api.anthropic.com/v1/messages/count_tokens"
    sent = json.loads(asked.body)
    assert (sent["model"], sent["messages"][0]["content"]) == ("claude-sonnet-4-5", LONG)
    assert not {"max_tokens", "stream", "metadata"} & set(sent)
    assert asked.headers["x-api-key"] == "sk-claude"
    assert "anthropic-version" in asked.headers
    assert asked.total_timeout_s == COUNT_TIMEOUT_S
    assert world.last.held.input_tokens == COUNT_BOUND


@gate_test(limits=ROOM)
async def test_a_body_is_counted_once_whoever_sends_it_and_however_often_it_is_refused(world: World) -> None:
    _answers(world, counts=counted(2_000))
    outcomes = [(await _call(world, messages(content=LONG, metadata={"user_id": user}))).status for user in "abc"]
    assert outcomes == [200, 200, 200]
    assert len(_counts(world)) == 1
    _answers(world, counts=counted(4_000))
    other = messages(content=words(700))
    assert [(await _call(world, other)).status for _ in range(3)] == [400, 400, 400]
    assert len(_counts(world)) == 2


FAILURES: dict[str, Play] = {
    "an error": failing(500),
    "too many": failing(429),
    "nothing": Play([b"{}"]),
    "no JSON": Play([b"<html>"]),
    "no number": Play([b'{"input_tokens": "12"}']),
    "a count of nothing": counted(0),
    "too much": Play([b" " * 100_000]),
    "a redirect": Play(status=302),
    "unreachable": Play(before_head=[NeverSent("refused")]),
    "broken": Play(before_head=[FateUnknown("reset")]),
    "broken midway": Play([b'{"input', FateUnknown("reset")]),
    "too late": Play(before_head=[UpstreamTimeout("silent")]),
}


@pytest.mark.parametrize("what", FAILURES)
@gate_test(limits=ROOM)
async def test_a_count_that_fails_leaves_bytes_as_the_bound_and_is_asked_for_again_after_a_pause(
    world: World, what: str
) -> None:
    _answers(world, counts=FAILURES[what])
    client = await _call(world, messages(content=LONG))
    assert (client.status, client.error["code"]) == (400, "call_exceeds_limit")
    assert client.error["spendfuse"]["limits"][0]["need"] == _bytes(messages(content=LONG))
    assert world.upstream.requests == _counts(world)
    _answers(world, counts=counted(COUNT))
    assert (await _call(world, messages(content=LONG))).status == 400
    assert len(_counts(world)) == 1
    world.clock.advance(ms=int(PAUSE_S * 1_000))
    assert (await _call(world, messages(content=LONG))).status == 200
    assert len(_counts(world)) == 2


@gate_test(limits="  room: {tokens: 4500, per: lifetime}")
async def test_a_count_that_fails_leaves_a_call_that_is_fitted_by_its_bytes(world: World) -> None:
    body = messages(content=LONG, max_tokens=2_000)
    _answers(world, counts=failing(529))
    client = await _call(world, body)
    assert client.status == 200
    assert world.last.held.input_tokens == _bytes(body)
    assert client.headers[CAP_HEADER] == str(4_500 - _bytes(body))


@gate_test(limits="  room: {tokens: 4500, per: lifetime}")
async def test_a_count_leaves_more_output_than_bytes_do(world: World) -> None:
    _answers(world, counts=counted(COUNT))
    client = await _call(world, messages(content=LONG, max_tokens=2_000))
    assert CAP_HEADER not in client.headers
    assert (world.last.held.input_tokens, world.last.cap) == (COUNT_BOUND, 2_000)


@gate_test(limits=ROOM)
async def test_a_count_above_the_bytes_does_not_raise_the_bound(world: World) -> None:
    _answers(world, counts=counted(10**6))
    client = await _call(world, messages(content=LONG))
    assert client.error["spendfuse"]["limits"][0]["need"] == _bytes(messages(content=LONG))


NAMED: dict[str, object] = {
    "an image": {"type": "image", "source": {"type": "url", "url": "https://images.example/a.png"}},
    "a file": {"type": "document", "source": {"type": "file", "file_id": "file_1"}},
    "a block that nobody knows": {"type": "brand_new", "text": "x"},
}


@pytest.mark.parametrize("what", NAMED)
@gate_test(limits=ROOM)
async def test_content_that_is_only_named_is_never_counted(world: World, what: str) -> None:
    client = await _call(world, messages(content=[NAMED[what]]))
    assert client.error["code"] == "call_exceeds_limit"
    assert client.error["spendfuse"]["limits"][0]["need"] == WINDOW
    assert world.upstream.requests == []


REFUSED_ANYWAY = ["{output_tokens: 255, per: lifetime}", "{usd: 0, per: lifetime}", "{requests: 0, per: day}"]


@pytest.mark.parametrize("limit", REFUSED_ANYWAY)
def test_nothing_is_counted_where_that_can_not_help(limit: str) -> None:
    @gate_test(limits=f"{ROOM}\n  other: {limit}")
    async def check(world: World) -> None:
        assert (await _call(world, messages(content=words(100)))).status in (400, 402)
        assert world.upstream.requests == []

    check()


USD_ROOM = f"  room: {{usd: '{(COUNT_BOUND * 3_000 + 300 * 15_000) / 10**9:.9f}', per: lifetime}}"


@pytest.mark.parametrize("way", WAYS)
@gate_test(limits=USD_ROOM)
async def test_a_budget_with_room_only_by_count_admits(world: World, way: str) -> None:
    dialect, body = WAYS[way]
    _answers(world, counts=counted(COUNT), calls=Play([claude_answer(300, input_tokens=COUNT)]))
    assert (await world.call(body(content=LONG, max_tokens=300), dialect=dialect)).status == 200
    assert world.last.held.cost == COUNT_BOUND * 3_000 + 300 * 15_000
    assert world.last.entry.amounts.cost == COUNT * 3_000 + 300 * 15_000


@pytest.mark.parametrize("way", WAYS)
@gate_test(limits=USD_ROOM)
async def test_a_call_that_only_by_its_bytes_is_larger_than_a_spent_budget_is_refused_as_spent(
    world: World, way: str
) -> None:
    dialect, body = WAYS[way]
    _answers(world, counts=counted(COUNT), calls=Play([claude_answer(300, input_tokens=COUNT)]))
    assert (await world.call(body(content=LONG, max_tokens=300), dialect=dialect)).status == 200
    for _ in range(2):
        client = await world.call(body(content=LONG, max_tokens=300), dialect=dialect)
        assert (client.status, client.error["code"]) == (402, "budget_exceeded")
    assert len(_counts(world)) == 1


@gate_test(limits="  days: {requests: 100, per: day}\n" + ROOM)
async def test_equal_bodies_at_the_same_time_are_counted_once(world: World) -> None:
    gate = asyncio.Event()
    _answers(world, counts=Play([gate, *counted(COUNT).body]))
    begun = [world.begin(messages(content=LONG), dialect=MESSAGES) for _ in range(4)]
    await spin()
    assert len(_counts(world)) == 1
    begun[0][0].cancel()
    await spin()
    gate.set()
    await asyncio.gather(*(task for task, _ in begun), return_exceptions=True)
    assert [client.status for _, client in begun].count(200) >= 1
    assert len(_counts(world)) == 1


@gate_test(limits=ROOM)
async def test_a_client_that_leaves_while_its_call_is_counted_leaves_nothing_behind(world: World) -> None:
    _answers(world, counts=Play(before_head=[asyncio.Event()]))
    task, client = world.begin(messages(content=LONG), dialect=MESSAGES)
    await spin()
    assert len(_counts(world)) == world.upstream.open == 1
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert (client.status, world.reservations, world.upstream.open) == (0, [], 0)


@pytest.mark.parametrize(
    ("fields", "useful"),
    [
        ({}, 256),
        ({"max_tokens": 100}, 100),
        ({"thinking": {"type": "enabled", "budget_tokens": 2_000}}, 2_256),
        ({"thinking": {"type": "enabled", "budget_tokens": 2_000}, "max_tokens": 2_100}, 2_100),
        ({"thinking": {"type": "adaptive"}}, 4_096),
        ({"thinking": {"type": "disabled"}}, 256),
        ({"output_config": {"format": {"type": "json_schema", "schema": {"type": "object"}}}}, 1_024),
        ({"output_format": {"type": "json_schema", "schema": {"type": "object"}}}, 1_024),
    ],
    ids=str,
)
@pytest.mark.parametrize("is_enough", [True, False], ids=["enough", "too little"])
def test_a_call_is_fitted_down_to_its_thinking_and_no_further(
    fields: dict[str, object], useful: int, is_enough: bool
) -> None:
    body = {**messages(max_tokens=20_000), **fields}
    amount = useful if is_enough else useful - 1

    @gate_test(limits=f"  few: {{output_tokens: {amount}, per: lifetime}}")
    async def check(world: World) -> None:
        _answers(world, counts=counted(COUNT))
        client = await _call(world, body)
        if is_enough:
            assert client.status == 200
            assert world.last.cap == json.loads(world.upstream.requests[-1].body)["max_tokens"] == useful
        else:
            assert client.error["code"] == "call_exceeds_limit"
            assert client.error["spendfuse"]["limits"][0]["need_at_least"] == useful

    check()


@gate_test(
    limits="""
  few: {requests: 2, per: day}
  none: {usd: 0, per: lifetime}
  no-tokens: {tokens: 0, per: lifetime}
"""
)
async def test_a_count_for_a_client_is_free_and_counted_as_a_request(world: World) -> None:
    body = {"model": "claude", "messages": [{"role": "user", "content": LONG}]}
    _answers(world, counts=counted(COUNT))
    for _ in range(2):
        client = await world.call(body, dialect=COUNT_TOKENS, headers=VERSION)
        assert (client.status, json.loads(client.body)) == (200, {"input_tokens": COUNT})
        assert client.headers[COST_HEADER] == "0.00"
        entry = world.last.entry
        assert (entry.amounts.cost, entry.amounts.input_tokens, entry.estimated) == (0, 0, False)
    client = await world.call(body, dialect=COUNT_TOKENS)
    assert (client.status, client.error["code"]) == (402, "budget_exceeded")
    assert len(world.upstream.requests) == 2


@pytest.mark.parametrize("status", [400, 429, 500, 529])
@gate_test(limits="  few: {requests: 5, per: day}")
async def test_a_count_that_fails_is_passed_on_and_costs_nothing(world: World, status: int) -> None:
    _answers(world, counts=failing(status))
    body = {"model": "claude", "messages": [{"role": "user", "content": "Hi."}]}
    client = await world.call(body, dialect=COUNT_TOKENS)
    assert (client.status, client.error["message"]) == (status, "no")
    assert world.last.is_void


@gate_test()
async def test_a_count_is_not_carried_to_a_provider_that_speaks_openai(world: World) -> None:
    body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hi."}]}
    client = await world.call(body, dialect=COUNT_TOKENS)
    assert (client.status, client.error["param"]) == (400, "model")
    assert world.upstream.requests == []


SHORT: dict[str, Any] = {"cache_control": {"type": "ephemeral"}}
HOUR: dict[str, Any] = {"cache_control": {"type": "ephemeral", "ttl": "1h"}}
KEPT: dict[str, tuple[dict[str, Any], int]] = {
    "not asked": ({}, INPUT_PICOS),
    "null": ({"cache_control": None}, INPUT_PICOS),
    "the whole": (SHORT, CACHE_PICOS),
    "the whole for an hour": (HOUR, CACHE_HOUR_PICOS),
    "a block": ({"system": [{"type": "text", "text": "x", **SHORT}]}, CACHE_PICOS),
    "a tool for an hour": ({"tools": [{"name": "f", "input_schema": {"type": "object"}, **HOUR}]}, CACHE_HOUR_PICOS),
    "both": ({"system": [{"type": "text", "text": "x", **SHORT}], **HOUR}, CACHE_HOUR_PICOS),
    "five minutes": ({"cache_control": {"type": "ephemeral", "ttl": "5m"}}, CACHE_PICOS),
    "a time that nobody knows": ({"cache_control": {"type": "ephemeral", "ttl": "1w"}}, CACHE_HOUR_PICOS),
    "a text that only says so": ({"system": "cache_control"}, INPUT_PICOS),
}


@pytest.mark.parametrize("what", KEPT)
@gate_test()
async def test_writing_to_a_cache_is_quoted_only_where_it_is_asked_for(world: World, what: str) -> None:
    fields, picos = KEPT[what]
    _answers(world, counts=counted(COUNT))
    await _call(world, messages(**fields))
    held = world.last.held
    assert held.cost == -(-(held.input_tokens * picos + 1_000 * OUTPUT_PICOS) // 1_000)


@gate_test()
async def test_writing_to_a_cache_is_quoted_for_a_translated_call_too(world: World) -> None:
    _answers(world, counts=counted(COUNT))
    content = [{"type": "text", "text": LONG, **HOUR}]
    used = claude_usage(10, 5, cache_creation_input_tokens=COUNT, cache_creation={"ephemeral_1h_input_tokens": COUNT})
    _answers(world, counts=counted(COUNT), calls=Play([claude_answer(used=used)]))
    body = {"model": "claude", "max_tokens": 100, "messages": [{"role": "user", "content": content}]}
    assert (await world.call(body)).status == 200
    held = world.last.held
    assert held.cost == (held.input_tokens * CACHE_HOUR_PICOS + 100 * OUTPUT_PICOS) // 1_000
    assert world.last.entry.amounts.cost == (10 * INPUT_PICOS + COUNT * CACHE_HOUR_PICOS + 5 * OUTPUT_PICOS) // 1_000


@pytest.mark.parametrize(
    ("headers", "version"),
    [({}, "2023-06-01"), ({b"anthropic-version": b"2023-01-01"}, "2023-01-01"), ({b"anthropic-version": b"x"}, "x")],
    ids=str,
)
@gate_test()
async def test_the_clients_version_goes_up_or_else_ours(
    world: World, headers: dict[bytes, bytes], version: str
) -> None:
    _answers(world, counts=counted(COUNT))
    beta = {b"anthropic-beta": b"files-api-2025-04-14, interleaved-thinking-2025-05-14"}
    client = {b"x-api-key": b"sk-of-the-client", b"authorization": b"Bearer x", b"x-spendfuse-user": b"u"}
    await _call(world, messages(), headers={**headers, **beta, **client})
    sent = {name.lower(): value for name, value in world.upstream.requests[0].headers.items()}
    assert sent["anthropic-version"] == version
    assert sent["anthropic-beta"] == "files-api-2025-04-14,interleaved-thinking-2025-05-14"
    assert sent["x-api-key"] == "sk-claude"
    assert not {"authorization", "x-spendfuse-user"} & set(sent)


@gate_test()
async def test_bytes_pass_unaltered_however_they_arrive(world: World) -> None:
    whole = claude_start() + claude_event("ping") + claude_delta("Grüße 🙂") + claude_delta("!") + claude_end(2)
    for size in (1, 7, len(whole)):
        pieces = [whole[at : at + size] for at in range(0, len(whole), size)]
        _answers(world, counts=counted(COUNT), calls=stream(*pieces))
        assert (await _call(world, messages(stream=True))).body == whole
        entry = world.last.entry
        assert (entry.estimated, entry.amounts.input_tokens, entry.amounts.output_tokens) == (False, 10, 2)


@pytest.mark.parametrize("way", WAYS)
@gate_test(limits="  room: {output_tokens: 60, per: lifetime}")
async def test_a_stream_that_outruns_its_reservation_without_room_is_cut_well_formed(world: World, way: str) -> None:
    dialect, body = WAYS[way]
    endless: list[Step] = [claude_start(), *[claude_delta(words(10))] * 100, asyncio.Event()]
    _answers(world, counts=counted(COUNT), calls=stream(*endless))
    client = await world.call(body(stream=True, max_tokens=50), dialect=dialect)
    assert client.is_finished
    if dialect is MESSAGES:
        ends = [json.loads(one.partition(b"data: ")[2]) for one in client.body.strip().split(b"\n\n")][-3:]
        assert [one["type"] for one in ends] == ["content_block_stop", "message_delta", "message_stop"]
        assert ends[1]["delta"]["stop_reason"] == "max_tokens"
        assert ends[1]["usage"]["output_tokens"] == world.last.output_tokens
    else:
        assert client.events[-1] == "[DONE]"
        assert client.finish_reasons == ["length"]
    assert world.last.entry.estimated


@pytest.mark.parametrize(
    ("body", "output_tokens", "is_estimate"),
    [
        (claude_answer(7), 7, False),
        (claude_answer(7, used=None), 1_000, True),
        (claude_answer(used={"input_tokens": 10}), 1_000, True),
        (claude_answer(used=claude_usage(0, 0)), 1_000, True),
        (b"<html>", 1_000, True),
    ],
    ids=["usage", "null", "half", "nothing", "no JSON"],
)
@gate_test()
async def test_an_answer_without_its_usage_is_charged_at_what_it_could_have_made(
    world: World, body: bytes, output_tokens: int, is_estimate: bool
) -> None:
    _answers(world, counts=counted(COUNT), calls=Play([body], before_head=[lambda: world.clock.advance(ms=5_000)]))
    client = await _call(world, messages())
    assert (client.status, client.body) == (200, body)
    entry = world.last.entry
    assert (entry.estimated, entry.amounts.output_tokens) == (is_estimate, output_tokens)


@gate_test()
async def test_an_answer_that_chat_can_not_show_is_charged_and_refused(world: World) -> None:
    used = {"type": "tool_use", "id": "t", "name": "f", "input": {}}
    _answers(world, counts=counted(COUNT), calls=Play([claude_answer(7, content=[used])]))
    client = await world.call(chat("claude", max_tokens=100))
    assert (client.status, client.error["code"]) == (502, "upstream_failed")
    assert "$0.000135" in client.error["message"]
    assert world.last.entry.amounts.cost == (10 * INPUT_PICOS + 7 * OUTPUT_PICOS) // 1_000


@pytest.mark.parametrize("dialect", [MESSAGES, CHAT], ids=["messages", "translated"])
@gate_test()
async def test_a_stream_whose_usage_never_came_is_charged_at_all_that_it_may_have_been(
    world: World, dialect: Dialect
) -> None:
    text = "a" * 40
    steps = [claude_start(), claude_delta(text), claude_end(None)]
    _answers(world, counts=counted(COUNT), calls=Play(steps, headers=SSE_HEADERS))
    body = messages(stream=True) if dialect is MESSAGES else chat("claude", stream=True, max_tokens=1_000)
    client = await world.call(body, dialect=dialect)
    assert client.is_finished
    entry = world.last.entry
    assert (entry.estimated, entry.amounts.output_tokens) == (True, len(text))
    assert entry.amounts.input_tokens == world.last.held.input_tokens
