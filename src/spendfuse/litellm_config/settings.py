"""`general_settings`, `litellm_settings` and `router_settings`: what of them is a key, a bound or a limit here."""

from collections.abc import Sequence
from decimal import Decimal

from spendfuse.config import scalars
from spendfuse.config.document import Tree
from spendfuse.litellm_config.deployments import Defaults
from spendfuse.litellm_config.findings import Findings
from spendfuse.litellm_config.leftovers import report_rest
from spendfuse.litellm_config.limits import LimitBook, budget, rate
from spendfuse.litellm_config.providers import Providers
from spendfuse.litellm_config.secrets import Secrets
from spendfuse.litellm_config.sections import REFERENCE, Section, is_off, plain

MASTER_KEY = "LITELLM_MASTER_KEY"
_MIB = 2**20
_SHUFFLES = frozenset({"simple-shuffle", "round-robin", "round_robin"})
_HELD_CHECKS = frozenset({"router_budget_limiting", "enforce_model_rate_limits"})
"""Checks before a call that are made anyway."""
_RATES_OF_KEYS = ("rpm_limit", "tpm_limit", "max_parallel_requests")
_NO_USER = "calls that name no user share one balance"
_NO_KEY_LEFT_OUT = "the master key is counted as any other"


def read_defaults(top: Section, *, router: Section, litellm: Section, findings: Findings) -> Defaults:
    """What holds for every deployment. `router_settings` beat `litellm_settings`."""
    timeout_s = router.seconds("timeout")
    request_timeout_s = litellm.seconds("request_timeout")
    credentials: dict[str, dict[str, Tree]] = {}
    for one in top.sections("credential_list"):
        name, values = one.text("credential_name"), one.raw("credential_values")
        if name is None or not isinstance(values, dict):
            findings.stop(one.path, "needs a credential_name and credential_values")
        else:
            credentials[name] = values
    return Defaults(
        timeout_s=timeout_s or request_timeout_s,
        stream_timeout_s=router.seconds("stream_timeout"),
        max_parallel_requests=rate(router, "default_max_parallel_requests"),
        credentials=credentials,
    )


def client_keys(general: Section, *, findings: Findings, secrets: Secrets) -> list[Tree]:
    """The master key as a client key, under every limit like any other; none where there is no master key."""
    path = general.path_of("master_key")
    literal = general.raw("master_key")
    if isinstance(literal, dict | list):
        findings.invalid(path, literal, "a key")
        return []
    if is_off(literal):
        literal = f"{REFERENCE}{MASTER_KEY}" if secrets.environ.get(MASTER_KEY) else None
    if not literal:
        return []
    value = secrets.environ.get(literal.removeprefix(REFERENCE)) if literal.startswith(REFERENCE) else literal
    if not value:
        findings.stop(path, f"environment variable {literal.removeprefix(REFERENCE)} is not set")
        return []
    try:
        scalars.secret(value)
    except ValueError as error:
        findings.hide(path)
        findings.invalid(path, value, str(error))
        return []
    key = literal if literal.startswith(REFERENCE) else secrets.reference("master", literal, path)
    return [{"name": "master", "key": key}]


def body_bytes_max(general: Section, findings: Findings) -> str | None:
    """`max_request_size_mb` in bytes."""

    def size(text: str) -> str:
        expected = "a size in MB above 0"
        try:
            bytes_max = int(Decimal(text) * _MIB)
            return str(scalars.size_bytes(bytes_max))
        except (ArithmeticError, ValueError):
            raise ValueError(expected) from None

    return general.read("max_request_size_mb", size)


def add_proxy_limits(book: LimitBook, *, general: Section, litellm: Section, findings: Findings) -> None:
    """Limits over all calls, over each user and over each key."""
    resets = not general.is_on("disable_reset_budget")
    whole = budget(litellm, findings, "max_budget", "budget_duration", resets=resets)
    if whole:
        book.add("max_budget", whole)
    for key in ("global_max_parallel_requests", "max_in_flight_requests_per_worker"):
        amount = rate(general, key)
        if amount:
            book.add(key, amount)
    # Of each key by LiteLLM's code, of each deployment by its documentation: both hold.
    for_each = rate(general, "max_parallel_requests")
    if for_each:
        book.add("max_parallel_requests.key", for_each, each=["key"])
        book.add("max_parallel_requests.target", for_each, each=["target"])
    _add_users(book, litellm, findings, resets=resets)
    for key in ("default_key_generate_params", "upperbound_key_generate_params"):
        if _add_each(book, litellm.section(key), findings, each=["key"], resets=resets):
            findings.warn(litellm.path_of(key), f"holds for each key: {_NO_KEY_LEFT_OUT}")


def _add_users(book: LimitBook, litellm: Section, findings: Findings, *, resets: bool) -> None:
    duration_key = "internal_user_budget_duration"
    has_duration = "max_internal_user_budget" in litellm or "default_max_internal_user_budget" in litellm
    for key, duration in (
        ("max_internal_user_budget", duration_key),
        ("default_max_internal_user_budget", duration_key),
        ("max_user_budget", ""),
        ("max_end_user_budget", ""),
    ):
        if key not in litellm:
            continue
        amount = budget(litellm, findings, key, duration, resets=resets)
        if amount:
            book.add(key, amount, each=["user"])
            findings.warn(litellm.path_of(key), f"holds for each user: {_NO_USER}")
    if not has_duration and not is_off(litellm.raw(duration_key)):
        findings.ignored(litellm.path_of(duration_key), "there is no max_internal_user_budget")
    key = "default_internal_user_params"
    if _add_each(book, litellm.section(key), findings, each=["user"], resets=resets):
        findings.warn(litellm.path_of(key), f"holds for each user: {_NO_USER}")


def _add_each(book: LimitBook, params: Section, findings: Findings, *, each: Sequence[str], resets: bool) -> bool:
    """The limits among the defaults or bounds of keys or users; whether there are any. The rest is told."""
    name = str(params.path[-1])
    money = budget(params, findings, "max_budget", "budget_duration", resets=resets)
    amounts = [money, *(rate(params, key) for key in _RATES_OF_KEYS)]
    for amount in amounts:
        if amount:
            book.add(f"{name}.{amount.kind}", amount, each=each)
    report_rest(params, findings)
    return any(amounts)


def add_provider_limits(book: LimitBook, *, router: Section, providers: Providers, findings: Findings) -> None:
    """`provider_budget_config`: dollars of each of LiteLLM's providers."""
    budgets = router.section("provider_budget_config")
    for origin in budgets.left():
        one = budgets.section(origin)
        amount_key = "budget_limit" if "budget_limit" in one else "max_budget"
        duration_key = "time_period" if "time_period" in one else "budget_duration"
        amount = budget(one, findings, amount_key, duration_key)
        names = providers.names_of(origin)
        if amount and names:
            book.add(f"provider_budget_config.{origin}", amount, match={"provider": names})
        elif amount:
            findings.warn(one.path, "limits nothing: no model of it is served")
        for key in one.left():
            findings.unenforced(one.path_of(key), "a provider has a budget only")


def read_routing(router: Section) -> None:
    """Take what asks for no more than is done: targets take turns, and every limit is checked before a call."""
    if router.text("routing_strategy") not in _SHUFFLES:
        router.put_back("routing_strategy")
    if not set(router.texts("optional_pre_call_checks")) <= _HELD_CHECKS:
        router.put_back("optional_pre_call_checks")


def seconds_text(seconds: Decimal) -> str:
    return f"{plain(seconds)}s"
