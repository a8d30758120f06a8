"""Entries of `model_list` become providers, models that take turns, prices and limits of single targets."""

import pytest

from spendfuse.config import DialectName, Secret
from spendfuse.core.errors import ConfigInvalid
from spendfuse.core.limits import Unit
from spendfuse.core.prices import Rates
from spendfuse.core.windows import Calendar, CalendarUnit, Lifetime, Period, Span
from spendfuse.litellm_config import Translation, translate

ENVIRON = {"OPENAI_API_KEY": "sk-openai", "ANTHROPIC_API_KEY": "sk-ant", "AZURE_API_KEY": "az", "KEY_2": "sk-2"}
MINUTE = Span(60_000)


def read(*entries: str, rest: str = "", environ: dict[str, str] = ENVIRON, accept: bool = False) -> Translation:
    text = "model_list:\n" + "".join(f"- {one}\n" for one in entries) + rest
    return translate(text, source="litellm.yaml", environ=environ, accept_unenforced=accept)


def entry(params: str, *, name: str = "m", more: str = "") -> str:
    return f"{{model_name: {name}, litellm_params: {{{params}}}{', ' + more if more else ''}}}"


def targets(found: Translation, name: str = "m") -> list[str]:
    return [one.name for one in found.config.models[name].targets]


@pytest.mark.parametrize(
    ("params", "target", "vendor", "base_url"),
    [
        ("model: openai/gpt-4o", "openai/gpt-4o", "openai", "https://api.openai.com/v1"),
        ("model: gpt-4o", "openai/gpt-4o", "openai", "https://api.openai.com/v1"),
        ("model: o3-mini", "openai/o3-mini", "openai", "https://api.openai.com/v1"),
        ("model: text-embedding-3-small", "openai/text-embedding-3-small", "openai", "https://api.openai.com/v1"),
        ("model: chatgpt-4o-latest", "openai/chatgpt-4o-latest", "openai", "https://api.openai.com/v1"),
        ("model: 'ft:gpt-4o:me::x'", "openai/ft:gpt-4o:me::x", "openai", "https://api.openai.com/v1"),
        (
            "model: gpt-4o, api_base: 'https://api.openai.com/v1/'",
            "openai/gpt-4o",
            "openai",
            "https://api.openai.com/v1",
        ),
        ("model: openai/gpt-4o, api_base: http://127.0.0.1:9/v1", "openai/gpt-4o", "openai", "http://127.0.0.1:9/v1"),
        ("model: openai/gpt-4o, base_url: http://127.0.0.1:9/v1", "openai/gpt-4o", "openai", "http://127.0.0.1:9/v1"),
        ("model: mine, custom_llm_provider: openai", "openai/mine", "openai", "https://api.openai.com/v1"),
        ("model: claude-sonnet-4-5", "anthropic/claude-sonnet-4-5", "anthropic", "https://api.anthropic.com/v1"),
        ("model: anthropic/claude-x, api_base: https://a.test", "anthropic/claude-x", "anthropic", "https://a.test/v1"),
        (
            "model: anthropic/claude-x, api_base: https://a.test/v1/messages",
            "anthropic/claude-x",
            "anthropic",
            "https://a.test/v1",
        ),
        ("model: groq/llama-3", "groq/llama-3", "groq", "https://api.groq.com/openai/v1"),
        ("model: mistral/mistral-small-latest", "mistral/mistral-small-latest", "mistral", "https://api.mistral.ai/v1"),
        ("model: deepseek/deepseek-chat", "deepseek/deepseek-chat", "deepseek", "https://api.deepseek.com"),
        ("model: openrouter/openai/gpt-4o", "openrouter/openai/gpt-4o", "openrouter", "https://openrouter.ai/api/v1"),
        ("model: together_ai/meta/llama", "together/meta/llama", "together", "https://api.together.ai/v1"),
        (
            "model: fireworks_ai/kimi",
            "fireworks/accounts/fireworks/models/kimi",
            "fireworks",
            "https://api.fireworks.ai/inference/v1",
        ),
        ("model: moonshot/kimi-k2", "moonshot/kimi-k2", "moonshot", "https://api.moonshot.ai/v1"),
        ("model: xai/grok-4", "xai/grok-4", "xai", "https://api.x.ai/v1"),
        (
            "model: gemini/gemini-2.5-pro",
            "gemini/gemini-2.5-pro",
            "gemini",
            "https://generativelanguage.googleapis.com/v1beta/openai",
        ),
        ("model: cohere_chat/command-r", "cohere/command-r", "cohere", "https://api.cohere.ai/compatibility/v1"),
        ("model: ollama/llama3", "ollama/llama3", "ollama", "http://127.0.0.1:11434/v1"),
        ("model: ollama_chat/llama3, api_base: http://box:11434", "ollama/llama3", "ollama", "http://box:11434/v1"),
        (
            "model: hosted_vllm/meta/llama, api_base: http://box/v1",
            "hosted_vllm/meta/llama",
            "hosted_vllm",
            "http://box/v1",
        ),
        ("model: lm_studio/qwen, api_base: http://box/v1", "lm_studio/qwen", "lm_studio", "http://box/v1"),
        (
            "model: openai/qwen, api_base: http://box/v1/chat/completions",
            "openai-compatible/qwen",
            "openai-compatible",
            "http://box/v1",
        ),
        (
            "model: azure/gpt-4o, api_base: 'https://r.openai.azure.com/'",
            "azure/gpt-4o",
            "azure",
            "https://r.openai.azure.com/openai/v1",
        ),
    ],
)
def test_a_prefix_says_the_provider(params: str, target: str, vendor: str, base_url: str) -> None:
    found = read(entry(params))
    assert targets(found) == [target]
    (provider,) = found.config.providers.values()
    assert (provider.vendor, provider.base_url) == (vendor, base_url)
    assert (provider.dialect is DialectName.ANTHROPIC) is (vendor == "anthropic")


