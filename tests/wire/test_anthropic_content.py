import pytest
from anthropic_recorded import answer_of, messages_body, messages_call
from recorded import refused

from spendfuse.core.calls import Call, Content, Media, MediaKind
from spendfuse.wire.anthropic_content import STRUCTURED_TOKENS
from spendfuse.wire.anthropic_messages import AnthropicMessages
from spendfuse.wire.json_body import Json


def content_of(*blocks: Json) -> Content:
    return messages_call(messages=[{"role": "user", "content": list(blocks)}]).content


def everything() -> Content:
    call = AnthropicMessages().parse(answer_of("request_with_everything.json"))
    assert isinstance(call, Call)
    return call.content


def base64_of(kind: str, mime: Json, data: Json = "QUJD") -> dict[str, Json]:
    return {"type": kind, "source": {"type": "base64", "media_type": mime, "data": data}}


def test_a_full_request_is_taken_apart() -> None:
    content = everything()
    assert set(content.media) == {
        Media(MediaKind.IMAGE, "image/png", "iVBORw0KGgo="),
        Media(MediaKind.IMAGE, "image/jpeg", "/9j/4AAQ"),
        Media(MediaKind.IMAGE, "image/gif", "R0lGODlh"),
        Media(MediaKind.DOCUMENT, "application/pdf", "JVBERi0="),
    }
    # The URL, the file, and the block of an unknown type.
    assert content.references == 3
    assert (content.messages, content.tools, content.token_ids) == (5, 4, 0)
    assert content.added_tokens == 2 * 1_024 + STRUCTURED_TOKENS
    inline = sum(len(one.base64) for one in content.media)
    assert content.text_bytes == len(answer_of("request_with_everything.json")) - inline


@pytest.mark.parametrize(
    "text",
    [
        *("Be brief.", "What is in these?", "a.pdf", "a hint", "plain words", "nested words", "what was found"),
        *("https://example.com/found", "an earlier thought", "EqQBCgIYAhIM", "EmwKAhgBEgy3", "look_up", "cat"),
        *("a small animal", "done", "unknown", "I see", "a field nobody knows", '"description":"Look a term up."'),
        *('"description":"Run it."', '"title":"finding"', '"type":"bash_20250124"', '"type":"tool"'),
    ],
)
def test_every_text_that_can_be_billed_is_listed(text: str) -> None:
    assert any(text in one for one in everything().texts())


@pytest.mark.parametrize("data", ["iVBOR", "/9j/4", "R0lGO", "JVBER"])
def test_inline_media_is_not_listed_as_text(data: str) -> None:
    assert data not in "".join(everything().texts())


def test_text_that_only_looks_like_media_is_listed() -> None:
    looks: Json = {"type": "base64", "media_type": "image/png", "data": "smuggled"}
    content = content_of({"type": "tool_use", "id": "t", "name": "f", "input": {"source": looks}})
    assert "smuggled" in content.texts()
    assert content.media == ()


@pytest.mark.parametrize(
    ("block", "kind"),
    [
        (base64_of("image", "image/png"), MediaKind.IMAGE),
        (base64_of("image", " IMAGE/WEBP "), MediaKind.IMAGE),
        (base64_of("image", "application/pdf"), MediaKind.OTHER),
        (base64_of("image", "audio/wav"), MediaKind.OTHER),
        (base64_of("document", "application/pdf"), MediaKind.DOCUMENT),
        (base64_of("document", "image/png"), MediaKind.OTHER),
        (base64_of("document", ""), MediaKind.OTHER),
    ],
)
def test_inline_media_is_of_the_kind_that_its_block_and_type_agree_on(block: Json, kind: MediaKind) -> None:
    content = content_of(block)
    assert [one.kind for one in content.media] == [kind]
    assert content.references == 0


@pytest.mark.parametrize(
    ("block", "param"),
    [
        (base64_of("image", "image/png", ""), "source.data"),
        (base64_of("image", "image/png", None), "source.data"),
        (base64_of("document", "application/pdf", ["QUJD"]), "source.data"),
        (base64_of("image", None), "source.media_type"),
        ({"type": "image", "source": "https://example.com"}, "source"),
        ({"type": "document"}, "source"),
    ],
)
def test_inline_media_without_a_readable_form_is_refused_at_its_place(block: Json, param: str) -> None:
    nested: Json = {"type": "tool_result", "content": [{"type": "text", "text": "x"}, block]}
    deny = refused(AnthropicMessages().parse(messages_body(messages=[{"role": "user", "content": [nested]}])))
    assert deny.param == f"messages[0].content[0].content[1].{param}"


