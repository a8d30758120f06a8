"""The simulated provider's Messages API, through the official SDK and over plain HTTP."""

import asyncio
import base64
import http.client
import io
import json
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass, replace
from typing import cast
from urllib.parse import urlsplit

import anthropic
import openai
import pytest
from anthropic.types import Message
from PIL import Image

from spendfuse.simulator.answers import WORD
from spendfuse.simulator.behaviour import Behaviour, Errors
from spendfuse.simulator.bill import CallRecord
from spendfuse.simulator.claude_models import CLAUDE_MODELS
from spendfuse.simulator.counting import count_text
from spendfuse.simulator.messages_cache import ENTRIES_MAX, Boundary, CachedInput, PromptCache
from spendfuse.simulator.messages_counting import TOOLS_TOKENS, image_tokens
from spendfuse.simulator.process import RunningSimulator, running_simulator

HAIKU = "claude-haiku-4-5"
HAIKU_NAME = "claude-haiku-4-5-20251001"
OLD_HAIKU = "claude-3-5-haiku-20241022"
OPUS = "claude-opus-4-6"
USER: dict[str, object] = {"role": "user", "content": "hi"}
# Two for "hi" (1.2 rounded up), three for its message, three for the reply.
HI_TOKENS = 8
BODY: dict[str, object] = {"model": HAIKU, "max_tokens": 1_000, "messages": [USER]}
TOOL: dict[str, object] = {"name": "look_up", "description": "Looks up.", "input_schema": {"type": "object"}}
MARK = {"type": "ephemeral"}
HOUR = {"type": "ephemeral", "ttl": "1h"}
THINKING = {"thinking": {"type": "enabled", "budget_tokens": 1_024}, "max_tokens": 2_000}
SLOW = Behaviour(output_tokens=500, chunk_tokens=10, chunk_interval_s=0.2)


@dataclass(frozen=True, slots=True)
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> dict[str, object]:
        return json.loads(self.body)

    @property
    def events(self) -> list[tuple[str, dict[str, object]]]:
        """Each event's name and data; every one has exactly those two lines."""
        events: list[tuple[str, dict[str, object]]] = []
        for event in self.body.decode().removesuffix("\n\n").split("\n\n"):
            name, data = event.split("\n")
            events.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
        return events

    @property
    def error(self) -> dict[str, str]:
        return cast("dict[str, str]", self.json["error"])


@pytest.fixture(scope="module")
def process() -> Generator[RunningSimulator]:
    with running_simulator() as running:
        yield running


@pytest.fixture
def simulator(process: RunningSimulator) -> RunningSimulator:
    process.reset()
    return process


@pytest.fixture
def client(simulator: RunningSimulator) -> Generator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=simulator.anthropic_base_url, api_key="sk-test", max_retries=0) as opened:
        yield opened


def request(
    simulator: RunningSimulator,
    body: dict[str, object] | None = None,
    *,
    method: str = "POST",
    path: str = "/v1/messages",
    headers: dict[str, str] | None = None,
) -> Reply:
    url = urlsplit(simulator.base_url)
    sent = {"anthropic-version": "2023-06-01", "x-api-key": "sk-test"} if headers is None else headers
    with closing(http.client.HTTPConnection(url.hostname or "", url.port, timeout=30)) as connection:
        connection.request(method, path, None if body is None else json.dumps(body), sent)
        response = connection.getresponse()
        return Reply(response.status, {name.lower(): value for name, value in response.getheaders()}, response.read())


def post(simulator: RunningSimulator, **options: object) -> Reply:
    return request(simulator, {**BODY, **options})


def usage_of(reply: Reply) -> dict[str, object]:
    assert reply.status == 200, reply.body
    return cast("dict[str, object]", reply.json["usage"])


def ask(client: anthropic.Anthropic, **options: object) -> Message:
    message = client.messages.create(**{**BODY, **options})  # pyright: ignore[reportArgumentType, reportCallIssue, reportUnknownVariableType]
    assert isinstance(message, Message)
    return message


def stream_to_end(client: anthropic.Anthropic, **options: object) -> Message:
    with client.messages.stream(**{**BODY, **options}) as streamed:  # pyright: ignore[reportArgumentType]
        return streamed.get_final_message()


def answer(client: anthropic.Anthropic, *, streamed: bool, **options: object) -> Message:
    return stream_to_end(client, **options) if streamed else ask(client, **options)


def only_record(simulator: RunningSimulator, *, wait_idle_s: float = 0.0) -> CallRecord:
    (record,) = simulator.bill(with_records=True, wait_idle_s=wait_idle_s).records
    return record


def counted(simulator: RunningSimulator, **prompt: object) -> int:
    """The tokens of a prompt, less those of a message without text."""
    body = {"model": HAIKU, "messages": [USER], **prompt}
    reply = request(simulator, body, path="/v1/messages/count_tokens")
    assert reply.status == 200, reply.body
    return cast("int", reply.json["input_tokens"]) - (HI_TOKENS - 2)


def content(*blocks: object) -> list[object]:
    return [{"role": "user", "content": list(blocks)}]