@pytest.mark.parametrize(
    "params",
    [
        "model: bedrock/anthropic.claude-v2",
        "model: vertex_ai/gemini-pro",
        "model: sagemaker/x",
        "model: meta-llama/Llama-3",
        "model: llama-3",
        "model: openai/",
        "model: openai/*",
        "model: hosted_vllm/llama",
        "model: azure/gpt-4o",
        "model: azure/gpt-4o, api_base: https://elsewhere.test",
        "model: gemini/gemini-2.5-pro, api_base: https://elsewhere.test",
        "model: openai/gpt-4o, api_base: os.environ/NOT_SET",
        "model: openai/responses/o1-pro",
        "model: openai/gpt-4o, mock_response: hello",
        "model: openai/gpt-4o, input_cost_per_second: 0.1",
    ],
)
def test_what_cannot_be_reached_is_not_served_with_one_warning_that_names_it(params: str) -> None:
    found = read(entry("model: gpt-4o", name="other"), entry(params))
    assert list(found.config.models) == ["other"]
    (warning,) = found.warnings
    assert warning.startswith("model_list[1].litellm_params.model: ")
    assert f'"{params.split()[1].rstrip(",")}" is not served: ' in warning


@pytest.mark.parametrize("more", ["mode: image_generation", "blocked: true", "team_id: a"])
def test_what_is_not_for_calls_is_not_served(more: str) -> None:
    found = read(entry("model: gpt-4o", name="other"), entry("model: gpt-4o", more=f"model_info: {{{more}}}"))
    assert list(found.config.models) == ["other"]
    assert len(found.warnings) == 1


def test_a_pattern_in_the_public_name_is_not_served() -> None:
    found = read(entry("model: gpt-4o", name="other"), entry("model: gpt-4o", name="'*'"))
    assert list(found.config.models) == ["other"]


@pytest.mark.parametrize("entries", [(), (entry("model: bedrock/x"),)])
def test_nothing_to_serve_stops_the_start(entries: tuple[str, ...]) -> None:
    with pytest.raises(ConfigInvalid, match=r"litellm\.yaml: model_list: has no model that can be served"):
        read(*entries)


