"""Whole LiteLLM files of the kind that people have, and the same config again from what `spendfuse import` prints."""

import dataclasses
import json
import os
import pathlib

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from spendfuse.cli import import_config
from spendfuse.config import Config, parse
from spendfuse.core.errors import ConfigInvalid
from spendfuse.litellm_config import Translation, to_yaml, translate
from spendfuse.wiring import FACTORIES

ENVIRON = {
    "OPENAI_API_KEY": "sk-openai-env",
    "ANTHROPIC_API_KEY": "sk-ant-env",
    "AZURE_API_KEY_EU": "az-eu-env",
    "AZURE_API_KEY_US": "az-us-env",
    "AZURE_API_BASE_US": "https://us.openai.azure.com",
    "GROQ_API_KEY": "gsk-env",
    "LITELLM_MASTER_KEY": "sk-master-env",
    "DATABASE_URL": "postgresql://nobody@host/db",
}

TEAM = """
# A team's gateway: two regions of one model, a fallback, spend by key in a database.
model_list:
  - model_name: gpt-4o
    litellm_params:
      model: azure/gpt-4o
      api_base: https://eu.openai.azure.com/
      api_key: os.environ/AZURE_API_KEY_EU
      api_version: "2024-08-01-preview"
      rpm: 600
      tpm: 150_000
    model_info:
      base_model: azure/gpt-4o
  - model_name: gpt-4o
    litellm_params:
      model: azure/gpt-4o
      api_base: os.environ/AZURE_API_BASE_US
      api_key: os.environ/AZURE_API_KEY_US
      api_version: "2024-08-01-preview"
      input_cost_per_token: 0.00000275
      output_cost_per_token: 0.000011
      rpm: 300
  - model_name: gpt-4o
    litellm_params:
      model: openai/gpt-4o
      api_key: os.environ/OPENAI_API_KEY
      max_budget: 20
      budget_duration: 1d
  - model_name: claude
    litellm_params: &claude
      model: anthropic/claude-sonnet-4-5
      api_key: os.environ/ANTHROPIC_API_KEY
      max_tokens: 4096
  - model_name: claude-bedrock
    litellm_params:
      model: bedrock/anthropic.claude-3-sonnet-20240229-v1:0
      aws_region_name: us-east-1
      rpm: 10
  - model_name: embed
    litellm_params:
      model: text-embedding-3-small
    model_info:
      mode: embedding
  - model_name: "*"
    litellm_params:
      model: "*"
router_settings:
  routing_strategy: usage-based-routing-v2
  redis_host: os.environ/REDIS_HOST
  redis_port: 6379
  num_retries: 2
  timeout: 120
  fallbacks: [{"gpt-4o": ["claude"]}]
  model_group_alias: {"gpt-4": "gpt-4o"}
litellm_settings:
  max_budget: 1000
  budget_duration: 30d
  max_end_user_budget: 0.75
  drop_params: true
  cache: true
  cache_params: {type: redis, ttl: 600}
  success_callback: [langfuse, prometheus]
  failure_callback: [sentry]
  set_verbose: false
general_settings:
  master_key: os.environ/LITELLM_MASTER_KEY
  database_url: os.environ/DATABASE_URL
  global_max_parallel_requests: 100
  max_request_size_mb: 10
  alerting: [slack]
"""

TEAM_WARNINGS = """
model_list[0].litellm_params.api_version
model_list[1].litellm_params.api_version
model_list[3].litellm_params.max_tokens
model_list[4].litellm_params.model
model_list[6].litellm_params.model
litellm_settings.max_end_user_budget
router_settings.routing_strategy
router_settings.redis_host
router_settings.redis_port
router_settings.num_retries
router_settings.fallbacks
litellm_settings.drop_params
litellm_settings.cache
litellm_settings.cache_params
litellm_settings.success_callback
litellm_settings.failure_callback
general_settings.database_url
general_settings.alerting
"""

