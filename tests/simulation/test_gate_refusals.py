"""What a refused caller is told, and what of a request goes no further."""

import pytest
from gate_harness import CALL_ID_HEADER, Client, World, chat, gate_test, request
from scripted_upstream import JSON_HEADERS, Play, answer

from spendfuse.gate.routes import via_of

FOREIGN_INPUT = len(b'{"model": "plain", "messages": [{"role": "user", "content": "Hi."}]}') + 128
"""The input bound of the shortest chat for `plain`: its bytes and a foreign template."""


@gate_test(limits="  feature-day: {usd: '0.0003', per: day, each: [feature, user]}")
async def test_a_refusal_says_limit_subject_have_need_and_reset(world: World) -> None:
    labels = {"feature": "search", "user": "u1"}
    world.meets(Play([answer(100, input_tokens=50)]))
    assert (await world.call(chat("frugal", max_tokens=100), claimed=labels)).status == 200
    client = await world.call(chat(max_tokens=40), claimed=labels)
    need = 1_000 * (FOREIGN_INPUT + len(', "max_tokens": 40')) + 2_000 * 40
    assert (client.status, client.error["type"], client.error["code"]) == (402, "insufficient_quota", "budget_exceeded")
    assert client.headers["x-should-retry"] == "false"
    assert "retry-after" not in client.headers
    message = client.error["message"]
    assert message == (
        f'limit "feature-day" (feature=search, user=u1): $0.0003, $0.000275 left, call needs up to $0.{need:09}'.rstrip(
            "0"
        )
        + "; resets 2026-11-22 00:00 UTC. "
        "Retrying does not help until the limit resets or is raised."
    )
    assert client.error["spendfuse"]["limits"] == [
        {
            "code": "budget_exceeded",
            "limit": "feature-day",
            "subject": labels,
            "unit": "usd",
            "period": "day",
            "amount": "0.0003",
            "settled": "0.000025",
            "reserved": "0.00",
            "left": "0.000275",
            "need": f"0.{need:09}".rstrip("0"),
            "need_at_least": f"0.{need:09}".rstrip("0"),
            "resets_at": "2026-11-22T00:00:00.000Z",
            "retry_at": None,
        }
    ]


@gate_test(limits="  small: {usd: '0.0001', per: month}")
async def test_a_call_larger_than_a_whole_limit_is_never_retried(world: World) -> None:
    client = await world.call(chat())
    assert (client.status, client.error["code"]) == (400, "call_exceeds_limit")
    assert client.headers["x-should-retry"] == "false"


@gate_test(
    more="""
  unpriced: openai/gpt-none
"""
)
async def test_models_that_can_not_be_served_say_why_and_reserve_nothing(world: World) -> None:
    unknown, unpriced = await world.call(chat("nobody")), await world.call(chat("unpriced"))
    assert (unknown.status, unknown.error["code"]) == (404, "model_not_found")
    assert "gpt-4o-mini" in unknown.error["message"]
    assert (unpriced.status, unpriced.error["code"]) == (400, "model_not_priced")
    assert world.reservations == []


@pytest.mark.parametrize(
    "body", [b"not JSON", b'{"model": "plain"}', b'{"model": "plain", "model": "free", "messages": []}']
)
@gate_test()
async def test_a_request_that_can_not_be_read_is_refused_with_a_call_id(world: World, body: bytes) -> None:
    client = Client()
    await world.gate.serve(request(body), client)
    assert (client.status, client.error["code"]) == (400, "invalid_request")
    assert len(client.headers[CALL_ID_HEADER]) == 13
    assert world.reservations == []


@gate_test()
async def test_only_known_headers_of_the_client_go_up_and_the_providers_key_is_ours(world: World) -> None:
    headers = {b"authorization": b"Bearer sk-client", b"x-spendfuse-user": b"u1", b"traceparent": b"00-a", b"x-a": b"b"}
    await world.call(chat("gpt-4o-mini"), headers=headers)
    own = {"Authorization": "Bearer sk-provider", "via": via_of(world.config)}
    assert dict(world.upstream.requests[0].headers) == {"traceparent": "00-a", **own}


@gate_test()
async def test_gateways_on_the_way_add_themselves_to_via(world: World) -> None:
    await world.call(chat(), headers={b"via": b"1.1 other"})
    assert world.upstream.requests[0].headers["via"] == f"1.1 other, {via_of(world.config)}"


@gate_test()
async def test_headers_of_another_gateway_are_not_passed_on_as_ours(world: World) -> None:
    world.meets(Play([answer()], headers={**JSON_HEADERS, "X-Spendfuse-Call-Id": "theirs", "x-request-id": "r"}))
    client = await world.call(chat())
    assert client.headers["x-request-id"] == "r"
    assert len(client.headers[CALL_ID_HEADER]) == 13