@pytest.mark.parametrize(
    ("one", "path"),
    [
        ("{model_name: a}", r"model_list\[0\]\.litellm_params\.model: is missing"),
        ("{litellm_params: {model: gpt-4o}}", r"model_list\[0\]\.model_name: is missing"),
        (entry("model: gpt-4o, rpm: 0"), r"model_list\[0\]\.litellm_params\.rpm: got \"0\", expected a whole number"),
        (entry("model: gpt-4o, api_base: 'ftp://x'"), r"model_list\[0\]\.litellm_params\.api_base: .*expected a URL"),
        (entry("model: gpt-4o, api_key: {a: b}"), r"model_list\[0\]\.litellm_params\.api_key: got a mapping"),
        (entry("model: gpt-4o, timeout: soon"), r"model_list\[0\]\.litellm_params\.timeout: got \"soon\""),
        (entry("model: gpt-4o, input_cost_per_token: -1"), r"litellm_params\.input_cost_per_token: got \"-1\""),
        (entry("model: gpt-4o, litellm_credential_name: x"), r"litellm_credential_name: is not in credential_list"),
        (entry("model: gpt-4o, rpm_of_team: 3"), r"litellm_params\.rpm_of_team: limits money or traffic"),
        (entry("model: gpt-4o, max_budget: 3, budget_duration: 2mo"), r"litellm_params\.budget_duration: limits"),
        (entry("model: gpt-4o", more="model_info: {access_windows: [1]}"), r"model_info\.access_windows: limits"),
        (f"{{model_name: {'x' * 200}, litellm_params: {{model: gpt-4o}}}}", r"model_list\[0\]\.model_name: got"),
        (entry(f"model: gpt-{'x' * 200}"), r"model_list\[0\]\.litellm_params\.model: got"),
    ],
)
def test_a_wrong_entry_stops_the_start_by_its_path(one: str, path: str) -> None:
    with pytest.raises(ConfigInvalid, match=path):
        read(one)


def test_entries_of_one_name_are_targets_that_take_turns() -> None:
    found = read(
        entry("model: gpt-4o"),
        entry("model: gpt-4o, api_key: os.environ/KEY_2"),
        entry("model: azure/gpt-4o, api_base: https://r.openai.azure.com"),
        entry("model: anthropic/claude-x, api_base: https://a.test", name="other"),
        entry("model: gpt-4o-mini", name="other"),
    )
    assert targets(found) == ["openai/gpt-4o", "openai-2/gpt-4o", "azure/gpt-4o"]
    assert targets(found, "other") == ["anthropic/claude-x", "openai/gpt-4o-mini"]
    second = found.config.providers["openai-2"]
    assert (second.vendor, second.api_key, second.cap_field) == ("openai", Secret("sk-2"), "max_completion_tokens")
    assert second.pins_service_tier
    assert found.warnings == ()


def test_an_entry_that_stands_twice_is_one_target() -> None:
    same = entry("model: gpt-4o, rpm: 5")
    found = read(same, same, entry("model: gpt-4o, rpm: 5", more="model_info: {id: third}"))
    assert targets(found) == ["openai/gpt-4o"]
    assert list(found.warnings) == [
        "model_list[1]: is the same as model_list[0], and is served once",
        "model_list[2]: is the same as model_list[0], and is served once",
    ]
    assert [one.amount for one in found.config.limits] == [5]


def test_the_same_upstream_under_other_limits_is_another_target() -> None:
    found = read(entry("model: gpt-4o, rpm: 5"), entry("model: gpt-4o, rpm: 7"))
    assert targets(found) == ["openai/gpt-4o", "openai-2/gpt-4o"]
    assert [(one.name, one.amount, one.match["target"]) for one in found.config.limits] == [
        ("rpm.m.openai", 5, frozenset({"openai/gpt-4o"})),
        ("rpm.m.openai-2", 7, frozenset({"openai-2/gpt-4o"})),
    ]


def test_one_model_at_two_prices_is_two_providers() -> None:
    dear = "model: gpt-4o, input_cost_per_token: 1e-6, output_cost_per_token: 2e-6"
    found = read(entry("model: gpt-4o"), entry(dear, name="dear"), entry(dear, name="dear-too"))
    assert (targets(found), targets(found, "dear"), targets(found, "dear-too")) == (
        ["openai/gpt-4o"],
        ["openai-2/gpt-4o"],
        ["openai-2/gpt-4o"],
    )
    assert found.config.models["m"].targets[0].price is None
    price = found.config.models["dear"].targets[0].price
    assert price is not None
    assert price.base == Rates(input=1_000_000, output=2_000_000)


