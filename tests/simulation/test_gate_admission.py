"""What is asked of the ledger for a call, what goes upstream, and what a refused caller is told."""

import asyncio

import pytest
from gate_harness import CAP_HEADER, COST_HEADER, World, chat, gate_test, spin
from scripted_upstream import Play, answer, failing, words

from spendfuse.ledger.store import RefusalCount
from spendfuse.pricing import bounds

FOREIGN_INPUT = len(b'{"model": "plain", "messages": [{"role": "user", "content": "Hi."}]}') + 128
"""The input bound of the shortest chat for `plain`: its bytes and a foreign template."""


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The texts whose tokens were counted for a quote."""
    texts: list[str] = []

    def spy(text: str) -> int:
        texts.append(text)
        return text.count(" ") + 1

    monkeypatch.setattr(bounds, "count", spy)
    return texts


@gate_test()
async def test_a_cap_that_fits_goes_up_under_the_targets_own_name_and_is_not_mentioned(world: World) -> None:
    client = await world.call(chat(max_completion_tokens=300))
    sent = world.upstream.bodies[0]
    assert (sent["model"], sent["max_tokens"]) == ("llama", 300)
    assert "max_completion_tokens" not in sent
    assert CAP_HEADER not in client.headers
    assert world.last.held.cost == 1_000 * (FOREIGN_INPUT + len(', "max_completion_tokens": 300')) + 2_000 * 300


@gate_test(limits="  tokens: {tokens: 1000, per: lifetime}")
async def test_a_call_is_fitted_to_what_is_left_and_told_so(world: World) -> None:
    client = await world.call(chat(max_tokens=5_000))
    cap = 1_000 - FOREIGN_INPUT - len(', "max_tokens": 5000')
    assert world.upstream.bodies[0]["max_tokens"] == cap
    assert client.headers[CAP_HEADER] == str(cap)
    assert world.last.held.input_tokens + world.last.held.output_tokens == 1_000


@gate_test(limits="  few: {output_tokens: 1000, per: lifetime, fit: false}")
async def test_a_limit_that_does_not_fit_takes_the_whole_cap_or_nothing(world: World) -> None:
    client = await world.call(chat(max_tokens=1_001))
    assert (client.status, client.error["code"]) == (400, "call_exceeds_limit")
    world.meets(Play([answer(500)]))
    assert (await world.call(chat(max_tokens=1_000))).status == 200
    client = await world.call(chat(max_tokens=501))
    assert (client.status, client.error["code"]) == (402, "budget_exceeded")
    assert (await world.call(chat(max_tokens=500))).status == 200


@gate_test()
async def test_a_caller_without_a_cap_gets_the_default_where_there_is_plenty(world: World) -> None:
    client = await world.call(chat())
    assert client.headers[CAP_HEADER] == str(world.upstream.bodies[0]["max_tokens"]) == "4096"


@gate_test(limits="  company: {output_tokens: 40_000, per: lifetime}")
async def test_a_caller_without_a_cap_does_not_hold_over_a_tenth_of_what_is_left(world: World) -> None:
    await world.call(chat())
    assert world.upstream.bodies[-1]["max_tokens"] == 1_024
    # A cap of the caller's own is what the caller gets.
    await world.call(chat(max_tokens=4_096))
    assert world.upstream.bodies[-1]["max_tokens"] == 4_096


@gate_test(limits="  company: {output_tokens: 40_000, per: lifetime}")
async def test_the_modest_cap_is_learned_from_the_answers_of_model_and_feature(world: World) -> None:
    world.meets(Play([answer(4_400)]), Play([answer(5)]))
    search, mail = {"feature": "search"}, {"feature": "mail"}
    await world.call(chat("plain", n=2, max_tokens=3_000), claimed=search)
    await world.call(chat(), claimed=search)
    assert world.upstream.bodies[-1]["max_tokens"] == 2_200 * 5 // 4
    await world.call(chat(), claimed=mail)
    assert world.upstream.bodies[-1]["max_tokens"] == 1_024


USEFUL = {
    "default": (chat(), {}, 256),
    "of the model": (chat("frugal"), {}, 10),
    "reasoning": (chat("o4-mini"), {}, 4_096),
    "object": (chat(response_format={"type": "json_object"}), {}, 1_024),
    "schema": (chat(response_format={"type": "json_schema", "json_schema": {"name": "a"}}), {}, 1_024),
    "thinking": (chat(thinking={"budget_tokens": 2_000}), {}, 2_256),
    "own cap": (chat(max_tokens=100), {}, 100),
    "own cap for reasoning": (chat("o4-mini", max_tokens=100), {}, 100),
    "of the limit": (chat(), {"min_output_tokens": 50}, 50),
    "of the limit, not of the model": (chat("frugal"), {"min_output_tokens": 50}, 50),
}


@pytest.mark.parametrize("name", USEFUL)
@pytest.mark.parametrize("is_enough", [True, False], ids=["enough", "too little"])
def test_a_call_is_fitted_down_to_its_useful_minimum_and_no_further(name: str, is_enough: bool) -> None:
    body, extra, useful = USEFUL[name]
    fields = "".join(f", {key}: {value}" for key, value in extra.items())
    amount = useful if is_enough else useful - 1

    @gate_test(limits=f"  few: {{output_tokens: {amount}, per: lifetime{fields}}}")
    async def check(world: World) -> None:
        client = await world.call(body)
        if is_enough:
            assert client.status == 200
            assert world.last.cap == useful
        else:
            assert client.error["code"] == "call_exceeds_limit"
            assert client.error["spendfuse"]["limits"][0]["need_at_least"] == useful

    check()


@gate_test(limits="  room: {input_tokens: 3000, per: lifetime}")
async def test_tokens_are_counted_only_when_bytes_do_not_fit(world: World, counted: list[str]) -> None:
    await world.call(chat("gpt-4o-mini", words(400)))
    assert counted == []
    assert world.last.held.input_tokens > 2_400
    client = await world.call(chat("gpt-4o-mini", words(600)))
    assert client.status == 200
    assert words(600) in counted
    assert 600 < world.last.held.input_tokens < 700


@pytest.mark.parametrize(
    ("limit", "code"),
    [
        ("{output_tokens: 255, per: lifetime}", "call_exceeds_limit"),
        ("{usd: 0, per: lifetime}", "budget_exceeded"),
        ("{requests: 0, per: day}", "budget_exceeded"),
        ("{concurrent: 0}", "budget_exceeded"),
        ("{requests: 0, per: minute}", "budget_exceeded"),
    ],
)
def test_tokens_are_not_counted_where_that_can_not_help(limit: str, code: str, counted: list[str]) -> None:
    @gate_test(limits=f"  one: {limit}")
    async def check(world: World) -> None:
        client = await world.call(chat("gpt-4o-mini", words(600)))
        assert client.error["code"] == code

    check()
    assert counted == []


@gate_test(limits="  room: {input_tokens: 3000, per: lifetime}")
async def test_a_foreign_vocabulary_is_never_counted(world: World, counted: list[str]) -> None:
    client = await world.call(chat("plain", words(600)))
    assert client.error["code"] == "call_exceeds_limit"
    assert counted == []


@gate_test(
    limits="""
  room: {input_tokens: 3000, per: lifetime}
  rate: {requests: 1, per: minute}