def text(words: str, **more: object) -> dict[str, object]:
    return {"type": "text", "text": words, **more}


def claude_tokens(words: str) -> int:
    return -(-count_text(words) * 6 // 5)


# The answer


def test_message_has_the_shape_of_anthropic(simulator: RunningSimulator, client: anthropic.Anthropic) -> None:
    message = ask(client, max_tokens=5)
    assert message.id.startswith("msg_")
    assert message.model_dump(exclude_unset=True, exclude={"id"}) == {
        "type": "message",
        "role": "assistant",
        "model": HAIKU_NAME,
        "content": [{"type": "text", "text": WORD * 5, "citations": None}],
        "container": None,
        "stop_details": None,
        "stop_reason": "max_tokens",
        "stop_sequence": None,
        "usage": {
            "input_tokens": HI_TOKENS,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
            "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0},
            "output_tokens": 5,
            "output_tokens_details": None,
            "server_tool_use": None,
            "service_tier": "standard",
            "inference_geo": "not_available",
        },
    }


def test_stream_has_exactly_the_events_of_anthropic(simulator: RunningSimulator) -> None:
    reply = post(simulator, stream=True, max_tokens=15)
    assert reply.headers["content-type"].startswith("text/event-stream")
    assert reply.headers["request-id"].startswith("req_")
    start, *rest = reply.events
    message = cast("dict[str, object]", start[1]["message"])
    assert start[0] == start[1]["type"] == "message_start"
    assert (message["content"], message["stop_reason"], message["stop_sequence"]) == ([], None, None)
    assert cast("dict[str, object]", message["usage"])["output_tokens"] == 1
    usage = {
        "input_tokens": 8,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
        "output_tokens": 15,
        "output_tokens_details": None,
    }
    assert rest == [
        ("content_block_start", _event("content_block_start", index=0, content_block={**text(""), "citations": None})),
        ("ping", {"type": "ping"}),
        ("content_block_delta", _event("content_block_delta", index=0, delta=_text_delta(10))),
        ("content_block_delta", _event("content_block_delta", index=0, delta=_text_delta(5))),
        ("content_block_stop", _event("content_block_stop", index=0)),
        (
            "message_delta",
            _event("message_delta", delta={"stop_reason": "max_tokens", "stop_sequence": None}, usage=usage),
        ),
        ("message_stop", _event("message_stop")),
    ]


def test_whole_and_streamed_answers_are_alike(simulator: RunningSimulator, client: anthropic.Anthropic) -> None:
    simulator.set_behaviour(Behaviour(tool_call=True, reasoning_tokens=23, output_tokens=60))
    both = [answer(client, streamed=streamed, tools=[TOOL], **THINKING).model_dump() for streamed in (False, True)]
    for message in both:
        message.pop("id")
        for block in message["content"]:
            block.pop("id", None)
            block.pop("parsed_output", None)
    assert both[0] == both[1]


def test_async_client_streams(simulator: RunningSimulator) -> None:
    async def read() -> str:
        async with (
            anthropic.AsyncAnthropic(base_url=simulator.anthropic_base_url, api_key="sk-test") as client,
            client.messages.stream(
                model=HAIKU, max_tokens=50, messages=[{"role": "user", "content": "hi"}]
            ) as streamed,
        ):
            return "".join([piece async for piece in streamed.text_stream])

    assert asyncio.run(read()) == WORD * 50
    assert simulator.bill().nanos == HI_TOKENS * 1_000 + 50 * 5_000


@pytest.mark.parametrize("streamed", [False, True])
def test_tool_use_follows_a_text_and_is_billed(
    simulator: RunningSimulator, client: anthropic.Anthropic, streamed: bool
) -> None:
    simulator.set_behaviour(Behaviour(tool_call=True, output_tokens=40))
    message = answer(client, streamed=streamed, tools=[TOOL])
    said, used = message.content
    assert (said.type, used.type, message.stop_reason) == ("text", "tool_use", "tool_use")
    assert said.type == "text"
    assert used.type == "tool_use"
    assert used.name == "look_up"
    assert used.id.startswith("toolu_")
    arguments = json.dumps(used.input, separators=(",", ":"))
    visible = count_text(said.text) + count_text(used.name) + count_text(arguments)
    assert visible == message.usage.output_tokens == simulator.bill().output_tokens == 40


def test_chosen_tool_is_the_one_that_is_used(simulator: RunningSimulator, client: anthropic.Anthropic) -> None:
    simulator.set_behaviour(Behaviour(tool_call=True))
    tools = [TOOL, {**TOOL, "name": "write_down"}]
    used = ask(client, tools=tools, tool_choice={"type": "tool", "name": "write_down"}).content[-1]
    assert used.type == "tool_use"
    assert used.name == "write_down"
    none = ask(client, tools=tools, tool_choice={"type": "none"})
    assert [block.type for block in none.content] == ["text"]


@pytest.mark.parametrize("streamed", [False, True])
def test_tool_use_that_the_cap_cuts_says_so(
    simulator: RunningSimulator, client: anthropic.Anthropic, streamed: bool
) -> None:
    simulator.set_behaviour(Behaviour(tool_call=True, output_tokens=40))
    message = answer(client, streamed=streamed, tools=[TOOL], max_tokens=20)
    assert (message.stop_reason, message.usage.output_tokens) == ("max_tokens", 20)
    assert message.content[-1].type == "tool_use"


@pytest.mark.parametrize("streamed", [False, True])
def test_thinking_comes_first_and_is_billed(
    simulator: RunningSimulator, client: anthropic.Anthropic, streamed: bool
) -> None:
    simulator.set_behaviour(Behaviour(reasoning_tokens=25, output_tokens=40))
    message = answer(client, streamed=streamed, **THINKING)
    thought, said = message.content
    assert thought.type == "thinking"
    assert said.type == "text"
    assert (thought.thinking, said.text) == (WORD * 25, WORD * 40)
    assert thought.signature
    assert message.usage.output_tokens == simulator.bill().output_tokens == 65


def test_thinking_that_is_not_shown_is_billed(simulator: RunningSimulator, client: anthropic.Anthropic) -> None:
    simulator.set_behaviour(Behaviour(reasoning_tokens=25, output_tokens=40))
    message = stream_to_end(client, model=OPUS, thinking={"type": "adaptive", "display": "omitted"})
    thought = message.content[0]
    assert thought.type == "thinking"
    assert thought.thinking == ""
    assert message.usage.output_tokens == 65


def test_nobody_thinks_unasked(simulator: RunningSimulator, client: anthropic.Anthropic) -> None:
    simulator.set_behaviour(Behaviour(reasoning_tokens=25, output_tokens=40))
    assert [block.type for block in ask(client, thinking={"type": "disabled"}).content] == ["text"]
    assert simulator.bill().output_tokens == 40


def test_thinking_stays_in_its_budget_and_cap(simulator: RunningSimulator, client: anthropic.Anthropic) -> None:
    simulator.set_behaviour(Behaviour(reasoning_tokens=3_000, output_tokens=2_000))
    message = ask(client, **THINKING)
    thought, said = message.content
    assert thought.type == "thinking"
    assert said.type == "text"
    assert (count_text(thought.thinking), count_text(said.text)) == (1_024, 976)
    assert message.stop_reason == "max_tokens"


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(("sequence", "shown", "tokens"), [("token token tok", " ", 3), (" token", "", 1)])
def test_stop_sequence_ends_the_text_before_it_and_is_billed(
    client: anthropic.Anthropic, streamed: bool, sequence: str, shown: str, tokens: int
) -> None:
    message = answer(client, streamed=streamed, stop_sequences=["never", sequence])
    assert (message.stop_reason, message.stop_sequence) == ("stop_sequence", sequence)
    said = message.content[0]
    assert said.type == "text"
    assert (said.text, message.usage.output_tokens) == (shown, tokens)


def test_stop_sequence_that_never_comes_changes_nothing(client: anthropic.Anthropic) -> None:
    message = ask(client, stop_sequences=["never"])
    assert (message.stop_reason, message.stop_sequence, message.usage.output_tokens) == ("end_turn", None, 100)


@pytest.mark.parametrize(
    ("behaviour", "output"),
    [(Behaviour(ignore_cap=True, output_tokens=300), 300), (Behaviour(cap_factor=2.5), 25)],
)
def test_cap_of_a_message_is_ignored_when_told_to(
    simulator: RunningSimulator, client: anthropic.Anthropic, behaviour: Behaviour, output: int
) -> None:
    simulator.set_behaviour(behaviour)
    assert stream_to_end(client, max_tokens=10).usage.output_tokens == output
    record = only_record(simulator)
    assert (record.endpoint, record.cap, record.output_tokens, record.stream) == ("messages", 10, output, True)


# The cache


def test_marked_prompt_is_written_and_then_read(simulator: RunningSimulator) -> None:
    marked = content(text("hi there", cache_control=MARK), text("hi"))
    prefix = claude_tokens("hi there") + 3
    first, second = (usage_of(post(simulator, messages=marked)) for _ in range(2))
    assert first["cache_creation_input_tokens"] == second["cache_read_input_tokens"] == prefix
    assert first["cache_read_input_tokens"] == second["cache_creation_input_tokens"] == 0
    assert first["input_tokens"] == second["input_tokens"]
    assert first["cache_creation"] == {"ephemeral_5m_input_tokens": prefix, "ephemeral_1h_input_tokens": 0}
    report = simulator.bill(with_records=True)
    assert [record.input_tokens for record in report.records] == [cast("int", first["input_tokens"]) + prefix] * 2
    assert (report.cached_tokens, report.cache_write_5m_tokens, report.cache_write_1h_tokens) == (prefix, prefix, 0)


@pytest.mark.parametrize(
    "options",
    [
        {"messages": content(text("hi", cache_control=MARK))},
        {"cache_control": MARK},
        {"system": [text("Be kind.", cache_control=MARK)]},
        {"tools": [{**TOOL, "cache_control": MARK}]},
        {
            "messages": content(
                {"type": "image", "source": {"type": "url", "url": "https://a.b/c"}, "cache_control": MARK}
            )
        },
    ],
    ids=["message", "top level", "system", "tools", "image"],
)
def test_mark_anywhere_caches_what_stands_before_it(simulator: RunningSimulator, options: dict[str, object]) -> None:
    first, second = (usage_of(post(simulator, **options)) for _ in range(2))
    assert cast("int", first["cache_creation_input_tokens"]) > 0
    assert second["cache_read_input_tokens"] == first["cache_creation_input_tokens"]


def test_nothing_is_cached_without_a_mark(simulator: RunningSimulator) -> None:
    simulator.set_behaviour(Behaviour(cached_fraction=0.5))
    for _ in range(2):
        usage = usage_of(post(simulator))
        assert (usage["input_tokens"], usage["cache_read_input_tokens"]) == (HI_TOKENS, 0)


def test_longer_conversation_reads_what_the_shorter_one_wrote(simulator: RunningSimulator) -> None:
    first = usage_of(post(simulator, cache_control=MARK))
    turns = [USER, {"role": "assistant", "content": "hello"}, USER]
    second = usage_of(post(simulator, cache_control=MARK, messages=turns))
    assert second["cache_read_input_tokens"] == first["cache_creation_input_tokens"]
    assert cast("int", second["cache_creation_input_tokens"]) > 0
    assert second["input_tokens"] == 3


def test_hour_and_minutes_are_written_apart(simulator: RunningSimulator) -> None:
    system = [text("Be kind.", cache_control=HOUR)]
    usage = usage_of(post(simulator, system=system, messages=content(text("hi", cache_control=MARK))))
    assert usage["cache_creation"] == {
        "ephemeral_1h_input_tokens": claude_tokens("Be kind."),
        "ephemeral_5m_input_tokens": claude_tokens("Be kind.hi") - claude_tokens("Be kind.") + 3,
    }


def test_models_do_not_share_a_cache_and_errors_write_none(simulator: RunningSimulator) -> None:
    simulator.set_behaviour(Behaviour(errors=Errors(status=529, next_calls=1)))
    assert post(simulator, cache_control=MARK).status == 529
    assert usage_of(post(simulator, cache_control=MARK))["cache_read_input_tokens"] == 0
    assert usage_of(post(simulator, cache_control=MARK, model=OPUS))["cache_read_input_tokens"] == 0
    simulator.reset()
    assert usage_of(post(simulator, cache_control=MARK))["cache_read_input_tokens"] == 0


@pytest.mark.parametrize(("ttl", "life_s"), [("5m", 300), ("1h", 3_600)])
def test_prefix_is_forgotten_when_its_time_is_over_unless_used(ttl: str, life_s: int) -> None:
    cache = PromptCache()
    boundaries = (Boundary(10, b"prefix", ttl),)  # pyright: ignore[reportArgumentType]
    cache.remember("a", boundaries, 0.0)
    assert cache.split("a", 12, boundaries, life_s - 1) == CachedInput(12, read_tokens=10)
    assert cache.split("a", 12, boundaries, life_s).read_tokens == 0
    cache.remember("a", boundaries, life_s - 1)
    assert cache.split("a", 12, boundaries, 2 * life_s - 2).read_tokens == 10


def test_cache_forgets_the_oldest_prefix_first() -> None:
    cache = PromptCache()
    for number in range(ENTRIES_MAX + 1):
        cache.remember("a", (Boundary(10, b"%d" % number, "5m"),), 0.0)
    reads = [cache.split("a", 10, (Boundary(10, b"%d" % number, "5m"),), 1.0).read_tokens for number in (0, 1, 2)]
    assert reads == [0, 10, 10]


# The bill


@pytest.mark.parametrize(
    ("model", "nanos"),
    [
        (OLD_HAIKU, (800, 80, 1_000, 1_600, 4_000)),
        ("claude-sonnet-4-5", (3_000, 300, 3_750, 6_000, 15_000)),
        (HAIKU, (1_000, 100, 1_250, 2_000, 5_000)),
        (OPUS, (5_000, 500, 6_250, 10_000, 25_000)),
    ],
)
def test_bill_of_a_message_is_exact_to_the_nano(
    simulator: RunningSimulator, model: str, nanos: tuple[int, int, int, int, int]
) -> None:
    plain, read, write_5m, write_1h, output = nanos
    simulator.set_behaviour(Behaviour(output_tokens=7))
    messages = content(text("hi", cache_control=HOUR), text("hi", cache_control=MARK), text("hi"))
    for _ in range(2):
        usage_of(post(simulator, model=model, messages=messages))
    # Up to each "hi" the text has 1.2, 2.4 and 3.6 tokens, rounded up; the frame of the message stands before them.
    first = 5 * write_1h + 1 * write_5m + 4 * plain + 7 * output
    second = 6 * read + 4 * plain + 7 * output
    report = simulator.bill(with_records=True)
    assert [record.cost_nanos for record in report.records] == [first, second]
    assert report.nanos == first + second
    assert (report.input_tokens, report.cached_tokens, report.output_tokens) == (20, 6, 14)
    assert (report.cache_write_5m_tokens, report.cache_write_1h_tokens) == (1, 5)


def test_bill_covers_both_apis(simulator: RunningSimulator, client: anthropic.Anthropic) -> None:
    ask(client)
    with openai.OpenAI(base_url=simulator.base_url, api_key="sk-test") as other:
        other.chat.completions.create(model="gpt-4o-mini", messages=[{"role": "user", "content": "hi"}])
    report = simulator.bill(with_records=True)
    assert [record.endpoint for record in report.records] == ["messages", "chat.completions"]
    assert report.nanos == (8 * 1_000 + 100 * 5_000) + (8 * 150 + 100 * 600)


def test_half_a_nano_of_a_cache_write_is_rounded_up_once() -> None:
    cost = replace(CLAUDE_MODELS[OLD_HAIKU], cache_write_5m_picos_per_token=37_500).cost_nanos
    assert cost(input_tokens=1, cached_tokens=0, cache_write_5m_tokens=1, output_tokens=0) == 38
    assert cost(input_tokens=2, cached_tokens=0, cache_write_5m_tokens=2, output_tokens=0) == 75


# What the input costs


def test_text_is_counted_a_fifth_above_o200k(simulator: RunningSimulator) -> None:
    words = "It is a truth universally acknowledged, that a single man must do. " * 20
    assert counted(simulator, messages=content(text(words))) == claude_tokens(words)
    assert counted(simulator, messages=[{"role": "user", "content": words}]) == claude_tokens(words)
    assert counted(simulator, system="Be kind.") == claude_tokens("hi" + "Be kind.") == claude_tokens("Be kind.hi")


def test_tools_cost_their_prompt_and_their_schema(simulator: RunningSimulator) -> None:
    schema = json.dumps(TOOL, separators=(",", ":"))
    assert counted(simulator, tools=[TOOL]) == TOOLS_TOKENS + -(-(1 + count_text(schema)) * 6 // 5)
    assert counted(simulator, tools=[{"type": "bash_20250124", "name": "bash"}]) == 2 + TOOLS_TOKENS + 245
    editor = {"type": "text_editor_20250728", "name": "str_replace_based_edit_tool"}
    assert counted(simulator, tools=[editor]) == 2 + TOOLS_TOKENS + 700


@pytest.mark.parametrize(
    ("size", "tokens"),
    [
        ((200, 200), 54),
        ((1000, 1000), 1_334),
        ((1092, 1092), 1_590),
        ((1, 1), 1),
        ((8000, 8000), 1_600),
        ((3136, 100), 105),
    ],
)
def test_image_costs_its_pixels_by_750(size: tuple[int, int], tokens: int) -> None:
    assert image_tokens(size) == tokens


def test_media_are_counted_wherever_they_stand(simulator: RunningSimulator) -> None:
    image = _image_of(_png((200, 200)))
    assert counted(simulator, messages=content(image)) == 54
    result = {"type": "tool_result", "tool_use_id": "t1", "content": [image, text("hi")]}
    used = {"type": "tool_use", "id": "t1", "name": "a", "input": {}}
    conversation = [USER, {"role": "assistant", "content": [used]}, {"role": "user", "content": [result]}]
    plain = [*conversation[:2], {"role": "user", "content": [{**result, "content": "hi"}]}]
    assert counted(simulator, messages=conversation) - counted(simulator, messages=plain) == 54
    pdf = base64.b64encode(b"/Type /Pages /Type /Page /Type/Page>>").decode()
    assert counted(simulator, messages=content(_document("base64", media_type="application/pdf", data=pdf))) == 2_000
    assert counted(simulator, messages=content(_document("url", url="https://a.b/c.pdf"))) == 20_000
    assert counted(simulator, messages=content(_document("text", media_type="text/plain", data="hi"))) == 2
    assert counted(simulator, messages=content(_document("content", content=[text("hi")]))) == 2


@pytest.mark.parametrize(
    "prompt",
    [
        {},
        {"system": [text("Be kind.")], "tools": [TOOL], "tool_choice": {"type": "any"}},
        {"messages": content({"type": "image", "source": {"type": "url", "url": "https://a.b/c"}})},
        {"cache_control": HOUR},
    ],
)
def test_count_tokens_says_what_the_call_is_billed_and_is_free(
    simulator: RunningSimulator, client: anthropic.Anthropic, prompt: dict[str, object]
) -> None:
    body = {"model": HAIKU, "messages": [USER], **prompt}
    tokens = client.messages.count_tokens(**body).input_tokens  # pyright: ignore[reportArgumentType]
    assert simulator.bill(with_records=True).records == ()
    ask(client, **prompt)
    assert only_record(simulator).input_tokens == tokens


# What is taken and what is refused


@pytest.mark.parametrize(
    "accepted",
    [
        {"system": "Be kind.", "metadata": {"user_id": "u1"}, "temperature": 0.5, "top_p": 0.9, "top_k": 5},
        {"service_tier": "auto", "stream": False, "stop_sequences": [], "inference_geo": None},
        {"messages": [USER, {"role": "assistant", "content": "Well,"}]},
        {"messages": [USER, USER]},
        {"tools": [{**TOOL, "type": "custom", "strict": True}, {"type": "memory_20250818", "name": "memory"}]},
        {"tools": [TOOL], "tool_choice": {"type": "auto", "disable_parallel_tool_use": True}},
        {"model": OPUS, "thinking": {"type": "adaptive"}, "output_config": {"effort": "low"}},
        {
            "messages": [
                USER,
                {
                    "role": "assistant",
                    "content": [
                        {"type": "thinking", "thinking": "hm", "signature": "abc"},
                        {"type": "redacted_thinking", "data": "abc"},
                        {"type": "tool_use", "id": "t1", "name": "look_up", "input": {"a": [1]}},
                    ],
                },
                {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "is_error": True}]},
            ]
        },
    ],
)
def test_what_the_vendor_takes_is_taken(simulator: RunningSimulator, accepted: dict[str, object]) -> None:
    assert cast("int", usage_of(post(simulator, **accepted))["output_tokens"]) >= 100


