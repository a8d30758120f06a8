"""The spool: what the store has not taken is on disk, comes to every engine exactly once, and is never dropped."""

import asyncio
import contextlib
import errno
import logging
import os
import signal
import stat
import subprocess
import sys
import textwrap
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ledger_harness import (
    Harness,
    MemoryHarness,
    admitted,
    charge,
    claim,
    committed,
    contract,
    demand,
    limit,
    rid,
)

from spendfuse.core.errors import LedgerUnavailable
from spendfuse.core.money import Nanos
from spendfuse.core.quotes import CapRange, Quote
from spendfuse.core.reservations import Charge, EntryKind, ReservationId
from spendfuse.core.usage import Usage
from spendfuse.ledger import spool as spool_module
from spendfuse.ledger.operations import Record, Settle, Void
from spendfuse.ledger.spool import Spool, open_spool
from spendfuse.ledger.spool_file import SpoolFile, SpoolFolder
from spendfuse.ledger.spool_lines import Begun, LineInvalid, Spooled, Unbilled, decode, encode
from spendfuse.ledger.store import Demand, Ledger

TOTAL = limit("total", 5_000)
AT_MS = 1_795_262_400_000
WAIT_S = 10.0


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A spool's, beside the store."""
    return tmp_path / "spool"


@pytest.fixture(autouse=True)
def impatience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here waits long for its next try."""
    monkeypatch.setattr(spool_module, "RETRY_S_MAX", 0.05)


class Line:
    """A ledger behind a line that a test can cut. It counts what came through."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self.is_cut = False
        self.came: list[tuple[str, ReservationId]] = []

    @property
    def outage(self) -> LedgerUnavailable | None:
        return LedgerUnavailable("the store is away") if self.is_cut else None

    async def settle(self, reservation_id: ReservationId, charge: Charge) -> Any:
        return await self._through("settle", reservation_id, self._ledger.settle(reservation_id, charge))

    async def void(self, reservation_id: ReservationId) -> Any:
        return await self._through("void", reservation_id, self._ledger.void(reservation_id))

    async def record(self, demand: Demand, charge: Charge, *, at_ms: int) -> Any:
        recording = self._ledger.record(demand, charge, at_ms=at_ms)
        return await self._through("record", demand.reservation_id, recording)

    async def _through(self, verb: str, reservation_id: ReservationId, asked: Awaitable[Any]) -> Any:
        self.came.append((verb, reservation_id))
        return await asked


