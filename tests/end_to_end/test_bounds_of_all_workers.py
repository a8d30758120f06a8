"""What holds over all workers of a gateway: how many subjects a key opens, and whose quotes are not trusted."""

import sqlite3
import time
from contextlib import closing
from pathlib import Path

import httpx2
from gateway import APP_KEY, RunningGateway, config_text, running_gateway, wait_until

from spendfuse.simulator.behaviour import Behaviour
from spendfuse.simulator.process import running_simulator

WORKERS = 2
HOUR_S = 3_600
TEST_TAKES_S = 15
FOLLOWED_WITHIN_S = 1.5
"""By then every worker knows what changed in the store."""


def call(gateway: RunningGateway, *, user: str = "u1") -> httpx2.Response:
    """A call on a connection of its own, so that any worker may get it."""
    body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 100}
    headers = {"authorization": f"Bearer {APP_KEY}", "x-spendfuse-user": user, "connection": "close"}
    return httpx2.post(f"{gateway.base_url}/chat/completions", json=body, headers=headers, timeout=30)


def held_costs(gateway: RunningGateway) -> list[int]:
    """What each call was quoted at, the oldest first; nano-dollars."""
    with closing(sqlite3.connect(f"file:{gateway.database}?mode=ro", uri=True)) as connection:
        return [cost for (cost,) in connection.execute("SELECT held_cost FROM entry ORDER BY reservation_id")]


def quoted(gateway: RunningGateway) -> int:
    """What a call is quoted at now."""
    before = len(held_costs(gateway))
    assert call(gateway).status_code == 200
    wait_until(lambda: len(held_costs(gateway)) == before + 1, 5, "the call is settled")
    return held_costs(gateway)[-1]


def test_a_key_opens_so_many_users_an_hour_and_known_ones_go_on(tmp_path: Path) -> None:
    left_s = HOUR_S - time.time() % HOUR_S
    if left_s < TEST_TAKES_S:
        time.sleep(left_s)  # The next hour has a count of its own.
    config_more = "new_subjects: 5"
    limits = "limits: {user-month: {usd: 10, per: month, each: user}}"
    with (
        running_simulator(Behaviour(output_tokens=5)) as simulator,
        running_gateway(config_text(simulator, limits=limits, more=config_more), tmp_path, workers=WORKERS) as gateway,
    ):
        users = [f"u{number}" for number in range(1, 8)]
        assert [call(gateway, user=user).status_code for user in users] == [200] * 5 + [429] * 2
        refused = call(gateway, user="u6")
        assert refused.json()["error"]["code"] == "rate_limit_exceeded"
        assert "5 per 1h, 0 left, call opens 1: user=u6" in refused.json()["error"]["message"]
        assert 0 < int(refused.headers["retry-after"]) <= HOUR_S
        assert [call(gateway, user=user).status_code for user in users[:5] * 2] == [200] * 10
        gateway.run("audit")


def test_a_target_that_overran_is_quoted_dearer_by_all_workers_until_it_is_cleared(tmp_path: Path) -> None:
    with (
        running_simulator(Behaviour(output_tokens=50)) as simulator,
        running_gateway(config_text(simulator), tmp_path, workers=WORKERS) as gateway,
    ):
        before = quoted(gateway)
        simulator.set_behaviour(Behaviour(output_tokens=300, ignore_cap=True))
        assert quoted(gateway) == before
        simulator.set_behaviour(Behaviour(output_tokens=50))
        time.sleep(FOLLOWED_WITHIN_S)
        assert all(quoted(gateway) > 2 * before for _ in range(8))
        assert "its quotes are multiplied by" in gateway.run("prices", "gpt-4o-mini").stdout
        assert "warning: openai/gpt-4o-mini: its quotes are multiplied" in gateway.run("check").stderr
        gateway.run("prices", "gpt-4o-mini", "--clear-overrun")
        time.sleep(FOLLOWED_WITHIN_S)
        assert all(quoted(gateway) == before for _ in range(8))
        assert "multiplied" not in gateway.run("prices", "gpt-4o-mini").stdout
