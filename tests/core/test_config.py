"""A config means what it says, or says what is wrong with it."""

import copy
import hashlib
import json
import pathlib
import pickle
from decimal import Decimal
from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spendfuse.config import (
    CLIENT_KEY_PREFIX,
    Config,
    DialectName,
    LabelSource,
    OnDisconnect,
    PostgresStore,
    Secret,
    SqliteStore,
    Target,
    json_schema,
    load,
    parse,
    read_tree,
)
from spendfuse.core.errors import ConfigInvalid
from spendfuse.core.limits import Reject, RouteTo, Shadow, Unit
from spendfuse.core.prices import Price, Rates
from spendfuse.core.windows import Calendar, CalendarUnit, Lifetime, Span

ENVIRON = {"OPENAI_API_KEY": "sk-upstream", "APP_KEY": "sk-client", "EMPTY": "", "ZONE": "Europe/Berlin"}
TARGET = "providers: {openai: {api_key: os.environ/OPENAI_API_KEY}}\nmodels: {gpt-4o: openai/gpt-4o}\n"


def read(text: str) -> Config:
    return parse(text, source="spendfuse.yaml", environ=ENVIRON)


def target(config: Config, model: str) -> Target:
    """The one target of a public model."""
    (found,) = config.models[model].targets
    return found


def problems(text: str) -> list[str]:
    with pytest.raises(ConfigInvalid) as caught:
        read(text)
    return str(caught.value).splitlines()


def test_entries_are_kept_for_ever_unless_a_retention_is_set() -> None:
    assert read("store: sqlite:///spendfuse.db").retention_s is None
    limits = "limits: {day: {usd: 1, per: day}, month: {usd: 1, per: month}, rate: {requests: 9, per: 60d}}"
    assert read(f"retention: 32d\n{limits}").retention_s == 32 * 86_400


def test_the_example_of_the_design_is_read() -> None:
    config = read(
        """
        store: sqlite:///spendfuse.db
        timezone: Europe/Berlin
        reservation_deadline: 10m
        providers:
          openai: {api_key: os.environ/OPENAI_API_KEY}
          local:  {dialect: openai, base_url: http://127.0.0.1:8000/v1/, prices: {"*": {input: 0, output: 0}}}
        models:
          gpt-4o-mini: openai/gpt-4o-mini
          llama: {targets: [local/meta/llama-3], min_output_tokens: 64, context_window: 8192}
        keys:
          - {key: "${APP_KEY}", labels: {organization: acme}}
        limits:
          company-month: {usd: 500, per: month, alert_at: [50%, 80%, 100%]}
          user-tokens:   {tokens: 100_000, per: month, each: [organization, user]}
          feature-week:  {usd: 50, per: week, each: feature}
          agent-run:     {usd: 2, per: lifetime, each: run}
          key-rate:      {requests: 60, per: minute, each: key}
          user-parallel: {concurrent: 4, each: user}
          retry-loop:    {requests: 30, per: 5m, each: [key, user, fingerprint]}
        """
    )
    assert [(one.name, one.unit, one.amount, one.period, one.each) for one in config.limits] == [
        ("company-month", Unit.USD, 500 * 10**9, Calendar(CalendarUnit.MONTH, "Europe/Berlin"), ()),
        ("user-tokens", Unit.TOKENS, 100_000, Calendar(CalendarUnit.MONTH, "Europe/Berlin"), ("organization", "user")),
        ("feature-week", Unit.USD, 50 * 10**9, Calendar(CalendarUnit.WEEK, "Europe/Berlin"), ("feature",)),
        ("agent-run", Unit.USD, 2 * 10**9, Lifetime(), ("run",)),
        ("key-rate", Unit.REQUESTS, 60, Span(60_000), ("key",)),
        ("user-parallel", Unit.CONCURRENT, 4, Lifetime(), ("user",)),
        ("retry-loop", Unit.REQUESTS, 30, Span(300_000), ("key", "user", "fingerprint")),
    ]
    openai, local = config.providers["openai"], config.providers["local"]
    assert (openai.dialect, openai.base_url) == (DialectName.OPENAI, "https://api.openai.com/v1")
    assert (openai.pins_service_tier, openai.cap_field) == (True, "max_completion_tokens")
    assert openai.api_key == Secret("sk-upstream")
    assert (local.base_url, local.api_key, local.needs_api_key) == ("http://127.0.0.1:8000/v1", None, False)
    assert target(config, "gpt-4o-mini").name == "openai/gpt-4o-mini"
    assert config.models["llama"].min_output_tokens == 64
    llama = target(config, "llama")
    assert (llama.provider, llama.model, llama.context_window) == (local, "meta/llama-3", 8192)
    assert llama.price is not None
    assert llama.price.is_free
    (key,) = config.keys
    assert (key.name, dict(key.labels)) == ("APP_KEY", {"organization": "acme"})
    assert key.digest == hashlib.sha256(b"sk-client").digest()
    assert config.warnings == (
        "limits.company-month.alert_at: no channel of alerts is told; `spendfuse alerts list` shows them",
    )


