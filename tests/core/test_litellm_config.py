"""A LiteLLM YAML works as it is: what limits is enforced or stops the start, the rest is said once."""

import hashlib
import pathlib

import pytest

from spendfuse.core.errors import ConfigInvalid
from spendfuse.core.limits import Limit, Unit
from spendfuse.core.windows import Calendar, CalendarUnit, Lifetime, Period, Span
from spendfuse.litellm_config import Translation, is_litellm, translate

ENVIRON = {"OPENAI_API_KEY": "sk-openai", "ANTHROPIC_API_KEY": "sk-ant", "MASTER": "sk-master", "BUDGET": "12.5"}
MODELS = """
model_list:
- model_name: mini
  litellm_params: {model: openai/gpt-4o-mini}
"""
ISSUE = """model_list:
- model_name: "gpt-4o-mini"
  litellm_params:
    model: "openai/gpt-4o-mini"
- model_name: "claude-haiku"
  litellm_params:
    model: "anthropic/claude-3-5-haiku-20241022"
router_settings:
  routing_strategy: "cost-based-routing"
litellm_settings:
  max_budget: 500 # Monthly budget in USD
  budget_duration: "1mo"
  success_callback: ["langsmith"]
"""
DAY_MS = 86_400_000


def read(
    text: str, *, environ: dict[str, str] = ENVIRON, accept: bool = False, folder: pathlib.Path | None = None
) -> Translation:
    return translate(text, source="litellm.yaml", folder=folder, environ=environ, accept_unenforced=accept)


def problems(text: str, *, environ: dict[str, str] = ENVIRON, folder: pathlib.Path | None = None) -> list[str]:
    with pytest.raises(ConfigInvalid) as caught:
        read(text, environ=environ, folder=folder)
    return str(caught.value).splitlines()


def limits(text: str) -> dict[str, Limit]:
    return {one.name: one for one in read(text).config.limits}


def test_the_file_of_the_issue_is_served_under_its_budget() -> None:
    found = read(ISSUE, environ={}, folder=pathlib.Path("/srv/app"))
    config = found.config
    assert {name: [one.name for one in model.targets] for name, model in config.models.items()} == {
        "gpt-4o-mini": ["openai/gpt-4o-mini"],
        "claude-haiku": ["anthropic/claude-3-5-haiku-20241022"],
    }
    (limit,) = config.limits
    assert (limit.name, limit.unit, limit.amount) == ("max_budget", Unit.USD, 500 * 10**9)
    assert (limit.period, limit.each, limit.match) == (Calendar(CalendarUnit.MONTH, "UTC"), (), {})
    assert config.makes_key
    assert config.store.where == "/srv/app/spendfuse.db"
    assert (config.source, config.warnings) == ("litellm.yaml", found.warnings)
    assert list(found.warnings) == [
        "router_settings.routing_strategy: is not honoured: targets take turns",
        "litellm_settings.success_callback: is not honoured",
        "providers.openai.api_key: environment variable OPENAI_API_KEY is not set",
        "providers.anthropic.api_key: environment variable ANTHROPIC_API_KEY is not set",
    ]


@pytest.mark.parametrize(
    ("tree", "expected"),
    [
        ({"model_list": []}, True),
        ({"litellm_settings": None}, True),
        ({"include": ["models.yaml"]}, True),
        ({}, False),
        ({"providers": {}}, False),
        ({"model_list": [], "limits": {}}, False),
        ({"something": 1}, False),
    ],
)
def test_a_file_is_litellms_by_its_sections(tree: dict[str, object], expected: bool) -> None:
    assert is_litellm(tree) is expected


@pytest.mark.parametrize(
    ("amount", "nanos"),
    [
        ("500", 500 * 10**9),
        ("0.005", 5_000_000),
        ("1e-3", 1_000_000),
        ("1E3", 10**12),
        ('"2.50"', 2_500_000_000),
        ("0", 0),
        (".5", 500_000_000),
        ("os.environ/BUDGET", 12_500_000_000),
        ("0.0000000019", 1),
    ],
)
def test_a_budget_is_exact_and_never_rounded_up(amount: str, nanos: int) -> None:
    limit = limits(f"{MODELS}litellm_settings: {{max_budget: {amount}}}")["max_budget"]
    assert (limit.amount, limit.period) == (nanos, Lifetime())


