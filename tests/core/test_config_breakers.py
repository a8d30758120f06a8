"""Breakers in a config: what each key means, what is on by default, and which mistakes are told how."""

import pytest

from spendfuse.config import Config, parse
from spendfuse.config.building_breakers import DEFAULT_BREAKERS
from spendfuse.core.breakers import Breaker, Burn, Drift, ErrorRate, MeanLatency, Measure, Spent
from spendfuse.core.errors import ConfigInvalid
from spendfuse.core.windows import Span
from spendfuse.reports.breakers import breaker_words

LIMITS = """
limits:
  company: {usd: 500, per: month}
  user: {usd: 5, per: day, each: [organization, user], match: {feature: [search]}}
  shadow: {usd: 5, per: day, on_exceed: shadow}
  rate: {requests: 5, per: minute}
  parallel: {concurrent: 5}
  run: {usd: 1, per: lifetime, each: run}
"""
MINUTES = Span(300_000)
HOUR = Span(3_600_000)
WEEK_MS = 604_800_000


def config_of(breakers: str) -> Config:
    return parse(f"{LIMITS}\nbreakers:\n  one: {breakers}", environ={})


BREAKERS = [
    (
        "{error_rate: 10%}",
        Breaker("one", ErrorRate(10, 20, 5), (), MINUTES, 30_000),
        "above 10% errors in 5m, at least 20 attempts and 5 errors): refuses calls for 30s, then one call tries",
    ),
    (
        "{error_rate: 50%, over: 1m, min_calls: 4, min_errors: 2, each: [provider, model], cooldown: 5s}",
        Breaker("one", ErrorRate(50, 4, 2), ("provider", "model"), Span(60_000), 5_000),
        "above 50% errors in 1m, at least 4 attempts and 2 errors, each provider, model): refuses calls for 5s, then "
        "one call tries",
    ),
    (
        "{mean_latency: 30s, each: target}",
        Breaker("one", MeanLatency(30_000, 10), ("target",), MINUTES, 60_000),
        "mean latency above 30s in 5m, at least 10 answers, each target): refuses calls for 1m, then one call tries",
    ),
    (
        "{mean_latency: 1.5s, ttft: true, opens: false}",
        Breaker("one", MeanLatency(1_500, 10, to_first_token=True), (), MINUTES, 60_000, opens=False),
        "mean time to the first token above 1500ms in 5m, at least 10 answers): raises alerts, refuses nothing",
    ),
    (
        "{usd: 20, over: 10m, each: user}",
        Breaker("one", Burn(nanos=20 * 10**9), ("user",), Span(600_000), 30_000),
        "above $20.00 spent in 10m, each user): refuses calls for at least 30s, until that is over",
    ),
    (
        "{times: 4, over: 1h}",
        Breaker("one", Burn(times=4), (), HOUR, 30_000),
        "above 4 times what is usual at this hour spent in 1h): refuses calls for at least 30s, until that is over",
    ),
    (
        "{drift: output_tokens, times: 3, each: feature}",
        Breaker("one", Drift(Measure.OUTPUT_TOKENS, 3, WEEK_MS, 20), ("feature",), HOUR, 30_000, opens=False),
        "mean output tokens of a call in 1h above 3 times that of the last 7d, at least 20 calls, each feature): "
        "raises alerts, refuses nothing",
    ),
    (
        "{drift: cost, times: 2, over: 30m, baseline: 1d, min_calls: 50, opens: true}",
        Breaker("one", Drift(Measure.COST, 2, 86_400_000, 50), (), Span(1_800_000), 30_000),
        "mean cost of a call in 30m above 2 times that of the last 1d, at least 50 calls): refuses calls for at least "
        "30s, until that is over",
    ),
    (
        "{limit: company}",
        Breaker("one", Spent("company")),
        'limit "company" is spent): refuses calls until the window turns, the amount is raised or somebody closes it',
    ),
    (
        "{limit: user}",
        Breaker("one", Spent("user"), ("organization", "user"), match={"feature": frozenset({"search"})}),
        'limit "user" is spent, each organization, user, only feature=search): refuses calls until the window turns, '
        "the amount is raised or somebody closes it",
    ),
    (
        "{limit: user, each: organization}",
        Breaker("one", Spent("user"), ("organization",)),
        'limit "user" is spent, each organization): refuses calls until the window turns, the amount is raised or '
        "somebody closes it",
    ),
    (
        "{limit: user, each: []}",
        Breaker("one", Spent("user")),
        'limit "user" is spent): refuses calls until the window turns, the amount is raised or somebody closes it',
    ),
]  # fmt: skip


