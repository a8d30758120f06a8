"""The official Anthropic SDK, through the gateway as against the provider itself."""

import asyncio
import base64
import io
from collections.abc import Callable, Generator
from typing import Any

import anthropic
import pytest
from gateway import APP_KEY, config_text, running_gateway
from PIL import Image
from twins import CLAUDE_TARGETS, Twins, nanos_of, same_ids, sent_requests, without_ids

from spendfuse.simulator.behaviour import Behaviour, Errors
from spendfuse.simulator.process import running_simulator

# The SDK says so of the targets' names when the provider is asked directly.
pytestmark = pytest.mark.filterwarnings("ignore:The model 'claude-:DeprecationWarning")

OUTPUT_TOKENS = 40
PLAIN: dict[str, Any] = {
    "model": "claude-haiku",
    "max_tokens": 300,
    "messages": [{"role": "user", "content": "What is the weather in Bern?"}],
}
TOOL: dict[str, Any] = {
    "name": "weather",
    "description": "The weather of a city",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
LONG_TEXT = "Know that a ledger is never wrong, and that whoever says so has not read it. " * 20
LIMITS = """
limits:
  company: {usd: 500, per: month}
  poor-man: {usd: '0.0004', per: month, each: user, match: {user: [poor]}}
  slow-man: {requests: 1, per: hour, burst: 1, each: user, match: {user: [slow]}}
  busy-man: {output_tokens: 100, per: lifetime, each: user, match: {user: [busy]}}
  counted-man: {requests: 2, per: day, each: user, match: {user: [counted]}}
busy_wait: 50ms
"""


def _png() -> str:
    buffer = io.BytesIO()
    Image.new("RGB", (640, 480), (90, 20, 20)).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": _png()}}
USED = {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Bern"}}
RESULT = {"type": "tool_result", "tool_use_id": "toolu_1", "content": [{"type": "text", "text": "Rain."}, IMAGE]}
DOCUMENT = {
    "type": "document",
    "title": "Rules",
    "citations": {"enabled": True},
    "source": {"type": "text", "media_type": "text/plain", "data": LONG_TEXT},
}


def _said(*blocks: object) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": list(blocks)}]}


def _text(text: str, **more: object) -> dict[str, Any]:
    return {"type": "text", "text": text, **more}


def _kept(ttl: str) -> dict[str, Any]:
    return {"cache_control": {"type": "ephemeral", "ttl": ttl}}


CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "a system text": {"system": "Be brief."},
    "system blocks": {"system": [_text("Be brief."), _text("Grüße. Be kind. 🙂")]},
    "an output that its cap cuts": {"max_tokens": 7},
    "tools": {"tools": [TOOL]},
    "a tool by name": {"tools": [TOOL], "tool_choice": {"type": "tool", "name": "weather"}},
    "a tool of the vendor": {"tools": [{"type": "bash_20250124", "name": "bash"}], "model": "claude-sonnet"},
    "a tool's result": {
        "tools": [TOOL],
        "messages": [
            *PLAIN["messages"],
            {"role": "assistant", "content": [USED]},
            {"role": "user", "content": [RESULT]},
        ],
    },
    "thinking": {
        "model": "claude-sonnet",
        "max_tokens": 3_000,
        "thinking": {"type": "enabled", "budget_tokens": 2_000},
    },
    "adaptive thinking": {"model": "claude-opus", "thinking": {"type": "adaptive", "display": "omitted"}},
    "kept for five minutes": {"system": [_text(LONG_TEXT, **_kept("5m"))]},
    "kept for an hour": {"system": [_text(LONG_TEXT, **_kept("1h"))], "model": "claude-sonnet"},
    "kept for both": {"system": [_text(LONG_TEXT, **_kept("1h"))], **_said(_text(LONG_TEXT, **_kept("5m")))},
    "kept as a whole": {"cache_control": {"type": "ephemeral"}, "system": LONG_TEXT},
    "an image": _said(IMAGE, _text("What is this?")),
    "a document": _said(DOCUMENT, _text("What does it say?")),
    "sampling and its end": {
        "stop_sequences": ["never said", " token token token"],
        "extra_body": {"temperature": 0.3, "top_k": 5, "top_p": 0.9},
    },
    "an answer begun": {"messages": [*PLAIN["messages"], {"role": "assistant", "content": "It is"}]},
    "a user": {"metadata": {"user_id": "u" * 200}, "service_tier": "standard_only"},
}


def _raw_events(client: anthropic.Anthropic, body: dict[str, Any]) -> object:
    return without_ids(list(client.messages.create(**body, stream=True)))


def _accumulated(client: anthropic.Anthropic, body: dict[str, Any]) -> object:
    with client.messages.stream(**body) as stream:
        return without_ids(list(stream)), without_ids(stream.get_final_message())


WAYS_TO_ASK: dict[str, Callable[[anthropic.Anthropic, dict[str, Any]], object]] = {
    "create": lambda client, body: without_ids(client.messages.create(**body)),
    "create stream": _raw_events,
    "stream": _accumulated,
    "beta": lambda client, body: without_ids(
        client.beta.messages.create(**body, betas=["interleaved-thinking-2025-05-14"])
    ),
}


@pytest.fixture(scope="module")
def twins(tmp_path_factory: pytest.TempPathFactory) -> Generator[Twins]:
    with running_simulator() as direct, running_simulator() as behind:
        config = config_text(behind, limits=LIMITS, more="breakers: {}")
        config = config.replace("  embed:", "  claude-opus: anthropic/claude-opus-4-6\n  embed:")
        with running_gateway(config, tmp_path_factory.mktemp("anthropic")) as gateway:
            yield Twins(direct, behind, gateway)


@pytest.fixture
def clients(twins: Twins) -> Generator[tuple[anthropic.Anthropic, anthropic.Anthropic]]:
    """Of the provider, and of the gateway."""
    direct, through = twins.anthropic_clients()
    with direct, through:
        yield direct, through


@pytest.fixture
def through(clients: tuple[anthropic.Anthropic, anthropic.Anthropic]) -> anthropic.Anthropic:
    return clients[1]


def _targeted(body: dict[str, Any]) -> dict[str, Any]:
    """What a request is to the provider itself."""
    return {**body, "model": CLAUDE_TARGETS[body["model"]]}


@pytest.mark.parametrize("how", WAYS_TO_ASK)
@pytest.mark.parametrize("case", CASES)
def test_an_answer_is_the_providers_and_so_is_its_price(
    case: str, how: str, twins: Twins, clients: tuple[anthropic.Anthropic, anthropic.Anthropic]
) -> None:
    direct, through = clients
    body = {**PLAIN, **CASES[case]}
    ask = WAYS_TO_ASK[how]
    with twins.counted_alike():
        twins.behave(Behaviour(output_tokens=OUTPUT_TOKENS, tool_call="tools" in body))
        # Twice: what the first call has the provider keep, the second reads from there.
        for _ in range(2):
            assert ask(through, body) == ask(direct, _targeted(body))


@pytest.mark.parametrize("case", ["plain", "thinking", "tools", "kept for both"])
def test_the_async_client_gets_the_same(case: str, twins: Twins) -> None:
    body = {**PLAIN, **CASES[case]}

    async def ask(client: anthropic.AsyncAnthropic, body: dict[str, Any]) -> list[object]:
        async with client:
            whole = await client.messages.create(**body)
            async with client.messages.stream(**body) as stream:
                texts = [text async for text in stream.text_stream]
                streamed = await stream.get_final_message()
        assert "".join(texts) == "".join(block.text for block in streamed.content if block.type == "text")
        assert len(texts) > 0
        return [without_ids(whole), texts, without_ids(streamed)]

    async def both() -> tuple[list[object], list[object]]:
        direct = anthropic.AsyncAnthropic(base_url=twins.direct.anthropic_base_url, api_key="sk-direct")
        through = anthropic.AsyncAnthropic(base_url=twins.root, api_key=APP_KEY)
        return await asyncio.gather(ask(direct, _targeted(body)), ask(through, body))

    with twins.counted_alike():
        twins.behave(Behaviour(output_tokens=OUTPUT_TOKENS, tool_call="tools" in body))
        direct, through = asyncio.run(both())
    assert direct == through


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("case", ["plain", "tools", "thinking", "adaptive thinking"])
def test_the_bytes_are_the_providers(
    case: str, stream: bool, twins: Twins, clients: tuple[anthropic.Anthropic, anthropic.Anthropic]
) -> None:
    body = {**PLAIN, **CASES[case], "stream": stream}

    def bytes_of(client: anthropic.Anthropic, body: dict[str, Any]) -> bytes:
        with client.messages.with_streaming_response.create(**body) as response:
            return same_ids(response.read())

    with twins.counted_alike():
        twins.behave(Behaviour(output_tokens=OUTPUT_TOKENS, tool_call="tools" in body))
        direct, through = clients
        assert bytes_of(through, body) == bytes_of(direct, _targeted(body))


def test_what_is_kept_and_read_is_told_as_the_provider_tells_it(twins: Twins, through: anthropic.Anthropic) -> None:
    with twins.counted():
        written, read = [through.messages.create(**{**PLAIN, **CASES["kept for both"]}).usage for _ in range(2)]
    assert written.cache_creation is not None
    assert written.cache_creation.ephemeral_1h_input_tokens > 0
    assert written.cache_creation.ephemeral_5m_input_tokens > 0
    assert read.cache_read_input_tokens == written.cache_creation_input_tokens
    assert read.cache_creation_input_tokens == 0


@pytest.mark.parametrize("case", ["plain", "tools", "an image", "a document", "thinking", "system blocks"])
def test_a_count_is_the_providers_and_free(
    case: str, twins: Twins, clients: tuple[anthropic.Anthropic, anthropic.Anthropic]
) -> None:
    body = {name: value for name, value in {**PLAIN, **CASES[case]}.items() if name != "max_tokens"}
    direct, through = clients
    with twins.free():
        assert through.messages.count_tokens(**body) == direct.messages.count_tokens(**_targeted(body))


def test_counts_are_counted_by_limits_of_requests(twins: Twins, through: anthropic.Anthropic) -> None:
    body: dict[str, Any] = {"model": "claude-haiku", "messages": PLAIN["messages"]}
    of_user: dict[str, Any] = {"extra_headers": {"x-spendfuse-user": "counted"}}
    with twins.free():
        for _ in range(2):
            assert through.messages.count_tokens(**body, **of_user).input_tokens > 0
        with pytest.raises(anthropic.APIStatusError, match="counted-man") as raised:
            through.messages.count_tokens(**body, **of_user)
    assert raised.value.status_code == 402


def test_models_are_listed_and_found_by_their_public_names(twins: Twins, through: anthropic.Anthropic) -> None:
    with twins.nothing_upstream():
        listed = list(through.models.list())
        assert {model.id for model in listed} >= set(CLAUDE_TARGETS)
        found = through.models.retrieve("claude-haiku")
        assert (found.id, found.type, found.display_name) == ("claude-haiku", "model", "claude-haiku")
        assert found in listed
        with pytest.raises(anthropic.NotFoundError) as raised:
            through.models.retrieve("claude-99")
    assert _error(raised.value) == ("not_found_error", "model_not_found")


def _error(error: anthropic.APIStatusError) -> tuple[str, str]:
    """Type and code of an error in Anthropic's shape."""
    body: Any = error.body
    assert body["type"] == "error"
    return body["error"]["type"], body["error"]["code"]


def _seen_error(error: anthropic.APIStatusError) -> tuple[object, ...]:
    headers = error.response.headers
    kept = [headers.get(name) for name in ("retry-after", "x-should-retry")]
    return type(error), error.status_code, without_ids(error.body), *kept


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 429, 500, 503, 529])
def test_a_providers_error_reaches_the_client_as_it_is_and_costs_nothing(
    status: int, stream: bool, twins: Twins, clients: tuple[anthropic.Anthropic, anthropic.Anthropic]
) -> None:
    direct, through = clients
    seen: list[tuple[object, ...]] = []
    with twins.free():
        twins.behave(Behaviour(errors=Errors(status=status, every=1), retry_after=7))
        for client, body in ((direct, _targeted(PLAIN)), (through, PLAIN)):
            with pytest.raises(anthropic.APIStatusError) as raised:
                client.messages.create(**body, stream=stream)
            assert raised.value.request_id is not None
            seen.append(_seen_error(raised.value))
    assert seen[0] == seen[1]
    assert seen[0][3] == "7"