@pytest.mark.parametrize("amount", ["-1", "many", "nan", "inf", "010", "[1]", "1e300", "os.environ/NOT_SET"])
def test_a_budget_that_is_no_amount_stops_the_start(amount: str) -> None:
    (problem,) = problems(f"{MODELS}litellm_settings:\n  max_budget: {amount}\n")
    assert problem.startswith("litellm.yaml: litellm_settings.max_budget: ")
    assert problem.endswith("(line 6)")


@pytest.mark.parametrize(
    ("duration", "period"),
    [
        ("1mo", Calendar(CalendarUnit.MONTH, "UTC")),
        ("30d", Span(30 * DAY_MS)),
        ("7d", Span(7 * DAY_MS)),
        ("1w", Span(7 * DAY_MS)),
        ("24h", Span(DAY_MS)),
        ("90m", Span(90 * 60_000)),
        ("60s", Span(60_000)),
        ("null", Lifetime()),
        ('"None"', Lifetime()),
    ],
)
def test_a_duration_is_the_calendar_month_or_a_span(duration: str, period: Period) -> None:
    found = limits(f"{MODELS}litellm_settings: {{max_budget: 5, budget_duration: {duration}}}")
    assert found["max_budget"].period == period


@pytest.mark.parametrize("duration", ["2mo", "monthly", "0d", "30", "1y", "99999w", "-1d"])
def test_a_duration_that_cannot_be_honoured_stops_the_start_or_is_accepted(duration: str) -> None:
    text = f"{MODELS}litellm_settings: {{max_budget: 5, budget_duration: '{duration}'}}"
    (problem,) = problems(text)
    assert problem.startswith("litellm.yaml: litellm_settings.budget_duration: limits money or traffic")
    assert duration in problem
    accepted = read(text, accept=True)
    assert accepted.config.limits == ()
    assert [one for one in accepted.warnings if "NOT ENFORCED" in one and "budget_duration" in one]


@pytest.mark.parametrize(
    ("settings", "name", "expected"),
    [
        (
            "litellm_settings: {max_internal_user_budget: 3, internal_user_budget_duration: 1mo}",
            "max_internal_user_budget",
            (Unit.USD, 3 * 10**9, Calendar(CalendarUnit.MONTH, "UTC"), ("user",)),
        ),
        (
            "litellm_settings: {default_max_internal_user_budget: 3}",
            "default_max_internal_user_budget",
            (Unit.USD, 3 * 10**9, Lifetime(), ("user",)),
        ),
        (
            "litellm_settings: {max_end_user_budget: 0.1}",
            "max_end_user_budget",
            (Unit.USD, 10**8, Lifetime(), ("user",)),
        ),
        (
            "litellm_settings: {default_internal_user_params: {max_budget: 1, budget_duration: 1d, user_role: x}}",
            "default_internal_user_params.max_budget",
            (Unit.USD, 10**9, Span(DAY_MS), ("user",)),
        ),
        (
            "litellm_settings: {default_internal_user_params: {tpm_limit: 900}}",
            "default_internal_user_params.tpm_limit",
            (Unit.TOKENS, 900, Span(60_000), ("user",)),
        ),
        (
            "litellm_settings: {upperbound_key_generate_params: {max_budget: 100, budget_duration: 10d}}",
            "upperbound_key_generate_params.max_budget",
            (Unit.USD, 100 * 10**9, Span(10 * DAY_MS), ("key",)),
        ),
        (
            "litellm_settings: {default_key_generate_params: {rpm_limit: 5}}",
            "default_key_generate_params.rpm_limit",
            (Unit.REQUESTS, 5, Span(60_000), ("key",)),
        ),
        (
            "litellm_settings: {upperbound_key_generate_params: {max_parallel_requests: 7}}",
            "upperbound_key_generate_params.max_parallel_requests",
            (Unit.CONCURRENT, 7, Lifetime(), ("key",)),
        ),
        (
            "general_settings: {global_max_parallel_requests: 40}",
            "global_max_parallel_requests",
            (Unit.CONCURRENT, 40, Lifetime(), ()),
        ),
        (
            "general_settings: {max_parallel_requests: 4}",
            "max_parallel_requests.key",
            (Unit.CONCURRENT, 4, Lifetime(), ("key",)),
        ),
        (
            "general_settings: {max_parallel_requests: 4}",
            "max_parallel_requests.target",
            (Unit.CONCURRENT, 4, Lifetime(), ("target",)),
        ),
        (
            "general_settings: {disable_reset_budget: true}\nlitellm_settings: {max_budget: 9, budget_duration: 1d}",
            "max_budget",
            (Unit.USD, 9 * 10**9, Lifetime(), ()),
        ),
    ],
)
def test_a_limit_of_the_settings_is_a_limit_here(
    settings: str, name: str, expected: tuple[Unit, int, Period, tuple[str, ...]]
) -> None:
    limit = limits(f"{MODELS}{settings}")[name]
    assert (limit.unit, limit.amount, limit.period, limit.each) == expected
    assert limit.is_enforced


