"""Keys that nothing here reads: what limits must not pass unseen, the rest is said once."""

import re
from collections.abc import Iterator, Mapping

from spendfuse.config.document import Tree
from spendfuse.config.problems import Path
from spendfuse.litellm_config.findings import Findings
from spendfuse.litellm_config.sections import Section, is_off

_BETWEEN_WORDS = re.compile(r"[^a-z0-9]+")


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_LIMITING_WORDS = _words(
    "budget budgets rpm tpm itpm otpm rpd tpd rps qps limit limits limiter limiting ratelimit quota quotas throttle "
    "throttling concurrency concurrent"
)
_LIMITING_PAIRS = tuple(frozenset({"max", one}) for one in ("parallel", "spend", "cost", "usd"))
_LIMITING: Mapping[str, str] = {
    "allowed_ips": "any address may call",
    "access_windows": "models are served at any time",
    "max_response_size_mb": "answers have no bound of their size",
    "priority_reservation": "calls have no priorities",
    "tag_budget_config": "LiteLLM's request tags are not read",
    "max_end_user_budget_id": "it names a budget in LiteLLM's database",
}
"""Keys that limit, and why they would not here."""

_HARMLESS = _words(
    "soft_budget proxy_budget_rescheduler_min_time proxy_budget_rescheduler_max_time budget_alert_ttl "
    "disable_retry_on_max_parallel_request_limit_error database_connection_pool_limit disable_budget_reservation "
    "disable_reset_budget litellm_disable_stop_sequence_limit default_key_max_budget_alert_emails "
    "max_ui_session_budget alerting_args cache_params cache_kwargs callback_settings guardrails guardrail_list "
    "pass_through_endpoints routing_strategy_args mcp_servers prometheus_metrics_config enable_rate_limit_headers "
    "thinking extra_body"
)
"""Keys whose names, or whose keys' names, speak of limits that they do not set."""

_SILENT = _words(
    "fail_closed_budget_enforcement fail_closed_rate_limit_enforcement disable_cooldowns ignore_invalid_deployments"
)
"""Keys that ask for what is so anyway."""

_DESCRIBING = _words(
    "id mode description metadata db_model created_at created_by updated_at updated_by litellm_provider key tier "
    "discoverable max_tokens"
)
"""Keys of `model_info` that describe a model and change nothing."""

_ZERO_IS_OFF = _words("num_retries max_retries retry_after max_fallbacks")
_WHY: Mapping[str, str] = {
    "routing_strategy": "targets take turns",
    "database_url": "the ledger is sqlite:///spendfuse.db, beside the config",
    "store_model_in_db": "models are those of the config",
    "num_retries": "a call is tried once at a target",
    "max_retries": "a call is tried once at a target",
    "max_tokens": "it is a default that a call may override, not a limit",
    "max_completion_tokens": "it is a default that a call may override, not a limit",
    "disable_budget_reservation": "calls are always reserved before they are made",
}


def report_rest(section: Section, findings: Findings) -> None:
    """Tell of every key of a section that nobody took."""
    for key in section.left():
        _report(section, key, findings)


def limiting(tree: Tree, path: Path) -> Iterator[Path]:
    """Where in a tree keys stand that limit, by their names, and are set."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            if is_off(value) or key.lower() in _HARMLESS:
                continue
            if _limits(key):
                yield (*path, key)
            else:
                yield from limiting(value, (*path, key))
    elif isinstance(tree, list):
        for index, value in enumerate(tree):
            yield from limiting(value, (*path, index))


def _limits(key: str) -> bool:
    words = set(_BETWEEN_WORDS.split(key.lower()))
    return key in _LIMITING or bool(words & _LIMITING_WORDS) or any(pair <= words for pair in _LIMITING_PAIRS)


def _report(section: Section, key: str, findings: Findings) -> None:
    path, value = section.path_of(key), section.raw(key)
    is_info = "model_info" in path
    if is_off(value) or key in _SILENT or (key in _ZERO_IS_OFF and value == "0"):
        return
    if is_info and (key in _DESCRIBING or key.startswith(("supports_", "supported_"))):
        return
    found = list(limiting({key: value}, section.path))
    for one in found:
        findings.unenforced(one, _LIMITING.get(str(one[-1]), "nothing here does what it asks for"))
    if "callback" in key and _names_limiter(value):
        findings.unenforced(path, "it limits the traffic of each key by a share, and shares are not known here")
    elif not found:
        findings.ignored(path, _WHY.get(key, ""))


def _names_limiter(value: Tree) -> bool:
    """Whether callbacks hold one of LiteLLM's own that limit."""
    names = value if isinstance(value, list) else [value]
    return any(isinstance(one, str) and set(_BETWEEN_WORDS.split(one.lower())) & _LIMITING_WORDS for one in names)