@pytest.mark.parametrize(
    ("params", "info", "expected"),
    [
        ("input_cost_per_token: 0.00000015, output_cost_per_token: 6e-07", "", Rates(input=150_000, output=600_000)),
        ("", "input_cost_per_token: 1e-6, output_cost_per_token: 2e-6", Rates(input=10**6, output=2 * 10**6)),
        ("input_cost_per_token: 0, output_cost_per_token: 0", "", Rates(input=0, output=0)),
        (
            "input_cost_per_token: 3e-6",
            "output_cost_per_token: 4e-6, input_cost_per_token: 9",
            Rates(input=3_000_000, output=4_000_000),
        ),
        ("input_cost_per_token: 2e-8", "mode: embedding, max_tokens: 8191", Rates(input=20_000, output=0)),
        (
            "input_cost_per_token: 3e-6, output_cost_per_token: 15e-6, cache_read_input_token_cost: 3e-7, "
            "cache_creation_input_token_cost: 3.75e-6, cache_creation_input_token_cost_above_1hr: 6e-6",
            "",
            Rates(
                input=3_000_000,
                output=15_000_000,
                cache_read=300_000,
                cache_write=3_750_000,
                cache_write_long=6_000_000,
            ),
        ),
        (
            "input_cost_per_token: 1e-6, input_cost_per_token_above_200k_tokens: 2e-6, output_cost_per_token: 4e-6, "
            "output_cost_per_reasoning_token: 5e-6",
            "",
            Rates(input=2_000_000, output=5_000_000),
        ),
        (
            "input_cost_per_token: 2.50000000000000041e-06, output_cost_per_token: 0",
            "",
            Rates(input=2_500_001, output=0),
        ),
        (
            "input_cost_per_token: 1e-6, output_cost_per_token: 0, input_cost_per_image: 0.0",
            "",
            Rates(input=10**6, output=0),
        ),
    ],
)
def test_a_price_is_exact_and_never_rounded_down(params: str, info: str, expected: Rates) -> None:
    found = read(entry(f"model: gpt-4o{', ' + params if params else ''}", more=f"model_info: {{{info}}}"))
    price = found.config.models["m"].targets[0].price
    assert price is not None
    assert price.base == expected


@pytest.mark.parametrize(
    ("params", "part"),
    [
        ("model: gpt-4o, input_cost_per_token: 1e-6", "output_cost_per_token is missing"),
        ("model: ollama/llama3", "at no price"),
        ("model: hosted_vllm/llama, api_base: http://box/v1", "no price of it is known"),
        ("model: gpt-4o, temperature: 0.2", "model_list[0].litellm_params.temperature: is not honoured"),
        ("model: gpt-4o, max_tokens: 100", "model_list[0].litellm_params.max_tokens: is not honoured: it is a default"),
        ("model: gpt-4o, organization: org-1", "model_list[0].litellm_params.organization: is not honoured"),
        ("model: gpt-4o, weight: 2", "model_list[0].litellm_params.weight: is not honoured"),
        ("model: gpt-4o, input_cost_per_token_flex: 1e-6", "input_cost_per_token_flex: is not honoured"),
        ("model: gpt-4o, parallel_tool_calls: true", "parallel_tool_calls: is not honoured"),
        ("model: gpt-4o, thinking: {budget_tokens: 9}", "thinking: is not honoured"),
    ],
)
def test_what_a_deployment_asks_for_in_vain_is_said_once(params: str, part: str) -> None:
    (warning,) = read(entry(params)).warnings
    assert part in warning


def test_what_only_describes_a_model_is_not_said() -> None:
    info = "id: a, mode: chat, supports_vision: true, base_model: openai/gpt-4o, description: b, max_tokens: 4096"
    found = read(entry("model: gpt-4o, timeout: 30, stream_timeout: 5", more=f"model_info: {{{info}}}"))
    assert found.warnings == ()
    assert found.config.models["m"].targets[0].output_tokens_max == 4096


def test_a_deployment_of_azure_is_not_priced_by_a_name_that_it_only_bears() -> None:
    params = "model: azure/gpt-4o-mini, api_base: https://r.openai.azure.com"
    other = entry("model: gpt-4o", name="other")
    found = read(other, entry(params, more="model_info: {base_model: azure/gpt-4o}"))
    assert list(found.config.models) == ["other"]
    costs = ", input_cost_per_token: 1e-6, output_cost_per_token: 1e-6"
    found = read(other, entry(params + costs, more="model_info: {base_model: azure/gpt-4o}"))
    assert targets(found) == ["azure/gpt-4o-mini"]
    assert found.warnings == ()