def test_a_budget_of_a_provider_covers_every_provider_that_it_became() -> None:
    found = limits(
        """
model_list:
- {model_name: a, litellm_params: {model: openai/gpt-4o}}
- {model_name: b, litellm_params: {model: gpt-4o-mini, api_key: sk-other}}
- {model_name: c, litellm_params: {model: openai/llama, api_base: "http://127.0.0.1:8000/v1"}}
- {model_name: d, litellm_params: {model: claude-sonnet-4-5}}
router_settings:
  provider_budget_config:
    openai: {budget_limit: 10, time_period: 1d}
    anthropic: {max_budget: 2, budget_duration: 1mo}
    vertex_ai: {budget_limit: 1, time_period: 1d}
"""
    )
    assert {name: (one.amount, one.match) for name, one in found.items()} == {
        "provider_budget_config.openai": (
            10 * 10**9,
            {"provider": frozenset({"openai", "openai-2", "openai-compatible"})},
        ),
        "provider_budget_config.anthropic": (2 * 10**9, {"provider": frozenset({"anthropic"})}),
    }


@pytest.mark.parametrize(
    ("settings", "path"),
    [
        ("litellm_settings: {max_end_user_budget_id: free}", "litellm_settings.max_end_user_budget_id"),
        ("litellm_settings: {tag_budget_config: {a: {max_budget: 1}}}", "litellm_settings.tag_budget_config"),
        (
            "litellm_settings: {default_team_settings: [{team_id: a, max_budget: 1}]}",
            "litellm_settings.default_team_settings[0].max_budget",
        ),
        ("litellm_settings: {default_team_params: {tpm_limit: 1}}", "litellm_settings.default_team_params.tpm_limit"),
        ("litellm_settings: {callbacks: [otel, dynamic_rate_limiter_v3]}", "litellm_settings.callbacks"),
        ("litellm_settings: {priority_reservation: {prod: 0.9}}", "litellm_settings.priority_reservation"),
        ("litellm_settings: {some_new_quota: 3}", "litellm_settings.some_new_quota"),
        ("litellm_settings: {max_spend_per_project: 3}", "litellm_settings.max_spend_per_project"),
        ("general_settings: {max_response_size_mb: 1}", "general_settings.max_response_size_mb"),
        ("general_settings: {allowed_ips: [10.0.0.1]}", "general_settings.allowed_ips"),
        ("general_settings: {a: {b: [{org_rpm: 3}]}}", "general_settings.a.b[0].org_rpm"),
        ("router_settings: {max_parallel_things: 3}", "router_settings.max_parallel_things"),
        (
            "router_settings: {provider_budget_config: {openai: {budget_limit: 1, rpm_limit: 3}}}",
            "router_settings.provider_budget_config.openai.rpm_limit",
        ),
        ("budgets: {team: 1}", "budgets"),
    ],
)
def test_what_limits_and_cannot_be_enforced_stops_the_start_or_is_accepted(settings: str, path: str) -> None:
    (problem,) = problems(f"{MODELS}{settings}")
    assert problem.startswith(f"litellm.yaml: {path}: limits money or traffic and cannot be enforced: ")
    assert "--accept-unenforced" in problem
    accepted = [one for one in read(f"{MODELS}{settings}", accept=True).warnings if "NOT ENFORCED" in one]
    assert [one.partition(":")[0] for one in accepted] == [path]