def _image_of(data: str) -> dict[str, object]:
    return {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": data}}


_USE = {"type": "tool_use", "id": "t1", "name": "look_up", "input": {}}
_RESULT = {"type": "tool_result", "tool_use_id": "t1", "content": "hi"}


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"max_tokens": 0}, "max_tokens: Input should be greater"),
        ({"max_tokens": "5"}, "max_tokens: Input should be a valid integer"),
        ({"max_tokens": 64_001}, "max_tokens: 64001 > 64000"),
        ({"messages": []}, "messages: List should have at least 1 item"),
        ({"messages": [{"role": "system", "content": "hi"}]}, "messages.0.role"),
        ({"messages": [{"role": "user", "content": ""}]}, "non-empty content"),
        ({"messages": content(text(""))}, "text content blocks must be non-empty"),
        ({"messages": content({"type": "hologram"})}, "messages.0.content.0"),
        ({"messages": content(text("hi", color="red"))}, "messages.0.content.0.text.color: Extra inputs"),
        ({"messages": content(_USE)}, "may not be in user messages"),
        ({"messages": [USER, {"role": "assistant", "content": [_USE]}]}, "without `tool_result` blocks"),
        ({"messages": [USER, {"role": "assistant", "content": [_USE]}, USER]}, "without `tool_result` blocks"),
        ({"messages": content(_RESULT)}, "unexpected `tool_use_id`"),
        ({"messages": [USER, {"role": "assistant", "content": "hm "}]}, "trailing whitespace"),
        ({"messages": content({"type": "image", "source": {"type": "file", "file_id": "f"}})}, "image.source"),
        ({"messages": content(_image_of("aGk="))}, "Could not process image"),
        ({"messages": content(_image_of("%"))}, "base64"),
        ({"foo": 1}, "foo: Extra inputs are not permitted"),
        ({"n": 2}, "n: Extra inputs are not permitted"),
        ({"stream": "yes"}, "stream: Input should be a valid boolean"),
        ({"temperature": 1.5}, "temperature"),
        ({"metadata": {"feature": "search"}}, "metadata.feature: Extra inputs"),
        ({"stop_sequences": [" "]}, "non-whitespace"),
        ({"tools": [TOOL, TOOL]}, "unique"),
        ({"tools": [{"name": "a b", "input_schema": {"type": "object"}}]}, "tools.0.custom.name"),
        ({"tools": [{"name": "a"}]}, "tools.0.custom.input_schema: Field required"),
        ({"tools": [{"type": "bash_20250124", "name": "sh"}]}, "tools.0.bash_20250124.name"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools.0.vendor.type"),
        ({"tool_choice": {"type": "auto"}}, "tool_choice may only be specified"),
        ({"tools": [TOOL], "tool_choice": {"type": "tool", "name": "other"}}, "not found in provided tools"),
        ({"thinking": {"type": "enabled", "budget_tokens": 1_023}}, "greater than or equal to 1024"),
        ({"thinking": {"type": "enabled", "budget_tokens": 1_024}}, "must be greater than `thinking.budget_tokens`"),
        ({"thinking": {"type": "adaptive"}}, "not supported"),
        ({**THINKING, "model": OLD_HAIKU}, "not supported"),
        ({**THINKING, "temperature": 0.5}, "temperature"),
        ({**THINKING, "top_k": 5}, "top_k"),
        ({**THINKING, "tools": [TOOL], "tool_choice": {"type": "any"}}, "forces tool use"),
        ({"cache_control": {"type": "ephemeral", "ttl": "2h"}}, "cache_control.ttl"),
        ({"messages": content(*(text("hi", cache_control=MARK) for _ in range(5)))}, "A maximum of 4 blocks"),
        (
            {"messages": content(text("hi", cache_control=MARK), text("hi", cache_control=HOUR))},
            "must not come after",
        ),
        ({"model": OLD_HAIKU, "max_tokens": 10, "messages": content(text("word " * 170_000))}, "prompt is too long"),
        ({"max_tokens": 64_000, "messages": content(text("word " * 120_000))}, "exceed context limit"),
    ],
)
def test_bad_message_is_400_and_costs_nothing(simulator: RunningSimulator, wrong: dict[str, object], why: str) -> None:
    reply = post(simulator, **wrong)
    assert (reply.status, reply.error["type"]) == (400, "invalid_request_error")
    assert why in reply.error["message"]
    assert reply.json["type"] == "error"
    assert reply.json["request_id"] == reply.headers["request-id"]
    assert simulator.bill().nanos == 0
    assert only_record(simulator).status == 400


