import json

import pytest
from recorded import chat_body, chat_call, recording, refused

from spendfuse.core.calls import Call, Content, Media, MediaKind
from spendfuse.wire.json_body import Json, write
from spendfuse.wire.openai_chat import OpenAIChat


def content_of(*parts: Json) -> Content:
    return chat_call(messages=[{"role": "user", "content": list(parts)}]).content


def image(url: Json, **more: Json) -> dict[str, Json]:
    return {"type": "image_url", "image_url": {"url": url, **more}}


def test_a_full_request_is_taken_apart() -> None:
    raw = recording("request_with_everything.json")
    call = OpenAIChat().parse(raw)
    assert isinstance(call, Call)
    content = call.content
    assert content.media == (
        Media(MediaKind.IMAGE, "image/png", "iVBORw0KGgo=", "low"),
        Media(MediaKind.AUDIO, "audio/wav", "UklGRg=="),
        Media(MediaKind.DOCUMENT, "application/pdf", "JVBERi0="),
    )
    # The URL, the file id, the part of an unknown type, and the assistant's audio.
    assert content.references == 4
    assert (content.messages, content.tools, content.token_ids) == (4, 2, 0)
    assert content.text_bytes == len(raw) - len("iVBORw0KGgo=" + "UklGRg==" + "JVBERi0=")


@pytest.mark.parametrize(
    "text",
    [
        "Be brief.",
        "ann",
        "What is in these?",
        "a.pdf",
        "unknown",
        "look_up",
        '{"term":"cat"}',
        "a small animal",
        "a field nobody knows",
        '"description":"Look a term up."',
        '"description":"Run it."',
        '"name":"finding"',
    ],
)
def test_every_text_that_can_be_billed_is_listed(text: str) -> None:
    call = OpenAIChat().parse(recording("request_with_everything.json"))
    assert isinstance(call, Call)
    assert any(text in one for one in call.content.texts())


def test_inline_media_is_not_listed_as_text() -> None:
    call = OpenAIChat().parse(recording("request_with_everything.json"))
    assert isinstance(call, Call)
    texts = "".join(call.content.texts())
    assert "iVBOR" not in texts
    assert "UklGR" not in texts
    assert "JVBER" not in texts


def test_text_beside_media_in_one_part_is_listed() -> None:
    content = content_of({**image("data:image/png;base64,QUJD"), "text": "smuggled"})
    assert "smuggled" in content.texts()


@pytest.mark.parametrize(
    ("url", "kind", "mime"),
    [
        ("data:image/png;base64,QUJD", MediaKind.IMAGE, "image/png"),
        ("DATA:IMAGE/JPEG;charset=x;BASE64,QUJD", MediaKind.IMAGE, "image/jpeg"),
        ("data:application/pdf;base64,QUJD", MediaKind.DOCUMENT, "application/pdf"),
        ("data:audio/wav;base64,QUJD", MediaKind.AUDIO, "audio/wav"),
        ("data:video/mp4;base64,QUJD", MediaKind.OTHER, "video/mp4"),
        ("data:;base64,QUJD", MediaKind.OTHER, ""),
    ],
)
def test_a_data_uri_is_media_of_the_kind_that_its_type_names(url: str, kind: MediaKind, mime: str) -> None:
    content = content_of(image(url))
    assert content.media == (Media(kind, mime, "QUJD"),)
    assert content.references == 0


@pytest.mark.parametrize(
    "url",
    [
        "data:",
        "data:image/png",
        "data:image/png;base64",
        "data:image/png;base64,",
        "data:image/png,QUJD",
        "data:text/plain,hello",
        "data:image/png;" + "x" * 300 + ";base64,QUJD",
        "",
        5,
        None,
        ["https://example.com"],
    ],
)
def test_a_malformed_data_uri_or_url_is_refused_at_its_place(url: Json) -> None:
    body = chat_body(messages=[{"role": "user", "content": [{"type": "text", "text": "x"}, image(url)]}])
    assert refused(OpenAIChat().parse(body)).param == "messages[0].content[1].image_url.url"


@pytest.mark.parametrize(
    "part",
    [
        image("https://example.com/cat.jpg"),
        image("gs://bucket/cat.jpg"),
        {"type": "image_url", "image_url": "http://example.com/cat.jpg"},
        {"type": "file", "file": {"file_id": "file-1"}},
        {"type": "file", "file": {}},
        {"type": "video_url", "video_url": {"url": "data:video/mp4;base64,QUJD"}},
        {"type": 5},
        {"text": "no type"},
        {},
    ],
)
def test_what_is_only_named_or_not_known_is_a_reference(part: Json) -> None:
    content = content_of(part)
    assert content.references == 1
    assert content.media == ()


def test_a_file_without_a_type_is_media_of_no_known_kind() -> None:
    content = content_of({"type": "file", "file": {"file_data": "QUJD", "file_id": "file-1"}})
    assert content.media == (Media(MediaKind.OTHER, "application/octet-stream", "QUJD"),)
    assert content.references == 1


@pytest.mark.parametrize("part", [{"type": "input_audio"}, {"type": "input_audio", "input_audio": {"data": 5}}])
def test_malformed_audio_is_refused(part: Json) -> None:
    refused(OpenAIChat().parse(chat_body(messages=[{"content": [part]}])))


@pytest.mark.parametrize("text", ["x" * 1_000, "世界" * 100, '\x00\n"\\' * 50, "🧨" * 20])
@pytest.mark.parametrize("ascii_only", [False, True])
def test_text_bytes_are_at_least_the_bytes_of_all_texts(text: str, ascii_only: bool) -> None:
    parts = [{"type": "text", "text": text}, image("data:image/png;base64,QUJD")]
    body = {"model": "m", "messages": [{"role": "user", "content": parts}]}
    call = OpenAIChat().parse(json.dumps(body, ensure_ascii=ascii_only).encode())
    assert isinstance(call, Call)
    assert call.content.text_bytes >= len(text.encode())


def test_escaped_slashes_in_base64_leave_a_bound() -> None:
    raw = chat_body(messages=[{"content": [image("data:image/png;base64,AAAA")]}]).replace(b"AAAA", rb"\/\/\/\/")
    call = OpenAIChat().parse(raw)
    assert isinstance(call, Call)
    assert call.content.media[0].base64 == "////"
    assert call.content.text_bytes == len(raw) - 4


def test_messages_may_lack_content() -> None:
    calls: Json = [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
    content = chat_call(
        messages=[{"role": "assistant", "tool_calls": calls}, {"role": "user", "content": None}]
    ).content
    assert (content.messages, content.references) == (2, 0)
    assert write({"a": 1}) not in content.texts()
