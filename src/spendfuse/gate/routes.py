"""Public model names, compiled for the hot path: where a call goes, at what price, under which bounds."""

import math
import platform
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import lru_cache
from hashlib import blake2b

from spendfuse.clock import Clock
from spendfuse.config import Config, DialectName, OnDisconnect, Provider, PublicModel, Target, Timeouts
from spendfuse.core.calls import CacheWrite, Call, Operation
from spendfuse.core.money import Nanos
from spendfuse.core.refusals import Code, Deny
from spendfuse.core.usage import Usage
from spendfuse.pricing.quoting import Pricer, Quoted
from spendfuse.pricing.targets import Override, PricedTarget, Unpriced
from spendfuse.upstream.client import UpstreamRequest
from spendfuse.wire.dialect import WireTarget

NANOS_PER_S = 1_000_000_000
SERVED_SHOWN_MAX = 50
SNAPSHOTS_MAX = 1_000
_SNAPSHOT = re.compile(r"([a-z0-9.-]{1,100}?)-(?:20[0-9]{6}|20[0-9]{2}-[0-9]{2}-[0-9]{2})")


@dataclass(frozen=True, slots=True)
class Route:
    """A public model name at one of its targets: priced, and how to reach it."""

    name: str
    api: DialectName
    """What its provider speaks."""
    priced: PricedTarget
    is_free: bool
    """Nothing it does costs anything, which config has allowed."""
    wire: WireTarget
    labels: Mapping[str, str]
    """The labels that follow from the route."""
    min_output_tokens: int
    output_tokens_per_s_max: int
    cut_tail_s: float
    finishes_abandoned: bool
    """A call that is not streamed goes on when its client leaves."""
    caches_on_demand: bool
    """Its provider keeps input, and bills that, only where a call asks for it."""
    _pricer: Pricer = field(repr=False)
    _clock: Clock = field(repr=False)
    _urls: Mapping[Operation, str] = field(repr=False)
    _headers: Mapping[str, str] = field(repr=False)
    _via: str = field(repr=False)
    _timeouts: Timeouts = field(repr=False)

    @property
    def reasons(self) -> bool:
        """Some of its output is billed but never shown."""
        return self.priced.caps.reasons

    @property
    def can_count(self) -> bool:
        """Its tokens can be counted instead of bytes."""
        return self.priced.can_count

    @property
    def target(self) -> str:
        """`provider/model`, the label `target`."""
        return self.labels["target"]

    def quote(
        self, call: Call, *, counted: bool, overrun_percent: int, provider_count: int | None = None
    ) -> Quoted | Deny:
        """The upper bound of what the call can cost here; see `Overruns` for the percent.

        Where its tokens can't be counted, `counted` gives an estimate, which bounds nothing, unless the provider has
        counted them.
        """
        return self._pricer.quote(
            call,
            self.priced,
            counted=counted,
            at=self._now(),
            overrun_percent=overrun_percent,
            estimated=counted and not self.can_count and provider_count is None,
            provider_count=provider_count,
            cache_write=call.cache_write if self.caches_on_demand else CacheWrite.LONG,
        )

    def cap_wanted(self, call: Call, quoted: Quoted, output_tokens_default: int) -> int:
        """The output cap to ask the ledger for, in tokens for each choice."""
        wanted = self._pricer.cap_for(
            call, self.priced, bound=quoted.bound, output_tokens_default=output_tokens_default
        )
        return wanted.tokens

    def charge(self, call: Call, usage: Usage) -> Nanos:
        """What a usage of the call costs."""
        return self._pricer.charge(self.priced, usage, at=self._now(), service_tier=call.service_tier)

    def count_at_least(self, texts: Iterable[str]) -> int:
        """A lower bound of the output tokens that these texts were billed as."""
        return sum(self._pricer.count_at_least(self.priced, text) for text in texts)

    def count_at_most(self, texts: Iterable[str]) -> int:
        """An upper bound of them: exact where the vocabulary is at hand, else their bytes."""
        return sum(self._pricer.count_at_most(self.priced, text) for text in texts)

    def request(
        self, operation: Operation, headers: Mapping[str, str], body: bytes, *, timeout_s_max: float = math.inf
    ) -> UpstreamRequest:
        """The request to send upstream; no timeout of it is longer than `timeout_s_max`."""
        timeouts = self._timeouts
        return UpstreamRequest(
            self._urls[operation],
            {**headers, **self._headers, "via": f"{headers['via']}, {self._via}" if "via" in headers else self._via},
            body,
            min(timeouts.connect_s, timeout_s_max),
            min(timeouts.first_byte_s, timeout_s_max),
            min(timeouts.read_s, timeout_s_max),
            min(timeouts.total_s, timeout_s_max),
        )

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock.now_ns() / NANOS_PER_S, UTC)


