"""The simulated provider, through the official SDK and over raw sockets."""

import asyncio
import base64
import io
import json
import signal
import socket
import struct
import subprocess
import sys
import time
import wave
from collections.abc import Generator
from dataclasses import replace
from typing import cast
from urllib.parse import urlsplit

import openai
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk, ChatCompletionMessageParam
from PIL import Image

from spendfuse.pricing.tokens import encoding
from spendfuse.simulator.answers import WORD
from spendfuse.simulator.behaviour import Behaviour, Errors, LogNormal, parse_behaviour
from spendfuse.simulator.bill import CallRecord
from spendfuse.simulator.counting import count_text
from spendfuse.simulator.images import Patches, Tiles, image_size
from spendfuse.simulator.models import MODELS
from spendfuse.simulator.pace import Pace
from spendfuse.simulator.process import RunningSimulator, SimulatorError, running_simulator

HI = "hi"
HI_MESSAGES: list[ChatCompletionMessageParam] = [{"role": "user", "content": HI}]
HI_TOKENS = 8  # What OpenAI bills for this message: 3 + role + "hi" + 3.
MINI_INPUT_NANOS, MINI_OUTPUT_NANOS = 150, 600
BODY = json.dumps({"model": "gpt-4o-mini", "messages": HI_MESSAGES}).encode()
STREAMED_BODY = json.dumps({"model": "gpt-4o-mini", "messages": HI_MESSAGES, "stream": True}).encode()
# A pace at which a test can leave in mid-stream: 50 chunks of 10 tokens take 10 s.
SLOW = Behaviour(output_tokens=500, chunk_tokens=10, chunk_interval_s=0.2)
TOOL = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object", "properties": {}}}}


@pytest.fixture(scope="module")
def process() -> Generator[RunningSimulator]:
    with running_simulator() as running:
        yield running


@pytest.fixture
def simulator(process: RunningSimulator) -> RunningSimulator:
    process.reset()
    return process


@pytest.fixture
def client(simulator: RunningSimulator) -> Generator[openai.OpenAI]:
    with openai.OpenAI(base_url=simulator.base_url, api_key="sk-test", max_retries=0) as opened:
        yield opened


def ask(client: openai.OpenAI, content: object = HI, **options: object) -> ChatCompletion:
    completion = _create(client, content, options)
    assert isinstance(completion, ChatCompletion)
    return completion


def stream(client: openai.OpenAI, **options: object) -> list[ChatCompletionChunk]:
    chunks = _create(client, HI, {"stream": True, **options})
    assert isinstance(chunks, openai.Stream)
    return cast("list[ChatCompletionChunk]", list(chunks))


def _create(client: openai.OpenAI, content: object, options: dict[str, object]) -> object:
    body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": content}], **options}
    return client.chat.completions.create(**body)  # pyright: ignore[reportArgumentType, reportCallIssue]


def only_record(simulator: RunningSimulator, *, wait_idle_s: float = 0.0) -> CallRecord:
    (record,) = simulator.bill(with_records=True, wait_idle_s=wait_idle_s).records
    return record


def billed_input(client: openai.OpenAI, content: object, **options: object) -> int:
    """The input tokens of a call, less those of a message without content."""
    usage = ask(client, content, max_tokens=1, **options).usage
    assert usage is not None
    return usage.prompt_tokens - (HI_TOKENS - 1)


# The answer


@pytest.mark.parametrize("tokens", [1, 2, 10, 99])
def test_text_has_exactly_the_tokens_that_are_billed(client: openai.OpenAI, tokens: int) -> None:
    completion = ask(client, max_tokens=tokens)
    text = completion.choices[0].message.content
    assert completion.usage is not None
    assert text is not None
    assert len(encoding().encode_ordinary(text)) == completion.usage.completion_tokens == tokens


def test_the_word_is_one_token_however_often_repeated() -> None:
    assert [count_text(WORD * times) for times in (1, 7, 20_000)] == [1, 7, 20_000]


