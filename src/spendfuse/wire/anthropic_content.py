"""What an Anthropic request carries that is billed as input: its text, its media and what it only names."""

from dataclasses import dataclass, field

from spendfuse.core.calls import Content, Media, MediaKind
from spendfuse.wire.anthropic_tools import check_tool_change, tokens_added_by
from spendfuse.wire.content import add_strings, media_kind
from spendfuse.wire.json_body import BodyInvalid, Json, JsonObject, write
from spendfuse.wire.json_fields import as_object, objects, wrong

_AS_JSON = ("output_config", "output_format", "tool_choice")
"""Fields whose whole JSON is put before the model, in one form or another."""
STRUCTURED_TOKENS = 1_024
"""The instructions that the vendor adds for an answer by a schema; it says only that there are some."""


def messages_content(
    body: JsonObject, *, body_bytes: int, known_fields: frozenset[str], is_structured: bool
) -> Content:
    """The content of a request that came in `body_bytes` bytes.

    Raises:
        BodyInvalid: messages, blocks or tools have a wrong type, inline media has no readable form, or the provider
            would run a tool.
    """
    messages, tools = objects(body, "messages"), objects(body, "tools")
    if not messages:
        raise BodyInvalid("`messages` must have at least one message", "messages")
    found = _Found()
    for at, message in enumerate(messages):
        content = message.get("content")
        if not isinstance(content, str):
            found.look_through(content, f"messages[{at}].content")
    found.look_through(body.get("system"), "system")
    return Content(
        text_bytes=body_bytes - sum(len(one.base64) for one in found.media),
        texts=lambda: _texts(body, known_fields, found.inline),
        messages=len(messages) + (body.get("system") is not None),
        tools=len(tools),
        added_tokens=tokens_added_by(tools) + (STRUCTURED_TOKENS if is_structured else 0),
        media=tuple(found.media),
        references=found.references,
    )


@dataclass(slots=True)
class _Found:
    media: list[Media] = field(default_factory=list[Media])
    inline: set[int] = field(default_factory=set[int])
    """The identities of the sources that hold the media."""
    references: int = 0

    def look_through(self, content: Json, path: str) -> None:
        """Collect the media and references of blocks, and of blocks within blocks."""
        open_values = [(content, path)]
        while open_values:
            value, at = open_values.pop()
            if isinstance(value, list):
                for number, one in enumerate(value):
                    place = f"{at}[{number}]"
                    open_values += self._look_at(as_object(one, place), place)
            elif value is not None and not isinstance(value, str):
                raise wrong(at, "a string or an array of blocks", value)

    def _look_at(self, block: JsonObject, path: str) -> list[tuple[Json, str]]:
        """Collect what one block holds itself; the content within it is returned."""
        match block.get("type"):
            case "text" | "thinking" | "redacted_thinking" | "tool_use":
                return []
            case "tool_result" | "search_result":
                return [(block.get("content"), f"{path}.content")]
            case "image" | "document" as kind:
                return self._source(as_object(block.get("source"), f"{path}.source"), f"{path}.source", kind)
            case "tool_addition":
                check_tool_change(block, path)
                self.references += 1
                return []
            case _:
                # Its size is unknown, so it is bounded like anything that is only named.
                self.references += 1
                return [(block.get("tool_changes"), f"{path}.tool_changes")]

    def _source(self, source: JsonObject, path: str, kind: str) -> list[tuple[Json, str]]:
        match source.get("type"):
            case "base64":
                self.media.append(_inline(source, path, kind))
                self.inline.add(id(source))
            case "text" if kind == "document":
                pass
            case "content" if kind == "document":
                return [(source.get("content"), f"{path}.content")]
            case _:
                self.references += 1
        return []


def _inline(source: JsonObject, path: str, kind: str) -> Media:
    data, mime = source.get("data"), source.get("media_type")
    if not isinstance(data, str) or not data:
        raise BodyInvalid(f"`{path}.data` must be base64 data", f"{path}.data")
    if not isinstance(mime, str):
        raise wrong(f"{path}.media_type", "a MIME type", mime)
    mime = mime.strip().lower()
    expected = MediaKind.IMAGE if kind == "image" else MediaKind.DOCUMENT
    return Media(expected if media_kind(mime) is expected else MediaKind.OTHER, mime, data)


def _texts(body: JsonObject, known_fields: frozenset[str], inline: set[int]) -> list[str]:
    """Every text that can be billed. Generous: what is not recognised counts."""
    texts: list[str] = []
    for message in objects(body, "messages"):
        for value in message.values():
            _add_texts(value, texts, inline)
    _add_texts(body.get("system"), texts, inline)
    texts.extend(write(tool).decode() for tool in objects(body, "tools"))
    texts.extend(write(body[name]).decode() for name in _AS_JSON if isinstance(body.get(name), dict))
    for name in body.keys() - known_fields:
        add_strings(body[name], texts)
    return texts


def _add_texts(value: Json, texts: list[str], inline: set[int]) -> None:
    """Every string in a value but inline media, which is bounded by its kind."""
    open_values: list[Json] = [value]
    while open_values:
        node = open_values.pop()
        if isinstance(node, str):
            texts.append(node)
        elif isinstance(node, dict):
            texts.extend(node)
            media = "data" if id(node) in inline else None
            open_values.extend(one for name, one in node.items() if name != media)
        elif isinstance(node, list):
            open_values.extend(node)
