"""Every way in which an attempt can end, and what it is charged: DESIGN, "How a reservation ends"."""

import asyncio

import pytest
from gate_harness import (
    CALL_ID_HEADER,
    CHAT,
    COST_HEADER,
    EMBEDDINGS,
    INPUT_NANOS,
    OUTPUT_NANOS,
    Client,
    World,
    chat,
    gate_test,
)
from scripted_upstream import (
    DONE,
    JSON_HEADERS,
    SSE_HEADERS,
    Play,
    Step,
    answer,
    delta,
    ended,
    failing,
    stream,
    used,
    words,
)

from spendfuse.core.reservations import EntryKind
from spendfuse.gate import relay
from spendfuse.upstream.client import FateUnknown, NeverSent, UpstreamTimeout

CAP = 400
# Times are multiples of 125 ms, which floats hold exactly.
WHOLE = chat(max_tokens=CAP)
STREAM = chat(max_tokens=CAP, stream=True)
COUNTED_STREAM = chat("gpt-4o-mini", max_tokens=CAP, stream=True)
FAILURES = [FateUnknown("reset"), UpstreamTimeout("silent")]


def _assert_unknown(world: World, *, output_tokens: int) -> None:
    """The whole input bound and so much output, at the quote's prices, marked estimated."""
    last = world.last
    assert last.entry.kind is EntryKind.SETTLED
    assert last.entry.estimated
    assert last.entry.amounts.input_tokens == last.held.input_tokens
    assert last.output_tokens == output_tokens
    assert last.held.cost - last.entry.amounts.cost == (last.held.output_tokens - output_tokens) * OUTPUT_NANOS


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 413, 422, 429, 500, 502, 503, 529])
@gate_test()
async def test_an_error_before_any_output_is_voided_and_relayed_as_it_came(world: World, status: int) -> None:
    play = failing(status, before_head=[lambda: world.clock.advance(ms=500)])
    play.headers = {**JSON_HEADERS, "Retry-After": "7", "Connection": "close", "Set-Cookie": "a=b"}
    world.meets(play)
    client = await world.call(WHOLE)
    assert world.last.is_void
    assert (client.status, client.body) == (status, play.body[0])
    assert client.headers["retry-after"] == "7"
    assert len(client.headers[CALL_ID_HEADER]) == 13
    assert not {"connection", "set-cookie"} & client.headers.keys()


@pytest.mark.parametrize("status", [408, 501, 504, 520, 524])
@pytest.mark.parametrize("body", [WHOLE, STREAM], ids=["whole", "stream"])
@gate_test()
async def test_an_error_that_leaves_the_fate_unknown_is_charged_for_what_could_have_been_made(
    world: World, status: int, body: dict[str, object]
) -> None:
    world.meets(failing(status, before_head=[lambda: world.clock.advance(ms=125)]))
    client = await world.call(body)
    assert client.status == status
    _assert_unknown(world, output_tokens=125)


@gate_test()
async def test_a_redirect_leads_no_client_past_the_gateway_and_costs_nothing(world: World) -> None:
    headers = {**JSON_HEADERS, "Location": "https://provider.test/v1"}
    world.meets(Play([lambda: world.clock.advance(ms=125), b"{}"], status=307, headers=headers))
    client = await world.call(WHOLE)
    assert client.status == 502
    assert "location" not in client.headers
    assert "base_url" in client.body.decode()
    assert world.last.is_void


@gate_test()
async def test_a_slow_reader_of_an_error_does_not_hold_the_reservation(world: World) -> None:
    world.meets(failing(504, before_head=[lambda: world.clock.advance(ms=125)]))
    task, client = world.begin(WHOLE)
    client.reading.clear()
    await world.later(0)
    assert client.status == 504
    assert world.last.entries
    client.reading.set()
    await task
    _assert_unknown(world, output_tokens=125)


@pytest.mark.parametrize("body", [WHOLE, STREAM], ids=["whole", "stream"])
@gate_test()
async def test_a_call_that_was_never_sent_is_voided(world: World, body: dict[str, object]) -> None:
    world.meets(Play(before_head=[NeverSent("connection refused")]))
    client = await world.call(body)
    assert world.last.is_void
    assert client.status == 502
    assert client.error["code"] == "upstream_unreachable"
    assert "Nothing was charged" in client.error["message"]