def test_missing_cap_is_refused(simulator: RunningSimulator) -> None:
    reply = request(simulator, {"model": HAIKU, "messages": [USER]})
    assert (reply.status, reply.error["message"]) == (400, "max_tokens: Field required")


@pytest.mark.parametrize("field", ["max_tokens", "stream", "stop_sequences", "metadata", "temperature"])
def test_count_tokens_refuses_what_only_a_call_has(simulator: RunningSimulator, field: str) -> None:
    body = {"model": HAIKU, "messages": [USER], field: 1}
    reply = request(simulator, body, path="/v1/messages/count_tokens")
    assert (reply.status, reply.error["message"]) == (400, f"{field}: Extra inputs are not permitted")


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/count_tokens"])
@pytest.mark.parametrize(
    ("headers", "status", "kind"),
    [
        ({"anthropic-version": "2023-06-01"}, 401, "authentication_error"),
        ({"anthropic-version": "2023-06-01", "x-api-key": " "}, 401, "authentication_error"),
        ({"x-api-key": "sk-test"}, 400, "invalid_request_error"),
        ({"x-api-key": "sk-test", "anthropic-version": "newest"}, 400, "invalid_request_error"),
        ({"anthropic-version": "2023-06-01", "x-api-key": "sk-test"}, 200, None),
        ({"anthropic-version": "2023-06-01", "authorization": "Bearer sk-test"}, 200, None),
    ],
)
def test_key_and_version_are_required(
    simulator: RunningSimulator, path: str, headers: dict[str, str], status: int, kind: str | None
) -> None:
    body = {"model": HAIKU, "messages": [USER]} if path.endswith("count_tokens") else BODY
    reply = request(simulator, body, path=path, headers=headers)
    assert reply.status == status
    assert reply.headers["request-id"].startswith("req_")
    if kind is not None:
        assert reply.error["type"] == kind