def spooling(line: Line, folder: Path, store: str = "here") -> AbstractAsyncContextManager[Spool]:
    """A spool of one process, from its start to an orderly end."""
    return open_spool(cast("Ledger", line), folder, store=store)


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what threads and tasks bring about."""
    async with asyncio.timeout(WAIT_S):
        while not condition():
            await asyncio.sleep(0.005)


def files(folder: Path, suffix: str = ".spool") -> list[Path]:
    return sorted(folder.glob(f"*{suffix}"))


def lines(folder: Path, suffix: str = ".spool") -> list[bytes]:
    """Every line but the heads."""
    return [line for file in files(folder, suffix) for line in file.read_bytes().splitlines(keepends=True)[1:]]


async def written(folder: Path, *ends: Settle | Void | Record | Unbilled, begun: tuple[Record, ...] = ()) -> Path:
    """The file of a process that had these ends while the store was away, and is gone."""
    harness = MemoryHarness()
    line = Line(await harness.open(TOTAL))
    line.is_cut = True
    async with spooling(line, folder) as spool:
        for record in begun:
            assert await spool.begin(record)
        for end in ends:
            spool.put(end)
        await until(lambda: len(lines(folder)) == len(ends) + len(begun))
    await harness.close()
    (file,) = files(folder)
    return file


async def replayed(ledger: Ledger, folder: Path) -> list[tuple[str, ReservationId]]:
    """What came to a ledger once a process has started on the folder; it has everything then."""
    line = Line(ledger)
    async with spooling(line, folder):
        await until(lambda: not files(folder))
    return line.came


def record(number: int, output_tokens: int, *, cap: int = 500) -> Record:
    """A call without a reservation."""
    return Record(demand(number, cap), charge(output_tokens), AT_MS)


counts = st.integers(0, 10**12)
texts = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)
usages = st.builds(
    lambda plain, read, audio, output: Usage(plain + read + audio, output, read, input_audio_tokens=audio),
    *[counts] * 4,
)
charges = st.builds(Charge, usages, st.builds(Nanos, counts), st.booleans())
ids = st.builds(ReservationId, st.integers(1, 2**63 - 1))
records = st.builds(
    lambda number, labels, quote, wanted, charge, at_ms: Record(
        Demand(number, labels, Quote(*quote), CapRange(wanted, 0), demand(1, 1).fit, 0.0), charge, at_ms
    ),
    ids,
    st.dictionaries(texts, texts, max_size=4),
    st.tuples(counts, counts, counts, st.integers(1, 8)),
    counts,
    charges,
    counts,
)
ends = st.one_of(
    st.builds(Settle, ids, charges), st.builds(Void, ids), records, st.builds(Begun, records), st.builds(Unbilled, ids)
)


@given(ends, st.integers(0, 10**6), st.integers(1, 255))
def test_a_line_says_what_was_put_and_nothing_once_a_byte_of_it_is_wrong(end: Spooled, at: int, change: int) -> None:
    line = encode(end)
    assert decode(line) == end
    assert line.count(b"\n") == 1
    wrong = bytearray(line)
    wrong[at % len(line)] ^= change
    with pytest.raises(LineInvalid):
        decode(bytes(wrong))
    with pytest.raises(LineInvalid):
        decode(line[: at % len(line)])


@contract
async def test_ends_that_waited_come_to_the_store_in_order_and_twice_change_nothing(
    harness: Harness, folder: Path
) -> None:
    """Invariant 6."""
    ledger = await harness.open(TOTAL)
    for number in (1, 2, 3):
        await admitted(ledger, number, 100)
    file = await written(folder, Settle(rid(1), charge(60)), Void(rid(2)), record(9, 30), Settle(rid(3), charge(7)))
    copy = file.read_bytes()
    assert await replayed(ledger, folder) == [
        ("settle", 1),
        ("void", 2),
        ("record", 9),
        ("settle", 3),
    ]
    assert await committed(ledger, "total") == (97, 0)
    assert list(folder.iterdir()) == []
    file.write_bytes(copy)
    assert len(await replayed(ledger, folder)) == 4
    assert await committed(ledger, "total") == (97, 0)


@contract
async def test_ends_that_come_after_a_keeper_correct_what_it_charged(harness: Harness, folder: Path) -> None:
    """Invariants 5 and 7: also a void is given back then, as it is certain that nothing was billed."""
    dead, ledger = await harness.open(TOTAL), await harness.open(TOTAL)
    for number in (1, 2):
        await admitted(dead, number, 100)
    harness.kill(dead)
    await ledger.expire_due()
    assert await committed(ledger, "total") == (200, 0)
    file = await written(folder, Settle(rid(1), charge(60)), Void(rid(2)))
    copy = file.read_bytes()
    for _ in range(2):
        await replayed(ledger, folder)
        assert await committed(ledger, "total") == (60, 0)
        file.write_bytes(copy)
    assert (await ledger.settle(rid(1), charge(60))).kind is EntryKind.LATE


@contract
async def test_an_end_of_a_reservation_that_the_store_does_not_know_is_set_aside_and_holds_nobody_up(
    harness: Harness, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ledger = await harness.open(TOTAL)
    await admitted(ledger, 2, 100)
    file = await written(folder, Settle(rid(1), charge(60)), Settle(rid(2), charge(7)))
    copy = file.read_bytes()
    await replayed(ledger, folder)
    assert await committed(ledger, "total") == (7, 0)
    assert "ending_set_aside reservation_id=0000000000000.1" in caplog.text
    # Under its first name it is tried again.
    (aside,) = files(folder, ".aside")
    assert aside.read_bytes() == b"".join(copy.splitlines(keepends=True)[:2])
    await admitted(ledger, 1, 100)
    aside.rename(file)
    await replayed(ledger, folder)
    assert await committed(ledger, "total") == (67, 0)


@contract
async def test_calls_that_began_without_a_reservation_count_at_their_quote_only_where_their_end_is_unknown(
    harness: Harness, folder: Path
) -> None:
    """Invariant 11."""
    ledger = await harness.open(TOTAL)
    begun = tuple(record(number, 500) for number in (1, 2, 3))
    await written(folder, record(1, 20), Unbilled(rid(2)), begun=begun)
    assert await replayed(ledger, folder) == [("record", 3), ("record", 1)]
    assert await committed(ledger, "total") == (520, 0)


@contextlib.asynccontextmanager
async def at_a_ledger(folder: Path) -> AsyncGenerator[tuple[Ledger, Line, Spool]]:
    """A spool over the reference ledger, where the reservations 1 to 9 hold 100 each."""
    harness = MemoryHarness()
    ledger = await harness.open(TOTAL)
    for number in range(1, 10):
        await admitted(ledger, number, 100)
    line = Line(ledger)
    async with spooling(line, folder) as spool:
        yield ledger, line, spool
    await harness.close()


@claim
async def test_a_call_that_is_under_way_without_a_reservation_is_not_charged_by_its_own_process(tmp_path: Path) -> None:
    async with at_a_ledger(tmp_path) as (ledger, line, spool):
        line.is_cut = True
        assert await spool.begin(record(11, 500))
        spool.put(Settle(rid(1), charge(5)))
        await until(lambda: len(lines(tmp_path)) == 2)
        line.is_cut = False
        await until(lambda: bool(line.came))
        assert await committed(ledger, "total") == (5, 800)
        assert files(tmp_path), "should the process die now, it counts"
        spool.put(record(11, 30))
        await until(lambda: spool.is_empty)
        assert await committed(ledger, "total") == (35, 800)
        assert files(tmp_path) == []


@claim
async def test_a_caller_that_leaves_while_its_call_is_written_down_has_begun_nothing(tmp_path: Path) -> None:
    async with at_a_ledger(tmp_path) as (ledger, line, spool):
        line.is_cut = True
        beginning = asyncio.create_task(spool.begin(record(11, 500)))
        await asyncio.sleep(0)
        beginning.cancel()
        await asyncio.gather(beginning, return_exceptions=True)
        line.is_cut = False
        await until(lambda: spool.is_empty)
        assert line.came == []
    assert await replayed(ledger, tmp_path) == []


@claim
async def test_files_are_private_and_many_ends_share_a_sync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "spool"
    async with at_a_ledger(folder) as (_, line, spool):
        line.is_cut = True
        spool.put(Settle(rid(1), charge(1)))
        await until(lambda: len(lines(folder)) == 1)
        syncs: list[int] = []
        sync = os.fsync
        monkeypatch.setattr(os, "fsync", lambda file: (syncs.append(file), sync(file)))
        for number in range(2, 10):
            spool.put(Settle(rid(number), charge(1)))
        await until(lambda: len(lines(folder)) == 9)
        assert len(syncs) == 1
        (file,) = files(folder)
        assert (stat.S_IMODE(folder.stat().st_mode), stat.S_IMODE(file.stat().st_mode)) == (0o700, 0o600)


@pytest.mark.parametrize("torn", [1, 8, 9, 40], ids=lambda size: f"after {size} bytes")
@claim
async def test_a_line_torn_by_a_crash_is_reported_and_the_others_are_replayed(
    tmp_path: Path, torn: int, caplog: pytest.LogCaptureFixture
) -> None:
    file = await written(tmp_path, Settle(rid(1), charge(60)), Settle(rid(2), charge(7)))
    content = file.read_bytes()
    last = content.splitlines(keepends=True)[-1]
    file.write_bytes(content[: -len(last)] + last[:torn])
    async with at_a_ledger(tmp_path) as (ledger, line, spool):
        await until(lambda: not files(tmp_path) and spool.is_empty)
        assert line.came == [("settle", 1)]
        assert await committed(ledger, "total") == (60, 800)
    assert f"spool_line_torn file={file} ends_at={len(content) - len(last) + torn} bytes={torn}" in caplog.text
    assert files(tmp_path, ".aside")[0].read_bytes().endswith(b"\n" + last[:torn])


@claim
async def test_a_corrupt_line_is_set_aside_and_the_others_are_replayed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = await written(tmp_path, *[Settle(rid(number), charge(number)) for number in (1, 2, 3)])
    head, first, second, third = file.read_bytes().splitlines(keepends=True)
    wrong = second.replace(b'"cost":2', b'"cost":1')
    assert wrong != second
    file.write_bytes(head + first + wrong + third)
    async with at_a_ledger(tmp_path) as (ledger, _, _):
        await until(lambda: not files(tmp_path))
        assert await committed(ledger, "total") == (4, 700)
    assert "spool_line_corrupt" in caplog.text
    assert lines(tmp_path, ".aside") == [wrong]


@claim
async def test_a_file_whose_head_is_corrupt_is_set_aside_as_a_whole(tmp_path: Path) -> None:
    file = await written(tmp_path, Settle(rid(1), charge(1)))
    content = b"0" + file.read_bytes()[1:]
    file.write_bytes(content)
    async with at_a_ledger(tmp_path) as (_, line, _):
        await until(lambda: not files(tmp_path))
        assert line.came == []
    assert [one.read_bytes() for one in files(tmp_path, ".aside")] == [content]


@pytest.mark.parametrize("content", [b"", b"\0" * 4_096], ids=["empty", "zeros"])
@claim
async def test_a_file_whose_process_died_before_it_wrote_anything_is_removed(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "1-dead.spool").write_bytes(content)
    async with at_a_ledger(tmp_path) as (_, line, _):
        await until(lambda: not list(tmp_path.iterdir()))
        assert line.came == []


@claim
async def test_a_file_of_another_store_waits_for_that(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    harness = MemoryHarness()
    ledger = await harness.open(TOTAL)
    await admitted(ledger, 1, 100)
    await written(tmp_path, Settle(rid(1), charge(1)))
    line = Line(ledger)
    async with spooling(line, tmp_path, store="elsewhere"):
        await until(lambda: "spool_file_left" in caplog.text)
    assert line.came == []
    assert await replayed(ledger, tmp_path) == [("settle", 1)]
    await harness.close()


_DIES = """
    import asyncio, os, signal, sys
    from pathlib import Path
    sys.path[:0] = sys.argv[2:]
    from ledger_harness import MemoryHarness, charge, limit, rid
    from test_spool import Line, Settle, TOTAL, lines, spooling, until

    async def run(folder):
        line = Line(await MemoryHarness().open(TOTAL))
        line.is_cut = True
        async with spooling(line, folder) as spool:
            spool.put(Settle(rid(1), charge(60)))
            await until(lambda: len(lines(folder)) == 1)
            print("written", flush=True)
            await asyncio.Event().wait()

    asyncio.run(run(Path(sys.argv[1])))
