"""One entry of `model_list`: where it leads, at what price, under which limits; or why it is not served."""

from dataclasses import dataclass, field, replace
from decimal import Decimal

from spendfuse.config import scalars
from spendfuse.config.document import Tree
from spendfuse.config.problems import Path
from spendfuse.core.labels import LABEL_VALUE_BYTES_MAX
from spendfuse.litellm_config import limits, origins
from spendfuse.litellm_config.findings import Findings
from spendfuse.litellm_config.leftovers import report_rest
from spendfuse.litellm_config.limits import Amount
from spendfuse.litellm_config.origins import ORIGINS
from spendfuse.litellm_config.prices import PriceReader, Prices
from spendfuse.litellm_config.secrets import Secrets
from spendfuse.litellm_config.sections import REFERENCE, Section, is_off
from spendfuse.litellm_config.timeouts import TimeoutTree, timeouts_of

_MODES = frozenset({None, "chat", "completion", "embedding", "responses"})
_RATES = ("rpm", "tpm", "itpm", "otpm", "max_parallel_requests")
_RATES_OF_KEYS = ("default_api_key_rpm_limit", "default_api_key_tpm_limit")
_FREE: Prices = (("input", "0"), ("output", "0"))


@dataclass(frozen=True, slots=True)
class Upstream:
    """All that tells one of our providers from another. `origin` is LiteLLM's name of it, `name` what to call ours."""

    origin: str
    name: str
    vendor: str | None
    base_url: str | None
    api_key: str | None
    cap_field: str | None
    timeouts: TimeoutTree
    organization: str | None


@dataclass(frozen=True, slots=True)
class Deployment:
    """An entry that can be served. Two that are equal are the same, wherever they stand."""

    path: Path = field(compare=False)
    group: str
    upstream: Upstream
    model: str
    prices: Prices | None
    context_window: int | None
    output_tokens_max: int | None
    limits: tuple[Amount, ...]
    limits_of_keys: tuple[Amount, ...]


class _NotServed(Exception):
    """An entry leads nowhere that we can reach; the text says why."""


@dataclass(frozen=True, slots=True)
class Defaults:
    """What holds for every deployment that does not say otherwise, and the file's `credential_list` by name."""

    timeout_s: Decimal | None
    stream_timeout_s: Decimal | None
    max_parallel_requests: Amount | None
    credentials: dict[str, dict[str, Tree]]


