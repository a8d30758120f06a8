"""The official OpenAI SDK with a model of a provider that speaks Anthropic: the same call as the provider's own client
would make, told in OpenAI's words, and refused where those have no translation.
"""

import asyncio
import base64
import io
from collections.abc import Generator
from typing import Any

import anthropic
import openai
import pytest
from gateway import APP_KEY, config_text, running_gateway
from openai.types import CompletionUsage
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from PIL import Image
from twins import CLAUDE_TARGETS, Twins, nanos_of, sent_requests

from spendfuse.simulator.behaviour import Behaviour, Errors
from spendfuse.simulator.process import running_simulator

# The SDK says so of the targets' names when the provider is asked directly.
pytestmark = pytest.mark.filterwarnings("ignore:The model 'claude-:DeprecationWarning")

OUTPUT_TOKENS = 40
USER = {"role": "user", "content": "What is the weather in Bern?"}
PLAIN: dict[str, Any] = {"model": "claude-haiku", "max_tokens": 300, "messages": [USER]}
LONG_TEXT = "Know that a ledger is never wrong, and that whoever says so has not read it. " * 20
LIMITS = """
limits:
  company: {usd: 500, per: month}
  poor-man: {usd: '0.0004', per: month, each: user, match: {user: [poor]}}
  slow-man: {requests: 1, per: hour, burst: 1, each: user, match: {user: [slow]}}
"""


def _base64_jpeg() -> str:
    buffer = io.BytesIO()
    Image.new("RGB", (640, 480), (90, 20, 20)).save(buffer, "JPEG")
    return base64.b64encode(buffer.getvalue()).decode()


JPEG = _base64_jpeg()
JPEG_URL = f"data:image/jpeg;base64,{JPEG}"
IMAGE_PART = {"type": "image_url", "image_url": {"url": JPEG_URL, "detail": "high"}}
IMAGE_BLOCK = {"type": "image", "source": {"type": "base64", "media_type": "image/jpeg", "data": JPEG}}
KEPT = {"cache_control": {"type": "ephemeral"}}


def _text(text: str, **more: object) -> dict[str, Any]:
    return {"type": "text", "text": text, **more}


def _messages(*messages: tuple[str, object]) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": content} for role, content in messages]}


# What is asked in OpenAI's words, and what the provider's own client says for it.
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "plain": ({}, {}),
    "the newer name of the cap": ({"max_tokens": openai.omit, "max_completion_tokens": 300}, {}),
    "a cap that cuts": ({"max_tokens": 7}, {"max_tokens": 7}),
    "a system message": (
        {"messages": [{"role": "system", "content": "Be brief."}, USER]},
        {"system": [_text("Be brief.")]},
    ),
    "system messages and a developer's": (
        {
            "messages": [
                {"role": "system", "content": [_text("Be brief. Grüße 🙂")]},
                {"role": "developer", "content": "Be kind."},
                USER,
            ]
        },
        {"system": [_text("Be brief. Grüße 🙂"), _text("Be kind.")]},
    ),
    "a conversation": (
        _messages(("user", "Hi."), ("assistant", "Hello!"), ("user", [_text("How"), _text(" are you?")])),
        _messages(("user", "Hi."), ("assistant", "Hello!"), ("user", [_text("How"), _text(" are you?")])),
    ),
    "an image": (
        _messages(("user", [_text("What is this?"), IMAGE_PART])),
        _messages(("user", [_text("What is this?"), IMAGE_BLOCK])),
    ),
    "an image by its URL": (
        _messages(("user", [{"type": "image_url", "image_url": {"url": "https://images.example/cat.jpg"}}])),
        _messages(("user", [{"type": "image", "source": {"type": "url", "url": "https://images.example/cat.jpg"}}])),
    ),
    "one stop": ({"stop": " token token token"}, {"stop_sequences": [" token token token"]}),
    "many stops": ({"stop": ["never", " token token"]}, {"stop_sequences": ["never", " token token"]}),
    "sampling": (
        {"temperature": 0.5, "top_p": 0.5, "n": 1, "seed": None, "logprobs": False},
        {"extra_body": {"temperature": 0.5, "top_p": 0.5}},
    ),
    "a user": ({"user": "u1", "metadata": {"feature": "search"}}, {"metadata": {"user_id": "u1"}}),
    "kept by the provider": (
        _messages(("system", [_text(LONG_TEXT, **KEPT)]), ("user", "Hi.")),
        {"system": [_text(LONG_TEXT, **KEPT)], **_messages(("user", "Hi."))},
    ),
}
FINISH_REASONS = {"end_turn": "stop", "stop_sequence": "stop", "max_tokens": "length"}


