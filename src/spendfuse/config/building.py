"""From validated sections to the values of `values`, with the checks that span sections."""

import hashlib
import pathlib
from dataclasses import dataclass
from types import MappingProxyType

from spendfuse.config.alerts_building import alert_warnings, build_alerting
from spendfuse.config.building_breakers import build_breakers
from spendfuse.config.problems import Problems, closest
from spendfuse.config.schema import (
    Document,
    KeySection,
    LimitSection,
    ModelSection,
    PricesSection,
    ProviderSection,
)
from spendfuse.config.secret import CLIENT_KEY_PREFIX
from spendfuse.config.stores import spool_of, store_of
from spendfuse.config.values import (
    Config,
    ConfiguredKey,
    DialectName,
    LabelSource,
    OnDisconnect,
    Provider,
    PublicModel,
    Target,
    Timeouts,
)
from spendfuse.core.labels import LABEL_VALUE_BYTES_MAX
from spendfuse.core.limits import Limit, RouteTo, Unit
from spendfuse.core.prices import Price, Rates
from spendfuse.core.windows import MS_PER_S, Calendar, CalendarUnit, Lifetime, Span

ADMIN_KEY_LENGTH_MIN = 20
OWN_LABELS = frozenset({"key", "model", "provider", "target", "ip", "fingerprint"})
"""Labels whose values are Spendfuse's to say, so that a key cannot have them."""

RETENTION_MS_MIN = 32 * 86_400_000
"""The longest calendar window, and a day for time zones."""


@dataclass(frozen=True, slots=True)
class _Known:
    """What is known of a provider by its name."""

    base_url: str
    cap_field: str = "max_tokens"
    dialect: DialectName = DialectName.OPENAI
    takes_stream_options: bool = True
    pins_service_tier: bool = False
    needs_api_key: bool = True


_KNOWN = {
    "openai": _Known("https://api.openai.com/v1", "max_completion_tokens", pins_service_tier=True),
    "anthropic": _Known("https://api.anthropic.com/v1", dialect=DialectName.ANTHROPIC),
    "groq": _Known("https://api.groq.com/openai/v1", "max_completion_tokens"),
    "mistral": _Known("https://api.mistral.ai/v1", takes_stream_options=False),
    "deepseek": _Known("https://api.deepseek.com"),
    "openrouter": _Known("https://openrouter.ai/api/v1"),
    "together": _Known("https://api.together.ai/v1"),
    "fireworks": _Known("https://api.fireworks.ai/inference/v1"),
    "moonshot": _Known("https://api.moonshot.ai/v1"),
    "xai": _Known("https://api.x.ai/v1", "max_completion_tokens"),
    "gemini": _Known("https://generativelanguage.googleapis.com/v1beta/openai"),
    "cohere": _Known("https://api.cohere.ai/compatibility/v1"),
    "ollama": _Known("http://127.0.0.1:11434/v1", needs_api_key=False),
}


def build(document: Document, *, source: str, folder: pathlib.Path, warnings: list[str], problems: Problems) -> Config:
    """The config of a document whose sections are valid each by itself.

    Raises:
        ConfigInvalid: with these problems and any earlier ones.
    """
    store = store_of(document.store, folder, problems)
    providers = _Providers(document, problems).built()
    warnings += _without_api_key(document, providers)
    models = _models(document, providers, problems)
    keys = _keys(document, problems)
    limits = tuple([_limit(name, one, document=document, problems=problems) for name, one in document.limits.items()])
    alerting = build_alerting(document, problems)
    warnings += alert_warnings(document)
    breakers = build_breakers(document, limits, problems)
    _check_deadline(document, problems)
    admin_key_digest = _admin_key_digest(document, problems)
    _check_retention(document.retention, limits, problems)
    problems.raise_any()
    assert store is not None
    return Config(
        source=source,
        store=store,
        spool=spool_of(document.spool, store, folder),
        timezone=document.timezone,
        reservation_deadline_s=document.reservation_deadline / MS_PER_S,
        busy_wait_s=document.busy_wait / MS_PER_S,
        retention_s=None if document.retention is None else document.retention / MS_PER_S,
        min_output_tokens=document.min_output_tokens,
        output_tokens_default=document.output_tokens_default,
        n_max=document.n_max,
        body_bytes_max=document.body_bytes_max,
        new_subjects_per_hour=document.new_subjects,
        trusted_proxies=tuple(document.trusted_proxies),
        cut_tail_s=document.cut_tail / MS_PER_S,
        on_disconnect=OnDisconnect(document.on_disconnect),
        providers=MappingProxyType(providers),
        models=MappingProxyType(models),
        keys=keys,
        limits=limits,
        alerting=alerting,
        breakers=breakers,
        admin_key_digest=admin_key_digest,
        admin_from=tuple(document.admin_from),
        betas=tuple(document.betas),
        warnings=tuple(warnings),
    )