def test_the_providers_own_complaints_about_a_request_are_its_words(
    twins: Twins, clients: tuple[anthropic.Anthropic, anthropic.Anthropic]
) -> None:
    wrong = {**PLAIN, "messages": [{"role": "assistant", "content": [RESULT]}]}
    seen: list[tuple[object, ...]] = []
    with twins.free():
        for client, body in zip(clients, (_targeted(wrong), wrong), strict=True):
            with pytest.raises(anthropic.BadRequestError) as raised:
                client.messages.create(**body)
            seen.append(_seen_error(raised.value))
    assert seen[0] == seen[1]


def test_an_error_is_retried_by_the_sdk_as_the_provider_wishes_and_only_what_succeeds_is_charged(twins: Twins) -> None:
    with twins.counted(), sent_requests() as (http_client, sent):
        twins.behave(Behaviour(output_tokens=OUTPUT_TOKENS, errors=Errors(status=529, next_calls=1)))
        client = anthropic.Anthropic(base_url=twins.root, api_key=APP_KEY, max_retries=2, http_client=http_client)
        assert client.messages.create(**PLAIN).usage.output_tokens == OUTPUT_TOKENS
    assert len(sent) == 2


@pytest.mark.parametrize("stream", [False, True])
def test_a_spent_budget_raises_at_once_without_retries_and_names_the_limit(stream: bool, twins: Twins) -> None:
    body = {**PLAIN, "max_tokens": 40, "metadata": {"user_id": "poor"}, "stream": stream}
    with sent_requests() as (http_client, sent):
        client = anthropic.Anthropic(base_url=twins.root, api_key=APP_KEY, max_retries=2, http_client=http_client)
        _spend(client, twins, body)
        with twins.nothing_upstream():
            sent.clear()
            with pytest.raises(anthropic.APIStatusError, match=r'limit "poor-man" \(user=poor\)') as raised:
                client.messages.create(**body)
    assert raised.value.status_code == 402
    assert _error(raised.value) == ("billing_error", "budget_exceeded")
    assert isinstance(raised.value, anthropic.PaymentRequiredError)
    assert len(sent) == 1
    error: Any = raised.value.body
    (reason,) = error["error"]["spendfuse"]["limits"]
    assert (reason["limit"], reason["subject"], reason["amount"]) == ("poor-man", {"user": "poor"}, "0.0004")