@pytest.mark.parametrize("model", ["claude-0", "gpt-4o-mini", "text-embedding-3-small"])
def test_model_of_another_api_is_404(simulator: RunningSimulator, client: anthropic.Anthropic, model: str) -> None:
    with pytest.raises(anthropic.NotFoundError) as raised:
        ask(client, model=model)
    assert raised.value.body == {
        "type": "error",
        "error": {"type": "not_found_error", "message": f"model: {model}"},
        "request_id": raised.value.request_id,
    }
    with openai.OpenAI(base_url=simulator.base_url, api_key="sk-test") as other, pytest.raises(openai.NotFoundError):
        other.chat.completions.create(model=HAIKU_NAME, messages=[{"role": "user", "content": "hi"}])


def test_body_above_32_mib_is_413(simulator: RunningSimulator) -> None:
    reply = post(simulator, system="x" * (32 * 1024 * 1024))
    assert (reply.status, reply.error["type"]) == (413, "request_too_large")


def test_unknown_path_below_messages_is_404_in_its_own_shape(simulator: RunningSimulator) -> None:
    reply = request(simulator, BODY, path="/v1/messages/batches")
    assert (reply.status, reply.error["type"]) == (404, "not_found_error")


def test_claude_models_are_listed_for_those_who_speak_their_api(
    simulator: RunningSimulator, client: anthropic.Anthropic
) -> None:
    listed = list(client.models.list())
    assert [model.id for model in listed] == list(CLAUDE_MODELS)
    assert all(model.display_name.startswith("Claude") for model in listed)
    assert client.models.retrieve(HAIKU).id == HAIKU_NAME
    with pytest.raises(anthropic.NotFoundError):
        client.models.retrieve("gpt-4o-mini")