def _without_api_key(document: Document, providers: dict[str, Provider]) -> list[str]:
    return [
        f"providers.{name}.api_key: is not set"
        for name, provider in providers.items()
        if provider.needs_api_key and "api_key" not in document.providers[name].model_fields_set
    ]


def _admin_key_digest(document: Document, problems: Problems) -> bytes | None:
    if document.admin_key is None:
        return None
    key = document.admin_key.reveal()
    if len(key) < ADMIN_KEY_LENGTH_MIN:
        problems.add(("admin_key",), f"is too short, expected at least {ADMIN_KEY_LENGTH_MIN} characters at random")
    return hashlib.sha256(key.encode()).digest()


class _Providers:
    def __init__(self, document: Document, problems: Problems) -> None:
        self._document = document
        self._problems = problems

    def built(self) -> dict[str, Provider]:
        """The providers that are valid."""
        each = {name: self._provider(name, section) for name, section in self._document.providers.items()}
        return {name: provider for name, provider in each.items() if provider is not None}

    def _provider(self, name: str, section: ProviderSection) -> Provider | None:
        vendor = self._vendor(name, section)
        if vendor is None:
            return None
        known = _KNOWN.get(vendor)
        dialect = self._dialect(name, section.dialect or (known.dialect if known else name))
        base_url = section.base_url or (known.base_url if known else None)
        if base_url is None and dialect:
            self._problems.add(("providers", name, "base_url"), "is missing")
        if dialect is None or base_url is None:
            return None
        if section.base_url is None and section.api_key and section.api_key.reveal().startswith(CLIENT_KEY_PREFIX):
            # Never sent to a vendor: an environment that is set up for our clients has it where the vendor's would be.
            self._problems.add(
                ("providers", name, "api_key"), f"got a client key of Spendfuse, expected one of {vendor}"
            )
        known = known or _Known(base_url, needs_api_key=False)
        takes_stream_options = known.takes_stream_options if section.stream_options is None else section.stream_options
        return Provider(
            name=name,
            vendor=vendor,
            dialect=dialect,
            base_url=base_url,
            api_key=section.api_key,
            needs_api_key=known.needs_api_key or "api_key" in section.model_fields_set,
            prices=MappingProxyType({model: _price(prices) for model, prices in section.prices.items()}),
            allow_free=section.allow_free,
            timeouts=Timeouts(
                connect_s=section.timeouts.connect / MS_PER_S,
                first_byte_s=section.timeouts.first_byte / MS_PER_S,
                read_s=section.timeouts.read / MS_PER_S,
                total_s=section.timeouts.total / MS_PER_S,
            ),
            cap_field=section.cap_field or known.cap_field,
            takes_stream_options=takes_stream_options,
            pins_service_tier=known.pins_service_tier,
            context_window=section.context_window,
            output_tokens_max=section.output_tokens_max,
            output_tokens_per_s_max=section.output_tokens_per_s_max or self._document.output_tokens_per_s_max,
        )

    def _vendor(self, name: str, section: ProviderSection) -> str | None:
        """Whose provider it is: a second one of a vendor has another name. None where that is wrong."""
        if section.vendor is not None and section.vendor not in _KNOWN:
            path = ("providers", name, "vendor")
            expected = f"expected a provider known by name{closest(section.vendor, _KNOWN)}"
            self._problems.add(path, f"{self._problems.got(path, section.vendor)}, {expected}")
            return None
        return section.vendor or name

    def _dialect(self, name: str, dialect: str) -> DialectName | None:
        """The dialect of a provider; one that is not known by name has to say it."""
        if dialect in tuple(DialectName):
            return DialectName(dialect)
        path = ("providers", name, "dialect")
        if dialect == name:
            self._problems.add(path, f"is missing: {name} is not a provider known by name{closest(name, _KNOWN)}")
        else:
            self._problems.add(path, f"{self._problems.got(path, dialect)}, expected {', '.join(DialectName)}")
        return None