def test_an_empty_config_has_every_default() -> None:
    config = read("# nothing\nproviders:\nmodels:\nkeys:\nlimits:\n")
    assert config.timezone == "UTC"
    assert (config.reservation_deadline_s, config.busy_wait_s, config.cut_tail_s) == (600.0, 2.0, 1.0)
    assert (config.min_output_tokens, config.output_tokens_default, config.n_max) == (256, 4_096, 8)
    assert (config.body_bytes_max, config.new_subjects_per_hour) == (33_554_432, 1_000)
    assert (config.trusted_proxies, config.on_disconnect) == ((), OnDisconnect.CANCEL)
    assert not config.providers
    assert not config.models
    assert not config.keys
    assert not config.limits
    assert (config.betas, config.makes_key) == ((), False)


def test_every_setting_of_a_provider_and_a_model_is_read() -> None:
    config = read(
        """
        min_output_tokens: 100
        output_tokens_per_s_max: 500
        trusted_proxies: [10.0.0.0/8, "2001:db8::1"]
        on_disconnect: finish
        body_bytes_max: 1MiB
        new_subjects: 50
        betas: [context-1m-2025-08-07, skills-2025-10-02]
        providers:
          one:
            dialect: openai
            base_url: https://llm.example/v1
            api_key: sk-one
            prices:
              big: {input: 0.0375, output: 10, cache_read: 0.01, cache_write: 1, cache_write_1h: 2,
                    input_audio: 3, cache_read_audio: 4, output_audio: 5, request: 0.000000000001}
              "*": {input: 1, output: 1}
            timeouts: {connect: 1s, first_byte: 500ms, read: 2s, total: 1m}
            cap_field: max_completion_tokens
            stream_options: false
            allow_free: true
            context_window: 1000
            output_tokens_max: 200
        models:
          big: one/big
          small: {targets: [one/small], output_tokens_max: 50, output_tokens_per_s_max: 7, reference_tokens: 9}
          own: {targets: [one/own], prices: {input: 2, output: 2}}
        keys:
          - {name: a, key: sk-a, labels: {feature: search}, labels_from: headers, new_subjects: 3}
          - {name: b, key: sk-b, labels_from: []}
        """
    )
    provider = config.providers["one"]
    timeouts = provider.timeouts
    assert (timeouts.connect_s, timeouts.first_byte_s, timeouts.read_s, timeouts.total_s) == (1.0, 0.5, 2.0, 60.0)
    assert (provider.cap_field, provider.takes_stream_options) == ("max_completion_tokens", False)
    assert (provider.allow_free, provider.pins_service_tier) == (True, False)
    million = 1_000_000
    assert target(config, "big").price == Price(
        Rates(
            input=37_500,
            output=10 * million,
            cache_read=10_000,
            cache_write=million,
            cache_write_long=2 * million,
            input_audio=3 * million,
            cache_read_audio=4 * million,
            output_audio=5 * million,
            request=1,
        )
    )
    small = target(config, "small")
    assert small.price == Price(Rates(million, million))
    assert target(config, "own").price == Price(Rates(2 * million, 2 * million))
    assert (small.context_window, small.output_tokens_max, small.reference_tokens) == (1_000, 50, 9)
    assert (config.models["small"].min_output_tokens, small.output_tokens_per_s_max) == (100, 7)
    assert target(config, "big").output_tokens_per_s_max == 500
    a, b = config.keys
    assert (a.labels_from, a.new_subjects_per_hour) == ((LabelSource.HEADERS,), 3)
    assert (b.labels_from, b.new_subjects_per_hour) == ((), 50)
    assert config.trusted_proxies == (ip_network("10.0.0.0/8"), ip_network("2001:db8::1/128"))
    assert (config.on_disconnect, config.body_bytes_max) == (OnDisconnect.FINISH, 1_048_576)
    assert config.betas == ("context-1m-2025-08-07", "skills-2025-10-02")


