"""The official OpenAI SDK, through the gateway as against the provider itself."""

import asyncio
import base64
from collections.abc import Generator
from typing import Any

import httpx2
import openai
import pytest
from gateway import APP_KEY, RunningGateway, config_text, running_gateway, wait_until
from openai.types.chat import ChatCompletionMessageParam, ChatCompletionToolParam

from spendfuse.simulator.behaviour import Behaviour, Errors
from spendfuse.simulator.process import RunningSimulator, running_simulator

MESSAGES: list[ChatCompletionMessageParam] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "What is the weather in Bern?"},
]
TOOLS: list[ChatCompletionToolParam] = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "The weather of a city",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        },
    }
]
MODELS = ["gpt-4o-mini", "gpt-4o", "o4-mini", "embed", "claude-haiku", "claude-sonnet"]
PER_CALL = {"id", "created", "system_fingerprint"}


@pytest.fixture(scope="module")
def simulator() -> Generator[RunningSimulator]:
    with running_simulator(Behaviour(output_tokens=40)) as running:
        yield running


@pytest.fixture(scope="module")
def gateway(simulator: RunningSimulator, tmp_path_factory: pytest.TempPathFactory) -> Generator[RunningGateway]:
    limits = """
limits:
  company: {usd: 5, per: month}
  poor-man: {usd: '0.00005', per: month, each: user, match: {user: [poor]}}
"""
    # The provider's errors are what is tested, one after the other.
    config = config_text(simulator, limits=limits, more="breakers: {}")
    with running_gateway(config, tmp_path_factory.mktemp("sdk")) as running:
        yield running


@pytest.fixture
def direct(simulator: RunningSimulator) -> Generator[openai.OpenAI]:
    simulator.set_behaviour(Behaviour(output_tokens=40))
    with openai.OpenAI(base_url=simulator.base_url, api_key="sk-direct") as client:
        yield client


@pytest.fixture
def through(gateway: RunningGateway) -> Generator[openai.OpenAI]:
    with openai.OpenAI(base_url=gateway.base_url, api_key=APP_KEY) as client:
        yield client


def _shape(model: Any) -> Any:
    """An SDK object as plain data without what differs from call to call."""
    data = model.model_dump()
    return {name: value for name, value in data.items() if name not in PER_CALL}


def test_a_whole_answer_is_the_providers(direct: openai.OpenAI, through: openai.OpenAI) -> None:
    answers = [one.chat.completions.create(model="gpt-4o-mini", messages=MESSAGES) for one in (direct, through)]
    assert _shape(answers[0]) == _shape(answers[1])


@pytest.mark.parametrize("include_usage", [None, False, True])
def test_a_stream_is_the_providers_and_has_usage_only_when_asked_for(
    include_usage: bool | None, direct: openai.OpenAI, through: openai.OpenAI
) -> None:
    asked: dict[str, Any] = {} if include_usage is None else {"stream_options": {"include_usage": include_usage}}

    def chunks(client: openai.OpenAI) -> list[Any]:
        stream = client.chat.completions.create(model="gpt-4o-mini", messages=MESSAGES, stream=True, n=2, **asked)
        return [_shape(chunk) for chunk in stream]

    relayed = chunks(through)
    assert relayed == chunks(direct)
    assert [chunk for chunk in relayed if not chunk["choices"]] == (relayed[-1:] if include_usage else [])


@pytest.mark.parametrize("stream", [False, True])
def test_tool_calls_arrive_as_the_provider_made_them(
    stream: bool, simulator: RunningSimulator, direct: openai.OpenAI, through: openai.OpenAI
) -> None:
    simulator.set_behaviour(Behaviour(output_tokens=40, tool_call=True))

    def called(client: openai.OpenAI) -> tuple[str, str]:
        if not stream:
            answer = client.chat.completions.create(model="gpt-4o-mini", messages=MESSAGES, tools=TOOLS)
            (call,) = answer.choices[0].message.tool_calls or []
            assert call.type == "function"
            return call.function.name, call.function.arguments
        name = arguments = ""
        for chunk in client.chat.completions.create(model="gpt-4o-mini", messages=MESSAGES, tools=TOOLS, stream=True):
            for part in chunk.choices[0].delta.tool_calls or []:
                assert part.function is not None
                name += part.function.name or ""
                arguments += part.function.arguments or ""
        return name, arguments

    assert called(through) == called(direct)
    assert called(through)[0] == "weather"