@pytest.fixture(scope="module")
def twins(tmp_path_factory: pytest.TempPathFactory) -> Generator[Twins]:
    with running_simulator() as direct, running_simulator() as behind:
        config = config_text(behind, limits=LIMITS, more="breakers: {}")
        with running_gateway(config, tmp_path_factory.mktemp("translated")) as gateway:
            yield Twins(direct, behind, gateway)


@pytest.fixture
def through(twins: Twins) -> Generator[openai.OpenAI]:
    with twins.openai_client() as client:
        yield client


@pytest.fixture
def direct(twins: Twins) -> Generator[anthropic.Anthropic]:
    direct, through = twins.anthropic_clients()
    with direct, through:
        yield direct


def _expected(message: anthropic.types.Message) -> dict[str, Any]:
    """What a message says, in OpenAI's words."""
    usage = message.usage
    written, read = usage.cache_creation_input_tokens or 0, usage.cache_read_input_tokens or 0
    input_tokens = usage.input_tokens + written + read
    return {
        "model": message.model,
        "text": "".join(block.text for block in message.content if block.type == "text"),
        "finish_reason": FINISH_REASONS[str(message.stop_reason)],
        "usage": (input_tokens, usage.output_tokens, input_tokens + usage.output_tokens, read),
    }


def _told_usage(usage: CompletionUsage | None) -> tuple[int, int, int, int | None] | None:
    if usage is None:
        return None
    assert usage.prompt_tokens_details is not None
    cached = usage.prompt_tokens_details.cached_tokens
    return usage.prompt_tokens, usage.completion_tokens, usage.total_tokens, cached


def _told(answer: ChatCompletion) -> dict[str, Any]:
    (choice,) = answer.choices
    assert choice.message.role == "assistant"
    assert answer.id.startswith("msg_")
    assert answer.created > 1_700_000_000
    return {
        "model": answer.model,
        "text": choice.message.content,
        "finish_reason": choice.finish_reason,
        "usage": _told_usage(answer.usage),
    }


class Heard:
    """A stream as a client puts it together, with what every chunk must be."""

    def __init__(self) -> None:
        self.text = ""
        self.finish_reasons: list[str] = []
        self.usages: list[CompletionUsage] = []
        self.deltas = 0
        self._head: tuple[object, ...] | None = None
        self.model = ""

    def take(self, chunk: ChatCompletionChunk) -> None:
        head = (chunk.id, chunk.object, chunk.created, chunk.model)
        assert self._head in (None, head), "a chunk of another answer"
        assert chunk.object == "chat.completion.chunk"
        assert not self.usages, "something behind the usage"
        self._head, self.model = head, chunk.model
        for choice in chunk.choices:
            assert choice.index == 0
            self.text += choice.delta.content or ""
            self.deltas += bool(choice.delta.content)
            self.finish_reasons += [choice.finish_reason] if choice.finish_reason else []
        if chunk.usage is not None:
            assert chunk.choices == []
            self.usages.append(chunk.usage)