HOME = """
# One box: local models, keys in the file.
environment_variables:
  GROQ_API_KEY: gsk-in-the-file
  LANGFUSE_HOST: https://langfuse.example
model_list:
  - model_name: llama
    litellm_params: {model: ollama_chat/llama3.1, api_base: "http://192.168.1.5:11434"}
  - model_name: qwen
    litellm_params:
      model: openai/qwen2.5
      api_base: http://192.168.1.6:8000/v1
      api_key: none-needed
      input_cost_per_token: 0
      output_cost_per_token: 0
  - model_name: fast
    litellm_params: {model: groq/llama-3.3-70b-versatile, api_key: os.environ/GROQ_API_KEY}
  - model_name: mini
    litellm_params: {model: gpt-4o-mini, api_key: sk-first-literal, timeout: 900}
  - model_name: mini
    litellm_params: {model: gpt-4o-mini, api_key: sk-second-literal, itpm: 1000, max_parallel_requests: 2}
litellm_settings: {request_timeout: 1200, telemetry: false, max_budget: 0.005}
general_settings: {master_key: sk-1234}
"""


def read(text: str, environ: dict[str, str], *, folder: pathlib.Path | None = None) -> Translation:
    return translate(text, source="litellm.yaml", folder=folder, environ=environ)


def bare(config: Config) -> Config:
    return dataclasses.replace(config, source="", warnings=(), makes_key=False)


def test_a_teams_file_is_served_and_every_key_without_effect_is_said_once() -> None:
    found = read(TEAM, ENVIRON)
    config = found.config
    assert {name: [one.name for one in model.targets] for name, model in config.models.items()} == {
        "gpt-4o": ["azure/gpt-4o", "azure-2/gpt-4o", "openai/gpt-4o"],
        "gpt-4": ["azure/gpt-4o", "azure-2/gpt-4o", "openai/gpt-4o"],
        "claude": ["anthropic/claude-sonnet-4-5"],
        "embed": ["openai/text-embedding-3-small"],
    }
    assert [(one.name, one.describe()) for one in config.limits] == [
        ("max_budget", "max_budget ($1000.00 per 30d)"),
        ("global_max_parallel_requests", "global_max_parallel_requests (100 concurrent calls)"),
        ("max_end_user_budget", "max_end_user_budget ($0.75 per lifetime, each user)"),
        ("rpm.gpt-4o.azure", "rpm.gpt-4o.azure (600 requests per minute)"),
        ("tpm.gpt-4o.azure", "tpm.gpt-4o.azure (150,000 tokens per minute)"),
        ("rpm.gpt-4o.azure-2", "rpm.gpt-4o.azure-2 (300 requests per minute)"),
        ("max_budget.gpt-4o.openai", "max_budget.gpt-4o.openai ($20.00 per 1d)"),
    ]
    assert (config.body_bytes_max, [one.name for one in config.keys]) == (10 * 2**20, ["master"])
    assert [one.partition(": ")[0] for one in found.warnings] == TEAM_WARNINGS.split()


def test_a_file_with_keys_in_it_becomes_a_tree_without_any() -> None:
    found = read(HOME, {})
    printed = to_yaml(found.tree)
    for secret in ("gsk-in-the-file", "none-needed", "sk-first-literal", "sk-second-literal", "sk-1234"):
        assert secret not in printed
        assert secret not in repr(found)
    assert {one.name: one.stands_at for one in found.variables} == {
        "SPENDFUSE_OPENAI_API_KEY": "model_list[1].litellm_params.api_key",
        "GROQ_API_KEY": "environment_variables.GROQ_API_KEY",
        "SPENDFUSE_OPENAI_API_KEY_2": "model_list[3].litellm_params.api_key",
        "SPENDFUSE_OPENAI_API_KEY_3": "model_list[4].litellm_params.api_key",
        "SPENDFUSE_MASTER_KEY": "general_settings.master_key",
    }
    keys = {name: one.api_key.reveal() for name, one in found.config.providers.items() if one.api_key}
    assert keys == {
        "openai-compatible": "none-needed",
        "groq": "gsk-in-the-file",
        "openai": "sk-first-literal",
        "openai-2": "sk-second-literal",
    }
    assert found.config.reservation_deadline_s == 1200
    assert [one.partition(": ")[0] for one in found.warnings] == ["model_list[0].litellm_params.model"]


def test_a_name_that_the_environment_has_for_another_key_is_not_taken() -> None:
    found = read(HOME, {"SPENDFUSE_MASTER_KEY": "sk-another"})
    assert "SPENDFUSE_MASTER_KEY_2" in {one.name for one in found.variables}


