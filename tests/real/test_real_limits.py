"""A token limit before a real model: by the server's own counters it is never exceeded, and most of it can be used."""

import sqlite3
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest
from conftest import StartGateway
from gateway import RunningGateway, wait_until
from real_clients import CLIENTS, Client, Refused
from real_model import RunningModel

LIMIT_TOKENS = 2_000
CAP = 32
THREADS = 4
CALLS_MAX = 500
SPENT = Refused(402, "budget_exceeded")
BUSY = Refused(429, "budget_busy")


def _call_until_spent(client: Client, number: int) -> Counter[Refused | None]:
    """Call again and again; what came of it."""
    seen = Counter[Refused | None]()
    while not seen[SPENT]:
        assert seen.total() < CALLS_MAX, f"not spent: {seen}"
        seen[client.refusal(f"Thread {number}, call {seen.total()}: tell me about Bern.", cap=CAP)] += 1
    return seen


def _held_tokens_max(gateway: RunningGateway) -> int:
    with closing(sqlite3.connect(f"file:{gateway.database}?mode=ro", uri=True)) as connection:
        (held,) = connection.execute("SELECT max(held_input_tokens + held_output_tokens) FROM entry").fetchone()
    return held


@pytest.mark.parametrize("dialect", sorted(CLIENTS))
def test_a_token_limit_is_never_exceeded_by_the_servers_own_count(
    dialect: str, start_gateway: StartGateway, model: RunningModel
) -> None:
    before = model.bill()
    with start_gateway(f"{{few: {{tokens: {LIMIT_TOKENS}, per: lifetime}}}}") as gateway:
        client = CLIENTS[dialect](gateway)
        with ThreadPoolExecutor(THREADS) as pool:
            seen = sum(pool.map(_call_until_spent, [client] * THREADS, range(THREADS)), Counter[Refused | None]())
        billed = (model.bill() - before).total
        wait_until(lambda: gateway.totals().open_reservations == 0, 10, "all calls are settled")
        ledger, held = gateway.totals(), _held_tokens_max(gateway)
        gateway.run("audit")
    print(f"\n{billed} of {LIMIT_TOKENS} tokens in {seen[None]} calls, at most {held} held by one; {seen}")
    assert set(seen) <= {None, SPENT, BUSY}
    assert seen[SPENT] == THREADS
    assert ledger.entries == seen[None]
    assert ledger.tokens == billed <= LIMIT_TOKENS
    # What is left at the end is less than the most that one call had to hold.
    assert LIMIT_TOKENS - billed < held
