"""Without a config file, what the environment has keys for is served, under limits for a trial."""

import re
from functools import cache
from pathlib import Path

import pytest

from spendfuse.clock import FrozenClock
from spendfuse.config import CLIENT_KEY_PREFIX, Config, DialectName, Secret
from spendfuse.core.errors import ConfigInvalid
from spendfuse.core.limits import Reject, Unit
from spendfuse.core.refusals import Code, Deny
from spendfuse.core.windows import Calendar, CalendarUnit, Span
from spendfuse.gate.routes import Routes, overrides_of, vendors_of
from spendfuse.pricing.quoting import Pricer
from spendfuse.pricing.targets import PricedTarget
from spendfuse.zero_config import SOURCE, VARIABLES, has_provider, zero_config, zero_store

NOW = FrozenClock(1_795_000_000 * 10**9)


@cache
def made_of_all() -> Config:
    return made(*VARIABLES)


def made(*variables: str, folder: Path = Path()) -> Config:
    return zero_config({variable: f"sk-{variable}" for variable in variables}, folder)


def target(config: Config, model: str) -> str:
    (found,) = config.models[model].targets
    return found.name


def test_the_vendors_whose_keys_are_set_are_the_providers() -> None:
    config = made("ANTHROPIC_API_KEY", "OPENAI_API_KEY")
    assert {one.name: one.api_key for one in config.providers.values()} == {
        "openai": Secret("sk-OPENAI_API_KEY"),
        "anthropic": Secret("sk-ANTHROPIC_API_KEY"),
    }
    assert config.providers["anthropic"].dialect is DialectName.ANTHROPIC
    assert (config.source, config.makes_key, config.serves_snapshots, config.warnings) == (SOURCE, True, True, ())


@pytest.mark.parametrize("variable", VARIABLES)
def test_each_variable_by_itself_makes_a_config_with_models(variable: str) -> None:
    config = made(variable)
    assert len(config.providers) == 1
    assert len(config.models) > 5


def test_the_store_stands_in_the_folder(tmp_path: Path) -> None:
    assert made("OPENAI_API_KEY", folder=tmp_path).store.where == str(tmp_path / "spendfuse.db")
    assert zero_store(tmp_path).store.where == str(tmp_path / "spendfuse.db")


@pytest.mark.parametrize("environ", [{}, {"OPENAI_API_KEY": ""}, {"OPENAI_API_KEY": " "}, {"APP_KEY": "sk-x"}])
def test_without_any_key_the_error_names_every_variable_that_is_looked_for(environ: dict[str, str]) -> None:
    assert not has_provider(environ)
    with pytest.raises(ConfigInvalid) as caught:
        zero_config(environ, Path())
    assert all(variable in str(caught.value) for variable in VARIABLES)


def test_a_key_that_can_be_none_is_refused_and_not_shown() -> None:
    with pytest.raises(ConfigInvalid, match=r"zero config: providers\.openai\.api_key: got a value") as caught:
        zero_config({"OPENAI_API_KEY": "sk-with a blank"}, Path())
    assert "blank" not in str(caught.value)


def test_a_client_key_of_our_own_is_not_taken_for_a_vendors() -> None:
    environ = {"OPENAI_API_KEY": f"{CLIENT_KEY_PREFIX}mine", "ANTHROPIC_API_KEY": "sk-ant"}
    config = zero_config(environ, Path())
    assert list(config.providers) == ["anthropic"]
    (warning,) = config.warnings
    assert warning.startswith("OPENAI_API_KEY holds a client key of Spendfuse")
    assert not has_provider({"OPENAI_API_KEY": f"{CLIENT_KEY_PREFIX}mine"})
    with pytest.raises(ConfigInvalid, match="OPENAI_API_KEY holds a client key of Spendfuse"):
        zero_config({"OPENAI_API_KEY": f"{CLIENT_KEY_PREFIX}mine"}, Path())


def test_well_known_names_lead_to_their_vendors() -> None:
    config = made_of_all()
    expected = {
        "gpt-4o-mini": "openai/gpt-4o-mini",
        "gpt-4o-mini-2024-07-18": "openai/gpt-4o-mini-2024-07-18",
        "gpt-5": "openai/gpt-5",
        "o3": "openai/o3",
        "text-embedding-3-small": "openai/text-embedding-3-small",
        "claude-sonnet-4-5": "anthropic/claude-sonnet-4-5",
        "claude-3-5-haiku-latest": "anthropic/claude-3-5-haiku-latest",
        "gemini-2.5-pro": "gemini/gemini-2.5-pro",
        "gemini-embedding-001": "gemini/gemini-embedding-001",
        "mistral-large-latest": "mistral/mistral-large-latest",
        "command-r-plus": "cohere/command-r-plus",
        "kimi-k2-thinking": "moonshot/kimi-k2-thinking",
        "llama-3.3-70b-versatile": "groq/llama-3.3-70b-versatile",
        "accounts/fireworks/models/gpt-oss-20b": "fireworks/accounts/fireworks/models/gpt-oss-20b",
        "anthropic/claude-sonnet-4.5": "openrouter/anthropic/claude-sonnet-4.5",
    }
    assert {name: target(config, name) for name in expected} == expected