def test_a_second_provider_of_a_vendor_has_what_is_known_of_the_vendor() -> None:
    config = read(
        """
        providers:
          openai-eu: {vendor: openai, base_url: https://eu.api.openai.com/v1, api_key: sk-eu}
          mistral-2: {vendor: mistral, api_key: sk-2, cap_field: max_completion_tokens}
          claude:    {vendor: anthropic, api_key: sk-c}
        """
    )
    eu, mistral, claude = config.providers.values()
    assert (eu.name, eu.vendor, eu.base_url) == ("openai-eu", "openai", "https://eu.api.openai.com/v1")
    assert (eu.dialect, eu.cap_field, eu.pins_service_tier) == (DialectName.OPENAI, "max_completion_tokens", True)
    assert (mistral.vendor, mistral.base_url) == ("mistral", "https://api.mistral.ai/v1")
    assert (mistral.cap_field, mistral.takes_stream_options) == ("max_completion_tokens", False)
    assert (claude.dialect, claude.base_url) == (DialectName.ANTHROPIC, "https://api.anthropic.com/v1")
    assert [one.needs_api_key for one in (eu, mistral, claude)] == [True, True, True]


def test_the_vendor_of_a_provider_is_its_name_unless_it_says_otherwise() -> None:
    config = read("providers: {groq: {api_key: sk-1}, local: {dialect: openai, base_url: 'http://h/v1'}}")
    assert [one.vendor for one in config.providers.values()] == ["groq", "local"]


def test_anthropic_is_known_by_name_and_its_dialect_can_be_spoken_by_others() -> None:
    config = read(
        "providers:\n"
        "  anthropic: {api_key: sk-ant}\n"
        "  proxy: {dialect: anthropic, base_url: 'http://h/v1'}\n"
        "models: {haiku: anthropic/claude-haiku-4-5}"
    )
    anthropic, proxy = config.providers.values()
    assert (anthropic.dialect, anthropic.base_url) == (DialectName.ANTHROPIC, "https://api.anthropic.com/v1")
    assert (proxy.dialect, proxy.vendor, proxy.needs_api_key) == (DialectName.ANTHROPIC, "proxy", False)
    assert target(config, "haiku").provider == anthropic


def test_each_target_of_a_model_takes_what_the_model_leaves_open_from_its_own_provider() -> None:
    config = read(
        """
        providers:
          one: {dialect: openai, base_url: "http://one/v1", context_window: 1000, output_tokens_per_s_max: 7,
                prices: {"*": {input: 1, output: 1}}}
          two: {dialect: openai, base_url: "http://two/v1"}
        models:
          fast: {targets: [one/x, two/y, two/z], strategy: round_robin, output_tokens_max: 50}
        """
    )
    first, second, third = config.models["fast"].targets
    assert [one.name for one in (first, second, third)] == ["one/x", "two/y", "two/z"]
    assert [one.context_window for one in (first, second)] == [1_000, None]
    assert [one.output_tokens_max for one in (first, second)] == [50, 50]
    assert [one.output_tokens_per_s_max for one in (first, second)] == [7, 1_000]
    assert [one.price is None for one in (first, second)] == [False, True]


def test_every_setting_of_a_limit_is_read() -> None:
    one, two, three = read(
        TARGET
        + """
limits:
  one: {tokens: 1e6, per: 30d, match: {feature: [search, chat], country: no}, each: user, require: true,
        on_exceed: {route_to: gpt-4o}, fit: false, estimate: true, min_output_tokens: 9, alert_at: 90}
  two: {requests: 5, per: second, burst: 1, on_exceed: shadow, alert_at: []}
  three: {input_tokens: 0, per: day, on_exceed: reject}
"""
    ).limits
    assert (one.amount, one.period) == (1_000_000, Span(2_592_000_000))
    assert one.match == {"feature": frozenset({"search", "chat"}), "country": frozenset({"no"})}
    assert (one.on_exceed, one.require, one.fit, one.estimate) == (RouteTo("gpt-4o"), True, False, True)
    assert (one.min_output_tokens, one.alert_at) == (9, (90,))
    assert (two.on_exceed, two.burst, two.alert_at) == (Shadow(), 1, ())
    assert (three.on_exceed, three.amount, three.fit, three.estimate) == (Reject(), 0, True, False)