class DeploymentReader:
    """Reads entries of `model_list`."""

    def __init__(self, *, findings: Findings, secrets: Secrets, defaults: Defaults) -> None:
        self._findings = findings
        self._secrets = secrets
        self._defaults = defaults

    def read(self, entry: Section) -> Deployment | None:
        """One entry; None where it is wrong or not served, which has been said."""
        group = entry.read("model_name", scalars.labelled)
        params, info = self._params(entry), entry.section("model_info")
        name = params.text("model")
        if "model_name" not in entry or "model" not in params:
            missing = entry.path_of("model_name") if "model_name" not in entry else params.path_of("model")
            self._findings.stop(missing, "is missing")
        if group is None or name is None:
            return None
        try:
            return self._served(group, name, entry=entry, params=params, info=info)
        except _NotServed as why:
            self._findings.warn(params.path_of("model"), f'"{name}" is not served: {why}')
            return None

    def _params(self, entry: Section) -> Section:
        """`litellm_params`, on top of the credential that they name."""
        own = entry.raw("litellm_params")
        path = entry.path_of("litellm_params")
        if isinstance(own, dict) and isinstance(own.get("litellm_credential_name"), str):
            name = str(own["litellm_credential_name"])
            if name not in self._defaults.credentials:
                self._findings.stop((*path, "litellm_credential_name"), "is not in credential_list")
            own = {**self._defaults.credentials.get(name, {}), **own}
        params = Section(own, path, environ=self._secrets.environ, findings=self._findings)
        params.raw("litellm_credential_name")
        return params

    def _served(self, group: str, name: str, *, entry: Section, params: Section, info: Section) -> Deployment:
        origin, model = self._origin(group, name, params)
        mode = info.text("mode")
        _check_reachable(params, info, mode)
        prices = PriceReader(self._findings)
        prices.read(params)
        prices.read(info)
        if prices.unreadable:
            raise _NotServed(f"its {prices.unreadable} is no price of tokens")
        upstream = self._upstream(origin, model, params)
        is_embedding = mode == "embedding"
        deployment = Deployment(
            path=entry.path,
            group=group,
            upstream=upstream,
            model=model,
            prices=prices.prices(params, is_embedding=is_embedding),
            context_window=info.count("max_input_tokens") or params.count("max_input_tokens"),
            output_tokens_max=None if is_embedding else info.count("max_output_tokens") or info.count("max_tokens"),
            limits=self._limits(entry, params, info),
            limits_of_keys=tuple(one for key in _RATES_OF_KEYS if (one := limits.rate(params, key))),
        )
        info.raw("max_output_tokens")
        self._check_base_model(deployment, info)
        for section in (entry, params, info):
            report_rest(section, self._findings)
        if len(f"{upstream.name}-99/{model}".encode()) > LABEL_VALUE_BYTES_MAX or not model.isprintable():
            self._findings.invalid(params.path_of("model"), name, "a name of printable characters, of about 100 bytes")
        return self._priced(deployment, params)

    def _origin(self, group: str, name: str, params: Section) -> tuple[str, str]:
        if "*" in group or "*" in name:
            raise _NotServed("models are served by their names, not by patterns")
        found = origins.origin_of(name, params.text("custom_llm_provider"))
        if found is None:
            raise _NotServed("its provider is not supported")
        origin, model = found
        if origin in ("openai", "azure") and model.startswith(("responses/", "o_series/", "gpt5_series/")):
            raise _NotServed("the part before the model's name asks for a translation that is not supported")
        return origin, origins.model_at(origin, model)

    def _upstream(self, origin: str, model: str, params: Section) -> Upstream:
        known = ORIGINS[origin]
        base_url = self._base_url(origin, params)
        if base_url == known.home:
            base_url = None
        vendor, name = known.vendor, known.vendor or origin
        cap_field = "max_completion_tokens" if origin == "azure" else None
        if known is ORIGINS["openai"] and base_url is not None and not origins.is_openai_model(model):
            # A server of someone else's models behind OpenAI's dialect, with neither OpenAI's prices nor its habits.
            vendor, name = None, "openai-compatible"
        if vendor is None and base_url is None:
            raise _NotServed("it has no api_base")
        timeout_s = params.seconds("timeout") or self._defaults.timeout_s
        stream_timeout_s = params.seconds("stream_timeout") or self._defaults.stream_timeout_s
        return Upstream(
            origin=origin,
            name=name,
            vendor=vendor,
            base_url=base_url,
            api_key=self._api_key(origin, params),
            cap_field=cap_field,
            timeouts=timeouts_of(timeout_s, stream_timeout_s),
            organization=self._organization(params),
        )

    def _base_url(self, origin: str, params: Section) -> str | None:
        known = ORIGINS[origin]
        key = "api_base" if not is_off(params.raw("api_base")) else "base_url"
        for one in ("api_base", "base_url"):
            value = params.raw(one)
            if isinstance(value, str) and value.startswith(REFERENCE):
                variable = value.removeprefix(REFERENCE)
                if not self._secrets.environ.get(variable):
                    # Never elsewhere than where it was meant to go.
                    raise _NotServed(f"environment variable {variable}, its {one}, is not set")
        written = params.text(key)
        url = written or next((found for one in known.bases if (found := self._secrets.environ.get(one))), None)
        if url is None:
            return None
        if not known.takes_base:
            raise _NotServed(f"an api_base of {origin} speaks another dialect")
        base_url = origins.base_url(origin, url)
        if base_url is None:
            raise _NotServed("its api_base is not an Azure resource")
        try:
            return scalars.base_url(base_url)
        except ValueError as error:
            if written is None:
                raise _NotServed(f"the URL in its environment is not {error}") from None
            if "@" in url:
                self._findings.hide(params.path_of(key))
            self._findings.invalid(params.path_of(key), url, str(error))
            return None if known.vendor else base_url

    def _api_key(self, origin: str, params: Section) -> str | None:
        """A reference to its key. Where the file says none it is the variable that LiteLLM would read; None where none
        is needed either."""
        known = ORIGINS[origin]
        value = params.raw("api_key")
        if isinstance(value, dict | list):
            self._findings.invalid(params.path_of("api_key"), value, "a key")
            return None
        if value:
            if value.startswith(REFERENCE):
                return value
            try:
                scalars.secret(value)
            except ValueError as error:
                self._findings.invalid(params.path_of("api_key"), value, str(error))
            return self._secrets.reference(f"{origin}_api", value, params.path_of("api_key"))
        is_set = next((one for one in known.keys if self._secrets.environ.get(one)), None)
        if is_set is None and not known.needs_key and origin != "azure":
            return None
        return f"{REFERENCE}{is_set or known.keys[0]}"

    def _organization(self, params: Section) -> str | None:
        value = params.raw("organization")
        if is_off(value):
            return None
        self._findings.ignored(params.path_of("organization"), "the key's own organization is billed")
        return str(value)

    def _limits(self, entry: Section, params: Section, info: Section) -> tuple[Amount, ...]:
        """Of a rate that is said in several places the lowest holds."""
        found: list[Amount] = []
        for key in _RATES:
            said = [one for section in (params, entry, info) if (one := limits.rate(section, key))]
            found += sorted(said, key=lambda one: int(one.amount))[:1]
        default = self._defaults.max_parallel_requests
        if default and not any(one.unit == default.unit for one in found):
            found.append(default)
        money = limits.budget(params, self._findings, "max_budget", "budget_duration")
        return (*found, money) if money else tuple(found)

    def _check_base_model(self, deployment: Deployment, info: Section) -> None:
        """LiteLLM prices a deployment as its `base_model`, which we can't."""
        base = info.text("base_model")
        if deployment.prices is not None or base is None:
            return
        if base.rsplit("/", 1)[-1] == deployment.model.rsplit("/", 1)[-1]:
            return
        if deployment.upstream.origin == "azure":
            # Whoever deploys a model names it: another model's price may stand under that name.
            raise _NotServed("its base_model has another name: set input_cost_per_token and output_cost_per_token")
        self._findings.ignored(info.path_of("base_model"), f'prices are those of "{deployment.model}"')

    def _priced(self, deployment: Deployment, params: Section) -> Deployment:
        """Say where no price can be known; LiteLLM would take such a model for free."""
        upstream, path = deployment.upstream, params.path_of("model")
        if deployment.prices is not None:
            return deployment
        if ORIGINS[upstream.origin].is_free:
            self._findings.warn(path, "is served at no price, as by LiteLLM; set its costs if it has any")
            return replace(deployment, prices=_FREE)
        if upstream.vendor is None and upstream.origin != "azure":
            what = "no price of it is known, so that calls are refused until input_cost_per_token and"
            self._findings.warn(path, f"{what} output_cost_per_token are set (0 for one that costs nothing)")
        return deployment


def _check_reachable(params: Section, info: Section, mode: str | None) -> None:
    """Whether a call would reach the model that the entry means."""
    if mode not in _MODES:
        raise _NotServed(f"its mode is {mode}")
    if not is_off(params.raw("mock_response")):
        raise _NotServed("it answers a mock_response, and a real call would cost money")
    if info.is_on("blocked"):
        raise _NotServed("it is blocked")
    if not is_off(info.raw("team_id")):
        raise _NotServed("it is for one team only")