def test_the_async_client_streams_and_does_not_stream(gateway: RunningGateway, simulator: RunningSimulator) -> None:
    simulator.set_behaviour(Behaviour(output_tokens=40))

    async def run() -> tuple[int, int]:
        async with openai.AsyncOpenAI(base_url=gateway.base_url, api_key=APP_KEY) as client:
            whole = await client.chat.completions.create(model="gpt-4o-mini", messages=MESSAGES)
            stream = await client.chat.completions.create(model="gpt-4o-mini", messages=MESSAGES, stream=True)
            streamed = [chunk.choices[0].delta.content or "" async for chunk in stream]
        assert "".join(streamed) == whole.choices[0].message.content
        assert whole.usage is not None
        return whole.usage.completion_tokens, len(streamed)

    output_tokens, chunks = asyncio.run(run())
    assert output_tokens == 40
    assert chunks > 1


def test_embeddings_and_models_are_served(direct: openai.OpenAI, through: openai.OpenAI) -> None:
    asked = ["one", "two and three"]
    made = through.embeddings.create(model="embed", input=asked)
    expected = direct.embeddings.create(model="text-embedding-3-small", input=asked)
    assert [one.embedding for one in made.data] == [one.embedding for one in expected.data]
    assert made.usage == expected.usage
    assert {model.id for model in through.models.list()} == set(MODELS)
    assert through.models.retrieve("gpt-4o").id == "gpt-4o"


def test_the_cost_header_is_what_the_provider_bills(through: openai.OpenAI, simulator: RunningSimulator) -> None:
    before = simulator.bill().nanos
    raw = through.chat.completions.with_raw_response.create(model="gpt-4o-mini", messages=MESSAGES)
    billed = simulator.bill().nanos - before
    dollars, _, decimals = raw.headers["x-spendfuse-cost-usd"].partition(".")
    assert int(dollars) * 10**9 + int(decimals.ljust(9, "0")) == billed
    assert len(raw.headers["x-spendfuse-call-id"]) == 13


@pytest.mark.parametrize("status", [400, 429, 500, 503])
def test_a_providers_error_reaches_the_client_as_it_is_and_costs_nothing(
    status: int, simulator: RunningSimulator, gateway: RunningGateway, direct: openai.OpenAI, through: openai.OpenAI
) -> None:
    simulator.set_behaviour(Behaviour(errors=Errors(status=status, every=1), retry_after=7))
    spent_before = gateway.totals().committed
    seen: list[tuple[int, object, str | None]] = []
    for client in (direct, through):
        with pytest.raises(openai.APIStatusError) as raised:
            client.with_options(max_retries=0).chat.completions.create(model="gpt-4o-mini", messages=MESSAGES)
        seen.append((raised.value.status_code, raised.value.body, raised.value.response.headers.get("retry-after")))
    assert seen[0] == seen[1]
    wait_until(lambda: gateway.totals().open_reservations == 0, 5, "the reservation is voided")
    assert gateway.totals().committed == spent_before


def test_a_spent_budget_raises_at_once_without_retries_and_names_the_limit(
    gateway: RunningGateway, simulator: RunningSimulator
) -> None:
    simulator.set_behaviour(Behaviour(output_tokens=40))
    sent: list[httpx2.Request] = []
    http_client = httpx2.Client(event_hooks={"request": [sent.append]})
    with openai.OpenAI(base_url=gateway.base_url, api_key=APP_KEY, max_retries=2, http_client=http_client) as client:
        client.chat.completions.create(model="gpt-4o-mini", messages=MESSAGES, user="poor", max_tokens=40)
        wait_until(lambda: gateway.totals().open_reservations == 0, 5, "the first call is settled")
        sent.clear()
        with pytest.raises(openai.APIStatusError, match=r'limit "poor-man" \(user=poor\)') as raised:
            client.chat.completions.create(model="gpt-4o-mini", messages=MESSAGES, user="poor", max_tokens=40)
    assert raised.value.status_code == 402
    assert raised.value.code == "budget_exceeded"
    assert len(sent) == 1


def test_embeddings_as_base64_are_passed_on(through: openai.OpenAI) -> None:
    made = through.embeddings.create(model="embed", input="one", encoding_format="base64")
    assert base64.b64decode(str(made.data[0].embedding))
