"""The drill: what each disaster comes to under which limits."""

import socket
from dataclasses import replace
from pathlib import Path

import pytest
from drill_harness import MODELS, audited_stage, config_of, play

from spendfuse.config import parse
from spendfuse.core.breakers import Breaker, Burn
from spendfuse.core.errors import ConfigInvalid
from spendfuse.core.money import NANOS_PER_USD
from spendfuse.core.windows import Span
from spendfuse.drill.rehearsal import Rehearsal
from spendfuse.drill.scenarios import SCENARIOS
from spendfuse.drill.stage import rehearsed
from spendfuse.zero_config import zero_config

ALL = list(SCENARIOS)
KEYS = {"OPENAI_API_KEY": "sk-real-1", "ANTHROPIC_API_KEY": "sk-real-2"}


@pytest.mark.parametrize("scenario", ALL)
def test_the_default_config_stops_every_disaster(scenario: str, tmp_path: Path) -> None:
    found = play(zero_config(KEYS, tmp_path), scenario)
    assert found.stopped is not None
    assert 0 < found.billed <= found.charged <= 10 * NANOS_PER_USD
    assert found.unprotected > 2 * found.billed
    assert not list(tmp_path.iterdir()), "the config's own store was opened"


@pytest.mark.parametrize("scenario", ALL)
def test_without_limits_everything_gets_through_and_costs_what_it_costs_without_spendfuse(scenario: str) -> None:
    found = play(config_of(), scenario, hours=0.1)
    assert found.stopped is None and found.first_refusal is None and not found.refusals
    assert found.attempts == found.reached == found.unprotected_calls > 0
    assert found.billed == found.attempted == found.unprotected
    assert found.charged >= found.billed


@pytest.mark.parametrize("scenario", ["power-user", "long-answers", "denial-of-wallet"])
def test_where_every_answer_came_the_ledger_has_the_provider_s_bill_to_the_nano_dollar(scenario: str) -> None:
    found = play(config_of("day: {usd: 2, per: day}"), scenario, hours=0.5)
    assert found.charged == found.billed


def test_a_rate_slows_a_retry_loop_down_and_does_not_stop_it() -> None:
    found = play(config_of("loop: {requests: 6, per: 5m, each: [key, user, fingerprint]}"), "retry-loop", hours=1)
    assert found.stopped is None
    assert found.first_refusal is not None and found.first_refusal.by == "loop"
    # Three jobs: a burst of 6 each, then 6 in 5 minutes.
    assert found.reached <= 3 * (6 + 6 * 12)
    assert found.reached < found.unprotected_calls / 4


@pytest.mark.parametrize("scenario", ALL)
def test_a_month_s_budget_alone_stops_every_disaster_within_it(scenario: str) -> None:
    found = play(config_of("company-month: {usd: 1.5, per: month}"), scenario, hours=2)
    assert found.stopped is not None and found.stopped.by == "company-month"
    assert found.charged <= 1.5 * NANOS_PER_USD
    assert found.reached < found.attempts < found.unprotected_calls


def test_a_limit_by_user_stops_the_power_user_and_not_the_attack() -> None:
    config = config_of("user-day: {usd: 0.5, per: day, each: user}")
    scraped = play(config, "power-user", hours=1)
    assert scraped.stopped is not None and scraped.stopped.by == "user-day"
    assert scraped.billed <= 0.5 * NANOS_PER_USD
    attacked = play(config, "denial-of-wallet", hours=0.2)
    assert attacked.billed > 40 * NANOS_PER_USD


def test_an_attack_claims_labels_of_its_own_and_is_held_by_what_it_can_t_make_up() -> None:
    config = config_of("feature: {usd: 0.1, per: day, each: feature}, model: {usd: 3, per: day, each: model}")
    found = play(config, "denial-of-wallet", hours=0.5)
    assert found.stopped is not None and found.stopped.by == "model"
    assert 4 * NANOS_PER_USD < found.charged <= 6 * NANOS_PER_USD


def test_some_who_are_stopped_for_good_do_not_stop_the_others() -> None:
    found = play(config_of("user: {usd: 0.05, per: day, each: user}"), "long-answers", hours=0.5)
    assert found.refusals["user"] > 0
    assert found.stopped is None


def test_who_was_stopped_in_the_ordinary_hours_already_is_stopped_from_the_beginning() -> None:
    found = play(config_of("ever: {usd: 0.05, per: lifetime}"), "long-answers", hours=1)
    assert found.stopped is not None and (found.stopped.after_s, found.stopped.by) == (0, "ever")
    assert found.attempts == found.reached == found.billed == found.charged == 0
    assert found.unprotected > 0


def test_breakers_take_part() -> None:
    config = config_of("month: {usd: 100, per: month}")
    burn = Breaker("burn", Burn(nanos=NANOS_PER_USD), over=Span(600_000))
    attacked = play(replace(config, breakers=(burn,)), "denial-of-wallet", hours=0.5)
    assert attacked.refusals["breaker burn"] > 0
    assert attacked.billed < attacked.unprotected / 4