@given(st.decimals(0, 10**9, places=9))
def test_dollars_are_exact(amount: Decimal) -> None:
    for text in (f"{amount:f}", f"{amount:E}", f'"{amount:f}"'):
        (limit,) = read(f"limits: {{one: {{usd: {text}, per: day}}}}").limits
        assert limit.amount == int(amount.scaleb(9))


@pytest.mark.parametrize(
    "text",
    ["5oo", "12:30", "12:30:00", "010", "0x10", "-1", "1e-10", ".", "1_", "true", "yes", "nan", "inf", "$5", "[1]"],
)
def test_what_is_no_amount_is_refused(text: str) -> None:
    (problem,) = problems(f"limits:\n  company-month: {{usd: {text}, per: month}}")
    assert problem.startswith("spendfuse.yaml: limits.company-month.usd: got ")
    assert problem.endswith(", expected a decimal number of dollars, at most 9 decimals (line 2)")


def test_every_problem_is_listed_in_the_order_of_the_document() -> None:
    assert problems(
        """timezone: Europe
busy_wait: 2
provider: {}
limits:
  company-month: {usd: 5oo, pre: month}
  both: {usd: 1, tokens: 1, per: day}
"""
    ) == [
        'spendfuse.yaml: timezone: got "Europe", expected an IANA time zone such as UTC or Europe/Berlin (line 1)',
        'spendfuse.yaml: busy_wait: got "2", expected a duration such as 500ms, 2s, 5m, 1h or 30d (line 2)',
        'spendfuse.yaml: provider: unknown key; did you mean "providers"? (line 3)',
        'spendfuse.yaml: limits.company-month.usd: got "5oo", expected a decimal number of dollars, '
        "at most 9 decimals (line 5)",
        'spendfuse.yaml: limits.company-month.pre: unknown key; did you mean "per"? (line 5)',
        "spendfuse.yaml: limits.both: got usd and tokens, expected exactly one of usd, tokens, input_tokens, "
        "output_tokens, requests, concurrent (line 6)",
    ]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("alerts: {routes: [{to: team}]}", 'alerts.routes[0].to[0]: got "team", expected a channel of this config'),
        ("alerts: {channels: {a: VERYSECRET}}", "alerts.channels.a: got a value (not shown), expected an URL"),
        ("alerts: {channels: {a: {webhook: 'https://a.example'}}}", "alerts.channels.a: secret is what a webhook"),
        ("alerts: {channels: {a: {webhook: 'ftp://a', secret: s}}}", "webhook must be an https:// or http:// URL"),
        ("alerts: {channels: {a: {}}}", "alerts.channels.a: expected either url"),
        ("alerts: {channels: {a: {url: 'json://a', quiet_hours: 25:00-07:00}}}", "expected a span of the day"),
        ("alerts: {digest: {weekly: team}}", 'alerts.digest.weekly[0]: got "team", expected a channel'),
        ("store: postgresql://u:p@h/", "store: expected postgresql://USER:PASSWORD@HOST:PORT/DATABASE"),
        ("store: postgresql://u:p@h:port/db", "store: expected postgresql://"),
        (
            "store: spendfuse.db",
            "store: expected sqlite:///RELATIVE/PATH, sqlite:////ABSOLUTE/PATH or postgresql://USER@HOST/DATABASE",
        ),
        ("store: 'sqlite:///:memory:'", "store: expected sqlite:///"),
        ("n_max: 0", 'n_max: got "0", expected a whole number of at least 1'),
        ("n_max: 1.5", 'n_max: got "1.5", expected a whole number of at least 1'),
        ("n_max:", "n_max: got nothing, expected a whole number of at least 1"),
        ("body_bytes_max: 32MB", 'body_bytes_max: got "32MB", expected a size such as'),
        ("trusted_proxies: 10.0.0.1/8", 'trusted_proxies: got "10.0.0.1/8", expected an IP network'),
        ("on_disconnect: stay", 'on_disconnect: got "stay", expected cancel or finish'),
        ("timezone: localtime", "timezone: got"),
        ("reservation_deadline: 1m\nproviders: {ollama: {}}", "reservation_deadline: got 1m, expected at least"),
        ("retention: 1y", 'retention: got "1y", expected a duration such as'),
        ("retention: 31d", "retention: got 31d, expected at least 32d"),
        (
            "retention: 50d\nlimits: {long: {usd: 1, per: 60d}, short: {usd: 1, per: 40d}}",
            "retention: got 50d, expected at least the longest span of a limit, 60d of limits.long",
        ),
        ("providers: [openai]", "providers: got a list, expected a mapping"),
        ("providers: {claude: {dialect: anthropic}}", "providers.claude.base_url: is missing"),
        (
            "providers: {eu: {vendor: opnai, dialect: openai, base_url: 'http://h/v1'}}",
            'vendor: got "opnai", expected a provider known by name; did you mean "op',
        ),
        (
            "providers: {opnai: {}}",
            'dialect: is missing: opnai is not a provider known by name; did you mean "openai"?',
        ),
        ("providers: {one: {dialect: openai}}", "providers.one.base_url: is missing"),
        ("providers: {one: {dialect: soap}}", 'providers.one.dialect: got "soap", expected openai, anthropic'),
        ("providers: {ollama: {base_url: 127.0.0.1}}", "base_url: got"),
        ("providers: {ollama: {base_url: 'http://u:p@h/v1'}}", "without credentials"),
        ("providers: {ollama: {base_url: 'http://h:99999/'}}", "base_url: got"),
        ("providers: {ollama: {timeouts: {read: 11m}}}", "no timeout may exceed total"),
        ("providers: {ollama: {timeouts: {read: 0s}}}", "every timeout must be above 0"),
        ("providers: {ollama: {prices: {x: {input: 1}}}}", "providers.ollama.prices.x.output: is missing"),
        ("providers: {ollama: {prices: {x: {input: 1e-7, output: 1}}}}", "at most 6 decimals"),
        ("models: {gpt-4.1: openai/x}", 'models."gpt-4.1": got "openai/x", expected a provider of `providers`'),
        ("providers: {ollama: {}}\nmodels: {x: olama/x}", 'did you mean "ollama"?'),
        ("models: {x: y}", 'models.x: got "y", expected PROVIDER/MODEL'),
        ("models: {x: 5/}", "expected PROVIDER/MODEL"),
        ("models: {x: [a/b]}", "models.x: got a list, expected a mapping"),
        ("models: {x: {targets: [a/b], strategy: cheapest}}", 'strategy: got "cheapest", expected round_robin'),
        ("models: {x: {targets: []}}", "models.x.targets: got an empty list, expected one target or more"),
        ("providers: {ollama: {}}\nmodels: {x: {targets: [ollama/a, ollama/a]}}", "targets: names a target twice"),
        (
            "providers: {ollama: {}}\nmodels: {x: {targets: [ollama/a, b]}}",
            'models.x: got "b", expected PROVIDER/MODEL',
        ),
        (
            "providers: {ollama: {}}\nmodels: {x: ollama/a, y: {targets: [ollama/a], context_window: 9}}",
            'models.y: has other prices or bounds for ollama/a than model "x"',
        ),
        ("betas: {a: b}", "betas: got a mapping, expected a list"),
        ('models: {"*": "openai/*"}', "not supported yet"),
        ("keys: [{key: sk-1}]", "keys[0].name: is missing"),
        ("keys: [{name: a b, key: sk-1}]", 'keys[0].name: got "a b", expected a name'),
        ("keys: [{name: a, key: sk-1}, {name: a, key: sk-2}]", 'keys[1].name: the name "a" is taken'),
        ("keys: [{name: a, key: sk-1}, {name: b, key: sk-1}]", "keys[1].key: is the same as that of another entry"),
        ("keys: [{name: a, key: sk-1, labels: {key: b}}]", "labels.key: is a label that Spendfuse sets itself"),
        ("keys: [{name: a, key: sk-1, labels: {user: ' '}}]", "labels.user: got"),
        ("keys: [{name: a, key: sk-1, labels_from: cookies}]", "expected headers or body"),
        ("limits: {a: {per: day}}", "limits.a: got none, expected exactly one of usd"),
        ("limits: {a: {usd: 1}}", "limits.a: per is missing, expected day, week"),
        ("limits: {a: {usd: 1, per: year}}", 'limits.a.per: got "year", expected day, week'),
        ("limits: {a: {usd: 1, per: 0s}}", "limits.a.per: got"),
        ("limits: {a: {concurrent: 1, per: day}}", "takes no per"),
        ("limits: {a: {requests: 1, per: day, burst: 1}}", "burst is for requests per span"),
        ("limits: {a: {usd: 1, per: minute, burst: 1}}", "burst is for requests per span"),
        (
            "limits: {a: {usd: 1, per: day, on_store_down: admit}}",
            "limits.a.on_store_down: got admit for a limit of usd",
        ),
        ("limits: {a: {tokens: 1, per: day, on_store_down: admit}}", "limits.a.on_store_down: got admit"),
        ("limits: {a: {concurrent: 1, on_store_down: admit}}", "limits.a.on_store_down: got admit"),
        ("limits: {a: {requests: 1, per: day, on_store_down: reject}}", "limits.a.on_store_down: "),
        ("limits: {a: {requests: 1, per: day, fit: false}}", "fit is for limits of money and tokens only"),
        ("limits: {a: {usd: 1, per: day, fit: yes}}", 'limits.a.fit: got "yes", expected true or false'),
        ("limits: {a: {usd: 1, per: day, each: [user, user]}}", "each names a label twice"),
        ("limits: {a: {usd: 1, per: day, require: true}}", "require needs each"),
        ("limits: {a: {usd: 1, per: day, alert_at: 120%}}", "expected a percentage from 1% to 100%"),
        ("limits: {a: {usd: 1, per: day, on_exceed: refuse}}", "expected reject, shadow or {route_to: MODEL}"),
        ("limits: {a: {usd: 1, per: day, on_exceed: {route_to: gpt}}}", 'route_to: got "gpt", expected a model'),
        ("limits: {a b: {usd: 1, per: day}}", 'limits."a b": got this name, expected a name'),
        ("limits: {a: {usd: 1, per: day}, a: {usd: 2, per: day}}", "limits.a: the key appears twice, first on line 1"),
        ("limits: {a: {usd: 1, usd: 1, per: day}}", "limits.a.usd: the key appears twice"),
        ("limits: {a: {match: {x: 1, x: 2}}}", "limits.a.match.x: the key appears twice"),
        ("a: [", "not valid YAML"),
        ("- a", "expected keys such as `providers:`"),
        ("a: !!python/object:os.system {}", "the tag tag:yaml.org,2002:python/object:os.system is not supported"),
        ("a: &a {b: *a}", "the value contains itself"),
        ("? [a]\n: b", "a key must be a text"),
        ("a: b\n---\nc: d", "not valid YAML"),
        ("timezone: ${EMPTY}", "timezone: environment variable EMPTY is not set"),
        ("timezone: os.environ/NOT_THERE", "timezone: environment variable NOT_THERE is not set"),
        ("timezone: Europe/${ZONE}", "must be the whole value"),
        ("timezone: os.environ/", "must name an environment variable"),
    ],
)
def test_a_problem_names_its_file_its_path_and_what_is_expected(text: str, problem: str) -> None:
    found = problems(text)
    assert len(found) == 1, found
    assert found[0].startswith("spendfuse.yaml:")
    assert problem in found[0]