class Routes:
    """The routes of one config; those that can't be used say why when they are asked for."""

    def __init__(self, config: Config, clock: Clock) -> None:
        self._pricer = Pricer.load(overrides_of(config), vendors_of(config))
        self._config = config
        self._clock = clock
        self._via = via_of(config)
        self._rotations = {name: self._rotation(model) for name, model in config.models.items()}
        self._snapshot = lru_cache(SNAPSHOTS_MAX)(self._find_snapshot)

    def get(self, name: str) -> "Rotation | Deny":
        """The routes of a public model name."""
        rotation = self._rotations.get(name)
        if rotation is None and self._config.serves_snapshots:
            rotation = self._snapshot(name)
        if rotation is None:
            served = ", ".join(sorted(self._rotations)[:SERVED_SHOWN_MAX]) or "none"
            if len(self._rotations) > SERVED_SHOWN_MAX:
                served += f" and {len(self._rotations) - SERVED_SHOWN_MAX} more (GET /v1/models)"
            return Deny(
                Code.MODEL_NOT_FOUND, f"The model {name[:200]!r} does not exist here. Served: {served}.", "model"
            )
        return rotation

    def _find_snapshot(self, name: str) -> "Rotation | Deny | None":
        """The routes of a dated snapshot of a model; it is counted under the model's own name."""
        dated = _SNAPSHOT.fullmatch(name)
        if dated is None:
            return None
        models = self._config.models
        model = models.get(dated[1]) or models.get(f"{dated[1]}-latest")
        if model is None:
            return None
        return self._rotation(replace(model, targets=tuple([replace(one, model=name) for one in model.targets])))

    def _rotation(self, model: PublicModel) -> "Rotation | Deny":
        """The routes of a model to those of its targets that can be used; where none can, why the first can't."""
        each = [self._route(model, target) for target in model.targets]
        usable = tuple(one for one in each if isinstance(one, Route))
        if usable:
            return Rotation(usable)
        return next(one for one in each if isinstance(one, Deny))

    def _route(self, model: PublicModel, target: Target) -> Route | Deny:
        config, provider = self._config, target.provider
        priced = self._pricer.target_prices(provider.name, target.model)
        if isinstance(priced, Unpriced):
            return Deny(Code.MODEL_NOT_PRICED, priced.message, "model")
        if provider.needs_api_key and provider.api_key is None:
            message = f'The provider "{provider.name}" has no API key: set providers.{provider.name}.api_key.'
            return Deny(Code.PROVIDER_KEY_MISSING, message, "model")
        return Route(
            name=model.name,
            api=provider.dialect,
            priced=priced,
            is_free=priced.is_free,
            wire=WireTarget(
                target.model, provider.cap_field, provider.pins_service_tier, provider.takes_stream_options
            ),
            labels={"model": model.name, "provider": provider.name, "target": target.name},
            min_output_tokens=model.min_output_tokens,
            output_tokens_per_s_max=target.output_tokens_per_s_max,
            cut_tail_s=config.cut_tail_s,
            finishes_abandoned=config.on_disconnect is OnDisconnect.FINISH,
            caches_on_demand=provider.dialect is DialectName.ANTHROPIC,
            _pricer=self._pricer,
            _clock=self._clock,
            _urls={operation: f"{provider.base_url}/{operation.value}" for operation in Operation},
            _headers=_credentials(provider),
            _via=self._via,
            _timeouts=provider.timeouts,
        )


class Rotation:
    """The routes of one public model, taking turns. Each process turns by itself."""

    __slots__ = ("_at", "_routes")

    def __init__(self, routes: tuple[Route, ...]) -> None:
        self._routes = routes
        self._at = 0

    def turn(self) -> tuple[Route, ...]:
        """All routes, the one whose turn it is first."""
        if len(self._routes) == 1:
            return self._routes
        at = self._at
        self._at = (at + 1) % len(self._routes)
        return self._routes[at:] + self._routes[:at]


def via_of(config: Config) -> str:
    """What the gateways of one store add to `Via` (RFC 9110, 7.6.3), by which they know a call that comes back."""
    place = f"{platform.node()}:{config.store.where}".encode("utf-8", "surrogateescape")
    return f"1.1 spendfuse-{blake2b(place, digest_size=8).hexdigest()}"


def _credentials(provider: Provider) -> dict[str, str]:
    if provider.api_key is None:
        return {}
    key = provider.api_key.reveal()
    if provider.dialect is DialectName.ANTHROPIC:
        return {"x-api-key": key}
    return {"Authorization": f"Bearer {key}"}


def overrides_of(config: Config) -> dict[str, dict[str, Override]]:
    """What a config says of prices and bounds, as the pricer takes it."""
    overrides: dict[str, dict[str, Override]] = {}
    for model in config.models.values():
        for target in model.targets:
            overrides.setdefault(target.provider.name, {})[target.model] = Override(
                price=target.price,
                context_window=target.context_window,
                output_tokens_max=target.output_tokens_max,
                reference_tokens=target.reference_tokens,
                allow_zero=target.provider.allow_free,
            )
    return overrides


def vendors_of(config: Config) -> dict[str, str]:
    """Whose price list each provider has, as the pricer takes it."""
    return {name: provider.vendor for name, provider in config.providers.items()}
