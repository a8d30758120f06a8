"""Writes docs/reference/litellm.md from what becomes of examples: `python tests/core/litellm_page.py`."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from spendfuse.core.errors import ConfigInvalid
from spendfuse.core.limits import Limit
from spendfuse.litellm_config import Translation, translate
from spendfuse.litellm_config.origins import ORIGINS, Origin

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "litellm.md"
ENVIRON = {"OPENAI_API_KEY": "sk-page"}
_MODEL = "model: openai/gpt-4o"
_STOPS = "limits money or traffic and cannot be enforced: "
_WAY_OUT = "; remove it, or start without it by --accept-unenforced"
_IGNORED = "is not honoured"


@dataclass(frozen=True, slots=True)
class Honoured:
    """A key of an entry of `model_list`: `example` is a whole entry that sets it."""

    key: str
    example: str
    meaning: str


def _params(rest: str) -> str:
    return f"{{model_name: m, litellm_params: {{{_MODEL}, {rest}}}}}"


def _info(rest: str) -> str:
    return f"{{model_name: m, litellm_params: {{{_MODEL}}}, model_info: {{{rest}}}}}"


HONOURED = (
    Honoured("model_name", _params("api_key: k"), "The public name. Entries of one name are targets that take turns."),
    Honoured(
        "litellm_params.model",
        _params("api_key: k"),
        "The target. The part before the first `/` says the provider; without one only names of OpenAI's and "
        "Anthropic's models are known.",
    ),
    Honoured(
        "litellm_params.custom_llm_provider", _params("custom_llm_provider: openai"), "The provider, in its place."
    ),
    Honoured(
        "litellm_params.api_base",
        _params("api_base: 'https://eu.example/v1'"),
        "`base_url` of the provider; also as `base_url`. An Azure resource is called at its `/openai/v1`.",
    ),
    Honoured(
        "litellm_params.api_key",
        _params("api_key: os.environ/OPENAI_API_KEY"),
        "The provider's key. Without one it is the variable that LiteLLM would read.",
    ),
    Honoured(
        "litellm_params.litellm_credential_name",
        _params("litellm_credential_name: c"),
        "An entry of `credential_list`.",
    ),
    Honoured(
        "litellm_params.timeout",
        _params("timeout: 30"),
        "Seconds to the first byte, and between two pieces. A stream as a whole may last longer.",
    ),
    Honoured("litellm_params.stream_timeout", _params("stream_timeout: 10"), "Seconds between two pieces."),
    Honoured(
        "litellm_params.input_cost_per_token",
        _params("input_cost_per_token: 1e-6, output_cost_per_token: 2e-6"),
        "With `output_cost_per_token` the price, which beats the price sheet; costs of caches and audio too. One "
        "of the two alone is not used. Of tiers (`…_above_200k_tokens`) and of reasoning the dearest holds for all.",
    ),
    Honoured(
        "model_info.input_cost_per_token", _info("input_cost_per_token: 0, output_cost_per_token: 0"), "The same."
    ),
    Honoured("model_info.max_input_tokens", _info("max_input_tokens: 9000"), "`context_window`."),
    Honoured(
        "model_info.max_output_tokens",
        _info("max_output_tokens: 900"),
        "`output_tokens_max`; without it `max_tokens` is. Of several targets the lowest holds, and the widest window, "
        "if all say one.",
    ),
    Honoured(
        "model_info.mode", _info("mode: chat"), "`chat`, `completion`, `responses`, `embedding`; others are not served."
    ),
)

LIMITS = (
    "litellm_settings: {max_budget: 500, budget_duration: 1mo}",
    "litellm_settings: {max_budget: 500, budget_duration: 30d}",
    "litellm_settings: {max_budget: 500}",
    "litellm_settings: {max_internal_user_budget: 5, internal_user_budget_duration: 1d}",
    "litellm_settings: {default_max_internal_user_budget: 5}",
    "litellm_settings: {max_user_budget: 5}",
    "litellm_settings: {max_end_user_budget: 5}",
    "litellm_settings: {default_internal_user_params: {max_budget: 5, tpm_limit: 900}}",
    "litellm_settings: {default_key_generate_params: {max_budget: 5, rpm_limit: 60}}",
    "litellm_settings: {upperbound_key_generate_params: {max_parallel_requests: 4}}",
    "general_settings: {global_max_parallel_requests: 100}",
    "general_settings: {max_in_flight_requests_per_worker: 100}",
    "general_settings: {max_parallel_requests: 4}",
    "router_settings: {default_max_parallel_requests: 8}",
    "router_settings: {provider_budget_config: {openai: {budget_limit: 10, time_period: 1d}}}",
    "litellm_params: {rpm: 60, tpm: 90000}",
    "litellm_params: {itpm: 80000, otpm: 9000}",
    "litellm_params: {max_parallel_requests: 3}",
    "litellm_params: {max_budget: 20, budget_duration: 7d}",
    "litellm_params: {default_api_key_rpm_limit: 10, default_api_key_tpm_limit: 9000}",
)
"""Fragments of a file; `litellm_params` stands for those of an entry of `model_list`."""

STOPS = (
    "litellm_settings: {max_budget: 5, budget_duration: 2mo}",
    "litellm_settings: {tag_budget_config: {search: {max_budget: 5}}}",
    "litellm_settings: {max_end_user_budget_id: free}",
    "litellm_settings: {default_team_settings: [{team_id: a, max_budget: 5}]}",
    "litellm_settings: {priority_reservation: {prod: 0.9}}",
    "litellm_settings: {callbacks: [dynamic_rate_limiter_v3]}",
    "general_settings: {max_response_size_mb: 1}",
    "general_settings: {allowed_ips: [10.0.0.1]}",
    "router_settings: {provider_budget_config: {openai: {budget_limit: 10, rpm_limit: 3}}}",
    "litellm_params: {rpm_of_team: 60}",
)

WARNS = (
    "router_settings: {routing_strategy: cost-based-routing}",
    "router_settings: {num_retries: 3}",
    "router_settings: {fallbacks: [{m: [other]}]}",
    "router_settings: {cooldown_time: 30}",
    "router_settings: {redis_host: redis}",
    "litellm_settings: {drop_params: true}",
    "litellm_settings: {cache: true}",
    "litellm_settings: {success_callback: [langsmith]}",
    "litellm_settings: {disable_budget_reservation: true}",
    "general_settings: {database_url: 'postgresql://h/db'}",
    "general_settings: {alerting: [slack]}",
    "guardrails: [{guardrail_name: a}]",
    "litellm_params: {max_tokens: 100}",
    "litellm_params: {temperature: 0.2}",
    "litellm_params: {organization: org-1}",
    "litellm_params: {weight: 2}",
    "model_info: {base_model: gpt-4o-mini}",
)

UNREACHED = (
    "{model_name: a, litellm_params: {model: bedrock/anthropic.claude-v2}}",
    "{model_name: '*', litellm_params: {model: 'openai/*'}}",
    "{model_name: a, litellm_params: {model: hosted_vllm/llama}}",
    "{model_name: a, litellm_params: {model: gpt-4o, mock_response: hello}}",
    "{model_name: a, litellm_params: {model: gpt-4o}, model_info: {mode: image_generation}}",
    "{model_name: a, litellm_params: {model: gpt-4o, input_cost_per_second: 0.1}}",
    "{model_name: a, litellm_params: {model: gpt-4o, api_base: os.environ/NOT_SET}}",
)
"""Entries of `model_list` that are not served."""

_HEAD = """\
# LiteLLM's YAML