@pytest.mark.parametrize(
    ("settings", "path"),
    [
        ("router_settings: {routing_strategy: latency-based-routing}", "router_settings.routing_strategy"),
        ("router_settings: {num_retries: 3}", "router_settings.num_retries"),
        ("router_settings: {fallbacks: [{mini: [other]}]}", "router_settings.fallbacks"),
        (
            "router_settings: {allowed_fails_policy: {RateLimitErrorAllowedFails: 3}}",
            "router_settings.allowed_fails_policy",
        ),
        ("router_settings: {cooldown_time: 30}", "router_settings.cooldown_time"),
        ("router_settings: {redis_host: os.environ/REDIS}", "router_settings.redis_host"),
        ("router_settings: {enable_pre_call_checks: true}", "router_settings.enable_pre_call_checks"),
        ("router_settings: {optional_pre_call_checks: [prompt_caching]}", "router_settings.optional_pre_call_checks"),
        ("router_settings: {model_group_alias: {smart: gone}}", "router_settings.model_group_alias.smart"),
        ("litellm_settings: {drop_params: True}", "litellm_settings.drop_params"),
        ("litellm_settings: {cache: yes}", "litellm_settings.cache"),
        ("litellm_settings: {cache_params: {type: redis, rate_limit: 3}}", "litellm_settings.cache_params"),
        ("litellm_settings: {callbacks: [prometheus]}", "litellm_settings.callbacks"),
        ("litellm_settings: {budget_duration: 1d}", "litellm_settings.budget_duration"),
        ("litellm_settings: {max_ui_session_budget: 1}", "litellm_settings.max_ui_session_budget"),
        (
            "litellm_settings: {default_team_settings: [{team_id: a, success_callback: [x]}]}",
            "litellm_settings.default_team_settings",
        ),
        ("general_settings: {database_url: os.environ/DATABASE_URL}", "general_settings.database_url"),
        ("general_settings: {database_connection_pool_limit: 10}", "general_settings.database_connection_pool_limit"),
        ("general_settings: {alerting: [slack]}", "general_settings.alerting"),
        ("general_settings: {alerting_args: {budget_alert_ttl: 9}}", "general_settings.alerting_args"),
        (
            "general_settings: {proxy_budget_rescheduler_min_time: 1}",
            "general_settings.proxy_budget_rescheduler_min_time",
        ),
        ("guardrails: [{guardrail_name: a, litellm_params: {limit: 1}}]", "guardrails"),
        ("callback_settings: {otel: {message_logging: false}}", "callback_settings"),
        ("mcp_servers: {a: {url: b}}", "mcp_servers"),
    ],
)
def test_what_is_not_honoured_is_said_once_with_its_path(settings: str, path: str) -> None:
    (warning,) = read(f"{MODELS}{settings}").warnings
    assert warning.startswith(f"{path}: ")
    assert "not honoured" in warning


