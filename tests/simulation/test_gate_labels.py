"""Whom a call is counted under: its key's labels first, then what its headers and its body claim."""

import pytest
from gate_harness import APP, EMBEDDINGS, World, chat, gate_test

from spendfuse.gate.requests import Caller

RETRY_LOOP = "  retry-loop: {requests: 30, per: 5m, each: [key, user, fingerprint]}"


@gate_test()
async def test_the_keys_labels_beat_the_headers_and_those_beat_the_body(world: World) -> None:
    caller = Caller("app", {"key": "app", "organization": "acme"})
    body = chat(metadata={"organization_id": "evil", "feature": "mail", "user_id": "u2", "team": "blue"}, user="u3")
    await world.call(body, caller=caller, claimed={"organization": "evil", "feature": "search"})
    assert world.last.labels == {
        "key": "app",
        "organization": "acme",
        "feature": "search",
        "user": "u2",
        "team": "blue",
        "model": "plain",
        "provider": "plain",
        "target": "plain/llama",
    }


@pytest.mark.parametrize(
    ("sources", "user"), [({"headers", "body"}, "h"), ({"headers"}, "h"), ({"body"}, "b"), (set[str](), None)]
)
@gate_test()
async def test_a_key_may_narrow_where_labels_are_read_from(world: World, sources: set[str], user: str | None) -> None:
    caller = Caller("app", {"key": "app"}, frozenset(sources))
    await world.call(chat(user="b"), caller=caller, claimed={"user": "h"})
    assert world.last.labels.get("user") == user


@gate_test(limits="  by-ip: {requests: 100, per: day, each: [ip, fingerprint]}")
async def test_spendfuses_own_labels_can_not_be_claimed(world: World) -> None:
    own = ("key", "model", "provider", "target", "ip", "fingerprint")
    await world.call(chat(metadata=dict.fromkeys(own, "claimed")), claimed=dict.fromkeys(own, "claimed"))
    assert "claimed" not in world.last.labels.values()


@gate_test()
async def test_the_key_and_the_model_of_a_call_beat_even_its_keys_labels(world: World) -> None:
    await world.call(chat(), caller=Caller("app", {"key": "app", "model": "other"}))
    assert world.last.labels["model"] == "plain"


@gate_test()
async def test_the_address_and_the_fingerprint_are_left_out_where_no_limit_uses_them(world: World) -> None:
    await world.call(chat())
    assert not {"ip", "fingerprint"} & world.last.labels.keys()
    assert not world.gate.needs_peers


@gate_test(limits="  by-ip: {requests: 1, per: day, each: ip}")
async def test_a_limit_by_address_counts_each_of_them(world: World) -> None:
    assert world.gate.needs_peers
    statuses = [(await world.call(chat(), ip=ip)).status for ip in ("192.0.2.1", "192.0.2.2", "192.0.2.1")]
    assert statuses == [200, 200, 402]


@gate_test(limits=RETRY_LOOP)
async def test_a_retry_loop_is_stopped_at_the_31st_identical_request_and_no_other_call(world: World) -> None:
    # Retries differ in ids and metadata.
    statuses = [(await world.call(chat(user="u1", metadata={"trace": str(number)}))).status for number in range(31)]
    assert statuses == [200] * 30 + [429]
    others = [chat(content="Hi!", user="u1"), chat(user="u2"), chat("frugal", user="u1"), chat(user="u1", seed=1)]
    assert [(await world.call(body)).status for body in others] == [200] * 4
    other_key = Caller("other", {"key": "other"})
    assert (await world.call(chat(user="u1"), caller=other_key)).status == 200
    client = await world.call(chat(user="u1"))
    assert client.error["code"] == "rate_limit_exceeded"
    assert client.headers["retry-after"] == "10"


@gate_test(limits=RETRY_LOOP)
async def test_the_same_embedding_again_and_again_is_no_retry_loop(world: World) -> None:
    for number in range(40):
        await world.call({"model": "embed", "input": "one"}, dialect=EMBEDDINGS, claimed={"user": str(number)})
        assert "fingerprint" not in world.last.labels


@gate_test(limits="  by-run: {usd: 1, per: lifetime, each: [user, run], require: true}")
async def test_a_required_label_that_is_missing_is_refused_by_name(world: World) -> None:
    client = await world.call(chat(), claimed={"user": "u1"})
    assert (client.status, client.error["code"]) == (400, "label_required")
    assert "'run'" in client.error["message"] and "`x-spendfuse-run`" in client.error["message"]
    assert world.ledger.demands == []
    assert (await world.call(chat(), claimed={"user": "u1", "run": "r1"})).status == 200


@gate_test(limits="  by-team: {usd: 1, per: lifetime, each: team, require: true}")
async def test_a_required_tag_is_asked_for_in_the_header_of_tags(world: World) -> None:
    client = await world.call(chat())
    assert "`x-spendfuse-tags: team=…`" in client.error["message"]
    assert (await world.call(chat(), claimed={"team": "blue"})).status == 200


@gate_test(limits="  by-run: {usd: 1, per: lifetime, each: run, require: true, match: {user: [agent]}}")
async def test_a_required_label_is_not_asked_of_calls_that_the_limit_does_not_cover(world: World) -> None:
    assert (await world.call(chat())).status == 200
    assert (await world.call(chat(user="agent"))).status == 400


@gate_test(limits="  by-run: {usd: 1, per: lifetime, each: run, require: true, on_exceed: shadow}")
async def test_a_shadow_limit_requires_nothing(world: World) -> None:
    assert (await world.call(chat())).status == 200
    assert await world.committed("by-run") == [('[""]', world.last.entry.amounts.cost, 0)]


@gate_test(limits="  by-user: {requests: 1, per: day, each: user}")
async def test_calls_without_a_label_are_counted_together_under_the_empty_value(world: World) -> None:
    assert [(await world.call(chat(), caller=APP)).status for _ in range(2)] == [200, 402]
    assert await world.committed("by-user") == [('[""]', 1, 0)]
