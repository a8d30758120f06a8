"""What parent and worker say to each other arrives whole and in order, however the system cuts it."""

import socket
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spendfuse.server.channel import Channel, Frame, Word

TEXTS = st.text(st.characters(exclude_categories=()), max_size=40)
FRAMES = st.lists(st.builds(Frame, st.sampled_from(Word), TEXTS), min_size=1, max_size=5)
LONG = "ü" * 3_000_000
"""More than a socket pair holds."""


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    one, other = socket.socketpair()
    yield one, other
    one.close()
    other.close()


def sent_bytes(frames: list[Frame]) -> bytes:
    ours, theirs = socket.socketpair()
    channel = Channel(ours)
    for frame in frames:
        channel.send(frame.word, frame.text)
    channel.close()
    with theirs:
        return b"".join(iter(lambda: theirs.recv(65_536), b""))


@given(FRAMES, st.data())
def test_frames_cut_anywhere_arrive_whole_and_in_order(frames: list[Frame], data: st.DataObject) -> None:
    raw = sent_bytes(frames)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(raw)), max_size=8)))
    ours, theirs = socket.socketpair()
    channel, arrived = Channel(ours), list[Frame]()
    with theirs:
        for start, end in zip([0, *cuts], [*cuts, len(raw)], strict=True):
            if start < end:
                theirs.sendall(raw[start:end])
                arrived += channel.receive() or []
    assert arrived == frames
    assert channel.receive() is None
    channel.close()


def test_a_frame_that_comes_byte_by_byte_is_told_once_with_its_last(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    channel = Channel(ends[0])
    raw = sent_bytes([Frame(Word.FOLLOW, "limits: {}")])
    told: list[list[Frame] | None] = []
    for at in range(len(raw)):
        ends[1].sendall(raw[at : at + 1])
        told.append(channel.receive())
    assert told == [[]] * (len(raw) - 1) + [[Frame(Word.FOLLOW, "limits: {}")]]


def test_what_the_other_side_has_no_room_for_waits_and_is_sent_in_order(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    ends[0].setblocking(False)
    sender, receiver = Channel(ends[0]), Channel(ends[1])
    sender.send(Word.FOLLOW, LONG)
    sender.send(Word.STOP)
    assert sender.has_unsent
    arrived: list[Frame] = []
    while len(arrived) < 2:
        arrived += receiver.receive() or []
        sender.flush()
    assert not sender.has_unsent
    assert arrived == [Frame(Word.FOLLOW, LONG), Frame(Word.STOP, "")]


def test_a_side_that_is_gone_is_told_by_its_end_of_file_and_never_by_a_send(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    channel = Channel(ends[0])
    ends[1].close()
    channel.send(Word.FOLLOW, LONG)
    assert not channel.has_unsent
    assert channel.receive() is None
