"""A chat request in Anthropic's words: whole, or refused by the name of what has none there."""

from spendfuse.core.calls import Call
from spendfuse.wire.json_body import BodyInvalid, Json, JsonObject
from spendfuse.wire.json_fields import as_object, boolean, mapping, objects, text, wrong
from spendfuse.wire.translate.chat_fields import check_fields, not_carried

OUTPUT_TOKENS_DEFAULT = 4_096
"""The vendor requires a cap. This is for a call that neither names nor gets one: a free target that no limit counts."""
FIELDS_BYTES = 128
"""What the fields beside the messages may grow by in other words, the cap included and the model's name not."""
IMAGE_BYTES = 24
"""What an image's frame may grow by. Texts, messages and the system's blocks never do."""

_IMAGE_TYPES = frozenset({"image/jpeg", "image/png", "image/gif", "image/webp"})
_IMAGE_ALIASES = {"image/jpg": "image/jpeg"}
_DATA_URI = "data:"
_WEB = ("https://", "http://")
_LISTS_OF_ANSWERS = ("tool_calls", "annotations")
"""Empty in messages that were kept as an SDK gave them."""
_FULL_DETAIL = (None, "auto", "high")
"""Image details that ask for what the vendor does with every image."""


def carried_body(chat: JsonObject, call: Call) -> JsonObject:
    """The body for the vendor, but for the model's name.

    Only the labels in `metadata` stay behind, as the gateway itself has read them; `user_id` goes along. A conversation
    that ends with the assistant goes up as it is: the vendor continues that message, OpenAI begins another.

    Raises:
        BodyInvalid: something can't be said.
    """
    check_fields(chat)
    _check_stream_options(chat)
    system, turns = _conversation(chat)
    body: JsonObject = {"max_tokens": call.cap or OUTPUT_TOKENS_DEFAULT, "messages": turns}
    if system:
        body["system"] = system
    for name in ("temperature", "top_p"):
        share = _share(chat, name)
        if share is not None:
            body[name] = share
    stops = _stops(chat)
    if stops:
        body["stop_sequences"] = stops
    user_id = (mapping(chat, "metadata") or {}).get("user_id") or text(chat, "user")
    if user_id:
        body["metadata"] = {"user_id": user_id}
    if call.stream:
        body["stream"] = True
    return body


def _check_stream_options(chat: JsonObject) -> None:
    options = mapping(chat, "stream_options") or {}
    for name, value in options.items():
        if name != "include_usage" and value is not None and not (name == "include_obfuscation" and value is False):
            raise not_carried(f"stream_options.{name}")
    boolean(options, "include_usage", path="stream_options.include_usage")


def _share(chat: JsonObject, name: str) -> int | float | None:
    """A number from 0 to 1. A `top_p` of 1 leaves every token in, and models that take only one of both refuse it."""
    value = chat.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise wrong(name, "a number from 0 to 1, as the provider of this model speaks Anthropic", value)
    return None if name == "top_p" and value == 1 else value


def _stops(chat: JsonObject) -> list[Json]:
    stop = chat.get("stop")
    stops: Json = [stop] if isinstance(stop, str) else [] if stop is None else stop
    if not isinstance(stops, list) or not all(isinstance(one, str) for one in stops):
        raise wrong("stop", "a string or an array of strings", stop)
    return stops


def _conversation(chat: JsonObject) -> tuple[list[Json], list[Json]]:
    """The system's text blocks, and the turns after them."""
    system: list[Json] = []
    turns: list[Json] = []
    for at, message in enumerate(objects(chat, "messages")):
        path = f"messages[{at}]"
        _check_message(message, path)
        role, content = message.get("role"), message.get("content")
        if role in ("system", "developer"):
            if turns:
                # Moved to the front it would say something else, and few models of the vendor take it where it is.
                raise not_carried(f"{path}.role", f"move the {role} message before the conversation")
            system += _system_blocks(content, f"{path}.content")
        elif role in ("user", "assistant"):
            takes_images = role == "user"
            turns.append({"role": role, "content": _content(content, f"{path}.content", takes_images=takes_images)})
        else:
            raise not_carried(f"{path}.role", "send messages of system, developer, user and assistant only")
    if not turns:
        raise BodyInvalid("`messages` must have a message of the user: the provider speaks Anthropic", "messages")
    return system, turns


def _check_message(message: JsonObject, path: str) -> None:
    for name, value in message.items():
        is_empty = value is None or (value == [] and name in _LISTS_OF_ANSWERS)
        if name not in ("role", "content") and not is_empty:
            raise not_carried(f"{path}.{name}")


def _system_blocks(content: Json, path: str) -> list[Json]:
    """Text blocks; an empty text says nothing, and the vendor refuses a block of it."""
    blocks = _content(content, path, takes_images=False)
    if not isinstance(blocks, str):
        return blocks
    return [{"type": "text", "text": blocks}] if blocks else []


def _content(content: Json, path: str, *, takes_images: bool) -> str | list[Json]:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise wrong(path, "a string or an array of parts", content)
    return [
        _block(as_object(part, f"{path}[{at}]"), f"{path}[{at}]", takes_images=takes_images)
        for at, part in enumerate(content)
    ]


def _block(part: JsonObject, path: str, *, takes_images: bool) -> JsonObject:
    kind = part.get("type")
    if kind == "text" and isinstance(part.get("text"), str):
        block: JsonObject = {"type": "text", "text": part["text"]}
    elif kind == "image_url" and takes_images:
        block = {"type": "image", "source": _image_source(part.get("image_url"), f"{path}.image_url")}
    elif kind == "text":
        raise wrong(f"{path}.text", "a string", part.get("text"))
    else:
        raise not_carried(f"{path}.type", "send text, and images from the user")
    for name, value in part.items():
        if name == "cache_control" and value is not None:
            block["cache_control"] = _cache_control(value, f"{path}.cache_control")
        elif name not in ("type", kind) and value is not None:
            raise not_carried(f"{path}.{name}")
    return block


def _cache_control(value: Json, path: str) -> JsonObject:
    """As it is; it has nothing but names."""
    control = as_object(value, path)
    if not all(isinstance(one, str) for one in control.values()):
        raise wrong(path, "an object of strings", value)
    return control


def _image_source(value: Json, path: str) -> JsonObject:
    """Where an image is. Its URL was found to be one when the call was parsed, a data URI to be whole base64."""
    image: JsonObject = {"url": value} if isinstance(value, str) else as_object(value, path)
    for name, one in image.items():
        if name != "url" and not (name == "detail" and one in _FULL_DETAIL) and one is not None:
            raise not_carried(f"{path}.{name}")
    url = image.get("url")
    if not isinstance(url, str):
        raise wrong(f"{path}.url", "a URL", url)
    start = url[: len(_WEB[0])].lower()
    if start.startswith(_WEB):
        return {"type": "url", "url": url}
    if not start.startswith(_DATA_URI):
        raise wrong(f"{path}.url", "an http(s) URL or a data URI", url)
    header, _, data = url.partition(",")
    mime = header[len(_DATA_URI) :].partition(";")[0].strip().lower()
    mime = _IMAGE_ALIASES.get(mime, mime)
    if mime not in _IMAGE_TYPES:
        raise wrong(f"{path}.url", "a JPEG, PNG, GIF or WebP image (the provider speaks Anthropic)", mime)
    return {"type": "base64", "media_type": mime, "data": data}