def test_a_duplicate_key_names_the_line_of_both() -> None:
    text = "limits:\n  a: {usd: 1, per: day}\n  b: {usd: 1, per: day}\n  a: {usd: 9, per: day}\n"
    assert problems(text) == ["spendfuse.yaml:4: limits.a: the key appears twice, first on line 2"]


def test_names_are_texts_whatever_yaml_makes_of_them() -> None:
    config = read(
        "providers: {ollama: {}}\n"
        "models: {no: ollama/no, 4.10: ollama/x, 010: ollama/y, 2026-01-01: ollama/z}\n"
        "limits: {on: {usd: 1, per: day, match: {y: [yes, 1.10, 12:30]}}}"
    )
    assert list(config.models) == ["no", "4.10", "010", "2026-01-01"]
    assert target(config, "no").model == "no"
    assert config.limits[0].name == "on"
    assert config.limits[0].match == {"y": frozenset({"yes", "1.10", "12:30"})}


def test_anchors_and_merge_keys_are_followed_and_own_keys_win() -> None:
    config = read("limits:\n  a: &a {usd: 1, per: day, each: user}\n  b: {<<: *a, usd: 2}\n  c: *a\n")
    assert [(one.amount // 10**9, one.each) for one in config.limits] == [
        (1, ("user",)),
        (2, ("user",)),
        (1, ("user",)),
    ]


def test_references_are_resolved_anywhere_and_only_as_whole_values() -> None:
    config = read(
        "timezone: os.environ/ZONE\nkeys: [{name: a, key: '${APP_KEY}'}]\nproviders: {ollama: {api_key: sk-os.environ}}"
    )
    assert config.timezone == "Europe/Berlin"
    assert config.keys[0].digest == hashlib.sha256(b"sk-client").digest()
    assert config.providers["ollama"].api_key == Secret("sk-os.environ")


def test_a_provider_without_its_key_is_a_warning() -> None:
    config = read("providers: {openai: {api_key: os.environ/NOT_THERE}, groq: {}, ollama: {}, xai: {api_key: sk-x}}")
    assert config.warnings == (
        "providers.openai.api_key: environment variable NOT_THERE is not set",
        "providers.groq.api_key: is not set",
    )
    assert [(one.api_key, one.needs_api_key) for one in config.providers.values()] == [
        (None, True),
        (None, True),
        (None, False),
        (Secret("sk-x"), True),
    ]


@pytest.mark.parametrize(
    "text",
    [
        "keys: [{name: a, key: 'sk-oops with spaces'}]",
        "keys: [{name: a, key: [sk-oops]}]",
        "providers: {openai: sk-oops}",
        "providers: {openai: {api_key: {value: sk-oops}}}",
        "providers: {openai: {api_key: 'sk-oops-é'}}",
        "providers: {openai: {apikey: sk-oops}}",
        "keys: sk-oops",
        "timezone: ${OOPS}",
        "limits: {a: {usd: os.environ/OOPS, per: day}}",
        "models: {a: os.environ/OOPS}",
    ],
)
def test_problems_do_not_show_secrets(text: str) -> None:
    with pytest.raises(ConfigInvalid) as caught:
        parse(text, environ={"OOPS": "sk-oops"})
    assert "oops" not in str(caught.value).replace("OOPS", "")


def test_a_secret_cannot_be_printed_or_pickled() -> None:
    secret = Secret("sk-live")
    config = read("providers: {openai: {api_key: sk-live}}\nkeys: [{name: a, key: sk-live}]")
    shown = [repr(secret), str(secret), f"{secret}", f"{secret:>20}", f"{secret!r}", repr([secret]), repr(config)]
    assert not any("live" in text for text in shown)
    assert secret.reveal() == "sk-live"
    assert copy.deepcopy(secret) is copy.copy(secret) is secret
    assert not hasattr(secret, "__dict__")
    with pytest.raises(TypeError, match="not pickled"):
        pickle.dumps(secret)
    assert secret != Secret("sk-other")
    assert len({secret, Secret("sk-live")}) == 1


def test_blanks_around_a_key_are_dropped() -> None:
    config = parse("keys: [{name: a, key: os.environ/K}]", environ={"K": " sk-1\n"})
    assert config.keys[0].digest == hashlib.sha256(b"sk-1").digest()


def test_only_a_limit_of_requests_that_says_so_admits_calls_while_the_store_is_away() -> None:
    config = read("limits: {a: {requests: 1, per: day, on_store_down: admit}, b: {requests: 1, per: day}}")
    assert [limit.admits_unreserved for limit in config.limits] == [True, False]


@pytest.mark.parametrize(
    ("text", "spool"),
    [
        ("store: sqlite:///data/ledger.db", "data/ledger.db.spool"),
        ("store: sqlite:////var/lib/ledger.db", "/var/lib/ledger.db.spool"),
        ("store: postgresql://user@host/db", "spendfuse.spool"),
        ("{store: 'postgresql://user@host/db', spool: waiting}", "waiting"),
        ("{spool: /var/spool/spendfuse}", "/var/spool/spendfuse"),
    ],
)
def test_the_spool_stands_beside_the_database_or_the_config(text: str, spool: str, tmp_path: pathlib.Path) -> None:
    file = tmp_path / "spendfuse.yaml"
    file.write_text(text)
    assert load(file, environ={}).spool == tmp_path / spool


def test_a_relative_store_stands_in_the_folder_of_its_file(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "spendfuse.yaml"
    file.write_bytes("\ufeffstore: sqlite:///data/ledger.db\n".encode())
    assert load(file).store == SqliteStore(tmp_path / "data" / "ledger.db")
    file.write_text("store: sqlite:////var/lib/ledger.db\n")
    assert load(str(file)).store == SqliteStore(pathlib.Path("/var/lib/ledger.db"))
    assert read("").store == SqliteStore(pathlib.Path.cwd() / "spendfuse.db")


def test_a_file_that_cannot_be_read_is_named(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ConfigInvalid, match=r"nothing\.yaml: cannot be read: No such file"):
        load(tmp_path / "nothing.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"store: \xe9")
    with pytest.raises(ConfigInvalid, match=r"latin\.yaml: is not UTF-8: byte 7"):
        load(tmp_path / "latin.yaml")


def test_a_tree_is_read_like_its_yaml() -> None:
    tree = {"n_max": 4, "limits": {"a": {"usd": "0.5", "per": "day", "require": False}}}
    config = read_tree(tree, source="litellm.yaml", environ={})
    assert (config.n_max, config.limits[0].amount, config.source) == (4, 500_000_000, "litellm.yaml")
    with pytest.raises(ConfigInvalid, match=r"litellm\.yaml: limits\.a\.usd: got 0\.1, expected"):
        read_tree({"limits": {"a": {"usd": 0.1, "per": "day"}}}, source="litellm.yaml")


def test_the_config_is_frozen() -> None:
    config = read(TARGET)
    with pytest.raises(AttributeError):
        config.timezone = "UTC"  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(TypeError):
        config.models["x"] = config.models["gpt-4o"]  # pyright: ignore[reportIndexIssue]


def sections() -> dict[str, list[str]]:
    """Every key of the schema, by the name of its section."""
    schema = json.loads(json.dumps(json_schema()))
    found = {"Document": list(schema["properties"])}
    return found | {name: list(one["properties"]) for name, one in schema["$defs"].items() if "properties" in one}


def test_the_reference_names_every_key() -> None:
    reference = pathlib.Path(__file__).parents[2] / "docs" / "reference" / "config.md"
    parts = reference.read_text().split("\n## ")
    titles = {
        "Document": "Top level",
        "ProviderSection": "`providers`",
        "TimeoutsSection": "Timeouts",
        "PricesSection": "Prices",
        "ModelSection": "`models`",
        "KeySection": "`keys`",
        "LimitSection": "`limits`",
        "AlertsSection": "`alerts`",
        "ChannelSection": "Channels",
        "RouteSection": "Routes",
        "DigestSection": "Digests",
        "BreakerSection": "`breakers`",
    }
    assert set(titles) == set(sections())
    for section, keys in sections().items():
        text = next(part for part in parts if part.startswith(titles[section]))
        assert [key for key in keys if f"| `{key}` |" not in text] == []


def test_a_client_key_is_never_sent_to_a_vendor() -> None:
    environ = {"OPENAI_API_KEY": f"{CLIENT_KEY_PREFIX}mine"}
    with pytest.raises(ConfigInvalid, match=r"providers\.openai\.api_key: got a client key of Spendfuse") as raised:
        parse("providers: {openai: {api_key: os.environ/OPENAI_API_KEY}}", environ=environ)
    assert "mine" not in str(raised.value)
    behind = parse(
        "providers: {openai: {api_key: os.environ/OPENAI_API_KEY, base_url: 'http://other.test/v1'}}", environ=environ
    )
    assert behind.providers["openai"].api_key is not None


@pytest.mark.parametrize(
    ("dsn", "where"),
    [
        ("postgresql://app:hidden@db.test:5433/spend?sslmode=require", "postgresql://app@db.test:5433/spend"),
        ("postgres://db.test/spend", "postgresql://db.test/spend"),
        ("postgresql://postgres:@/postgres?host=/run/db", "postgresql://postgres@/postgres"),
    ],
)
def test_a_postgres_store_is_named_without_its_password(dsn: str, where: str) -> None:
    store = parse("store: os.environ/DATABASE_URL", environ={"DATABASE_URL": dsn}).store
    assert isinstance(store, PostgresStore)
    assert (store.dsn.reveal(), store.where) == (dsn, where)
    assert "hidden" not in repr(store)
