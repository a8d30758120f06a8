import pytest
from hypothesis import given
from hypothesis import strategies as st

from spendfuse.wire.sse import EVENT_BYTES_MAX, EventSplitter, event_of, payload_of


def joined(pieces: list[bytes]) -> list[bytes]:
    """Pieces as events: an LF of its own belongs to the event before."""
    events: list[bytes] = []
    for piece in pieces:
        if piece == b"\n":
            events[-1] += piece
        else:
            events.append(piece)
    return events


def split(chunks: list[bytes]) -> tuple[list[bytes], bytes]:
    splitter = EventSplitter()
    pieces = [piece for chunk in chunks for piece in splitter.feed(chunk)]
    return joined(pieces), splitter.release()


@pytest.mark.parametrize("end", [b"\n\n", b"\r\n\r\n", b"\r\r", b"\n\r\n", b"\r\n\n", b"\n\r", b"\r\r\n"])
def test_an_event_ends_at_an_empty_line_however_lines_end(end: bytes) -> None:
    assert split([b"data: a" + end + b"data: b"]) == ([b"data: a" + end], b"data: b")


line_ends = st.sampled_from([b"\n", b"\r\n", b"\r"])
lines = st.sampled_from([b"", b"", b"data: x", b": c", b"data: yy", b"event: e"])


@st.composite
def chunked(draw: st.DrawFn) -> tuple[bytes, list[bytes]]:
    whole = b"".join(draw(lines) + draw(line_ends) for _ in range(draw(st.integers(0, 14))))
    cuts = sorted(draw(st.lists(st.integers(0, len(whole)), max_size=8)))
    return whole, [whole[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(whole)], strict=True)]


@given(chunked())
def test_any_chunks_give_the_same_events(stream: tuple[bytes, list[bytes]]) -> None:
    whole, chunks = stream
    events, rest = split([whole])
    assert split(chunks) == (events, rest)
    assert b"".join(events) + rest == whole


def test_an_event_completes_with_its_last_byte() -> None:
    splitter = EventSplitter()
    whole = b"data: a\n\n"
    assert [splitter.feed(whole[at : at + 1]) for at in range(len(whole))][-1] == [whole]


@pytest.mark.parametrize(
    ("event", "payload"),
    [
        (b"data: {}\n\n", b"{}"),
        (b"data:{}\r\n\r\n", b"{}"),
        (b"event: e\ndata: {}\nid: 1\n\n", b"{}"),
        (b"data: a\ndata: b\n\n", b"a\nb"),
        (b"\xef\xbb\xbfdata: a\n\n", b"a"),
        (b"\ndata: a\n\n", b"a"),
        (b": ping\n\n", b""),
        (b"data\n\n", b""),
        (b"data:\n\n", b""),
        (b"database: x\n\n", b""),
    ],
)
def test_the_payload_of_an_event_is_its_data(event: bytes, payload: bytes) -> None:
    assert payload_of(event) == payload


def test_an_event_that_is_made_can_be_read() -> None:
    assert payload_of(event_of(b"[DONE]")) == b"[DONE]"


@pytest.mark.parametrize("chunk_bytes", [1 << 20, 1 << 24])
def test_an_event_beyond_the_maximum_blinds_the_splitter_and_loses_nothing(chunk_bytes: int) -> None:
    whole = b"data: a\n\ndata: " + b"x" * EVENT_BYTES_MAX + b"\n\n"
    splitter = EventSplitter()
    seen: list[bytes] = []
    for at in range(0, len(whole), chunk_bytes):
        chunk = whole[at : at + chunk_bytes]
        seen += [chunk] if splitter.is_blind else splitter.feed(chunk)
        if splitter.is_blind:
            seen.append(splitter.release())
    assert splitter.is_blind
    assert seen[0] == b"data: a\n\n"
    assert b"".join(seen) == whole
