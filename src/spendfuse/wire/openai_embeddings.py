"""OpenAI's embeddings: input and nothing else."""

from collections.abc import Iterable, Mapping
from typing import cast

from spendfuse.core.calls import Body, Call, Content, Operation
from spendfuse.core.refusals import Code, Deny
from spendfuse.core.usage import Metered
from spendfuse.wire.dialect import NO_HEADERS, Answer, OwnWords, StreamMeter, WireTarget
from spendfuse.wire.fields import FieldTable
from spendfuse.wire.headers import headers_passed, passed_names
from spendfuse.wire.json_body import BodyInvalid, Json, JsonObject, read_object, shown, write
from spendfuse.wire.json_fields import model_of
from spendfuse.wire.labels import labels_from_body
from spendfuse.wire.openai_errors import refusal
from spendfuse.wire.openai_fields import EMBEDDINGS_FIELDS
from spendfuse.wire.openai_usage import metered_embeddings, read_answer


class OpenAIEmbeddings(OwnWords):
    """The dialect of `/v1/embeddings`, and its exchange with those who speak it; see `Dialect` and `Exchange`."""

    def __init__(self, *, extra_headers: Iterable[str] = ()) -> None:
        self._fields = FieldTable(EMBEDDINGS_FIELDS)
        self._headers = passed_names(extra_headers)

    @property
    def operation(self) -> Operation:
        """See `Dialect`."""
        return Operation.EMBEDDINGS

    def parse(self, body: bytes, headers: Mapping[bytes, bytes] = NO_HEADERS) -> Call | Deny:
        """See `Dialect`."""
        try:
            return self._call(read_object(body), len(body))
        except BodyInvalid as invalid:
            return Deny(Code.INVALID_REQUEST, str(invalid), invalid.param)

    def render(self, call: Call, target: WireTarget, *, cap: int | None) -> bytes:
        """See `Exchange`. There is no output to cap."""
        return write({**cast("JsonObject", call.body), "model": target.model})

    def fingerprint(self, call: Call) -> str:
        """Empty: the same text is embedded again and again without anything being wrong."""
        return ""

    def metered(self, body: bytes) -> Metered | None:
        """See `WholeAnswer`."""
        answer = read_answer(body)
        if answer is None or not (isinstance(answer.get("data"), list) or isinstance(answer.get("usage"), dict)):
            return None
        return metered_embeddings(answer.get("usage"))

    def stream_meter(self, call: Call) -> StreamMeter:
        """Never called: `parse` refuses `stream`."""
        raise AssertionError("embeddings do not stream")

    def refuse(self, deny: Deny) -> Answer:
        """See `Dialect`."""
        return refusal(deny)

    def headers_upstream(self, headers: Mapping[bytes, bytes]) -> dict[str, str]:
        """See `Exchange`."""
        return headers_passed(headers, self._headers)

    def _call(self, body: JsonObject, body_bytes: int) -> Call:
        self._fields.refuse(body)
        return Call(
            operation=Operation.EMBEDDINGS,
            model=model_of(body),
            body=Body(body),
            content=_content(body.get("input"), body_bytes),
            has_output=False,
            claimed=labels_from_body(body),
        )


def _content(value: Json, body_bytes: int) -> Content:
    """Texts by their bytes, token ids by their number.

    Raises:
        BodyInvalid: `input` is none of the four forms, or empty.
    """
    texts: Json = [value] if isinstance(value, str) else value
    if isinstance(texts, list) and texts:
        kinds = set(map(type, texts))
        if kinds == {str}:
            whole = cast("list[str]", texts)
            return Content(text_bytes=body_bytes, texts=lambda: whole)
        token_ids = _token_ids(texts, kinds)
        if token_ids:
            # The ids are counted, so their digits are no text; white space between them stays in, as a bound may.
            return Content(text_bytes=body_bytes - len(write(value)), texts=list[str], token_ids=token_ids)
    expected = "a string, an array of strings, an array of token ids or an array of arrays of token ids"
    raise BodyInvalid(f"`input` must be {expected}, and not empty, got {shown(value)}", "input")


def _token_ids(values: list[Json], kinds: set[type]) -> int:
    """How many token ids an array, or an array of arrays, holds; 0 when anything else is in it."""
    arrays = cast("list[list[Json]]", values) if kinds == {list} else [values]
    if any(set(map(type, array)) != {int} for array in arrays):
        return 0
    return sum(map(len, arrays))
