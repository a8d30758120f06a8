from typing import Any

import httpx2
import openai
import pytest
from openai.types.chat import ChatCompletion
from recorded import chat_call

from spendfuse.core.calls import Call, Operation
from spendfuse.core.usage import NOTHING, AtLeast, Exact, Usage
from spendfuse.wire.anthropic_messages import AnthropicMessages
from spendfuse.wire.dialect import Exchange, WireTarget
from spendfuse.wire.json_body import Json, JsonObject, read_object, write
from spendfuse.wire.translate.chat_over_messages import ChatOverMessages
from spendfuse.wire.translate.messages_to_chat import MESSAGE_BYTES_MAX

NOW_S = 1_700_000_000
EXCHANGE: Exchange = ChatOverMessages(now_s=lambda: NOW_S)
CACHED_USAGE: JsonObject = {
    "input_tokens": 10,
    "cache_read_input_tokens": 7,
    "cache_creation_input_tokens": 5,
    "cache_creation": {"ephemeral_5m_input_tokens": 5, "ephemeral_1h_input_tokens": 0},
    "output_tokens": 3,
}


def message(**fields: Json) -> bytes:
    """An answer in the vendor's documented shape, with these fields."""
    return write(
        {
            "id": "msg_013Zva2CMHLNnXjNJJKqJ2EF",
            "type": "message",
            "role": "assistant",
            "model": "claude-sonnet-4-5-20250929",
            "content": [{"type": "text", "text": "Hi!", "citations": None}],
            "stop_reason": "end_turn",
            "stop_sequence": None,
            "usage": CACHED_USAGE,
            **fields,
        }
    )


def answered(**fields: Json) -> JsonObject:
    answer = EXCHANGE.read(message(**fields)).told
    assert answer is not None
    return read_object(answer)


def choice_of(answer: JsonObject) -> JsonObject:
    choices = answer["choices"]
    assert isinstance(choices, list)
    (choice,) = choices
    assert isinstance(choice, dict)
    return choice


def test_an_answer_is_a_chat_completion_with_the_usage_that_is_charged() -> None:
    assert answered() == {
        "id": "msg_013Zva2CMHLNnXjNJJKqJ2EF",
        "object": "chat.completion",
        "created": NOW_S,
        "model": "claude-sonnet-4-5-20250929",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hi!", "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {
            "prompt_tokens": 22,
            "completion_tokens": 3,
            "total_tokens": 25,
            "prompt_tokens_details": {"cached_tokens": 7, "audio_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
        },
    }
    assert EXCHANGE.read(message()).metered == Exact(Usage(22, 3, cache_read_tokens=7, cache_write_tokens=5))


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("pause_turn", "length"),
        ("refusal", "content_filter"),
        ("tool_use", "tool_calls"),
        ("a_reason_of_tomorrow", "length"),
        (None, "length"),
        ({"odd": 1}, "length"),
    ],
)
def test_why_an_answer_ended_is_said_in_the_clients_words(said: Json, told: str) -> None:
    assert choice_of(answered(stop_reason=said))["finish_reason"] == told


@pytest.mark.parametrize(
    ("blocks", "content"),
    [
        ([{"type": "text", "text": "One "}, {"type": "text", "text": "two"}], "One two"),
        ([{"type": "thinking", "thinking": "hm", "signature": "s"}, {"type": "text", "text": "42"}], "42"),
        ([{"type": "redacted_thinking", "data": "x"}], ""),
        ([], ""),
    ],
)
def test_the_texts_of_an_answer_are_joined_as_they_stand(blocks: Json, content: str) -> None:
    assert choice_of(answered(content=blocks))["message"] == {
        "role": "assistant",
        "content": content,
        "refusal": None,
    }


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"oops",
        b"[]",
        b"{}",
        b'{"type":"error","error":{"type":"api_error","message":"x"}}',
        message(content="text"),
        message(content=[{"type": "tool_use", "id": "t", "name": "f", "input": {}}]),
        message(content=[{"type": "text", "text": None}]),
        message(content=[{"type": ["text"]}]),
        message(content=["text"]),
    ],
)
def test_an_answer_that_cannot_be_said_whole_is_not_said_at_all(body: bytes) -> None:
    assert EXCHANGE.read(body).told is None