# Faults


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/count_tokens"])
@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "invalid_request_error"),
        (401, "authentication_error"),
        (404, "not_found_error"),
        (413, "request_too_large"),
        (429, "rate_limit_error"),
        (500, "api_error"),
        (503, "api_error"),
        (529, "overloaded_error"),
    ],
)
def test_injected_error_of_messages_costs_nothing(
    simulator: RunningSimulator, path: str, status: int, kind: str
) -> None:
    simulator.set_behaviour(Behaviour(errors=Errors(status=status, next_calls=1), retry_after=7))
    body = {"model": HAIKU, "messages": [USER]} if path.endswith("count_tokens") else BODY
    reply = request(simulator, body, path=path)
    assert (reply.status, reply.error["type"]) == (status, kind)
    assert reply.headers["retry-after"] == "7"
    assert reply.headers["request-id"] == reply.json["request_id"]
    assert simulator.bill().nanos == 0
    assert request(simulator, body, path=path).status == 200


def test_usage_of_messages_is_left_out_when_told_to(simulator: RunningSimulator) -> None:
    simulator.set_behaviour(Behaviour(omit_usage=True, omit_stream_usage=True))
    assert "usage" not in post(simulator).json
    reply = post(simulator, stream=True)
    assert b"usage" not in reply.body
    assert reply.events[-1][0] == "message_stop"
    assert simulator.bill().output_tokens == 200


