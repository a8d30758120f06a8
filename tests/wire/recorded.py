"""Recordings of what providers send, made by hand after their real answers."""

from pathlib import Path

from spendfuse.core.calls import Call
from spendfuse.core.refusals import Code, Deny
from spendfuse.wire.json_body import Json, write
from spendfuse.wire.openai_chat import OpenAIChat

FOLDER = Path(__file__).parent / "recordings"


def recording(name: str) -> bytes:
    return (FOLDER / name).read_bytes()


def chat_body(**fields: Json) -> bytes:
    """A small chat request with these fields; a field of None is sent as null."""
    return write({"model": "smart", "messages": [{"role": "user", "content": "Hi"}], **fields})


def chat_call(dialect: OpenAIChat | None = None, /, **fields: Json) -> Call:
    call = (dialect or OpenAIChat()).parse(chat_body(**fields))
    assert isinstance(call, Call), call
    return call


def refused(answer: object) -> Deny:
    """The refusal of a request body."""
    assert isinstance(answer, Deny), answer
    assert answer.code is Code.INVALID_REQUEST
    return answer