def _spend(client: anthropic.Anthropic, twins: Twins, body: dict[str, Any]) -> None:
    """Use a limit up, until it refuses."""
    for _ in range(10):
        try:
            client.messages.create(**{**body, "stream": False})
        except anthropic.APIStatusError:
            return
        twins.settled_nanos()
    raise AssertionError("never refused")


def test_a_rate_says_when_to_come_again(twins: Twins, through: anthropic.Anthropic) -> None:
    body = {**PLAIN, "extra_headers": {"x-spendfuse-user": "slow"}}
    with twins.counted():
        through.messages.create(**body)
        with pytest.raises(anthropic.RateLimitError, match="slow-man") as raised:
            through.messages.create(**body)
    assert _error(raised.value) == ("rate_limit_error", "rate_limit_exceeded")
    assert 0 < int(raised.value.response.headers["retry-after"]) <= 3_600
    assert "x-should-retry" not in raised.value.response.headers


def test_a_limit_that_is_held_by_a_call_in_flight_says_when_to_come_again(twins: Twins) -> None:
    body = {**PLAIN, "max_tokens": 100, "metadata": {"user_id": "busy"}}

    async def run() -> anthropic.RateLimitError:
        async with anthropic.AsyncAnthropic(base_url=twins.root, api_key=APP_KEY, max_retries=0) as client:
            holding = asyncio.create_task(client.messages.create(**body))
            while twins.behind.bill().calls["running"] == 0:
                await asyncio.sleep(0.01)
            with pytest.raises(anthropic.RateLimitError, match="busy-man") as raised:
                await client.messages.create(**body)
            holding.cancel()
            await asyncio.gather(holding, return_exceptions=True)
        return raised.value

    twins.behave(Behaviour(hang=True))
    refused = asyncio.run(run())
    twins.settled_nanos()
    assert _error(refused) == ("rate_limit_error", "budget_busy")
    assert int(refused.response.headers["retry-after"]) >= 1