def test_windows_are_the_widest_and_caps_the_lowest_that_all_targets_say() -> None:
    first = entry("model: gpt-4o", more="model_info: {max_input_tokens: 1000, max_output_tokens: 90, max_tokens: 7}")
    second = entry("model: gpt-4o-mini", more="model_info: {max_input_tokens: 2000, max_output_tokens: 50}")
    config = read(first, second).config
    assert {(one.context_window, one.output_tokens_max) for one in config.models["m"].targets} == {(2000, 50)}
    found = read(first, entry("model: gpt-4o-mini"))
    assert {(one.context_window, one.output_tokens_max) for one in found.config.models["m"].targets} == {(None, None)}
    assert [one.partition(":")[0] for one in found.warnings] == ["model_list[0].model_info"] * 2


@pytest.mark.parametrize(
    ("params", "more", "name", "expected"),
    [
        ("rpm: 100", "", "rpm.m", (Unit.REQUESTS, 100, MINUTE)),
        ("tpm: 1e5", "", "tpm.m", (Unit.TOKENS, 100_000, MINUTE)),
        ("itpm: 10", "", "itpm.m", (Unit.INPUT_TOKENS, 10, MINUTE)),
        ("otpm: 10", "", "otpm.m", (Unit.OUTPUT_TOKENS, 10, MINUTE)),
        ("max_parallel_requests: 3", "", "max_parallel_requests.m", (Unit.CONCURRENT, 3, Lifetime())),
        (
            "max_budget: 1.5, budget_duration: 1mo",
            "",
            "max_budget.m",
            (Unit.USD, 15 * 10**8, Calendar(CalendarUnit.MONTH)),
        ),
        ("max_budget: 2", "", "max_budget.m", (Unit.USD, 2 * 10**9, Lifetime())),
        ("", "rpm: 9", "rpm.m", (Unit.REQUESTS, 9, MINUTE)),
        ("", "model_info: {tpm: 9}", "tpm.m", (Unit.TOKENS, 9, MINUTE)),
        ("rpm: 9", "model_info: {rpm: 7}", "rpm.m", (Unit.REQUESTS, 7, MINUTE)),
    ],
)
def test_an_entrys_limits_hold_for_its_target(
    params: str, more: str, name: str, expected: tuple[Unit, int, Period]
) -> None:
    (limit,) = read(entry(f"model: gpt-4o{', ' + params if params else ''}", more=more)).config.limits
    assert (limit.name, (limit.unit, limit.amount, limit.period)) == (name, expected)
    assert limit.match == {"model": frozenset({"m"}), "target": frozenset({"openai/gpt-4o"})}
    assert limit.each == ()


def test_limits_of_each_key_at_a_target_are_counted_by_key() -> None:
    (limit,) = read(entry("model: gpt-4o, default_api_key_rpm_limit: 4")).config.limits
    assert (limit.name, limit.amount, limit.each) == ("default_api_key_rpm_limit.m", 4, ("key",))


def test_the_routers_concurrency_holds_where_a_deployment_has_none() -> None:
    rest = "router_settings: {default_max_parallel_requests: 8}\n"
    found = read(entry("model: gpt-4o, max_parallel_requests: 3"), entry("model: gpt-4o", name="n"), rest=rest)
    assert {one.name: one.amount for one in found.config.limits} == {
        "max_parallel_requests.m": 3,
        "default_max_parallel_requests.n": 8,
    }


def test_names_of_limits_are_valid_and_never_collide() -> None:
    long = "x" * 100
    entries = [entry("model: gpt-4o, rpm: 1", name=f"'{name}'") for name in ("a b", "a/b", long + "1", long + "2")]
    names = [one.name for one in read(*entries).config.limits]
    assert names[:2] == ["rpm.a-b", "rpm.a-b-2"]
    assert len(set(names)) == 4
    assert max(map(len, names)) == 64


def test_an_alias_is_a_model_under_the_same_limits() -> None:
    rest = "router_settings: {model_group_alias: {gpt-4: m, hidden: {model: m, hidden: true}, m: m, z: gone}}\n"
    found = read(entry("model: gpt-4o, rpm: 3"), rest=rest)
    assert [(name, *targets(found, name)) for name in found.config.models] == [
        ("m", "openai/gpt-4o"),
        ("gpt-4", "openai/gpt-4o"),
        ("hidden", "openai/gpt-4o"),
    ]
    assert [one.match["model"] for one in found.config.limits] == [frozenset({"m", "gpt-4", "hidden"})]
    assert [one.partition(": ")[0] for one in found.warnings] == [
        "router_settings.model_group_alias.m",
        "router_settings.model_group_alias.z",
    ]


