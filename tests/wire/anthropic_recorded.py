"""Small requests in Anthropic's dialect, beside the recordings of its answers."""

from recorded import FOLDER

from spendfuse.core.calls import Call
from spendfuse.wire.anthropic_messages import AnthropicMessages
from spendfuse.wire.json_body import Json, write

ANSWERS = FOLDER / "anthropic"


def answer_of(name: str) -> bytes:
    return (ANSWERS / name).read_bytes()


def messages_body(**fields: Json) -> bytes:
    """A small request with these fields; a field of None is sent as null."""
    small: dict[str, Json] = {"model": "smart", "max_tokens": 50, "messages": [{"role": "user", "content": "Hi"}]}
    return write({**small, **fields})


def messages_call(dialect: AnthropicMessages | None = None, /, **fields: Json) -> Call:
    call = (dialect or AnthropicMessages()).parse(messages_body(**fields))
    assert isinstance(call, Call), call
    return call