def test_completion_has_the_shape_of_openai(client: openai.OpenAI) -> None:
    completion = ask(client, n=2, max_tokens=5)
    assert completion.id.startswith("chatcmpl-")
    assert completion.object == "chat.completion"
    assert completion.model == "gpt-4o-mini"
    assert [choice.index for choice in completion.choices] == [0, 1]
    assert [choice.finish_reason for choice in completion.choices] == ["length", "length"]
    assert completion.usage is not None
    assert completion.usage.model_dump(exclude_unset=True) == {
        "prompt_tokens": HI_TOKENS,
        "completion_tokens": 10,
        "total_tokens": HI_TOKENS + 10,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": 0,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def test_stream_has_the_shape_of_openai(client: openai.OpenAI) -> None:
    chunks = stream(client, max_tokens=25, stream_options={"include_usage": True})
    first, *middle, finish, usage = chunks
    assert first.choices[0].delta.role == "assistant"
    assert first.choices[0].delta.content == ""
    assert [chunk.choices[0].delta.content for chunk in middle] == [WORD * 10, WORD * 10, WORD * 5]
    assert finish.choices[0].finish_reason == "length"
    assert usage.choices == []
    assert usage.usage is not None
    assert usage.usage.completion_tokens == 25
    assert all(chunk.usage is None and "usage" in chunk.model_fields_set for chunk in chunks[:-1])
    assert {chunk.id for chunk in chunks} == {first.id}


def test_stream_without_stream_options_never_mentions_usage(client: openai.OpenAI) -> None:
    chunks = stream(client, max_tokens=25)
    assert all("usage" not in chunk.model_fields_set for chunk in chunks)
    assert chunks[-1].choices[0].finish_reason == "length"


def test_streamed_choices_are_all_there(client: openai.OpenAI) -> None:
    texts = {0: "", 1: "", 2: ""}
    for chunk in stream(client, max_tokens=12, n=3):
        texts[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert texts == dict.fromkeys(range(3), WORD * 12)


def test_async_client_streams(simulator: RunningSimulator) -> None:
    async def text() -> str:
        async with openai.AsyncOpenAI(base_url=simulator.base_url, api_key="sk-test") as client:
            chunks = await client.chat.completions.create(model="gpt-4o", messages=HI_MESSAGES, stream=True)
            return "".join([chunk.choices[0].delta.content or "" async for chunk in chunks])

    assert asyncio.run(text()) == WORD * 100
    assert simulator.bill().nanos == HI_TOKENS * 2_500 + 100 * 10_000


@pytest.mark.parametrize("streamed", [False, True])
def test_tool_call_bills_the_tokens_of_its_name_and_arguments(
    simulator: RunningSimulator, client: openai.OpenAI, streamed: bool
) -> None:
    simulator.set_behaviour(Behaviour(tool_call=True, output_tokens=40))
    if streamed:
        chunks = stream(client, tools=[TOOL])
        deltas = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or []]
        functions = [delta.function for delta in deltas if delta.function is not None]
        assert deltas[0].id is not None
        name, reason = functions[0].name, chunks[-1].choices[0].finish_reason
        arguments = "".join(function.arguments or "" for function in functions)
    else:
        choice = ask(client, tools=[TOOL]).choices[0]
        assert choice.message.tool_calls is not None
        call = choice.message.tool_calls[0]
        assert call.type == "function"
        name, arguments, reason = call.function.name, call.function.arguments, choice.finish_reason
    assert (name, reason) == ("look_up", "tool_calls")
    assert set(json.loads(arguments)) == {"text"}
    assert count_text("look_up") + count_text(arguments) == 40 == simulator.bill().output_tokens


def test_tools_that_may_not_be_called_are_not(simulator: RunningSimulator, client: openai.OpenAI) -> None:
    simulator.set_behaviour(Behaviour(tool_call=True))
    choice = ask(client, tools=[TOOL], tool_choice="none").choices[0]
    assert (choice.finish_reason, choice.message.tool_calls) == ("stop", None)


def test_reasoning_is_billed_and_capped_but_not_shown(simulator: RunningSimulator, client: openai.OpenAI) -> None:
    simulator.set_behaviour(Behaviour(reasoning_tokens=30, output_tokens=50))
    completion = ask(client, model="o4-mini", max_completion_tokens=45)
    assert completion.usage is not None
    assert completion.usage.completion_tokens_details is not None
    assert completion.usage.completion_tokens == 45
    assert completion.usage.completion_tokens_details.reasoning_tokens == 30
    assert completion.choices[0].message.content == WORD * 15


@pytest.mark.parametrize("encoding_format", ["float", "base64"])
@pytest.mark.parametrize(
    ("given", "count", "tokens"), [("hi", 1, 1), (["hi", "hi there"], 2, 3), ([[1, 2], [3]], 2, 3)]
)
def test_embeddings_count_texts_and_token_ids(
    simulator: RunningSimulator, client: openai.OpenAI, given: object, count: int, tokens: int, encoding_format: str
) -> None:
    made = client.embeddings.create(
        model="text-embedding-3-small",
        input=given,  # pyright: ignore[reportArgumentType]
        encoding_format=encoding_format,  # pyright: ignore[reportArgumentType]
        dimensions=4,
    )
    assert len(made.data) == count
    vector = made.data[0].embedding
    if isinstance(vector, str):
        vector = list(struct.unpack("<4f", base64.b64decode(vector)))
    assert vector == [0.5, 0.5, 0.5, 0.5]
    assert made.usage.prompt_tokens == tokens
    assert simulator.bill().nanos == tokens * 20


# The bill


def test_bill_is_exact_to_the_nano(simulator: RunningSimulator, client: openai.OpenAI) -> None:
    simulator.set_behaviour(Behaviour(cached_fraction=0.5, output_tokens=7))
    completion = ask(client)
    stream(client)
    assert completion.usage is not None
    assert completion.usage.prompt_tokens_details is not None
    assert completion.usage.prompt_tokens_details.cached_tokens == HI_TOKENS // 2
    report = simulator.bill(with_records=True)
    each = 4 * MINI_INPUT_NANOS + 4 * MINI_INPUT_NANOS // 2 + 7 * MINI_OUTPUT_NANOS
    assert [record.cost_nanos for record in report.records] == [each, each]
    assert report.nanos == 2 * each
    assert report.dollars == "0.000010200"
    assert report.calls == {"completed": 2, "cancelled": 0, "errored": 0, "disconnected": 0, "running": 0}
    assert (report.input_tokens, report.cached_tokens, report.output_tokens) == (16, 8, 14)


def test_half_a_nano_is_rounded_up_once_per_call() -> None:
    cost = replace(MODELS["gpt-4o-mini"], input_picos_per_token=37_500).cost_nanos
    assert cost(input_tokens=1, cached_tokens=0, output_tokens=0) == 38
    assert cost(input_tokens=2, cached_tokens=0, output_tokens=0) == 75


def test_free_model_costs_nothing(simulator: RunningSimulator, client: openai.OpenAI) -> None:
    ask(client, model="free-model")
    assert simulator.bill().nanos == 0
    assert simulator.bill().output_tokens == 100


def test_record_says_what_was_seen(simulator: RunningSimulator, client: openai.OpenAI) -> None:
    completion_id = stream(client, max_tokens=3, stream_options={"include_usage": True})[0].id
    record = only_record(simulator)
    assert (record.id, record.model, record.stream, record.cap) == (completion_id, "gpt-4o-mini", True, 3)
    assert record.stream_options == {"include_usage": True}
    assert "authorization" in record.headers
    assert record.ended_at is not None
    assert record.started_at <= record.ended_at


def test_last_request_is_the_body_as_it_came(simulator: RunningSimulator, client: openai.OpenAI) -> None:
    ask(client, max_tokens=3, metadata={"feature": "search"})
    seen = simulator.last_request()
    assert seen is not None
    assert seen.path == "/v1/chat/completions"
    assert json.loads(seen.body)["metadata"] == {"feature": "search"}


def test_reset_starts_a_new_bill(simulator: RunningSimulator, client: openai.OpenAI) -> None:
    simulator.set_behaviour(Behaviour(output_tokens=3))
    ask(client)
    simulator.reset()
    assert simulator.bill(with_records=True).records == ()
    assert simulator.behaviour() == Behaviour()
    assert simulator.last_request() is None


# What the input costs


def test_text_parts_names_and_tools_are_counted(client: openai.OpenAI) -> None:
    assert billed_input(client, [{"type": "text", "text": "hi there"}, {"type": "text", "text": "hi"}]) == 3
    tools = count_text(json.dumps([TOOL], separators=(",", ":")))
    assert billed_input(client, HI, tools=[TOOL]) == 1 + 12 + tools
    named = [{"role": "user", "content": HI, "name": "ann"}, {"role": "assistant", "content": HI}]
    usage = ask(client, messages=named, max_tokens=1).usage
    assert usage is not None
    assert usage.prompt_tokens == (3 + 1 + 1 + 1 + count_text("ann")) + (3 + 1 + 1) + 3


def test_special_tokens_in_text_are_text(client: openai.OpenAI) -> None:
    assert billed_input(client, "<|endoftext|>") == len(encoding().encode_ordinary("<|endoftext|>")) > 1


def test_long_text_is_counted_as_if_whole() -> None:
    prose = "It is a truth universally acknowledged, that a single man's fortune 12345 must do. " * 2_000
    assert count_text(prose) == len(encoding().encode_ordinary(prose))


def test_a_megabyte_of_spaces_is_counted() -> None:
    assert 0 < count_text(" " * 1_000_000) <= 1_000_000


@pytest.mark.parametrize(
    ("size", "detail", "tokens"),
    [
        ((1024, 1024), "high", 765),
        ((2048, 4096), "high", 1105),
        ((150, 150), "auto", 255),
        ((4096, 8192), "low", 85),
        ((768, 2048), "high", 85 + 8 * 170),
    ],
)
def test_tiles_follow_the_published_examples(size: tuple[int, int], detail: str, tokens: int) -> None:
    assert Tiles(base_tokens=85, tile_tokens=170).tokens(size, detail) == tokens  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(("size", "patches"), [((1024, 1024), 1024), ((1800, 2400), 1452), ((9000, 10), 282)])
def test_patches_follow_the_published_examples(size: tuple[int, int], patches: int) -> None:
    assert Patches(percent=100).tokens(size, "high") == patches


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP"])
def test_image_size_is_read_from_the_header(kind: str) -> None:
    assert image_size(_image(kind, (600, 513))) == (600, 513)
    assert image_size(_image(kind, (600, 513))[:20] if kind != "GIF" else b"GIF89a") is None


def test_lossless_webp_has_a_size() -> None:
    out = io.BytesIO()
    Image.new("RGBA", (600, 513), (1, 2, 3, 4)).save(out, "WEBP", lossless=True)
    assert image_size(out.getvalue()) == (600, 513)


def test_images_are_billed_by_size_and_by_reference(simulator: RunningSimulator, client: openai.OpenAI) -> None:
    uri = "data:image/png;base64," + base64.b64encode(_image("PNG", (600, 513))).decode()
    assert billed_input(client, [_image_part(uri)]) == 2_833 + 4 * 5_667
    assert billed_input(client, [_image_part(uri, "low")]) == 2_833
    assert billed_input(client, [_image_part("https://images.example/a.png")]) == 2_833 + 8 * 5_667
    simulator.set_behaviour(Behaviour(image_url_size=(512, 512)))
    assert billed_input(client, [_image_part("https://images.example/a.png")], model="gpt-4o") == 255
    with pytest.raises(openai.BadRequestError):
        ask(client, [_image_part("data:image/png;base64,aGk=")])


def test_files_and_sound_are_billed(simulator: RunningSimulator, client: openai.OpenAI) -> None:
    sound = io.BytesIO()
    with wave.open(sound, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(8_000)
        out.writeframes(b"\0\0" * 4_000)
    audio = {"data": base64.b64encode(sound.getvalue()).decode(), "format": "wav"}
    assert billed_input(client, [{"type": "input_audio", "input_audio": audio}]) == 50
    assert billed_input(client, [{"type": "file", "file": {"file_id": "file-1"}}]) == 20_000
    pdf = "data:application/pdf;base64," + base64.b64encode(b"/Type /Pages /Type /Page /Type/Page>>").decode()
    assert billed_input(client, [{"type": "file", "file": {"file_data": pdf, "filename": "a.pdf"}}]) == 2_000


# The cap


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_cap_is_obeyed(client: openai.OpenAI, name: str) -> None:
    choice = ask(client, **{name: 9}).choices[0]
    assert (choice.message.content, choice.finish_reason) == (WORD * 9, "length")


def test_without_a_cap_the_model_stops_at_its_own_maximum(simulator: RunningSimulator, client: openai.OpenAI) -> None:
    simulator.set_behaviour(Behaviour(output_tokens=20_000))
    assert ask(client).choices[0].finish_reason == "length"
    assert simulator.bill().output_tokens == 16_384


@pytest.mark.parametrize(
    ("behaviour", "output"),
    [(Behaviour(ignore_cap=True, output_tokens=300), 300), (Behaviour(cap_factor=2.5), 25)],
)
def test_cap_is_ignored_when_told_to(
    simulator: RunningSimulator, client: openai.OpenAI, behaviour: Behaviour, output: int
) -> None:
    simulator.set_behaviour(behaviour)
    stream(client, max_tokens=10)
    record = only_record(simulator)
    assert (record.cap, record.output_tokens) == (10, output)


# Refusals


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_tokens": 0},
        {"max_tokens": "5"},
        {"max_tokens": 5, "max_completion_tokens": 5},
        {"model": "o4-mini", "max_tokens": 5},
        {"max_tokens": 16_385},
        {"n": 0},
        {"stream": "yes"},
        {"stream_options": {"include_usage": True}},
        {"messages": []},
        {"messages": [{"role": "user", "content": [{"type": "hologram"}]}]},
        {"messages": [{"role": "user", "content": "word " * 130_000}]},
    ],
)
def test_bad_request_is_400_and_costs_nothing(
    simulator: RunningSimulator, client: openai.OpenAI, wrong: dict[str, object]
) -> None:
    with pytest.raises(openai.BadRequestError) as raised:
        client.post(
            "/chat/completions",
            body={"model": "gpt-4o-mini", "messages": [{"role": "user", "content": HI}], **wrong},
            cast_to=object,
        )
    assert raised.value.type == "invalid_request_error"
    assert simulator.bill().nanos == 0
    assert only_record(simulator).status == 400