@pytest.mark.parametrize("failure", FAILURES, ids=["broken", "silent"])
@pytest.mark.parametrize(("elapsed_ms", "output_tokens"), [(0, 0), (125, 125), (60_000, CAP)])
@pytest.mark.parametrize("body", [WHOLE, STREAM], ids=["whole", "stream"])
@gate_test()
async def test_a_failure_before_the_head_is_charged_at_the_quote_or_what_the_time_allowed(
    world: World, failure: Exception, elapsed_ms: int, output_tokens: int, body: dict[str, object]
) -> None:
    world.meets(Play(before_head=[lambda: world.clock.advance(ms=elapsed_ms), failure]))
    client = await world.call(body)
    _assert_unknown(world, output_tokens=output_tokens)
    is_timeout = isinstance(failure, UpstreamTimeout)
    assert client.status == (504 if is_timeout else 502)
    assert client.error["code"] == ("upstream_timeout" if is_timeout else "upstream_failed")
    assert client.headers["x-should-retry"] == "false"
    cost = world.last.entry.amounts.cost
    assert f"charged at up to ${cost / 1e9:.9f}".rstrip("0") in client.error["message"]


@gate_test(more="output_tokens_per_s_max: 50")
async def test_the_rate_of_a_target_bounds_an_unknown_fate(world: World) -> None:
    world.meets(Play(before_head=[lambda: world.clock.advance(ms=1_000), FateUnknown("reset")]))
    await world.call(WHOLE)
    _assert_unknown(world, output_tokens=50)


@gate_test()
async def test_every_choice_could_have_been_made_at_that_rate(world: World) -> None:
    world.meets(Play(before_head=[lambda: world.clock.advance(ms=125), FateUnknown("reset")]))
    await world.call({**WHOLE, "n": 3})
    _assert_unknown(world, output_tokens=3 * 125)


@pytest.mark.parametrize("failure", FAILURES, ids=["broken", "silent"])
@gate_test()
async def test_a_whole_answer_that_breaks_off_is_of_unknown_fate(world: World, failure: Exception) -> None:
    world.meets(Play([answer()[:20], lambda: world.clock.advance(ms=125), failure]))
    client = await world.call(WHOLE)
    assert client.status in (502, 504)
    _assert_unknown(world, output_tokens=125)


@gate_test()
async def test_an_error_whose_body_breaks_off_stays_voided(world: World) -> None:
    play = failing(429)
    play.body = [b"{", FateUnknown("reset")]
    world.meets(play)
    client = await world.call(WHOLE)
    assert client.status == 502
    assert "charged" not in client.error["message"]
    assert world.last.is_void


@gate_test()
async def test_an_answer_above_the_bound_is_refused_and_charged(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay, "ANSWER_BYTES_MAX", 1_000)
    world.meets(Play([lambda: world.clock.advance(ms=125), b"x" * 600, b"x" * 600]))
    client = await world.call(WHOLE)
    assert client.status == 502
    assert "larger than 1000 bytes" in client.error["message"]
    _assert_unknown(world, output_tokens=125)


@gate_test()
async def test_usage_settles_exactly_and_the_answer_says_its_cost(world: World) -> None:
    body = answer(7, input_tokens=12)
    world.meets(Play([body]))
    client = await world.call(WHOLE)
    cost = 12 * INPUT_NANOS + 7 * OUTPUT_NANOS
    entry = world.last.entry
    assert (entry.kind, entry.estimated, entry.overrun_cost) == (EntryKind.SETTLED, False, 0)
    assert (entry.amounts.cost, entry.amounts.input_tokens, entry.amounts.output_tokens) == (cost, 12, 7)
    assert client.body == body
    assert client.headers[COST_HEADER] == "0.000026"


@pytest.mark.parametrize(
    ("used_tokens", "output_tokens"),
    [
        (None, 125),
        ({}, 125),
        ({"prompt_tokens": None, "completion_tokens": 3}, 125),
        ({"completion_tokens": 290}, 290),
        ({"completion_tokens": 950}, 950),
    ],
    ids=["null", "empty", "no input", "more output than time", "more output than held"],
)
@gate_test()
async def test_unknown_usage_is_charged_at_the_quote_but_never_below_what_was_said(
    world: World, used_tokens: object, output_tokens: int
) -> None:
    world.meets(Play([lambda: world.clock.advance(ms=125), answer(used=used_tokens)]))
    client = await world.call(WHOLE)
    assert client.status == 200
    _assert_unknown(world, output_tokens=output_tokens)