def _price(section: PricesSection) -> Price:
    return Price(
        Rates(
            input=section.input,
            output=section.output,
            cache_read=section.cache_read,
            cache_write=section.cache_write,
            cache_write_long=section.cache_write_1h,
            input_audio=section.input_audio,
            cache_read_audio=section.cache_read_audio,
            output_audio=section.output_audio,
            request=section.request,
        )
    )


def _models(document: Document, providers: dict[str, Provider], problems: Problems) -> dict[str, PublicModel]:
    models: dict[str, PublicModel] = {}
    for name, section in document.models.items():
        if name == "*":
            problems.add(("models", name), "a model for any name is not supported yet by this version")
            continue
        targets = _targets(name, section, providers=providers, document=document, problems=problems)
        if targets:
            models[name] = PublicModel(name, targets, section.min_output_tokens or document.min_output_tokens)
    _check_targets_agree(models, problems)
    return models


def _check_targets_agree(models: dict[str, PublicModel], problems: Problems) -> None:
    """One target has one price and one set of bounds, whichever name leads to it."""
    first: dict[str, tuple[str, Target]] = {}
    for name, model in models.items():
        for target in model.targets:
            other, known = first.setdefault(target.name, (name, target))
            if known != target:
                vendor = target.provider.vendor
                hint = f" (vendor: {vendor})" if vendor in _KNOWN else ""
                problems.add(
                    ("models", name),
                    f'has other prices or bounds for {target.name} than model "{other}": give it a provider of its own'
                    f"{hint}",
                )


def _targets(
    name: str, section: ModelSection, *, providers: dict[str, Provider], document: Document, problems: Problems
) -> tuple[Target, ...]:
    """The targets of a model that are valid."""
    path = ("models", name)
    if not section.targets:
        problems.add((*path, "targets"), "got an empty list, expected one target or more such as openai/gpt-4o")
    if len(set(section.targets)) < len(section.targets):
        problems.add((*path, "targets"), "names a target twice")
    found: list[Target] = []
    for text in section.targets:
        provider_name, _, model = text.partition("/")
        if not provider_name or not model or len(text.encode()) > LABEL_VALUE_BYTES_MAX or not text.isprintable():
            problems.add(path, f"{problems.got(path, text)}, expected PROVIDER/MODEL such as openai/gpt-4o")
        elif provider_name not in document.providers:
            hint = closest(provider_name, document.providers)
            problems.add(path, f"{problems.got(path, text)}, expected a provider of `providers` before the slash{hint}")
        elif provider_name in providers:  # Else it has problems of its own.
            found.append(_target(section, provider=providers[provider_name], model=model))
    return tuple(found)


def _target(section: ModelSection, *, provider: Provider, model: str) -> Target:
    return Target(
        provider=provider,
        model=model,
        price=_price(section.prices) if section.prices else provider.price_of(model),
        context_window=section.context_window or provider.context_window,
        output_tokens_max=section.output_tokens_max or provider.output_tokens_max,
        output_tokens_per_s_max=section.output_tokens_per_s_max or provider.output_tokens_per_s_max,
        reference_tokens=section.reference_tokens,
    )