@pytest.mark.parametrize(
    "name",
    [
        "gpt-4o-realtime-preview",
        "gpt-4o-mini-tts",
        "gpt-4o-transcribe",
        "gpt-image-1",
        "gpt-5-image",
        "whisper-1",
        "dall-e-3",
        "ft:gpt-4o",
        "gpt-4o-mini-2024-07-18.ft-",
        "gpt-3.5-turbo-instruct",
        "davinci-002",
        "gpt-4o-search-preview",
        "gemini-2.5-flash-tts",
        "devstral-small:free",
    ],
)
def test_what_is_free_unpriced_or_not_asked_for_here_is_left_out(name: str) -> None:
    assert name not in made_of_all().models


def test_a_vendors_cloud_names_are_not_taken_for_those_of_its_own_api() -> None:
    assert all(name.startswith("gemini-") for name in made("GEMINI_API_KEY").models)


def test_of_vendors_with_the_same_name_the_first_has_it() -> None:
    assert target(made("GROQ_API_KEY", "OPENROUTER_API_KEY"), "openai/gpt-oss-20b") == "groq/openai/gpt-oss-20b"
    assert target(made("OPENROUTER_API_KEY"), "openai/gpt-oss-20b") == "openrouter/openai/gpt-oss-20b"


def test_every_model_has_a_price_that_is_not_zero() -> None:
    config = made_of_all()
    pricer = Pricer.load(overrides_of(config), vendors_of(config))
    found = [
        pricer.target_prices(one.provider.name, one.model) for each in config.models.values() for one in each.targets
    ]
    assert len(found) > 1_000
    assert [one for one in found if not isinstance(one, PricedTarget) or one.is_free] == []


@pytest.mark.parametrize(
    ("asked", "reaches"),
    [
        ("gpt-4o-2024-08-06", "openai/gpt-4o-2024-08-06"),
        ("claude-3-5-haiku-20241022", "anthropic/claude-3-5-haiku-20241022"),
        ("claude-sonnet-4-20250514", "anthropic/claude-sonnet-4-20250514"),
        ("claude-haiku-4-5-20251001", "anthropic/claude-haiku-4-5-20251001"),
    ],
)
def test_a_dated_snapshot_of_a_model_can_be_asked_for(asked: str, reaches: str) -> None:
    routes = Routes(made("OPENAI_API_KEY", "ANTHROPIC_API_KEY"), NOW)
    found = routes.get(asked)
    assert not isinstance(found, Deny)
    assert [route.target for route in found.turn()] == [reaches]


def test_a_snapshot_that_the_price_list_does_not_know_is_refused() -> None:
    routes = Routes(made("OPENAI_API_KEY"), NOW)
    codes = [
        found.code
        for name in ("gpt-4.1-nano-2099-01-31", "nothing-20241022")
        if isinstance(found := routes.get(name), Deny)
    ]
    assert codes == [Code.MODEL_NOT_PRICED, Code.MODEL_NOT_FOUND]


def test_the_limits_bound_a_day_a_month_a_key_and_a_retry_loop() -> None:
    limits = made("OPENAI_API_KEY").limits
    assert limits == zero_store(Path()).limits
    assert [(one.name, one.unit, one.amount, one.period, one.each) for one in limits] == [
        ("day-budget", Unit.USD, 10 * 10**9, Calendar(CalendarUnit.DAY, "UTC"), ()),
        ("month-budget", Unit.USD, 100 * 10**9, Calendar(CalendarUnit.MONTH, "UTC"), ()),
        ("key-rate", Unit.REQUESTS, 300, Span(60_000), ("key",)),
        ("retry-loop", Unit.REQUESTS, 30, Span(300_000), ("key", "user", "fingerprint")),
    ]
    assert {one.on_exceed for one in limits} == {Reject()}


def test_the_store_alone_needs_neither_providers_nor_models() -> None:
    config = zero_store(Path())
    assert (dict(config.providers), dict(config.models), config.source) == ({}, {}, SOURCE)


def test_the_reference_names_every_variable_in_their_order_and_every_limit() -> None:
    page = (Path(__file__).parents[2] / "docs" / "reference" / "commands.md").read_text()
    section = page.split("### Zero config")[1].split("\n## ")[0]
    assert tuple(re.findall(r"`([A-Z]+_API_KEY)`", section)) == VARIABLES
    assert all(f"`{one.name}`" in section for one in zero_store(Path()).limits)
