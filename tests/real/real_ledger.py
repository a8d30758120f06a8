"""What the ledger has of one call, read from its database beside the gateway."""

import sqlite3
from contextlib import closing
from dataclasses import dataclass

from gateway import RunningGateway, wait_until
from real_model import Tokens

SETTLE_TIMEOUT_S = 10
INPUT_NANOS, CACHE_READ_NANOS, OUTPUT_NANOS = 1_000, 250, 2_000
"""What a token costs by the config of these tests."""
PRICES = '{"*": {input: 1, output: 2, cache_read: 0.25}}'
_CALL_ID_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_SELECT = """
SELECT input_tokens, cache_read_tokens, output_tokens, cost,
       held_input_tokens, held_output_tokens, held_cost, is_estimated
FROM entry WHERE reservation_id >> 4 = ?
"""


@dataclass(frozen=True, slots=True)
class Entry:
    """The one entry of a call: what was charged and what was held. Costs are nano-dollars."""

    tokens: Tokens
    cost: int
    held_input: int
    held_output: int
    held_cost: int
    is_estimated: bool


def cost_of(tokens: Tokens) -> int:
    return (
        (tokens.input - tokens.cached) * INPUT_NANOS + tokens.cached * CACHE_READ_NANOS + tokens.output * OUTPUT_NANOS
    )


def entry_of(gateway: RunningGateway, call_id: str) -> Entry:
    """The entry of a call, as soon as it is written."""
    wait_until(lambda: len(_rows(gateway, call_id)) > 0, SETTLE_TIMEOUT_S, f"the entry of {call_id}")
    (row,) = _rows(gateway, call_id)
    read, cached, made, cost, held_input, held_output, held_cost, is_estimated = row
    return Entry(Tokens(read, cached, made), cost, held_input, held_output, held_cost, bool(is_estimated))


def _rows(gateway: RunningGateway, call_id: str) -> list[tuple[int, ...]]:
    number = 0
    for character in call_id:
        number = number * 32 + _CALL_ID_ALPHABET.index(character)
    with closing(sqlite3.connect(f"file:{gateway.database}?mode=ro", uri=True, timeout=10)) as connection:
        return connection.execute(_SELECT, (number >> 4,)).fetchall()