def test_a_failing_provider_opens_the_breaker_of_errors_that_is_on_by_default(tmp_path: Path) -> None:
    assert play(zero_config(KEYS, tmp_path), "retry-loop", hours=0.2).refusals["breaker errors"] > 0


def test_an_attack_comes_with_many_keys_and_addresses() -> None:
    by_key = play(config_of("key-day: {usd: 0.5, per: day, each: key}"), "denial-of-wallet")
    assert by_key.stopped is not None and by_key.stopped.by == "key-day"
    assert 5 * NANOS_PER_USD < by_key.billed <= 10 * NANOS_PER_USD
    by_address = play(config_of("ip-day: {requests: 1, per: day, each: ip}"), "denial-of-wallet")
    assert by_address.reached == 200


def test_a_budget_whose_window_turns_is_spent_once_in_each() -> None:
    found = play(config_of("quarter: {usd: 0.4, per: 15m}"), "power-user", hours=0.6)
    assert 2.5 * 0.4 * NANOS_PER_USD < found.charged <= 3 * 0.4 * NANOS_PER_USD
    assert found.stopped is not None and found.stopped.after_s > 1_800


def test_a_job_s_own_budget_ends_its_loop() -> None:
    found = play(config_of("run: {usd: 0.2, per: lifetime, each: run}"), "retry-loop", hours=1)
    assert found.stopped is not None and found.stopped.by == "run"
    assert found.charged <= 3 * 0.2 * NANOS_PER_USD


def test_a_limit_that_wants_a_label_of_its_own_gets_one() -> None:
    found = play(config_of("t: {usd: 9, per: day, each: tenant, require: true}"), "power-user", hours=0.2)
    assert found.reached == found.attempts > 0


def test_the_ordinary_hours_before_long_answers_count_for_nothing() -> None:
    found = play(config_of(), "long-answers", hours=1)
    # Three calls a minute.
    assert 120 < found.unprotected_calls < 240
    ordinary = replace(SCENARIOS["long-answers"], behaviour=SCENARIOS["long-answers"].ordinary)
    before = Rehearsal(config_of(), audited_stage, seed=1).play(ordinary, hours=1, progress=lambda _: None)
    assert before.unprotected_calls == found.unprotected_calls
    assert before.unprotected * 1.5 < found.unprotected


def test_equal_seeds_give_equal_findings_and_others_do_not() -> None:
    config = config_of("day: {usd: 1, per: day}")
    for scenario in ALL:
        once, again, other = (play(config, scenario, hours=0.1, seed=seed) for seed in (7, 7, 8))
        assert once == again != other


def test_a_claude_only_config_is_rehearsed_too() -> None:
    config = config_of("day: {usd: 1, per: day}")
    claude = replace(config, models={"claude": config.models["claude"]})
    found = play(claude, "denial-of-wallet", hours=0.2)
    assert found.stopped is not None and found.charged == found.billed <= NANOS_PER_USD


def test_a_config_without_a_model_to_call_can_t_be_rehearsed() -> None:
    with pytest.raises(ConfigInvalid, match="nothing to rehearse"):
        play(replace(config_of(), models={}), "power-user")


def test_no_secret_and_no_address_of_a_provider_gets_into_a_drill(tmp_path: Path) -> None:
    config = zero_config(KEYS, tmp_path)
    drilled = rehearsed(config)
    for one in (*drilled.providers.values(), *(t.provider for m in drilled.models.values() for t in m.targets)):
        assert one.api_key is None and one.base_url.startswith("http://drill.invalid/")
    assert all(one.api_key is not None and "drill" not in one.base_url for one in config.providers.values())


def test_no_socket_is_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "socketpair", refuse)
    assert play(config_of("day: {usd: 1, per: day}"), "denial-of-wallet", hours=0.2).stopped is not None


def test_alerts_are_told_and_none_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    channel = """
  channels: {team: "json://127.0.0.1:9/alerts"}
  routes: [{on: [threshold, breaker], to: [team]}]"""
    config = parse(f"{MODELS}\nlimits: {{day: {{usd: 1, per: day}}}}\nalerts: {channel}", environ={})

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", refuse)
    found = play(config, "power-user", hours=0.5)
    assert [one.kind for one in found.alerts] == ["threshold"] * 3
    assert [one.title for one in found.alerts[:2]] == ["day: 50 % of $1.00 is spent", "day: 80 % of $1.00 is spent"]
    assert found.stopped is not None and 0 < found.alerts[0].after_s < found.alerts[2].after_s
    failing = play(config, "retry-loop", hours=0.2)
    assert "breaker" in {one.kind for one in failing.alerts}


def test_progress_grows_to_the_whole() -> None:
    told: list[float] = []
    rehearsal = Rehearsal(config_of("day: {usd: 1, per: day}"), audited_stage, seed=1)
    rehearsal.play(SCENARIOS["retry-loop"], hours=1, progress=told.append)
    assert told == sorted(told) and told[-1] == 1.0 and len(told) > 50
