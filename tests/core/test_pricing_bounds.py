import base64

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spendfuse.core.calls import Content, Media, MediaKind, Operation
from spendfuse.pricing import bounds, tokens
from spendfuse.pricing.bounds import InputBound, Unboundable, input_bound
from spendfuse.pricing.caps import ModelCaps
from spendfuse.pricing.images import Tiles
from spendfuse.pricing.media import MediaRules

WINDOW = 10_000
CAPS = ModelCaps(context_window=WINDOW, media=MediaRules(images=Tiles(85, 170), audio_tokens_per_s=10))
UNKNOWN = ModelCaps()
IMAGE = Media(MediaKind.IMAGE, "image/png", base64.b64encode(b"no size").decode())
AUDIO = Media(MediaKind.AUDIO, "audio/mp3", base64.b64encode(b"\0" * 3_000).decode())
FILM = Media(MediaKind.OTHER, "video/mp4", "AAAA")


@pytest.fixture(scope="module", autouse=True)
def vocabulary() -> None:
    """Loaded before the first example, whose deadline it would break."""
    tokens.encoding()


def content_of(body: dict[str, object]) -> Content:
    """A content as a dialect reads it: the texts that are billed, one by one."""
    messages, tools = body["messages"], body.get("tools", [])
    assert isinstance(messages, list)
    assert isinstance(tools, list)
    found = [value for message in messages for value in message.values()]
    found += [orjson.dumps(tool).decode() for tool in tools]
    return Content(len(orjson.dumps(body)), lambda: found, messages=len(messages), tools=len(tools))


def text_content(text_bytes: int, **more: object) -> Content:
    return Content(text_bytes=text_bytes, texts=list, **more)  # type: ignore[arg-type]


def bound_of(content: Content, caps: ModelCaps = CAPS, *, counted: bool = False, holds: bool = True) -> InputBound:
    bound = input_bound(content, caps, operation=Operation.CHAT, holds_vocabulary=holds, counted=counted)
    assert isinstance(bound, InputBound)
    return bound


def billed(body: dict[str, object]) -> int:
    """OpenAI's rule: three for the reply, three for a message beside its role, one for a name, tools as JSON."""
    messages, tools = body["messages"], body.get("tools", [])
    assert isinstance(messages, list)
    assert isinstance(tools, list)
    total = 3 + (12 + tokens.count(orjson.dumps(tools).decode()) if tools else 0)
    for message in messages:
        total += 3 + ("name" in message) + sum(tokens.count(value) for value in message.values())
    return total


message = st.fixed_dictionaries(
    {"role": st.sampled_from(["system", "user", "assistant", "developer"]), "content": st.text(max_size=60)},
    optional={"name": st.text("abc_", min_size=1, max_size=9)},
)
tool = st.builds(
    lambda name, about: {"type": "function", "function": {"name": name, "description": about, "parameters": {}}},
    st.text("abc_", min_size=1, max_size=9),
    st.text(max_size=40),
)
bodies = st.fixed_dictionaries(
    {"model": st.just("m"), "messages": st.lists(message, min_size=1, max_size=6)},
    optional={"tools": st.lists(tool, min_size=1, max_size=4)},
)


@given(bodies)
def test_a_chat_is_never_billed_above_its_bound(body: dict[str, object]) -> None:
    bill, content = billed(body), content_of(body)
    in_bytes, counted = bound_of(content), bound_of(content, counted=True)
    assert bill <= counted.tokens <= in_bytes.tokens
    assert counted.counted
    assert not in_bytes.counted


def test_counting_is_several_times_closer_than_bytes() -> None:
    body: dict[str, object] = {"messages": [{"role": "user", "content": "The quick brown fox jumps. " * 100}]}
    content = content_of(body)
    assert bound_of(content, counted=True).tokens < billed(body) + 32
    assert bound_of(content).tokens > 3 * billed(body)


def test_bytes_stay_the_bound_without_the_vocabulary_or_above_the_limit() -> None:
    small, large = text_content(1_000), text_content(tokens.COUNTED_BYTES_MAX + 1)
    assert not bound_of(small, counted=True, holds=False).counted
    assert not bound_of(large, counted=True).counted


def test_other_vendors_add_their_own_instructions() -> None:
    plain, with_tools = text_content(1_000), text_content(1_000, tools=1)
    assert bound_of(plain).tokens == 1_000
    assert bound_of(plain, holds=False).tokens == 1_000 + bounds.FOREIGN_TEMPLATE_TOKENS
    foreign_tokens = bounds.FOREIGN_TEMPLATE_TOKENS + bounds.FOREIGN_TOOLS_TOKENS
    assert bound_of(with_tools, holds=False).tokens == 1_000 + foreign_tokens


def test_media_and_references_are_added() -> None:
    content = text_content(100, media=(IMAGE, AUDIO), token_ids=7)
    assert bound_of(content) == InputBound(100 + 7 + (85 + 8 * 170) + 30, audio=True)
    caps = ModelCaps(context_window=WINDOW, reference_tokens=500)
    assert bound_of(text_content(100, references=2), caps) == InputBound(1_100, audio=True)


def test_the_bound_is_at_most_the_window() -> None:
    for content in (text_content(WINDOW + 1), text_content(1, references=3), text_content(1, media=(FILM,))):
        assert bound_of(content).tokens == WINDOW


def test_an_embeddings_call_may_have_many_texts_each_with_a_window_of_its_own() -> None:
    bound = input_bound(
        text_content(3 * WINDOW), CAPS, operation=Operation.EMBEDDINGS, holds_vocabulary=False, counted=False
    )
    assert bound == InputBound(3 * WINDOW)


@pytest.mark.parametrize("content", [text_content(9, media=(IMAGE,)), text_content(9, references=1)])
def test_a_model_without_a_known_window_takes_text_only(content: Content) -> None:
    bound = input_bound(content, UNKNOWN, operation=Operation.CHAT, holds_vocabulary=False, counted=False)
    assert isinstance(bound, Unboundable)
    assert "context window" in bound.message
    assert bound_of(text_content(10**7), UNKNOWN).tokens == 10**7


def test_only_what_may_be_audio_is_priced_as_audio() -> None:
    assert not bound_of(text_content(9, media=(IMAGE,))).audio
    assert bound_of(text_content(9, media=(FILM,))).audio