Every command takes a LiteLLM proxy YAML in place of ours: `spendfuse --config litellm_config.yaml --port 4000` serves
it, `spendfuse check --config …` says what it means, `spendfuse import litellm_config.yaml` prints it as ours. A file is
taken for LiteLLM's by its sections (`model_list`, `litellm_settings`, `router_settings`, `general_settings`,
`environment_variables`, `include`) when it has no key of ours. The ledger is `spendfuse.db` in its folder.

Each of its keys meets one of four ends:

- it is **honoured**;
- it limits money or traffic and could not be enforced here: it **stops** the start. `--accept-unenforced` (of `serve`,
  `check` and `import`) makes it a warning that says NOT ENFORCED. A key that nobody here knows is judged by its name,
  so that a limit of a later LiteLLM is not passed over;
- it leads to a model that can't be reached: that entry is **not served**, with a warning. Without any other the start
  stops;
- anything else is **warned** about, once, with its path. What is false, null or empty asks for nothing, and is not
  said.

`os.environ/NAME` is read as in LiteLLM, and `environment_variables` beat the environment. A variable that is not set is
an error; that of a provider's key is a warning, and calls to it are answered 503. `include` is followed one level deep.

This page is written from the code by `python tests/core/litellm_page.py`, and a test keeps the two equal.
"""
_OTHERS = """
`model_group_alias` gives a group further names, under the same limits. `router_settings.timeout`, `stream_timeout` and
`litellm_settings.request_timeout` hold where an entry has none. `general_settings.max_request_size_mb` is
`body_bytes_max`.
"""
_DIFFERENCES = """
## What means something else here