def test_a_key_may_come_as_the_vendors_or_as_a_bearer_token(twins: Twins) -> None:
    def ask(**credentials: str) -> object:
        with anthropic.Anthropic(base_url=twins.root, max_retries=0, **credentials) as client:  # pyright: ignore[reportArgumentType]
            return without_ids(client.messages.create(**PLAIN))

    with twins.counted():
        assert ask(api_key=APP_KEY) == ask(auth_token=APP_KEY)
    with twins.nothing_upstream():
        for credentials in ({"api_key": "sk-wrong"}, {"auth_token": "sk-wrong"}):
            with pytest.raises(anthropic.AuthenticationError) as raised:
                ask(**credentials)
            assert _error(raised.value) == ("authentication_error", "invalid_api_key")


@pytest.mark.parametrize("method", ["create", "stream", "count_tokens"])
def test_an_unknown_beta_is_refused_by_its_name(method: str, twins: Twins, through: anthropic.Anthropic) -> None:
    body = dict(PLAIN)
    if method == "count_tokens":
        del body["max_tokens"]
    betas = {"anthropic-beta": "interleaved-thinking-2025-05-14,brand-new-2099-01-01"}
    with twins.nothing_upstream(), pytest.raises(anthropic.BadRequestError, match="brand-new-2099-01-01") as raised:
        answer = getattr(through.messages, method)(**body, extra_headers=betas)
        if method == "stream":
            with answer:
                raise AssertionError("not refused")
    assert _error(raised.value) == ("invalid_request_error", "invalid_request")
    assert "betas:" in str(raised.value)