@pytest.mark.parametrize("case", CASES)
def test_a_whole_answer_is_the_providers_in_other_words_and_costs_the_same(
    case: str, twins: Twins, through: openai.OpenAI, direct: anthropic.Anthropic
) -> None:
    asked, said = CASES[case]
    with twins.counted_alike():
        twins.behave(Behaviour(output_tokens=OUTPUT_TOKENS))
        # Twice: what the first call has the provider keep, the second reads from there.
        for _ in range(2):
            answer = through.chat.completions.create(**{**PLAIN, **asked})
            message = direct.messages.create(**{**PLAIN, **said, "model": CLAUDE_TARGETS["claude-haiku"]})
            assert _told(answer) == _expected(message)


@pytest.mark.parametrize("include_usage", [None, False, True])
@pytest.mark.parametrize("case", CASES)
def test_a_stream_is_the_providers_in_other_words_and_costs_the_same(
    case: str, include_usage: bool | None, twins: Twins, through: openai.OpenAI, direct: anthropic.Anthropic
) -> None:
    asked, said = CASES[case]
    options: dict[str, Any] = {} if include_usage is None else {"stream_options": {"include_usage": include_usage}}
    with twins.counted_alike():
        twins.behave(Behaviour(output_tokens=OUTPUT_TOKENS))
        heard = Heard()
        for chunk in through.chat.completions.create(**{**PLAIN, **asked}, stream=True, **options):
            heard.take(chunk)
        message = direct.messages.create(**{**PLAIN, **said, "model": CLAUDE_TARGETS["claude-haiku"]})
    expected = _expected(message)
    assert (heard.model, heard.text) == (expected["model"], expected["text"])
    assert heard.finish_reasons == [expected["finish_reason"]]
    assert [_told_usage(one) for one in heard.usages] == ([expected["usage"]] if include_usage else [])


def test_the_sdks_own_helper_puts_a_stream_together(twins: Twins, through: openai.OpenAI) -> None:
    with twins.counted(), through.chat.completions.stream(**PLAIN, stream_options={"include_usage": True}) as stream:
        twins.behave(Behaviour(output_tokens=OUTPUT_TOKENS))
        stream.until_done()
        whole = stream.get_final_completion()
    assert whole.choices[0].finish_reason == "stop"
    assert whole.usage is not None


def test_the_async_client_streams_and_does_not_stream(twins: Twins) -> None:
    async def run() -> Heard:
        async with openai.AsyncOpenAI(base_url=twins.gateway.base_url, api_key=APP_KEY) as client:
            whole, stream = await asyncio.gather(
                client.chat.completions.create(**PLAIN), client.chat.completions.create(**PLAIN, stream=True)
            )
            heard = Heard()
            async for chunk in stream:
                heard.take(chunk)
        assert heard.text == whole.choices[0].message.content
        return heard

    with twins.counted():
        twins.behave(Behaviour(output_tokens=OUTPUT_TOKENS, chunk_tokens=5))
        assert asyncio.run(run()).deltas == OUTPUT_TOKENS // 5


def test_a_call_without_a_cap_gets_one_and_is_told(twins: Twins, through: openai.OpenAI) -> None:
    with twins.counted():
        raw = through.chat.completions.with_raw_response.create(model="claude-haiku", messages=[USER])  # pyright: ignore[reportArgumentType]
        (record,) = twins.behind.bill(with_records=True).records
    assert raw.headers["x-spendfuse-max-tokens"] == str(record.cap) == "8192"