@pytest.mark.parametrize(("text", "environ"), [(TEAM, ENVIRON), (TEAM, {"LITELLM_MASTER_KEY": "sk-m"}), (HOME, {})])
def test_what_import_prints_is_the_same_config(text: str, environ: dict[str, str], tmp_path: pathlib.Path) -> None:
    found = read(text, environ, folder=tmp_path)
    to_set = {
        "SPENDFUSE_OPENAI_API_KEY": "none-needed",
        "GROQ_API_KEY": "gsk-in-the-file",
        "SPENDFUSE_OPENAI_API_KEY_2": "sk-first-literal",
        "SPENDFUSE_OPENAI_API_KEY_3": "sk-second-literal",
        "SPENDFUSE_MASTER_KEY": "sk-1234",
    }
    again = parse(to_yaml(found.tree), folder=tmp_path, environ={**environ, **(to_set if text is HOME else {})})
    assert bare(again) == bare(found.config)


@pytest.mark.parametrize(
    "name",
    ["123", "1.5", "0x10", "010", "1e3", "true", "null", "~", "no", "12:30", "2024-01-01", "- a", "a: b", "ä#", "*"],
)
def test_a_text_is_printed_as_one_that_is_read_as_the_same(name: str) -> None:
    tree = {"models": {f"m{name}": f"openai/{name}"}, "keys": [{"name": "a", "key": "k", "labels": {"feature": name}}]}
    text = to_yaml({"providers": {"openai": {"api_key": "k"}}, **tree})
    config = parse(text, environ={})
    assert config.models[f"m{name}"].targets[0].model == name
    assert config.keys[0].labels == {"feature": name}


def test_included_files_grow_lists_and_add_sections(tmp_path: pathlib.Path) -> None:
    (tmp_path / "models.yaml").write_text("model_list:\n- {model_name: b, litellm_params: {model: gpt-4o}}\n")
    (tmp_path / "budget.yaml").write_text("litellm_settings: {max_budget: 3}\n")
    text = "model_list: [{model_name: a, litellm_params: {model: gpt-4o-mini}}]\ninclude: [models.yaml, budget.yaml]\n"
    config = read(text, ENVIRON, folder=tmp_path).config
    assert list(config.models) == ["a", "b"]
    assert [one.amount for one in config.limits] == [3 * 10**9]


@pytest.mark.parametrize(
    ("included", "part"),
    [
        (None, "cannot be read: No such file"),
        ("litellm_settings: {max_budget: 9}", "litellm_settings is set in another file too"),
        ("include: [b.yaml]", "includes files itself"),
        ("model_list: {a: b}", "model_list is set in another file too"),
        ("a: [", "not valid YAML"),
    ],
)
def test_an_included_file_that_cannot_be_taken_whole_stops_the_start(
    included: str | None, part: str, tmp_path: pathlib.Path
) -> None:
    if included is not None:
        (tmp_path / "more.yaml").write_text(included)
    text = "model_list: [{model_name: a, litellm_params: {model: gpt-4o}}]\nlitellm_settings: {max_budget: 1}\n"
    with pytest.raises(ConfigInvalid, match=part):
        read(f"{text}include: more.yaml\n", ENVIRON, folder=tmp_path)


def test_variables_of_the_file_beat_the_environments_and_may_refer_to_them() -> None:
    text = (
        "environment_variables: {OPENAI_API_KEY: os.environ/REAL, LIMIT: 5, GONE: os.environ/NOT_SET}\n"
        "model_list: [{model_name: a, litellm_params: {model: gpt-4o, rpm: os.environ/LIMIT}}]\n"
    )
    config = read(text, {"REAL": "sk-real", "OPENAI_API_KEY": "sk-other"}).config
    key = config.providers["openai"].api_key
    assert key is not None
    assert (key.reveal(), [one.amount for one in config.limits]) == ("sk-real", [5])


@pytest.mark.parametrize("text", ["a: [", "- a", "model_list:\n- {}\nmodel_list: []\n"])
def test_yaml_that_is_none_is_told_with_its_line(text: str) -> None:
    with pytest.raises(ConfigInvalid, match=r"^litellm\.yaml:"):
        read(text, {})


_SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-1, 10**20),
    st.floats(),
    st.text(st.characters(exclude_categories=["Cc", "Cs"]), max_size=8),
    st.sampled_from(["1mo", "30d", "os.environ/A", "os.environ/", "gpt-4o", "openai/x", "*", "http://h/v1", "1e-9"]),
)
_NEW_KEYS = st.text("ab_.x", min_size=1, max_size=4)
_TREES = st.recursive(
    _SCALARS, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(_NEW_KEYS, inner, max_size=2)
)
_PARAMS = (
    "model api_base rpm tpm max_budget budget_duration timeout stream_timeout input_cost_per_token organization "
    "output_cost_per_token max_parallel_requests custom_llm_provider max_tokens weight"
)
_SETTINGS = (
    "master_key max_budget budget_duration request_timeout max_request_size_mb model_group_alias routing_strategy "
    "provider_budget_config callbacks max_parallel_requests default_internal_user_params"
)