@pytest.mark.parametrize(
    "block",
    [
        {"type": "image", "source": {"type": "url", "url": "https://example.com/cat.jpg"}},
        {"type": "image", "source": {"type": "file", "file_id": "file_1"}},
        {"type": "image", "source": {"type": "text", "data": "x"}},
        {"type": "document", "source": {"type": "url", "url": "https://example.com/a.pdf"}},
        {"type": "document", "source": {"type": "file", "file_id": "file_1"}},
        {"type": "document", "source": {}},
        {"type": "container_upload", "file_id": "file_1"},
        {"type": "web_search_tool_result", "content": [{"encrypted_content": "E"}]},
        {"type": "tool_reference", "tool_name": "f"},
        {"type": "tool_addition", "tool": {"type": "tool_reference", "name": "f"}},
        {"type": 5},
        {"type": ["text"]},
        {"text": "no type"},
        {},
    ],
)
def test_what_is_only_named_or_not_known_is_a_reference(block: Json) -> None:
    content = content_of(block)
    assert content.references == 1
    assert content.media == ()


@pytest.mark.parametrize(
    "block",
    [
        {"type": "text", "text": "x"},
        {"type": "thinking", "thinking": "x", "signature": "s"},
        {"type": "redacted_thinking", "data": "x"},
        {"type": "tool_use", "id": "t", "name": "f", "input": {}},
        {"type": "tool_result", "tool_use_id": "t"},
        {"type": "tool_result", "tool_use_id": "t", "content": None},
        {"type": "tool_result", "tool_use_id": "t", "content": "x"},
        {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "x"}},
        {"type": "document", "source": {"type": "content", "content": "x"}},
        {"type": "search_result", "source": "s", "title": "t", "content": [{"type": "text", "text": "x"}]},
    ],
)
def test_text_is_bounded_by_its_bytes_alone(block: Json) -> None:
    raw = messages_body(messages=[{"role": "user", "content": [block]}])
    content = content_of(block)
    assert (content.references, content.media, content.text_bytes) == (0, (), len(raw))


def test_blocks_of_the_system_are_looked_through_too() -> None:
    call = messages_call(system=[{"type": "text", "text": "x"}, base64_of("image", "image/png"), {"type": "new"}])
    assert (len(call.content.media), call.content.references, call.content.messages) == (1, 1, 2)


@pytest.mark.parametrize(
    ("tool", "tokens"),
    [
        ({"name": "f", "input_schema": {}}, 0),
        ({"type": None, "name": "f"}, 0),
        ({"type": "custom", "name": "f", "allowed_callers": ["direct"]}, 0),
        ({"type": "bash_20250124", "name": "bash"}, 1_024),
        ({"type": "text_editor_20250728", "name": "e"}, 1_024),
        ({"type": "computer_20251124", "name": "computer"}, 2_048),
        ({"type": "memory_20250818", "name": "memory"}, 2_048),
        ({"type": "computer_toolset_20260801"}, 8_192),
        ({"type": "browser_toolset_20260801"}, 8_192),
    ],
)
def test_a_tool_that_the_client_runs_passes_with_room_for_its_instructions(tool: Json, tokens: int) -> None:
    content = messages_call(tools=[tool, tool]).content
    assert (content.added_tokens, content.tools) == (2 * tokens, 2)


@pytest.mark.parametrize(
    "kind",
    [
        *("web_search_20250305", "web_search_20260318", "web_fetch_20250910", "code_execution_20250825"),
        *("tool_search_tool_bm25_20251119", "tool_search_tool_regex_20251119", "mcp_toolset", "advisor_20260301"),
        *("function", "new_20300101", "bash", "bash_", "bash_2025", "bash_code_execution_20250825", "custom_20250101"),
        *("", "_20250101", "bash_20250124x", "BASH_20250124"),
    ],
)
def test_a_tool_that_the_provider_runs_or_nobody_knows_is_refused(kind: str) -> None:
    tools: Json = [{"name": "f"}, {"type": kind, "name": "x", "max_uses": 1}]
    deny = refused(AnthropicMessages().parse(messages_body(tools=tools)))
    assert deny.param == "tools[1].type"
    assert "a tool that you run" in deny.message


@pytest.mark.parametrize("kind", [5, False, ["bash_20250124"], {"type": "custom"}])
def test_a_tools_type_must_be_a_string(kind: Json) -> None:
    assert refused(AnthropicMessages().parse(messages_body(tools=[{"type": kind}]))).param == "tools[0].type"


def test_a_tool_that_the_providers_tools_may_call_is_refused() -> None:
    tools: Json = [{"name": "f", "allowed_callers": ["direct", "code_execution_20260120"]}]
    assert refused(AnthropicMessages().parse(messages_body(tools=tools))).param == "tools[0].allowed_callers"


@pytest.mark.parametrize(
    "tool",
    [
        {"type": "tool_definition", "definition": {"type": "web_search_20250305", "name": "web_search"}},
        {"type": "mcp_toolset_reference", "mcp_server_name": "s"},
        {},
        None,
        "x",
    ],
)
def test_a_message_that_brings_in_a_tool_is_refused(tool: Json) -> None:
    addition: Json = {"type": "tool_addition", "tool": tool}
    for block in (addition, {"type": "compaction", "content": "x", "tool_changes": [addition]}):
        body = messages_body(messages=[{"role": "user", "content": [block]}])
        assert (refused(AnthropicMessages().parse(body)).param or "").endswith(".tool")