def _keys(document: Document, problems: Problems) -> tuple[ConfiguredKey, ...]:
    keys: list[ConfiguredKey] = []
    for index, section in enumerate(document.keys):
        path = ("keys", index)
        key = _key(section, document)
        if any(key.name == other.name for other in keys):
            problems.add((*path, "name"), f'the name "{key.name}" is taken by another key')
        if any(key.digest == other.digest for other in keys):
            problems.add((*path, "key"), "is the same as that of another entry")
        for label in sorted(OWN_LABELS & set(key.labels)):
            problems.add((*path, "labels", label), "is a label that Spendfuse sets itself")
        keys.append(key)
    return tuple(keys)


def _key(section: KeySection, document: Document) -> ConfiguredKey:
    return ConfiguredKey(
        name=section.name,
        digest=hashlib.sha256(section.key.reveal().encode()).digest(),
        labels=MappingProxyType(section.labels),
        labels_from=tuple(LabelSource(source) for source in dict.fromkeys(section.labels_from)),
        new_subjects_per_hour=section.new_subjects or document.new_subjects,
    )


def _limit(name: str, section: LimitSection, *, document: Document, problems: Problems) -> Limit:
    ((unit, amount),) = section.amounts.items()
    match section.per:
        case CalendarUnit():
            period = Calendar(section.per, document.timezone)
        case None:
            period = Lifetime()
        case _:
            period = section.per
    if isinstance(section.on_exceed, RouteTo) and section.on_exceed.model not in document.models:
        hint = closest(section.on_exceed.model, document.models)
        path = ("limits", name, "on_exceed", "route_to")
        problems.add(path, f"{problems.got(path, section.on_exceed.model)}, expected a model of `models`{hint}")
    if section.on_store_down == "admit" and unit is not Unit.REQUESTS:
        expected = f"got admit for a limit of {unit.value}, expected refuse: only requests may do without the store"
        problems.add(("limits", name, "on_store_down"), expected)
    return Limit(
        name=name,
        unit=unit,
        amount=amount,
        period=period,
        each=tuple(section.each),
        match=MappingProxyType({label: frozenset(values) for label, values in section.match.items()}),
        require=section.require,
        on_exceed=section.on_exceed,
        fit=section.fit is not False,
        estimate=section.estimate is True,
        burst=section.burst,
        min_output_tokens=section.min_output_tokens,
        alert_at=tuple(sorted(set(section.alert_at))),
        admits_unreserved=section.on_store_down == "admit",
    )


def _check_deadline(document: Document, problems: Problems) -> None:
    """The keeper charges a reservation after its deadline: never while its attempt may still run."""
    totals = {name: section.timeouts.total for name, section in document.providers.items()}
    longest = max(totals, key=lambda name: totals[name], default=None)
    if longest is not None and document.reservation_deadline < totals[longest]:
        problems.add(
            ("reservation_deadline",),
            f"got {Span(document.reservation_deadline)}, expected at least the longest total timeout, "
            f"{Span(totals[longest])} of providers.{longest}.timeouts.total",
        )


def _check_retention(retention_ms: int | None, limits: tuple[Limit, ...], problems: Problems) -> None:
    """Entries are kept for as long as a window lasts that counts them; a month, whatever windows there are.

    Ids say when they were minted, so that nothing is charged twice, however late it comes.
    """
    if retention_ms is None:
        return
    spans = {limit.name: limit.period.ms for limit in limits if isinstance(limit.period, Span) and not limit.is_rate}
    longest = max(spans, key=lambda name: spans[name], default=None)
    if retention_ms < RETENTION_MS_MIN:
        problems.add(("retention",), f"got {Span(retention_ms)}, expected at least {Span(RETENTION_MS_MIN)}")
    elif longest is not None and retention_ms < spans[longest]:
        problems.add(
            ("retention",),
            f"got {Span(retention_ms)}, expected at least the longest span of a limit, {Span(spans[longest])} of "
            f"limits.{longest}",
        )