"""
)
async def test_a_rate_that_refuses_is_not_hidden_by_bytes_that_only_seem_too_many(world: World) -> None:
    await world.call(chat("gpt-4o-mini"))
    client = await world.call(chat("gpt-4o-mini", words(600)))
    assert (client.status, client.error["code"]) == (429, "rate_limit_exceeded")


@gate_test(limits="  watched: {tokens: 300, per: lifetime, on_exceed: shadow}")
async def test_a_shadow_limit_counts_would_be_refusals_and_refuses_nothing(world: World) -> None:
    for _ in range(2):
        client = await world.call(chat(), claimed={"feature": "search"})
        assert client.status == 200
        assert client.headers[CAP_HEADER] == "4096"
    await world.gate.refusals.flush()
    would_be = RefusalCount("call_exceeds_limit", "watched", "search", "", 2, shadow=True)
    assert world.store.refusals == [would_be]
    assert await world.committed("watched") == [("[]", 2 * 15, 0)]


@gate_test(limits="  few: {requests: 1, per: day, each: user}")
async def test_refusals_are_counted_by_limit_feature_and_user_and_leave_no_other_trace(world: World) -> None:
    labels = {"user": "u1", "feature": "search"}
    await world.call(chat(), claimed=labels)
    for _ in range(3):
        assert (await world.call(chat(), claimed=labels)).status == 402
    await world.gate.refusals.flush()
    assert world.store.refusals == [RefusalCount("budget_exceeded", "few", "search", "u1", 3)]
    assert len(world.reservations) == len(world.upstream.requests) == 1


@gate_test(limits="  dear: {usd: '0.001', per: lifetime, match: {model: [gpt-4o]}, on_exceed: {route_to: gpt-4o-mini}}")
async def test_a_limit_may_lead_to_another_model(world: World) -> None:
    client = await world.call(chat("gpt-4o", max_tokens=2_000))
    assert client.status == 200
    assert world.upstream.bodies[0]["model"] == "gpt-4o-mini"
    assert world.last.labels["model"] == "gpt-4o-mini"
    assert len(world.upstream.requests) == 1


@gate_test(limits="  all: {usd: '0.002', per: lifetime, fit: false, on_exceed: {route_to: frugal}}")
async def test_the_other_model_is_quoted_against_the_same_limits(world: World) -> None:
    client = await world.call(chat("plain", max_tokens=1_000))
    assert client.status == 200
    assert world.upstream.bodies[0]["model"] == "tiny"
    assert await world.committed("all") == [("[]", world.last.entry.amounts.cost, 0)]
    world.meets(Play([answer(0, input_tokens=19_990)]))
    await world.call(chat("frugal", words(1_000), max_tokens=1))
    tried = len(world.ledger.demands)
    client = await world.call(chat("plain", max_tokens=1_000))
    assert (client.status, client.error["code"]) == (402, "budget_exceeded")
    assert len(world.ledger.demands) == tried + 2


@gate_test(
    limits="""
  one: {usd: 0, per: lifetime, match: {model: [plain]}, on_exceed: {route_to: frugal}}
  two: {usd: 0, per: lifetime, match: {model: [frugal]}, on_exceed: {route_to: plain}}