@pytest.mark.parametrize("usage", [None, {}, {"input_tokens": "many", "output_tokens": 1}, {"output_tokens": 3}])
def test_a_usage_that_is_not_exact_is_left_out(usage: Json) -> None:
    assert "usage" not in answered(usage=usage)
    assert isinstance(EXCHANGE.read(message(usage=usage)).metered, AtLeast)


@pytest.mark.parametrize("body", [message(), message(usage=None), b"{}", b"no JSON", b'{"type":"message"}'])
def test_the_bill_is_what_it_would_be_in_the_vendors_own_dialect(body: bytes) -> None:
    assert EXCHANGE.read(body).metered == AnthropicMessages().metered(body)


def test_an_answer_without_usage_is_at_least_nothing() -> None:
    assert EXCHANGE.read(message(usage=None)).metered == AtLeast(NOTHING)


@pytest.mark.parametrize(
    ("status", "body", "kind", "text"),
    [
        (
            529,
            b'{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"},"request_id":"req_1"}',
            "overloaded_error",
            "Overloaded",
        ),
        (400, b'{"error":{"message":"No type"}}', "api_error", "No type"),
        (502, b" <html>Bad gateway</html>\n", "api_error", "<html>Bad gateway</html>"),
        (404, b'{"error":"nothing here"}', "not_found_error", '{"error":"nothing here"}'),
        (400, b"\xff", "invalid_request_error", "\ufffd"),
        (503, b"", "overloaded_error", "The provider answered 503 and no more."),
        (500, b"x" * 9_000, "api_error", "x" * MESSAGE_BYTES_MAX),
    ],
)
def test_an_error_is_said_in_the_clients_words(status: int, body: bytes, kind: str, text: str) -> None:
    error: JsonObject = {"message": text, "type": kind, "param": None, "code": None}
    assert read_object(EXCHANGE.error(status, body)) == {"error": error}


def test_the_clients_headers_say_nothing_of_the_vendors_version_and_betas() -> None:
    headers = {
        b"anthropic-version": b"2099-01-01",
        b"anthropic-beta": b"prompt-caching-2024-07-31",
        b"anthropic-else": b"x",
        b"authorization": b"Bearer key",
        b"traceparent": b"00-1",
        b"x-spendfuse-user": b"u",
        b"x-mine": b"1",
    }
    sent = ChatOverMessages(now_s=lambda: 0, extra_headers=["X-Mine", "anthropic-else"]).headers_upstream(headers)
    assert sent == {"anthropic-version": "2023-06-01", "traceparent": "00-1", "x-mine": "1"}


def test_the_provider_counts_what_is_carried() -> None:
    call = EXCHANGE.carry(
        chat_call(messages=[{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}])
    )
    counter = EXCHANGE.counter
    assert isinstance(call, Call)
    assert counter is not None
    body = counter.render(call, WireTarget("claude-sonnet-4-5"))
    assert body is not None
    assert read_object(body) == {
        "model": "claude-sonnet-4-5",
        "messages": [{"role": "user", "content": "Hi"}],
        "system": [{"type": "text", "text": "Be brief."}],
    }
    assert (EXCHANGE.operation, counter.operation) == (Operation.MESSAGES, Operation.COUNT_TOKENS)


def sdk(status: int, body: bytes) -> openai.OpenAI:
    """The vendor's SDK, which gets this answer to whatever it asks."""

    def answer(_: Any) -> httpx2.Response:
        return httpx2.Response(status, headers={"content-type": "application/json"}, content=body)

    client = httpx2.Client(transport=httpx2.MockTransport(answer))
    return openai.OpenAI(api_key="k", base_url="http://gateway/v1", http_client=client, max_retries=0)


def ask(client: openai.OpenAI) -> ChatCompletion:
    return client.chat.completions.create(model="smart", messages=[{"role": "user", "content": "Hi"}])


def test_openais_sdk_reads_an_answer() -> None:
    body = EXCHANGE.read(message(stop_reason="max_tokens")).told
    assert body is not None
    answer = ask(sdk(200, body))
    ChatCompletion.model_validate(answer.model_dump(), strict=True)
    assert answer.choices[0].message.content == "Hi!"
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.created) == (22, NOW_S)


def test_openais_sdk_reads_an_error() -> None:
    body = EXCHANGE.error(429, b'{"type":"error","error":{"type":"rate_limit_error","message":"Slow down"}}')
    with pytest.raises(openai.RateLimitError, match="Slow down") as caught:
        ask(sdk(429, body))
    assert caught.value.type == "rate_limit_error"