def test_labels_never_go_up_and_the_vendors_own_headers_do(twins: Twins, through: anthropic.Anthropic) -> None:
    labels = {"x-spendfuse-user": "u1", "x-spendfuse-feature": "search", "x-spendfuse-tags": "team=a"}
    own = {"anthropic-version": "2099-12-31", "anthropic-beta": "files-api-2025-04-14"}
    with twins.counted():
        through.messages.create(**PLAIN, extra_headers={**labels, **own})
    sent = twins.behind.last_request()
    assert sent is not None
    assert not [name for name in sent.headers if name.startswith(("x-spendfuse-", "x-stainless-"))]
    assert {"anthropic-version", "anthropic-beta", "x-api-key"} <= set(sent.headers)
    assert "authorization" not in sent.headers
    spent = twins.gateway.run("report", "--by", "feature", "--format", "json").stdout
    assert "search" in spent


def test_labels_in_the_body_attribute_a_call_and_the_provider_takes_the_rest(
    twins: Twins, through: anthropic.Anthropic
) -> None:
    with twins.counted():
        through.messages.create(**{**PLAIN, "metadata": {"user_id": "u1", "feature": "ranking"}})
    assert "ranking" in twins.gateway.run("report", "--by", "feature", "--format", "json").stdout


def test_the_cost_header_is_what_the_provider_bills(twins: Twins, through: anthropic.Anthropic) -> None:
    with twins.counted():
        raw = through.messages.with_raw_response.create(**{**PLAIN, **CASES["kept for both"]})
        assert nanos_of(raw.headers["x-spendfuse-cost-usd"]) == twins.behind.bill().nanos > 0
    assert len(raw.headers["x-spendfuse-call-id"]) == 13
    with twins.free():
        body: dict[str, Any] = {"model": "claude-haiku", "messages": PLAIN["messages"]}
        counted = through.messages.with_raw_response.count_tokens(**body)
        assert nanos_of(counted.headers["x-spendfuse-cost-usd"]) == 0


def test_many_calls_at_once_are_charged_to_the_nano(twins: Twins) -> None:
    bodies = [{**PLAIN, **more} for more in CASES.values()] * 3

    async def run() -> None:
        async with anthropic.AsyncAnthropic(base_url=twins.root, api_key=APP_KEY, max_retries=0) as client:
            await asyncio.gather(*(_drawn(client, body, stream=at % 2 == 0) for at, body in enumerate(bodies)))

    with twins.counted():
        twins.behave(Behaviour(output_tokens=OUTPUT_TOKENS, chunk_interval_s=0.01))
        asyncio.run(run())
        assert twins.behind.bill().calls["completed"] == len(bodies)
    twins.gateway.run("audit")


async def _drawn(client: anthropic.AsyncAnthropic, body: dict[str, Any], *, stream: bool) -> None:
    if stream:
        async with client.messages.stream(**body) as events:
            await events.until_done()
    else:
        await client.messages.create(**body)