"""
)
async def test_limits_that_lead_to_each_other_do_not_loop(world: World) -> None:
    client = await world.call(chat("plain"))
    assert client.status == 402
    assert [demand.labels["model"] for demand in world.ledger.demands] == ["plain", "frugal"]
    await world.gate.refusals.flush()
    assert [one.count for one in world.store.refusals] == [1]


@gate_test(limits="  parallel: {concurrent: 1, each: user}")
async def test_a_place_in_flight_is_taken_by_subject_and_refused_at_once(world: World) -> None:
    release = asyncio.Event()
    world.meets(Play(before_head=[release]), Play([answer()]))
    task, _ = world.begin(chat(), claimed={"user": "u1"})
    await spin()
    refused = await world.call(chat(), claimed={"user": "u1"})
    assert (refused.status, refused.error["code"]) == (429, "rate_limit_exceeded")
    assert refused.headers["retry-after"] == "1"
    assert (await world.call(chat(), claimed={"user": "u2"})).status == 200
    release.set()
    await task


@pytest.mark.parametrize("end", ["settle", "void", "cancel"])
@gate_test(limits="  parallel: {concurrent: 1, each: user}")
async def test_a_place_in_flight_is_given_back_by_every_end(world: World, end: str) -> None:
    release = asyncio.Event()
    first = Play([answer()], before_head=[release]) if end != "void" else failing(429, before_head=[release])
    world.meets(first, Play([answer()]))
    task, _ = world.begin(chat())
    await spin()
    assert (await world.call(chat())).status == 429
    if end == "cancel":
        task.cancel()
    release.set()
    await asyncio.gather(task, return_exceptions=True)
    await world.settled()
    assert (await world.call(chat())).status == 200


@gate_test(limits="  rate: {requests: 2, per: minute, each: key}")
async def test_a_rate_refuses_until_it_has_refilled(world: World) -> None:
    statuses = [(await world.call(chat())).status for _ in range(2)]
    client = await world.call(chat())
    assert [*statuses, client.status] == [200, 200, 429]
    assert client.error["code"] == "rate_limit_exceeded"
    assert client.headers["retry-after"] == "30"
    assert "x-should-retry" not in client.headers
    await world.later(30_000)
    assert (await world.call(chat())).status == 200


@gate_test(limits="  room: {output_tokens: 400, per: lifetime, fit: false}")
async def test_a_call_waits_for_what_calls_in_flight_hold_and_is_served_once_they_settle(world: World) -> None:
    release = asyncio.Event()
    world.meets(Play([answer(0)], before_head=[release]), Play([answer()]))
    holder, _ = world.begin(chat(max_tokens=300))
    await spin()
    waiter, client = world.begin(chat(max_tokens=300))
    await spin()
    assert len(world.upstream.requests) == 1
    release.set()
    await asyncio.gather(holder, waiter)
    assert client.status == 200


@gate_test(limits="  room: {output_tokens: 400, per: lifetime, min_output_tokens: 150}")
async def test_a_call_that_waited_in_vain_is_refused_as_busy_and_told_when_to_retry(world: World) -> None:
    release = asyncio.Event()
    world.meets(Play([answer(1)], before_head=[release]))
    holder, _ = world.begin(chat(max_tokens=300))
    await spin()
    waiter, client = world.begin(chat(max_tokens=300))
    await spin()
    await world.later(2_000)
    await waiter
    assert (client.status, client.error["code"]) == (429, "budget_busy")
    assert client.headers["retry-after"] == "1"
    assert "100 output tokens left (300 output tokens held by calls in flight)" in client.error["message"]
    release.set()
    await holder


@gate_test(limits="  room: {output_tokens: 400, per: lifetime, min_output_tokens: 100}")
async def test_at_the_end_of_its_wait_a_call_takes_the_useful_rest(world: World) -> None:
    release = asyncio.Event()
    world.meets(Play([answer(1)], before_head=[release]), Play([answer()]))
    holder, _ = world.begin(chat(max_tokens=300))
    await spin()
    waiter, client = world.begin(chat(max_tokens=300))
    await spin()
    await world.later(2_000)
    await waiter
    assert (client.status, client.headers[CAP_HEADER]) == (200, "100")
    release.set()
    await holder


@gate_test()
async def test_a_free_target_gets_no_cap_and_costs_nothing(world: World) -> None:
    client = await world.call(chat("free"))
    assert "max_tokens" not in world.upstream.bodies[0]
    assert CAP_HEADER not in client.headers
    assert float(client.headers[COST_HEADER]) == 0
    assert world.last.held.cost == world.last.entry.amounts.cost == 0
    assert world.last.output_tokens == 5
    await world.call(chat("free", max_tokens=7))
    assert world.upstream.bodies[1]["max_tokens"] == 7


@pytest.mark.parametrize("unit", ["tokens", "output_tokens"])
def test_a_free_target_under_a_limit_of_tokens_gets_a_cap(unit: str) -> None:
    @gate_test(limits=f"  few: {{{unit}: 3000, per: lifetime, match: {{model: [free]}}}}")
    async def check(world: World) -> None:
        client = await world.call(chat("free"))
        assert client.headers[CAP_HEADER] == str(world.upstream.bodies[0]["max_tokens"]) == "1024"
        assert world.last.held.output_tokens == 1_024

    check()