def test_unknown_model_is_404(simulator: RunningSimulator, client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as raised:
        ask(client, model="gpt-0")
    assert raised.value.code == "model_not_found"
    with pytest.raises(openai.NotFoundError):
        ask(client, model="text-embedding-3-small")
    assert [model.id for model in client.models.list()] == list(MODELS)
    assert client.models.retrieve("gpt-4o").id == "gpt-4o"


def test_call_without_a_key_is_401(simulator: RunningSimulator) -> None:
    status, body = _raw(simulator, _post(BODY, authorization=b""))
    assert (status, json.loads(body)["error"]["code"]) == (401, "invalid_api_key")
    assert simulator.bill().calls["errored"] == 1


def test_malformed_json_is_400(simulator: RunningSimulator) -> None:
    status, body = _raw(simulator, _post(b'{"model":'))
    assert status == 400
    assert json.loads(body)["error"]["type"] == "invalid_request_error"


# Faults


@pytest.mark.parametrize(
    ("status", "error"),
    [(429, openai.RateLimitError), (500, openai.InternalServerError), (503, openai.InternalServerError)],
)
def test_injected_error_costs_nothing(
    simulator: RunningSimulator, client: openai.OpenAI, status: int, error: type[openai.APIStatusError]
) -> None:
    simulator.set_behaviour(Behaviour(errors=Errors(status=status, next_calls=1), retry_after=7))
    with pytest.raises(error) as raised:
        ask(client)
    assert raised.value.status_code == status
    assert raised.value.response.headers["retry-after"] == "7"
    assert simulator.bill().nanos == 0
    assert (only_record(simulator).outcome, only_record(simulator).status) == ("errored", status)
    assert ask(client).choices


def test_errors_meet_every_kth_call_or_a_share_of_them() -> None:
    every = Behaviour(errors=Errors(every=3))
    assert [every.error_status_of(number) for number in range(1, 7)] == [None, None, 500, None, None, 500]
    share = Behaviour(errors=Errors(status=503, probability=0.25), seed=4)
    met = [share.error_status_of(number) for number in range(1, 4_001)]
    assert met == [share.error_status_of(number) for number in range(1, 4_001)]
    assert 900 < met.count(503) < 1_100


def test_distributions_follow_the_seed() -> None:
    behaviour = Behaviour(seed=1, output_tokens=LogNormal(200, 0.5), latency_s=LogNormal(0.1, 1.0))
    lengths = sorted(behaviour.output_tokens_of(number) for number in range(1, 2_001))
    assert 190 < lengths[1_000] < 210
    assert lengths[0] < 80 < 500 < lengths[-1]
    assert all(behaviour.latency_s_of(number) > 0 for number in range(1, 100))
    assert behaviour.output_tokens_of(5) != replace(behaviour, seed=2).output_tokens_of(5)


@pytest.mark.parametrize("text", ['{"hangs": true}', '{"output_tokens": -1}', '{"errors": {"status": 200}}', "[]"])
def test_bad_behaviour_is_refused(simulator: RunningSimulator, text: str) -> None:
    with pytest.raises(ValueError, match="validation error"):
        parse_behaviour(text)
    simulator.set_behaviour(SLOW)
    with pytest.raises(SimulatorError, match="400"):
        simulator.set_behaviour(Behaviour(output_tokens=-1))
    assert simulator.behaviour() == SLOW


def test_usage_is_left_out_when_told_to(simulator: RunningSimulator, client: openai.OpenAI) -> None:
    simulator.set_behaviour(Behaviour(omit_usage=True, omit_stream_usage=True))
    assert ask(client).usage is None
    chunks = stream(client, stream_options={"include_usage": True})
    assert all(chunk.usage is None and chunk.choices for chunk in chunks)
    assert simulator.bill().output_tokens == 200


@pytest.mark.parametrize("streamed", [False, True])
def test_dropped_connection_bills_what_was_generated(
    simulator: RunningSimulator, client: openai.OpenAI, streamed: bool
) -> None:
    simulator.set_behaviour(Behaviour(disconnect_after_tokens=30))
    received = ""
    with pytest.raises(openai.APIConnectionError):
        for chunk in client.chat.completions.create(model="gpt-4o", messages=HI_MESSAGES, stream=streamed):
            assert isinstance(chunk, ChatCompletionChunk)
            received += chunk.choices[0].delta.content or ""
    assert received == (WORD * 30 if streamed else "")
    record = only_record(simulator)
    assert (record.outcome, record.output_tokens) == ("disconnected", 30)


def test_hung_call_bills_only_its_input_when_told_to(simulator: RunningSimulator, client: openai.OpenAI) -> None:
    simulator.set_behaviour(Behaviour(hang=True, bill_abandoned="generated"))
    with pytest.raises(openai.APITimeoutError):
        ask(client.with_options(timeout=0.5))
    record = only_record(simulator, wait_idle_s=10)
    assert (record.outcome, record.output_tokens) == ("cancelled", 0)
    assert record.cost_nanos == HI_TOKENS * MINI_INPUT_NANOS


# Clients that leave


def test_left_stream_bills_what_was_generated_by_then(simulator: RunningSimulator, client: openai.OpenAI) -> None:
    simulator.set_behaviour(SLOW)
    chunks = client.chat.completions.create(model="gpt-4o-mini", messages=HI_MESSAGES, stream=True)
    received = ""
    for chunk in chunks:
        received += chunk.choices[0].delta.content or ""
        if count_text(received) >= 20:
            break
    running = simulator.bill(with_records=True)
    assert running.calls["running"] == 1
    assert running.output_tokens >= 20
    chunks.close()
    record = only_record(simulator, wait_idle_s=10)
    assert record.outcome == "cancelled"
    assert record.cancelled_at is not None
    assert 20 <= record.output_tokens <= (record.cancelled_at - record.started_at) / 0.2 * 10 + 10 < 500
    assert record.cost_nanos == HI_TOKENS * MINI_INPUT_NANOS + record.output_tokens * MINI_OUTPUT_NANOS


@pytest.mark.parametrize(("policy", "least", "most"), [("full", 500, 500), ("generated", 10, 499)])
def test_left_call_bills_by_the_policy(
    simulator: RunningSimulator, client: openai.OpenAI, policy: str, least: int, most: int
) -> None:
    simulator.set_behaviour(replace(SLOW, bill_abandoned=policy))  # pyright: ignore[reportArgumentType]
    with pytest.raises(openai.APITimeoutError):
        ask(client.with_options(timeout=0.5))
    record = only_record(simulator, wait_idle_s=10)
    assert record.outcome == "cancelled"
    assert least <= record.output_tokens <= most


def test_disconnect_is_noticed_at_once(simulator: RunningSimulator) -> None:
    simulator.set_behaviour(SLOW)
    with _connected(simulator) as connection:
        connection.sendall(_post(STREAMED_BODY))
        assert connection.recv(1)
        left_at = time.time()
    cancelled_at = only_record(simulator, wait_idle_s=10).cancelled_at
    assert cancelled_at is not None
    assert cancelled_at - left_at < 1.0


def test_generation_does_not_wait_for_a_reader_who_stalls() -> None:
    pace = Pace(starts_at_s=10.0, total_tokens=95, chunk_tokens=10, chunk_interval_s=0.5)
    assert [pace.generated(at) for at in (9.9, 10.0, 10.4, 10.5, 14.4, 14.5, 99.0)] == [0, 10, 10, 20, 90, 95, 95]
    assert (pace.due_at_s(0), pace.due_at_s(10), pace.ends_at_s) == (10.0, 10.5, 14.5)


# The process


def test_many_streams_at_once_lose_nothing(simulator: RunningSimulator) -> None:
    simulator.set_behaviour(Behaviour(output_tokens=500, chunk_interval_s=0.005))

    async def read_one() -> bool:
        url = urlsplit(simulator.base_url)
        reader, writer = await asyncio.open_connection(url.hostname, url.port)
        writer.write(_post(STREAMED_BODY))
        whole = await reader.readuntil(b"data: [DONE]\n\n")
        writer.close()
        await writer.wait_closed()
        return whole.count(b" token") == 500

    async def read_all() -> list[bool]:
        return await asyncio.gather(*(read_one() for _ in range(100)))

    assert all(asyncio.run(read_all()))
    report = simulator.bill()
    assert report.calls["completed"] == 100
    assert report.nanos == 100 * (HI_TOKENS * MINI_INPUT_NANOS + 500 * MINI_OUTPUT_NANOS)


def test_static_simulator_answers_both_ways() -> None:
    with running_simulator(static=True) as running, openai.OpenAI(base_url=running.base_url, api_key="x") as client:
        whole = ask(client)
        chunks = stream(client, stream_options={"include_usage": True})
        vectors = client.embeddings.create(model="text-embedding-3-small", input="hi")
    assert whole.usage == chunks[-1].usage
    assert len(vectors.data[0].embedding) == 1_536


def test_process_that_cannot_start_says_why(simulator: RunningSimulator, capfd: pytest.CaptureFixture[str]) -> None:
    taken = urlsplit(simulator.base_url).port
    assert taken is not None
    with pytest.raises(SimulatorError), running_simulator(port=taken, static=True):
        pass
    assert f"cannot listen on 127.0.0.1 port {taken}" in capfd.readouterr().err


def test_process_ends_with_the_one_that_started_it() -> None:
    command = [sys.executable, "-m", "spendfuse.simulator", "--static", "--until-stdin-ends"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert "base_url" in json.loads(process.stdout.readline())
        process.stdin.close()
        assert process.wait(timeout=10) == 0


def test_hung_call_does_not_hold_up_the_end_of_the_process() -> None:
    hanging = ["--behaviour", '{"output_tokens": 20, "chunk_interval_s": 3600}']
    command = [sys.executable, "-m", "spendfuse.simulator", *hanging]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        url = urlsplit(json.loads(process.stdout.readline())["base_url"])
        assert url.hostname is not None
        with socket.create_connection((url.hostname, url.port or 0), timeout=10) as connection:
            connection.sendall(_post(STREAMED_BODY))
            assert connection.recv(1)
            process.terminate()
            assert process.wait(timeout=10) == -signal.SIGTERM


def _image(kind: str, size: tuple[int, int]) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", size).save(out, kind)
    return out.getvalue()


def _image_part(url: str, detail: str = "high") -> dict[str, object]:
    return {"type": "image_url", "image_url": {"url": url, "detail": detail}}


def _post(body: bytes, authorization: bytes = b"authorization: Bearer sk-test\r\n") -> bytes:
    return b"POST /v1/chat/completions HTTP/1.1\r\nhost: simulator\r\n%bcontent-length: %d\r\n\r\n%b" % (
        authorization,
        len(body),
        body,
    )


def _connected(simulator: RunningSimulator) -> socket.socket:
    url = urlsplit(simulator.base_url)
    assert url.hostname is not None
    assert url.port is not None
    return socket.create_connection((url.hostname, url.port), timeout=10)


def _raw(simulator: RunningSimulator, request: bytes) -> tuple[int, bytes]:
    """Status and body of the answer to exactly these bytes."""
    request = request.replace(b"\r\n", b"\r\nconnection: close\r\n", 1)
    with _connected(simulator) as connection:
        connection.sendall(request)
        answer = b"".join(iter(lambda: connection.recv(65_536), b""))
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), body