- **A budget is held before the call**, at the most that the call can cost. `disable_budget_reservation` has no effect.
- **Budgets turn at other times.** Only `1mo` is a calendar month, in UTC. Any other duration is a window aligned to the
  epoch: `1d` turns at 00:00 UTC, `7d` on Thursdays, `30d` on no day of the month in particular. LiteLLM documents
  midnight, Mondays and the first of the month for these three, in its `timezone`, which is not honoured here. Write
  `1mo` for a month, or `import` the file and say `per: week` and `timezone`. `spendfuse limits list` says when each
  resets.
- **A budget without a duration never resets**, nor does any under `disable_reset_budget`. An amount of 0 refuses all
  that costs anything.
- **What was spent before does not count.** LiteLLM's database is not read: neither its spend nor its keys, users and
  teams.
- **Rates.** `rpm` refills smoothly: at most its amount passes at once, and twice that in any minute. `tpm` is a window
  of one minute; a call holds the most it can use, and what it did not use is given back. Of a rate that stands in
  several places the lowest holds.
- **Users and keys.** *Each user* is the label `user` (a header, or the body's `user`), and calls that name none share
  one balance. *Each key* is a key of `spendfuse keys create`, and the master key.
- **The master key is a key like any other**, under every limit, and no admin. It is `general_settings.master_key`, else
  `LITELLM_MASTER_KEY`. Without either a key is made at the first start and shown once.
- **Prices** are those of the entry, else those of our price sheet for the target's own name; `base_model` has none. An
  Azure deployment that is not called as its model needs its costs. A model without a price is refused, not free, but
  for Ollama's.
- **Routing.** Targets of one name take turns, and a call is tried once, at one of them.
- **Addresses.** As in LiteLLM, variables such as `OPENAI_BASE_URL` say where a provider is when the file does not.
  Where they are set for clients of the gateway they are left out, with a warning; a call that comes back all the same
  is a 508.
"""


def page() -> str:
    """The whole page."""
    return "".join(
        (
            _HEAD,
            "\n## `model_list`: what is honoured\n\n| key of an entry | what it becomes |\n|---|---|\n",
            *(f"| `{one.key}` | {one.meaning} |\n" for one in HONOURED),
            _OTHERS,
            "\n## Limits\n\n`litellm_params` are those of an entry named `m`.\n",
            "\n| LiteLLM | limit here | of |\n|---|---|---|\n",
            *map(_limit_row, LIMITS),
            "\n## What stops the start\n\n| for example | why |\n|---|---|\n",
            *(f"| `{one}` | `{path}`: {why} |\n" for one in STOPS for path, why in stops(one)),
            "\n## What is warned about\n\nEvery key that nothing here reads, among them:\n",
            "\n| for example | why |\n|---|---|\n",
            *(f"| `{one}` | {why} |\n" for one in WARNS for why in ignored(one) if why),
            "\nAnd, as nothing here does such a thing: ",
            f"{', '.join(f'`{one}`' for one in WARNS if ignored(one) == [''])}.\n",
            "\n## Entries that are not served\n\n| for example | why |\n|---|---|\n",
            *(f"| `{one}` | {unreached(one)} |\n" for one in UNREACHED),
            "\n## Providers\n\nThe part before the first `/` of `litellm_params.model`:\n",
            "\n| LiteLLM | here | variables of its key, of its URL |\n|---|---|---|\n",
            *(_origin_row(names, origin) for names, origin in _origins()),
            _DIFFERENCES,
        )
    )


def file_of(fragment: str) -> str:
    """A whole file with a fragment in its place."""
    section, _, rest = fragment.partition(": ")
    inner = rest.removeprefix("{").removesuffix("}")
    if section == "litellm_params":
        return f"model_list: [{_params(inner)}]\n"
    if section == "model_info":
        return f"model_list: [{_info(inner)}]\n"
    return f"model_list: [{_params('api_key: os.environ/OPENAI_API_KEY')}]\n{fragment}\n"


def read(text: str) -> Translation:
    """A file in an environment that has OpenAI's key only."""
    return translate(text, source="page", environ=ENVIRON)


def read_entry(entry: str) -> Translation:
    """A file whose second entry this is, with a credential to name."""
    credential = "{credential_name: c, credential_values: {api_key: os.environ/OPENAI_API_KEY}}"
    return read(
        f"model_list: [{_params('api_key: k').replace('m,', 'first,', 1)}, {entry}]\ncredential_list: [{credential}]"
    )


def stops(fragment: str) -> list[tuple[str, str]]:
    """Each key path that stops the start, and why."""
    try:
        read(file_of(fragment))
    except ConfigInvalid as problems:
        lines = [line.removeprefix("page: ") for line in str(problems).splitlines()]
        return [
            (path, rest.removeprefix(_STOPS).partition(_WAY_OUT)[0])
            for path, _, rest in (line.partition(": ") for line in lines)
            if rest.startswith(_STOPS)
        ]
    return []


def ignored(fragment: str) -> list[str]:
    """Why each key of a fragment has no effect."""
    found = [warning.partition(": ")[2] for warning in read(file_of(fragment)).warnings]
    return [text.removeprefix(_IGNORED).removeprefix(": ") for text in found if text.startswith(_IGNORED)]


def unreached(entry: str) -> str:
    """Why an entry is not served."""
    (warning,) = read_entry(entry).warnings
    return warning.partition(" is not served: ")[2]


def _limit_row(fragment: str) -> str:
    limits = read(file_of(fragment)).config.limits
    shown = "; ".join(f"`{one.name}`: {_amount(one)}" for one in limits)
    return f"| `{fragment}` | {shown} | {'; '.join(dict.fromkeys(map(_covers, limits)))} |\n"


def _amount(limit: Limit) -> str:
    """Amount and period, as `check` says them."""
    return limit.describe().removeprefix(f"{limit.name} (").removesuffix(")").partition(", each")[0]


def _covers(limit: Limit) -> str:
    """Whose calls a limit counts."""
    covered = {"target": "this entry", "provider": "the provider"}
    where = next((words for label, words in covered.items() if label in limit.match), "all calls")
    return f"each {' and '.join(limit.each)}, {where}" if limit.each else where


def _origins() -> Iterable[tuple[list[str], Origin]]:
    """Each of LiteLLM's providers, with all of its names."""
    each: Mapping[int, Origin] = {id(origin): origin for origin in ORIGINS.values()}
    return [([name for name, one in ORIGINS.items() if one is origin], origin) for origin in each.values()]


def _origin_row(names: list[str], origin: Origin) -> str:
    free = ", free" if origin.is_free else ""
    base = "" if origin.takes_base else ", without an `api_base`"
    here = (
        f"`{origin.vendor}`{free}{base}" if origin.vendor else "a server that speaks OpenAI's dialect at its `api_base`"
    )
    if "azure" in names:
        here = "Azure's `/openai/v1` at its `api_base`"
    variables = ", ".join(f"`{one}`" for one in (*origin.keys, *origin.bases)) or "none"
    return f"| {', '.join(f'`{one}`' for one in names)} | {here} | {variables} |\n"


if __name__ == "__main__":
    PAGE.write_text(page())