NOT_CARRIED: dict[str, tuple[dict[str, Any], str]] = {
    "tools": (
        {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]},
        "tools",
    ),
    "old functions": ({"functions": [{"name": "f", "parameters": {"type": "object"}}]}, "functions"),
    "a tool's choice": ({"tool_choice": "auto"}, "tool_choice"),
    "two choices": ({"n": 2}, "n"),
    "a schema": (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}}},
        "response_format",
    ),
    "an object": ({"response_format": {"type": "json_object"}}, "response_format"),
    "a bias": ({"logit_bias": {"50256": -100}}, "logit_bias"),
    "a seed": ({"seed": 7}, "seed"),
    "logprobs": ({"logprobs": True, "top_logprobs": 2}, "logprobs"),
    "a penalty": ({"frequency_penalty": 0.5}, "frequency_penalty"),
    "an effort": ({"reasoning_effort": "low"}, "reasoning_effort"),
    "verbosity": ({"verbosity": "low"}, "verbosity"),
    "storage": ({"store": True}, "store"),
    "a dearer tier": ({"service_tier": "priority"}, "service_tier"),
    "audio": ({"modalities": ["text", "audio"], "audio": {"voice": "alloy", "format": "wav"}}, "audio"),
    "a prediction": ({"prediction": {"type": "content", "content": "x"}}, "prediction"),
    "a search": ({"web_search_options": {}}, "web_search_options"),
    "an unknown field": ({"extra_body": {"brand_new": 1}}, "brand_new"),
    "a temperature above one": ({"temperature": 1.5}, "temperature"),
    "obfuscation": ({"stream": True, "stream_options": {"include_obfuscation": True}}, "stream_options"),
    "spoken input": (
        _messages(("user", [{"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}])),
        "messages[0].content[0]",
    ),
    "a file": (_messages(("user", [{"type": "file", "file": {"file_id": "file-1"}}])), "messages[0].content[0]"),
    "a small detail": (
        _messages(("user", [{"type": "image_url", "image_url": {"url": JPEG_URL, "detail": "low"}}])),
        "messages[0].content[0].image_url.detail",
    ),
    "a bitmap": (
        _messages(("user", [{"type": "image_url", "image_url": {"url": "data:image/bmp;base64,AAAA"}}])),
        "messages[0].content[0].image_url.url",
    ),
    "an image of the assistant's": (_messages(("user", "Hi."), ("assistant", [IMAGE_PART])), "messages[1].content[0]"),
    "a tool's result": (
        {"messages": [USER, {"role": "tool", "tool_call_id": "c1", "content": "Rain."}]},
        "messages[1]",
    ),
    "a call of a tool": (
        {
            "messages": [
                USER,
                {
                    "role": "assistant",
                    "content": None,
                    "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
                },
            ]
        },
        "messages[1]",
    ),
    "a name": ({"messages": [{**USER, "name": "ann"}]}, "messages[0].name"),
    "a late system message": (_messages(("user", "Hi."), ("system", "Be brief.")), "messages[1].role"),
    "no user": (_messages(("system", "Be brief.")), "messages"),
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("case", NOT_CARRIED)
def test_what_can_not_be_carried_is_refused_by_its_name(
    case: str, stream: bool, twins: Twins, through: openai.OpenAI
) -> None:
    asked, named = NOT_CARRIED[case]
    with twins.nothing_upstream(), pytest.raises(openai.BadRequestError) as raised:
        through.chat.completions.create(**{**PLAIN, "stream": stream, **asked})
    error = raised.value
    assert (error.code, error.type) == ("invalid_request", "invalid_request_error")
    assert str(error.param).startswith(named)
    assert f"`{named}" in error.message
    assert error.response.headers["x-should-retry"] == "false"


ERROR_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    500: "api_error",
    503: "api_error",
    529: "overloaded_error",
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("status", ERROR_TYPES)
def test_a_providers_error_arrives_in_openais_shape_and_costs_nothing(
    status: int, stream: bool, twins: Twins, through: openai.OpenAI, direct: anthropic.Anthropic
) -> None:
    with twins.free():
        twins.behave(Behaviour(errors=Errors(status=status, every=1), retry_after=7))
        with pytest.raises(openai.APIStatusError) as raised:
            through.chat.completions.create(**PLAIN, stream=stream)
        with pytest.raises(anthropic.APIStatusError) as own:
            direct.messages.create(**{**PLAIN, "model": CLAUDE_TARGETS["claude-haiku"]})
    assert raised.value.status_code == own.value.status_code == status
    assert raised.value.response.headers["retry-after"] == "7"
    told: Any = own.value.body
    assert (raised.value.type, raised.value.code) == (told["error"]["type"], None)
    assert raised.value.type == ERROR_TYPES[status]
    body: Any = raised.value.body
    assert body == {"message": told["error"]["message"], "type": raised.value.type, "param": None, "code": None}


def test_the_providers_own_complaint_is_told(twins: Twins, through: openai.OpenAI) -> None:
    with twins.free(), pytest.raises(openai.BadRequestError, match="final assistant content cannot end") as raised:
        through.chat.completions.create(**{**PLAIN, **_messages(("user", "Hi."), ("assistant", "It is "))})
    assert raised.value.type == "invalid_request_error"


def test_an_error_is_retried_by_the_sdk_and_only_what_succeeds_is_charged(twins: Twins) -> None:
    with twins.counted(), sent_requests() as (http_client, sent):
        twins.behave(Behaviour(output_tokens=OUTPUT_TOKENS, errors=Errors(status=529, next_calls=1)))
        client = twins.openai_client(max_retries=2, http_client=http_client)
        assert client.chat.completions.create(**PLAIN).usage is not None
    assert len(sent) == 2


@pytest.mark.parametrize("stream", [False, True])
def test_a_spent_budget_raises_at_once_without_retries_and_names_the_limit(stream: bool, twins: Twins) -> None:
    body = {**PLAIN, "max_tokens": 40, "user": "poor"}
    with sent_requests() as (http_client, sent):
        client = twins.openai_client(max_retries=2, http_client=http_client)
        for _ in range(10):
            sent.clear()
            twins.settled_nanos()
            twins.behind.reset()
            try:
                client.chat.completions.create(**body, stream=stream)
            except openai.APIStatusError as error:
                refused = error
                break
        else:
            raise AssertionError("never refused")
        assert twins.behind.last_request() is None
    assert (refused.status_code, refused.code, refused.type) == (402, "budget_exceeded", "insufficient_quota")
    assert 'limit "poor-man" (user=poor)' in refused.message
    assert len(sent) == 1


def test_a_rate_says_when_to_come_again(twins: Twins, through: openai.OpenAI) -> None:
    with twins.counted():
        through.chat.completions.create(**PLAIN, user="slow")
        with pytest.raises(openai.RateLimitError, match="slow-man") as raised:
            through.chat.completions.create(**PLAIN, user="slow")
    assert raised.value.code == "rate_limit_exceeded"
    assert 0 < int(raised.value.response.headers["retry-after"]) <= 3_600


def test_labels_stay_here_and_so_do_the_headers_of_another_vendor(twins: Twins, through: openai.OpenAI) -> None:
    headers = {
        "x-spendfuse-feature": "ranking",
        "anthropic-beta": "context-1m-2025-08-07",
        "anthropic-version": "1999-01-01",
        "openai-organization": "org-1",
    }
    with twins.counted():
        through.chat.completions.create(**PLAIN, metadata={"team": "blue"}, extra_headers=headers)
    sent = twins.behind.last_request()
    assert sent is not None
    assert (sent.method, sent.path) == ("POST", "/v1/messages")
    assert not [name for name in sent.headers if name.startswith(("x-spendfuse-", "x-stainless-", "openai-"))]
    assert {"anthropic-version", "x-api-key"} <= set(sent.headers)
    assert not {"anthropic-beta", "authorization"} & set(sent.headers)
    assert "blue" not in sent.body
    assert "ranking" in twins.gateway.run("report", "--by", "feature", "--format", "json").stdout


def test_the_cost_header_is_what_the_provider_bills(twins: Twins, through: openai.OpenAI) -> None:
    with twins.counted():
        raw = through.chat.completions.with_raw_response.create(**PLAIN)
        assert nanos_of(raw.headers["x-spendfuse-cost-usd"]) == twins.behind.bill().nanos > 0
    assert raw.headers["content-type"] == "application/json"
    assert int(raw.headers["content-length"]) == len(raw.content)