@gate_test()
async def test_usage_above_the_quote_is_recorded_in_full_as_overrun(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.meets(Play([answer(500, input_tokens=50_000)]))
    await world.call(WHOLE)
    last = world.last
    assert last.entry.amounts.cost == 50_000 * INPUT_NANOS + 500 * OUTPUT_NANOS
    assert last.entry.overrun_cost == last.entry.amounts.cost - last.held.cost > 0
    assert "overrun_recorded" in caplog.text


@gate_test()
async def test_a_json_answer_to_a_stream_request_is_relayed_and_settled_exactly(world: World) -> None:
    body = answer(7, input_tokens=12)
    world.meets(Play([body]))
    client = await world.call(STREAM)
    assert client.body == body
    assert client.headers["content-type"] == "application/json"
    assert (world.last.entry.estimated, world.last.output_tokens) == (False, 7)


@gate_test()
async def test_a_stream_for_a_request_that_asked_for_none_is_relayed_and_charged_at_its_quote(world: World) -> None:
    chunks = [delta("Hello"), used(12, 7), DONE]
    world.meets(Play([lambda: world.clock.advance(ms=60_000), *chunks], headers=SSE_HEADERS))
    client = await world.call(WHOLE)
    assert client.body == b"".join(chunks)
    _assert_unknown(world, output_tokens=CAP)


@gate_test()
async def test_a_stream_with_usage_settles_exactly_and_keeps_the_usage_from_who_did_not_ask(world: World) -> None:
    world.meets(stream(delta("Hello"), ended(), used(12, 7), DONE))
    client = await world.call(STREAM)
    assert client.body == delta("Hello") + ended() + DONE
    assert client.is_finished
    entry = world.last.entry
    assert (entry.estimated, entry.amounts.input_tokens, entry.amounts.output_tokens) == (False, 12, 7)
    assert world.upstream.bodies[0]["stream_options"] == {"include_usage": True}


@gate_test()
async def test_a_stream_whose_usage_came_before_it_broke_settles_exactly_and_looks_broken(world: World) -> None:
    world.meets(stream(delta("Hello"), ended(), used(12, 7), FateUnknown("reset")))
    client = await world.call(STREAM)
    assert client.is_aborted and not client.is_finished
    assert (world.last.entry.estimated, world.last.output_tokens) == (False, 7)


@gate_test()
async def test_a_complete_stream_without_usage_is_charged_for_what_it_showed(world: World) -> None:
    advance = lambda: world.clock.advance(ms=60_000)  # noqa: E731
    world.meets(stream(delta(words(20)), advance, delta(words(15)), ended(), DONE))
    await world.call(COUNTED_STREAM)
    assert world.last.entry.estimated
    assert world.last.output_tokens == 35
    assert world.last.entry.amounts.input_tokens == world.last.held.input_tokens


@pytest.mark.parametrize(
    ("shown", "streamed_ms", "output_tokens"),
    [(20, 2_000, 30), (20, 500, 60), (60, 125, CAP), (0, 125, 125)],
    ids=["slow", "fast", "at most the reservation", "nothing shown: what the time allowed"],
)
@gate_test()
async def test_a_broken_stream_is_charged_for_what_it_showed_and_a_tail_at_its_own_rate(
    world: World, shown: int, streamed_ms: int, output_tokens: int
) -> None:
    pieces = [delta(words(shown))] if shown else []
    world.meets(stream(*pieces, lambda: world.clock.advance(ms=streamed_ms), FateUnknown("reset")))
    client = await world.call(COUNTED_STREAM)
    assert client.is_aborted and not client.is_finished
    assert "[DONE]" not in client.body.decode()
    assert world.last.entry.estimated
    assert world.last.output_tokens == output_tokens


@gate_test()
async def test_a_client_that_leaves_midway_is_charged_likewise_and_the_upstream_is_closed(world: World) -> None:
    forever = asyncio.Event()
    world.meets(stream(delta(words(20)), lambda: world.clock.advance(ms=2_000), forever))
    task, client = world.begin(COUNTED_STREAM)
    await world.later(0)
    assert client.text == words(20)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert world.upstream.open == 0
    await world.settled()
    assert world.last.output_tokens == 30


@pytest.mark.parametrize("model", ["o4-mini", "plain"])
@pytest.mark.parametrize(("shown", "output_tokens"), [(30, 125), (160, 160)], ids=["bound by time", "bound by sight"])
@gate_test()
async def test_a_cut_stream_with_hidden_output_is_of_unknown_fate_but_never_below_what_it_showed(
    world: World, model: str, shown: int, output_tokens: int
) -> None:
    # What is neither an event nor JSON may have held usage.
    unread = b"data: {not JSON\n\n" if model == "plain" else b": ping\n\n"
    text = words(shown if model == "o4-mini" else 2 * shown)  # half of the count is certain in a foreign vocabulary
    world.meets(stream(delta(text), unread, lambda: world.clock.advance(ms=125), FateUnknown("reset")))
    await world.call(chat(model, max_tokens=CAP, stream=True))
    assert world.last.entry.estimated
    assert world.last.output_tokens == output_tokens


@gate_test()
async def test_an_error_within_a_stream_is_passed_on_and_what_was_shown_is_charged(world: World) -> None:
    failed = b'data: {"error": {"message": "overloaded"}}\n\n'
    world.meets(stream(delta(words(20)), lambda: world.clock.advance(ms=2_000), failed))
    client = await world.call(COUNTED_STREAM)
    assert client.body.endswith(failed)
    assert world.last.entry.estimated
    assert world.last.output_tokens == 30


@gate_test()
async def test_embeddings_settle_exactly_and_without_usage_at_their_input(world: World) -> None:
    exact = b'{"object": "list", "data": [], "usage": {"prompt_tokens": 3, "total_tokens": 3}}'
    world.meets(Play([exact]), Play([b'{"object": "list", "data": []}']))
    body = {"model": "embed", "input": "one two three"}
    await world.call(body, dialect=EMBEDDINGS)
    assert (world.last.entry.estimated, world.last.entry.amounts.input_tokens) == (False, 3)
    await world.call(body, dialect=EMBEDDINGS)
    assert world.last.entry.estimated
    assert world.last.entry.amounts == world.last.held


@gate_test(more="on_disconnect: finish")
async def test_a_call_may_go_on_without_its_client_and_settles_exactly(world: World) -> None:
    leave = asyncio.Event()
    world.meets(Play([leave, answer(7, input_tokens=12)]))
    task, client = world.begin(WHOLE)
    await world.later(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert (world.upstream.open, world.last.entries) == (1, ())
    leave.set()
    await world.shared.drain(5)
    assert (world.last.entry.estimated, world.last.output_tokens) == (False, 7)
    # What the client would have got goes nowhere, which is the server's to know.
    assert client.is_finished


@gate_test(more="on_disconnect: finish")
async def test_a_stream_does_not_go_on_without_its_client(world: World) -> None:
    world.meets(stream(delta("Hello"), asyncio.Event()))
    task, _ = world.begin(STREAM)
    await world.later(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert world.upstream.open == 0


@gate_test()
async def test_a_client_that_can_not_be_written_to_leaves_nothing_open(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(self: Client, chunk: bytes) -> None:
        raise ConnectionResetError

    monkeypatch.setattr(Client, "send", broken)
    steps: list[Step] = [delta("Hello"), ended(), used(12, 7), DONE]
    for body, play in ((STREAM, stream(*steps)), (WHOLE, Play([answer(7)])), (WHOLE, failing(504))):
        world.meets(play)
        task, _ = world.begin(body)
        with pytest.raises(ConnectionResetError):
            await task


@gate_test()
async def test_a_request_that_can_not_be_written_for_its_upstream_leaves_nothing_open(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: object, **kwargs: object) -> bytes:
        raise RuntimeError("a defect")

    monkeypatch.setattr(type(CHAT), "render", broken)
    task, _ = world.begin(WHOLE)
    with pytest.raises(RuntimeError):
        await task
    await world.settled()
    assert world.last.is_void
    assert not world.upstream.requests