@pytest.mark.parametrize(
    "settings",
    [
        "router_settings: {routing_strategy: simple-shuffle, num_retries: 0}",
        "router_settings: {optional_pre_call_checks: [router_budget_limiting]}",
        "litellm_settings: {cache: false, drop_params: False, callbacks: [], max_budget: null}",
        "general_settings: {fail_closed_budget_enforcement: true, max_parallel_requests: null}",
        "litellm_settings:\nrouter_settings: {}\nguardrails: []",
    ],
)
def test_what_asks_for_nothing_more_is_not_said(settings: str) -> None:
    found = read(f"{MODELS}{settings}")
    assert (found.warnings, found.config.limits) == ((), ())


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ("router_settings: {timeout: 30}", (10.0, 30.0, 30.0, 600.0, 600.0)),
        ("litellm_settings: {request_timeout: 2.5}", (2.5, 2.5, 2.5, 600.0, 600.0)),
        ("litellm_settings: {request_timeout: 6000}", (10.0, 6000.0, 6000.0, 6000.0, 6000.0)),
        ("litellm_settings: {request_timeout: 9}\nrouter_settings: {timeout: 40}", (10.0, 40.0, 40.0, 600.0, 600.0)),
        ("router_settings: {stream_timeout: 20}", (10.0, 300.0, 20.0, 600.0, 600.0)),
    ],
)
def test_timeouts_are_honoured(settings: str, expected: tuple[float, ...]) -> None:
    found = read(f"{MODELS}{settings}")
    one = found.config.providers["openai"].timeouts
    assert (one.connect_s, one.first_byte_s, one.read_s, one.total_s, found.config.reservation_deadline_s) == expected
    assert found.warnings == ()


def test_a_request_may_be_as_large_as_the_file_says() -> None:
    assert read(f"{MODELS}general_settings: {{max_request_size_mb: 2}}").config.body_bytes_max == 2 * 2**20
    assert read(f"{MODELS}general_settings: {{max_request_size_mb: 0.5}}").config.body_bytes_max == 2**19
    (problem,) = problems(f"{MODELS}general_settings: {{max_request_size_mb: 0}}")
    assert "general_settings.max_request_size_mb" in problem


@pytest.mark.parametrize(
    ("settings", "environ", "key"),
    [
        ("general_settings: {master_key: sk-literal}", {}, "sk-literal"),
        ("general_settings: {master_key: os.environ/MASTER}", {"MASTER": "sk-env"}, "sk-env"),
        ("", {"LITELLM_MASTER_KEY": "sk-default"}, "sk-default"),
        ("general_settings: {master_key: sk-literal}", {"LITELLM_MASTER_KEY": "sk-default"}, "sk-literal"),
        ("environment_variables: {LITELLM_MASTER_KEY: sk-file}", {"LITELLM_MASTER_KEY": "sk-default"}, "sk-file"),
        ("general_settings: {master_key: }", {}, None),
        ("", {"LITELLM_MASTER_KEY": ""}, None),
    ],
)
def test_the_master_key_is_a_client_key_and_without_one_a_key_is_made(
    settings: str, environ: dict[str, str], key: str | None
) -> None:
    config = read(f"{MODELS}{settings}", environ=environ).config
    assert config.makes_key is (key is None)
    digests = [hashlib.sha256(key.encode()).digest()] if key else []
    assert [(one.name, one.digest) for one in config.keys] == [("master", digest) for digest in digests]


@pytest.mark.parametrize("key", ["os.environ/NOT_SET", "'two words'", "{a: b}"])
def test_a_master_key_that_is_none_stops_the_start_and_is_not_shown(key: str) -> None:
    (problem,) = problems(f"{MODELS}general_settings: {{master_key: {key}}}")
    assert problem.startswith("litellm.yaml: general_settings.master_key: ")
    assert "two words" not in problem


def test_all_problems_are_told_at_once_with_their_lines() -> None:
    text = f"{MODELS}litellm_settings:\n  max_budget: x\n  tag_budget_config: {{a: 1}}\ngeneral_settings: [1]\n"
    found = problems(text)
    assert [one.partition(": ")[2].partition(":")[0] for one in found] == [
        "litellm_settings.max_budget",
        "litellm_settings.tag_budget_config",
        "general_settings",
    ]
    assert [one[-9:] for one in found] == [" (line 6)", " (line 7)", " (line 8)"]