@pytest.mark.parametrize(
    ("params", "environ", "expected"),
    [
        ("model: gpt-4o", {"OPENAI_API_KEY": "k"}, "k"),
        ("model: gpt-4o, api_key: os.environ/OTHER", {"OTHER": "o", "OPENAI_API_KEY": "k"}, "o"),
        ("model: gpt-4o, api_key: literal", {"OPENAI_API_KEY": "k"}, "literal"),
        ("model: gpt-4o, api_key: ''", {"OPENAI_API_KEY": "k"}, "k"),
        ("model: together_ai/x", {"TOGETHER_API_KEY": "t"}, "t"),
        ("model: gemini/x", {"GOOGLE_API_KEY": "g", "GEMINI_API_KEY": "first"}, "first"),
        ("model: openai/x, api_base: http://box/v1", {"OPENAI_API_KEY": "k"}, "k"),
        ("model: hosted_vllm/x, api_base: http://box/v1", {"HOSTED_VLLM_API_KEY": "v"}, "v"),
    ],
)
def test_a_key_is_the_entrys_or_the_one_that_litellm_would_read(
    params: str, environ: dict[str, str], expected: str
) -> None:
    found = read(entry(params), environ=environ)
    assert [one.api_key for one in found.config.providers.values()] == [Secret(expected)]


@pytest.mark.parametrize(
    ("params", "warns"),
    [
        ("model: gpt-4o", "providers.openai.api_key: environment variable OPENAI_API_KEY is not set"),
        ("model: gpt-4o, api_key: os.environ/GONE", "providers.openai.api_key: environment variable GONE is not set"),
        (
            "model: azure/gpt-4o, api_base: https://r.openai.azure.com",
            "providers.azure.api_key: environment variable AZURE_API_KEY is not set",
        ),
    ],
)
def test_a_key_that_is_missing_is_one_warning_and_refuses_on_use(params: str, warns: str) -> None:
    found = read(entry(params), environ={})
    assert found.warnings == (warns,)
    (provider,) = found.config.providers.values()
    assert (provider.api_key, provider.needs_api_key) == (None, True)


def test_a_server_that_needs_no_key_gets_none() -> None:
    costs = "input_cost_per_token: 0, output_cost_per_token: 0"
    found = read(entry(f"model: hosted_vllm/x, api_base: http://box/v1, {costs}"), environ={})
    (provider,) = found.config.providers.values()
    assert (provider.api_key, provider.needs_api_key, found.warnings) == (None, False, ())


def test_urls_of_the_environment_are_those_that_litellm_would_read() -> None:
    environ = {**ENVIRON, "OPENAI_API_BASE": "http://proxy.test/v1", "ANTHROPIC_BASE_URL": "http://proxy.test"}
    config = read(entry("model: gpt-4o"), entry("model: claude-x", name="n"), environ=environ).config
    assert [one.base_url for one in config.providers.values()] == ["http://proxy.test/v1", "http://proxy.test/v1"]


def test_timeouts_of_a_deployment_beat_the_routers() -> None:
    rest = "router_settings: {timeout: 60}\n"
    config = read(entry("model: gpt-4o, timeout: 5"), entry("model: gpt-4o", name="n"), rest=rest).config
    assert [one.timeouts.first_byte_s for one in config.providers.values()] == [5.0, 60.0]


def test_a_credential_of_the_file_is_what_an_entry_names() -> None:
    rest = (
        "credential_list:\n- credential_name: eu\n  credential_values: {api_key: os.environ/KEY_2, "
        "api_base: 'https://eu.api.openai.com/v1'}\n"
    )
    found = read(entry("model: gpt-4o, litellm_credential_name: eu"), rest=rest)
    (provider,) = found.config.providers.values()
    assert (provider.api_key, provider.base_url) == (Secret("sk-2"), "https://eu.api.openai.com/v1")
    assert found.warnings == ()


def test_a_secret_in_a_url_is_not_shown() -> None:
    with pytest.raises(ConfigInvalid) as caught:
        read(entry("model: gpt-4o, api_base: 'https://user:hunter2@host/v1'"))
    assert "hunter2" not in str(caught.value)