@pytest.mark.parametrize(("text", "breaker", "words"), BREAKERS, ids=[case[0] for case in BREAKERS])
def test_a_breaker_is_what_its_keys_say(text: str, breaker: Breaker, words: str) -> None:
    (built,) = config_of(text).breakers
    assert built == breaker
    assert breaker_words(built) == f"one ({words}"


def test_two_breakers_are_on_where_nothing_is_said_and_none_where_the_section_is_empty() -> None:
    assert parse("{}", environ={}).breakers == DEFAULT_BREAKERS
    assert parse("breakers: {}", environ={}).breakers == ()
    assert parse("breakers:\n  # none", environ={}).breakers == ()
    assert [breaker_words(one) for one in DEFAULT_BREAKERS] == [
        "errors (above 10% errors in 5m, at least 20 attempts and 5 errors, each target): refuses calls for 30s, then "
        "one call tries",
        "slow (mean latency above 30s in 5m, at least 10 answers, each target): refuses calls for 1m, then one call "
        "tries",
    ]


KINDS = "error_rate, mean_latency, limit, usd, times, drift"
PROBLEMS = [
    ("{}", f"breakers.one: got none, expected exactly one of {KINDS}"),
    ("{error_rate: 5%, usd: 1}", f"breakers.one: got error_rate and usd, expected exactly one of {KINDS}"),
    ("{error_rate: 0%}", "breakers.one.error_rate: got \"0%\", expected a percentage from 1% to 100%"),
    ("{error_rate: 5%, ttft: true}", "breakers.one: ttft is not for breakers of error_rate"),
    ("{mean_latency: 5s, min_errors: 2}", "breakers.one: min_errors is not for breakers of mean_latency"),
    ("{limit: company, over: 5m}", "breakers.one: over is not for breakers of limit"),
    ("{usd: 20}", "breakers.one: over is missing, expected a duration such as 10m"),
    ("{times: 4}", "breakers.one: over is missing, expected a duration such as 10m"),
    ("{drift: cost}", "breakers.one: times is missing, expected how many times the usual mean"),
    ("{drift: input, times: 2}", "breakers.one.drift: got \"input\", expected output_tokens or cost"),
    ("{usd: 1, over: 5s}", "breakers.one: over is out of range, expected a duration from 10s to 31d"),
    ("{mean_latency: 0s}", "breakers.one: got a duration of 0"),
    ("{error_rate: 5%, cooldown: 0s}", "breakers.one: got a duration of 0"),
    ("{error_rate: 5%, each: [target, target]}", "breakers.one: each names a label twice"),
    ("{error_rate: 5%, each: run}", "breakers.one.each: run has about as many values as there are calls"),
    ("{limit: compani}", 'breakers.one.limit: got "compani", expected a limit of `limits`; did you mean "company"?'),
    ("{limit: shadow}", 'breakers.one.limit: limit "shadow" is a shadow one, which refuses nothing'),
    ("{limit: rate}", 'breakers.one.limit: limit "rate" comes free again by itself, and so is never spent'),
    ("{limit: parallel}", 'breakers.one.limit: limit "parallel" comes free again by itself, and so is never spent'),
    ("{limit: company, each: user}", 'breakers.one.each: names user, but limit "company" is counted by no label'),
    ("{error_rat: 5%}", 'breakers.one.error_rat: unknown key; did you mean "error_rate"?'),
]  # fmt: skip


@pytest.mark.parametrize(("text", "problem"), PROBLEMS, ids=[case[0] for case in PROBLEMS])
def test_a_wrong_breaker_is_named_by_its_path_and_what_is_expected(text: str, problem: str) -> None:
    with pytest.raises(ConfigInvalid) as caught:
        config_of(text)
    assert problem in str(caught.value)


def test_a_breaker_can_not_have_the_name_of_the_pauses() -> None:
    with pytest.raises(ConfigInvalid, match=r"breakers.retry-after: is what Spendfuse calls targets"):
        parse("breakers: {retry-after: {error_rate: 5%}}", environ={})


def test_the_admin_key_is_kept_as_a_hash_and_never_shown() -> None:
    config = parse("admin_key: an-admin-key-of-twenty-three", environ={})
    assert config.admin_key_digest is not None
    assert "an-admin-key" not in repr(config)
    assert parse("{}", environ={}).admin_key_digest is None
    with pytest.raises(ConfigInvalid, match="admin_key: is too short") as caught:
        parse("admin_key: short", environ={})
    assert "short" not in str(caught.value).replace("is too short", "")


def test_the_admin_api_is_for_this_machine_by_default() -> None:
    assert [str(one) for one in parse("{}", environ={}).admin_from] == ["127.0.0.0/8", "::1/128"]
    assert [str(one) for one in parse("admin_from: 10.0.0.0/8", environ={}).admin_from] == ["10.0.0.0/8"]