@pytest.mark.parametrize("streamed", [False, True])
def test_dropped_message_bills_what_was_generated(simulator: RunningSimulator, streamed: bool) -> None:
    simulator.set_behaviour(Behaviour(reasoning_tokens=20, disconnect_after_tokens=30))
    with pytest.raises(http.client.IncompleteRead) as raised:
        post(simulator, stream=streamed, **THINKING)
    received = raised.value.partial
    assert received.startswith(b"event: message_start" if streamed else b'{"model"')
    assert (received.count(b" token") == 50) == streamed
    assert b"message_stop" not in received
    record = only_record(simulator)
    assert (record.outcome, record.output_tokens) == ("disconnected", 50)


def test_stream_that_breaks_off_ends_in_an_error_event_and_bills_what_was_generated(
    simulator: RunningSimulator, client: anthropic.Anthropic
) -> None:
    simulator.set_behaviour(Behaviour(stream_error_after_tokens=30))
    reply = post(simulator, stream=True)
    name, error = reply.events[-1]
    assert (reply.status, name) == (200, "error")
    assert error["error"] == {"type": "overloaded_error", "message": "Overloaded"}
    assert error["request_id"] == reply.headers["request-id"]
    assert reply.body.count(b" token") == 30
    record = only_record(simulator)
    assert (record.outcome, record.status, record.output_tokens) == ("errored", 200, 30)
    assert record.cost_nanos == HI_TOKENS * 1_000 + 30 * 5_000
    with pytest.raises(anthropic.APIStatusError, match="Overloaded"):
        stream_to_end(client)