def _section(keys: str) -> st.SearchStrategy[dict[str, object]]:
    return st.dictionaries(st.sampled_from(keys.split()) | _NEW_KEYS, _TREES, max_size=2)


@given(
    _section(_PARAMS), _section("id mode rpm max_tokens max_input_tokens base_model"), _section(_SETTINGS), st.data()
)
def test_any_file_is_taken_or_told_what_is_wrong(
    params: dict[str, object], info: dict[str, object], settings: dict[str, object], data: st.DataObject
) -> None:
    section = data.draw(st.sampled_from(["general_settings", "litellm_settings", "router_settings", "credential_list"]))
    entry = {"model_name": "a", "litellm_params": {"model": "gpt-4o", "api_key": "sk-hidden", **params}}
    tree = {"model_list": [entry, {**entry, "model_info": info}], section: settings}
    try:
        found = read(json.dumps(tree), {"A": "5"})
    except ConfigInvalid as invalid:
        assert "sk-hidden" not in str(invalid)
        # By the file's own paths, never by ours.
        assert all(line.startswith("litellm.yaml:") for line in str(invalid).split("\n"))
        assert not any(f"litellm.yaml: {ours}" in str(invalid) for ours in ("providers", "models.", "limits", "keys"))
        return
    assert "sk-hidden" not in to_yaml(found.tree)
    again = parse(to_yaml(found.tree), environ={"A": "5", **{one.name: "sk-set" for one in found.variables}})
    assert (again.models.keys(), again.limits) == (found.config.models.keys(), found.config.limits)


class Program:
    """`spendfuse import` alone."""

    def __init__(self) -> None:
        self.app = typer.Typer(callback=lambda: None)
        import_config.add_to(
            self.app,
            FACTORIES,
        )

    def run(self, *arguments: str, env: dict[str, str] | None = None) -> tuple[int, str, str]:
        cleared = dict.fromkeys(os.environ, None)
        result = CliRunner().invoke(self.app, ["import", *arguments], env={**cleared, **(env or {})})
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.exit_code, result.stdout, result.stderr


def test_import_prints_our_yaml_and_warns_on_standard_error(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "litellm.yaml"
    file.write_text(HOME)
    code, out, err = Program().run(str(file))
    assert code == 0
    assert out.startswith(
        "# Translated from litellm.yaml.\n# Set SPENDFUSE_OPENAI_API_KEY in the environment; its value"
    )
    assert err == f"warning: {read(HOME, {}).warnings[0]}\n"
    environ = {one.name: "set" for one in read(HOME, {}).variables}
    assert list(parse(out, environ=environ).models) == ["llama", "qwen", "fast", "mini"]


def test_import_refuses_what_would_not_hold_unless_it_is_accepted(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "litellm.yaml"
    file.write_text(f"{HOME.replace('max_budget: 0.005', 'tag_budget_config: {a: {max_budget: 1}}')}")
    with pytest.raises(ConfigInvalid, match="tag_budget_config: limits money"):
        Program().run(str(file))
    code, _, err = Program().run(str(file), "--accept-unenforced")
    assert (code, "litellm_settings.tag_budget_config: is NOT ENFORCED" in err) == (0, True)


def test_import_says_that_a_file_without_a_master_key_has_no_client_key(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "litellm.yaml"
    file.write_text("model_list: [{model_name: a, litellm_params: {model: gpt-4o}}]\n")
    code, _, err = Program().run(str(file), env={"OPENAI_API_KEY": "k"})
    assert (code, "spendfuse keys create" in err) == (0, True)


@pytest.mark.parametrize(("content", "part"), [(None, "cannot be read"), ("providers: {}", "is no LiteLLM config")])
def test_import_of_anything_else_is_refused(content: str | None, part: str, tmp_path: pathlib.Path) -> None:
    file = tmp_path / "other.yaml"
    if content is not None:
        file.write_text(content)
    code, out, err = Program().run(str(file))
    assert (code, out, part in err) == (2, "", True)