"""


@claim
async def test_a_file_is_taken_over_once_its_process_is_killed_and_not_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a process that runs already, and by one of two only."""
    monkeypatch.setattr(spool_module, "TAKEOVER_INTERVAL_S", 0.05)
    looks, take_over = Counter[SpoolFolder](), SpoolFolder.take_over

    def counted(folder: SpoolFolder) -> list[SpoolFile]:
        taken = take_over(folder)
        looks[folder] += 1
        return taken

    monkeypatch.setattr(SpoolFolder, "take_over", counted)
    command = [sys.executable, "-c", textwrap.dedent(_DIES), str(tmp_path), str(Path(__file__).parent)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert await asyncio.to_thread(process.stdout.readline) == b"written\n"
        async with at_a_ledger(tmp_path) as (ledger, line, _):
            other = Line(ledger)
            async with spooling(other, tmp_path):
                await until(lambda: len(looks) == 2 and min(looks.values()) > 2)
                assert (line.came, other.came) == ([], []), "its process lives"
                process.send_signal(signal.SIGKILL)
                await until(lambda: not files(tmp_path))
                assert line.came + other.came == [("settle", 1)]
                assert await committed(ledger, "total") == (60, 800)


@claim
async def test_a_store_that_leaves_again_in_the_middle_gets_the_rest_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await written(tmp_path, *[Settle(rid(number), charge(number)) for number in range(1, 10)])
    monkeypatch.setattr(spool_module, "AT_ONCE_MAX", 2)
    taken: list[ReservationId] = []

    class Weak(Line):
        async def settle(self, reservation_id: ReservationId, charge: Charge) -> Any:
            if reservation_id == 4 and taken.count(reservation_id) < 3:
                taken.append(reservation_id)
                raise LedgerUnavailable("away again")
            return await super().settle(reservation_id, charge)

    harness = MemoryHarness()
    ledger = await harness.open(TOTAL)
    for number in range(1, 10):
        await admitted(ledger, number, 100)
    line = Weak(ledger)
    async with spooling(line, tmp_path):
        await until(lambda: not files(tmp_path))
    assert sorted({number for _, number in line.came}) == list(range(1, 10))
    assert await committed(ledger, "total") == (45, 0)
    await harness.close()


def full(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("call", ["fsync", "pwrite", "open"])
@claim
async def test_what_a_full_disk_does_not_take_waits_in_memory_and_comes_to_the_store_from_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, call: str
) -> None:
    async with at_a_ledger(tmp_path) as (ledger, line, spool):
        line.is_cut = True
        spool.put(Settle(rid(1), charge(1)))
        await until(lambda: len(lines(tmp_path)) == 1)
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            patch.setattr(os, call, full)
            spool.put(Settle(rid(2), charge(2)))
            await until(lambda: "spool_not_written" in caplog.text)
            assert not await spool.begin(record(11, 500)), "a call that could be lost is not begun"
            assert await committed(ledger, "total") == (0, 900)
            line.is_cut = False
            await until(lambda: len(line.came) == 2)
        await until(lambda: spool.is_empty)
        assert await committed(ledger, "total") == (3, 700)
        assert list(tmp_path.iterdir()) == []


@claim
async def test_a_disk_that_has_room_again_takes_what_waited_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with at_a_ledger(tmp_path) as (_, line, spool):
        line.is_cut = True
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            spool.put(Settle(rid(1), charge(1)))
            await until(lambda: "spool_not_written" in caplog.text)
        spool.put(Settle(rid(2), charge(1)))
        await until(lambda: len(lines(tmp_path)) == 2)
        async with asyncio.timeout(WAIT_S):
            while not await spool.begin(record(11, 500)):
                await asyncio.sleep(0.01)


@claim
async def test_a_spool_that_is_full_keeps_the_rest_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(spool_module, "SPOOL_BYTES_MAX", 300)
    async with at_a_ledger(tmp_path) as (ledger, line, spool):
        line.is_cut = True
        for number in range(1, 10):
            spool.put(Settle(rid(number), charge(number)))
            await until(lambda number=number: len(lines(tmp_path)) == number or "than 300 bytes" in caplog.text)
        assert "than 300 bytes" in caplog.text
        assert 0 < sum(file.stat().st_size for file in files(tmp_path)) <= 300
        assert not await spool.begin(record(11, 500))
        line.is_cut = False
        await until(lambda: spool.is_empty)
        assert await committed(ledger, "total") == (45, 0)


@claim
async def test_what_was_only_in_memory_at_the_end_is_left_to_the_keeper_and_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(os, "fsync", full)
    async with at_a_ledger(tmp_path) as (_, line, spool):
        line.is_cut = True
        spool.put(Settle(rid(1), charge(1)))
        await until(lambda: "spool_not_written" in caplog.text)
    assert "ending_left_to_keeper reservation_id=0000000000000.1" in caplog.text


@claim
async def test_a_folder_that_can_not_be_had_is_said_at_the_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    (tmp_path / "file").touch()
    async with at_a_ledger(tmp_path / "file" / "spool"):
        await until(lambda: "spool_unusable" in caplog.text)
