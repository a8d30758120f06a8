import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from spendfuse.wire.json_body import DEPTH_MAX, BodyInvalid, read_object, write, write_canonical


@pytest.mark.parametrize(
    ("body", "param", "message"),
    [
        (b'{"a":1,"a":2}', "a", "`a` appears twice in one object"),
        (b'{"max_tokens":1,"model":"m","max_tokens":9}', "max_tokens", "appears twice"),
        (b'{"max_tokens":1,"max\\u005ftokens":9}', "max_tokens", "appears twice"),
        (b'{"m":[{"ok":1},{"x":{"deep":1,"deep":1}}]}', "m[1].x.deep", "appears twice"),
        (b'{"a\\\\":1,"a\\\\":2,"b":":"}', "a\\", "appears twice"),
        (b'{"a":[1,NaN]}', "a[1]", "is NaN"),
        (b'{"a":{"b":-Infinity}}', "a.b", "is -Infinity"),
        (b'{"a":Infinity}', "a", "is Infinity"),
        (b'{"temperature":1e400}', "temperature", "too large a number"),
        (b'{"a":-1e999}', "a", "too large a number"),
        (b'{"max_tokens":18446744073709551616}', "max_tokens", "beyond 64 bit"),
        (b'{"a":-9223372036854775809}', "a", "beyond 64 bit"),
        (b'{"a":' + b"9" * 5000 + b"}", "a", "beyond 64 bit"),
        (b'{"a":"x\\ud800"}', "a", "lone surrogate"),
        (b'{"a":["\\udc00\\ud800"]}', "a[0]", "lone surrogate"),
        (b'{"\\ud800":1}', "?", "lone surrogate"),
        (b"", None, "not valid JSON"),
        (b"{", None, "not valid JSON"),
        (b'{"a":1,}', None, "not valid JSON"),
        (b'{"a":1} x', None, "not valid JSON"),
        (b"{'a':1}", None, "not valid JSON"),
        (b'{"a":"\x01"}', None, "not valid JSON"),
        (b'{"a":01}', None, "not valid JSON"),
        (b"\xef\xbb\xbf{}", None, "not valid JSON"),
        (b'{"a":"\xff"}', None, "not valid UTF-8 (byte 6)"),
        (b'{"a":"\xed\xa0\x80"}', None, "not valid UTF-8"),
        ('{"a":1}'.encode("utf-16"), None, "not valid UTF-8"),
        (b"[]", None, "must be a JSON object, got an array"),
        (b"null", None, "got null"),
        (b'"x"', None, "got a string"),
        (b"true", None, "got a boolean"),
        (b"3", None, "got a number"),
        (b"NaN", "(the body)", "is NaN"),
    ],
)
def test_a_body_that_two_readers_could_take_differently_is_refused_at_its_place(
    body: bytes, param: str | None, message: str
) -> None:
    with pytest.raises(BodyInvalid) as caught:
        read_object(body)
    assert message in str(caught.value)
    assert caught.value.param == param


@pytest.mark.parametrize("depth", [DEPTH_MAX + 1, 900, 5_000, 200_000])
@pytest.mark.parametrize(("opening", "end"), [(b"[", b"]"), (b'{"a":', b"}")])
def test_deep_nesting_is_refused_and_never_overflows_the_stack(depth: int, opening: bytes, end: bytes) -> None:
    inner = b"1" if opening != b"[" else b""
    with pytest.raises(BodyInvalid, match="nested deeper than 254 levels"):
        read_object(b'{"x":' + opening * depth + inner + end * depth + b"}")


def test_the_deepest_body_that_is_read_can_be_written() -> None:
    depth = DEPTH_MAX - 2
    body = b'{"x":' + b"[" * depth + b"]" * depth + b"}"
    assert write(read_object(body)) == body


@pytest.mark.parametrize("number", ["-9223372036854775808", "18446744073709551615", "0", "-0.5", "1e308", "1E5"])
def test_numbers_of_64_bit_keep_their_meaning(number: str) -> None:
    body = read_object(f'{{"a":{number}}}'.encode())
    assert json.loads(write(body)) == json.loads(f'{{"a":{number}}}')


scalars = (
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
)
characters = (st.integers(0, 0xD7FF) | st.integers(0xE000, 0x10FFFF)).map(chr) | st.sampled_from('ab":\\')
texts = st.lists(characters, max_size=6).map("".join)
values = st.recursive(
    scalars | texts, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4), max_leaves=8
)


@given(st.dictionaries(texts, values, max_size=5), st.booleans())
def test_what_is_read_and_written_means_the_same(body: dict[str, object], ascii_only: bool) -> None:
    raw = json.dumps(body, ensure_ascii=ascii_only).encode()
    assert json.loads(write(read_object(raw))) == json.loads(raw)


@given(st.binary())
@example(b'{"a":1,"a":1,"b":NaN}')
def test_no_bytes_raise_anything_but_a_refusal(body: bytes) -> None:
    try:
        read_object(body)
    except BodyInvalid:
        return
    json.loads(body)


def test_canonical_json_does_not_depend_on_the_order_of_keys() -> None:
    assert write_canonical({"b": {"d": 1, "c": 2}, "a": 3}) == write_canonical({"a": 3, "b": {"c": 2, "d": 1}})