def test_chat_stream_breaks_off_alike(simulator: RunningSimulator) -> None:
    simulator.set_behaviour(Behaviour(stream_error_after_tokens=30, reasoning_tokens=5))
    received = ""
    with (
        openai.OpenAI(base_url=simulator.base_url, api_key="sk-test", max_retries=0) as other,
        pytest.raises(openai.APIError, match="had an error"),
    ):
        for chunk in other.chat.completions.create(
            model="gpt-4o-mini", messages=[{"role": "user", "content": "hi"}], stream=True
        ):
            received += chunk.choices[0].delta.content or ""
    assert received == WORD * 30
    record = only_record(simulator)
    assert (record.outcome, record.output_tokens) == ("errored", 35)


def test_left_stream_of_messages_bills_what_was_generated_by_then(
    simulator: RunningSimulator, client: anthropic.Anthropic
) -> None:
    simulator.set_behaviour(SLOW)
    with client.messages.stream(model=HAIKU, max_tokens=500, messages=[{"role": "user", "content": "hi"}]) as streamed:
        received = ""
        for piece in streamed.text_stream:
            received += piece
            if count_text(received) >= 20:
                break
        assert simulator.bill().calls["running"] == 1
    record = only_record(simulator, wait_idle_s=10)
    assert record.outcome == "cancelled"
    assert 20 <= record.output_tokens < 500
    assert record.cost_nanos == HI_TOKENS * 1_000 + record.output_tokens * 5_000


def test_hung_message_bills_only_its_input_when_told_to(
    simulator: RunningSimulator, client: anthropic.Anthropic
) -> None:
    simulator.set_behaviour(Behaviour(hang=True, bill_abandoned="generated"))
    with pytest.raises(anthropic.APITimeoutError):
        ask(client.with_options(timeout=0.5))
    record = only_record(simulator, wait_idle_s=10)
    assert (record.outcome, record.cost_nanos) == ("cancelled", HI_TOKENS * 1_000)


def test_static_simulator_answers_messages_both_ways() -> None:
    with (
        running_simulator(static=True) as running,
        anthropic.Anthropic(base_url=running.anthropic_base_url, api_key="x") as client,
    ):
        whole, streamed = ask(client), stream_to_end(client)
    assert whole.usage == streamed.usage
    assert [block.type for block in streamed.content] == ["text"]


def _event(kind: str, **fields: object) -> dict[str, object]:
    return {"type": kind, **fields}


def _text_delta(tokens: int) -> dict[str, object]:
    return {"type": "text_delta", "text": WORD * tokens}


def _document(kind: str, **source: object) -> dict[str, object]:
    return {"type": "document", "source": {"type": kind, **source}}


def _png(size: tuple[int, int]) -> str:
    out = io.BytesIO()
    Image.new("RGB", size).save(out, "PNG")
    return base64.b64encode(out.getvalue()).decode()
