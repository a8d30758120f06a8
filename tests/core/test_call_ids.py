"""Call ids: unique and ascending, whichever owner a process is when it mints them."""

from hypothesis import given
from hypothesis import strategies as st

from spendfuse.core.reservations import ATTEMPTS_MAX, CallIds, call_text, reservation_of, reservation_text

NOW_MS = 1_800_000_000_000

moments = st.lists(st.tuples(st.integers(NOW_MS, NOW_MS + 3), st.integers(1, 5_000)), max_size=600)


@given(moments)
def test_ids_of_one_process_are_unique_and_ascend_in_time(moments: list[tuple[int, int]]) -> None:
    """The clock may stand, jump back, and the owner change."""
    ids = CallIds()
    minted = [ids.mint(now_ms, owner_id) for now_ms, owner_id in moments]
    assert len(set(minted)) == len(minted)
    of_one_owner = [one for one, (_, owner_id) in zip(minted, moments, strict=True) if owner_id == moments[0][1]]
    assert of_one_owner == sorted(of_one_owner)
    assert all(one % (ATTEMPTS_MAX + 1) == 0 for one in minted)


def test_more_ids_than_a_millisecond_has_borrow_from_the_next_one() -> None:
    ids = CallIds()
    assert len({ids.mint(NOW_MS, 1) for _ in range(2_000)}) == 2_000


def test_two_processes_never_mint_the_same_id_while_their_owners_differ() -> None:
    one, other = CallIds(), CallIds()
    assert not {one.mint(NOW_MS, 3) for _ in range(300)} & {other.mint(NOW_MS, 4) for _ in range(300)}


def test_an_id_is_read_in_the_order_of_time() -> None:
    ids = CallIds()
    texts = [call_text(ids.mint(NOW_MS + ms, 1)) for ms in range(0, 10_000, 37)]
    assert texts == sorted(texts)
    assert {len(text) for text in texts} == {13}
    call_id = ids.mint(NOW_MS, 1)
    assert reservation_text(reservation_of(call_id, 2)) == f"{call_text(call_id)}.2"
