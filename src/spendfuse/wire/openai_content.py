"""What an OpenAI request carries that is billed as input: its text, its media and what it only names."""

from dataclasses import dataclass, field

from spendfuse.core.calls import Content, Media, MediaKind
from spendfuse.wire.content import add_strings, media_kind
from spendfuse.wire.json_body import BodyInvalid, Json, JsonObject, write
from spendfuse.wire.json_fields import as_object, objects, text, wrong

_DATA_URI = "data:"
_HEADER_BYTES_MAX = 256
_MEDIA_PARTS = frozenset({"image_url", "input_audio", "file"})
_AS_JSON = ("response_format", "tool_choice", "function_call")
"""Fields whose whole JSON is put before the model, in one form or another."""


def chat_content(body: JsonObject, *, body_bytes: int, known_fields: frozenset[str]) -> Content:
    """The content of a chat request that came in `body_bytes` bytes.

    Raises:
        BodyInvalid: messages or tools have a wrong type, or inline media has no readable form.
    """
    found = _Found()
    messages = objects(body, "messages")
    if not messages:
        raise BodyInvalid("`messages` must have at least one message", "messages")
    for at, message in enumerate(messages):
        if not isinstance(message.get("content"), str) or "audio" in message:
            _look_through(message, f"messages[{at}]", found)
    tools = [*objects(body, "tools"), *objects(body, "functions")]
    return Content(
        text_bytes=body_bytes - sum(len(one.base64) for one in found.media),
        texts=lambda: _chat_texts(body, messages, tools, known_fields),
        messages=len(messages),
        tools=len(tools),
        media=tuple(found.media),
        references=found.references,
    )


@dataclass(slots=True)
class _Found:
    media: list[Media] = field(default_factory=list[Media])
    references: int = 0


def _look_through(message: JsonObject, path: str, found: _Found) -> None:
    """Collect the media and references of one message."""
    content = message.get("content")
    if isinstance(content, list):
        for at, value in enumerate(content):
            part_path = f"{path}.content[{at}]"
            _look_at(as_object(value, part_path), part_path, found)
    elif content is not None and not isinstance(content, str):
        raise wrong(f"{path}.content", "a string or an array of parts", content)
    if message.get("audio") is not None:
        found.references += 1


def _look_at(part: JsonObject, path: str, found: _Found) -> None:
    match part.get("type"):
        case "text" | "refusal":
            pass
        case "image_url":
            _image(part, path, found)
        case "input_audio":
            audio = as_object(part.get("input_audio"), f"{path}.input_audio")
            mime = f"audio/{audio.get('format')}"
            found.media.append(_inline(audio.get("data"), f"{path}.input_audio.data", mime=mime, kind=MediaKind.AUDIO))
        case "file":
            file = as_object(part.get("file"), f"{path}.file")
            if file.get("file_data") is not None:
                found.media.append(_inline(file.get("file_data"), f"{path}.file.file_data"))
            if file.get("file_data") is None or file.get("file_id") is not None:
                found.references += 1
        case _:
            # Its size is unknown, so it is bounded like anything that is only named.
            found.references += 1


def _image(part: JsonObject, path: str, found: _Found) -> None:
    image = part.get("image_url")
    source: JsonObject = image if isinstance(image, dict) else {"url": image}
    url = source.get("url")
    if not isinstance(url, str) or not url:
        raise wrong(f"{path}.image_url.url", "a URL", url)
    if url[: len(_DATA_URI)].lower() == _DATA_URI:
        detail = text(source, "detail")
        found.media.append(_inline(url, f"{path}.image_url.url", detail=detail))
    else:
        found.references += 1


def _inline(
    value: Json,
    path: str,
    *,
    mime: str = "application/octet-stream",
    kind: MediaKind | None = None,
    detail: str | None = None,
) -> Media:
    """Inline media: a base64 data URI, or plain base64 of the given type."""
    if not isinstance(value, str) or not value:
        raise BodyInvalid(f"`{path}` must be base64 data", path)
    data = value
    if value[: len(_DATA_URI)].lower() == _DATA_URI:
        comma = value.find(",", 0, _HEADER_BYTES_MAX)
        header, data = value[len(_DATA_URI) : max(comma, 0)], value[comma + 1 :]
        mime, _, rest = header.lower().partition(";")
        if comma < 0 or not data or "base64" not in rest.split(";"):
            raise BodyInvalid(f"`{path}` must be a data URI of the form data:<type>;base64,<data>", path)
    return Media(kind or media_kind(mime), mime.strip(), data, detail)


def _chat_texts(
    body: JsonObject, messages: list[JsonObject], tools: list[JsonObject], known_fields: frozenset[str]
) -> list[str]:
    """Every text that can be billed. Generous: what is not recognised counts."""
    texts: list[str] = []
    for message in messages:
        for key, value in message.items():
            if key == "content" and isinstance(value, list):
                for part in value:
                    _part_texts(part, texts)
            else:
                add_strings(value, texts)
    texts.extend(write(tool).decode() for tool in tools)
    texts.extend(write(body[name]).decode() for name in _AS_JSON if isinstance(body.get(name), dict))
    for name in body.keys() - known_fields:
        add_strings(body[name], texts)
    return texts


def _part_texts(part: Json, texts: list[str]) -> None:
    """The texts of a part, without the media that is bounded by its kind."""
    kind = part.get("type") if isinstance(part, dict) else None
    if not isinstance(part, dict) or not isinstance(kind, str) or kind not in _MEDIA_PARTS:
        add_strings(part, texts)
        return
    add_strings({key: value for key, value in part.items() if key != kind}, texts)
    file = part.get(kind)
    if isinstance(file, dict):
        add_strings(file.get("filename"), texts)
