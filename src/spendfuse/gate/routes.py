"""Public model names, compiled for the hot path: where a call goes, at what price, under which bounds."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from spendfuse.clock import Clock
from spendfuse.config import Config, OnDisconnect, PublicModel, Timeouts
from spendfuse.core.calls import Call, Operation
from spendfuse.core.money import Nanos
from spendfuse.core.refusals import Code, Deny
from spendfuse.core.usage import Usage
from spendfuse.pricing.quoting import Pricer, Quoted
from spendfuse.pricing.targets import Override, PricedTarget, Unpriced
from spendfuse.upstream.client import UpstreamRequest
from spendfuse.wire.dialect import WireTarget

NANOS_PER_S = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Route:
    """One public model name: its target, priced, and how to reach it."""

    name: str
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
    _pricer: Pricer = field(repr=False)
    _clock: Clock = field(repr=False)
    _urls: Mapping[Operation, str] = field(repr=False)
    _headers: Mapping[str, str] = field(repr=False)
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

    def quote(self, call: Call, *, counted: bool, overrun_percent: int) -> Quoted | Deny:
        """The upper bound of what the call can cost here; see `Overruns` for the percent.

        Where its tokens can't be counted, `counted` gives an estimate, which bounds nothing.
        """
        return self._pricer.quote(
            call,
            self.priced,
            counted=counted,
            at=self._now(),
            overrun_percent=overrun_percent,
            estimated=counted and not self.can_count,
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

    def request(self, operation: Operation, headers: Mapping[str, str], body: bytes) -> UpstreamRequest:
        """The request to send upstream."""
        timeouts = self._timeouts
        return UpstreamRequest(
            self._urls[operation],
            {**headers, **self._headers},
            body,
            timeouts.connect_s,
            timeouts.first_byte_s,
            timeouts.read_s,
            timeouts.total_s,
        )

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock.now_ns() / NANOS_PER_S, UTC)


class Routes:
    """The routes of one config; those that can't be used say why when they are asked for."""

    def __init__(self, config: Config, clock: Clock) -> None:
        self._pricer = Pricer.load(overrides_of(config))
        self._routes: dict[str, Route | Deny] = {
            name: self._route(model, config, clock) for name, model in config.models.items()
        }

    def get(self, name: str) -> Route | Deny:
        """The route of a public model name."""
        route = self._routes.get(name)
        if route is None:
            served = ", ".join(sorted(self._routes)) or "none"
            return Deny(
                Code.MODEL_NOT_FOUND, f"The model {name[:200]!r} does not exist here. Served: {served}.", "model"
            )
        return route

    def _route(self, model: PublicModel, config: Config, clock: Clock) -> Route | Deny:
        target, provider = model.target, model.target.provider
        priced = self._pricer.target_prices(provider.name, target.model)
        if isinstance(priced, Unpriced):
            return Deny(Code.MODEL_NOT_PRICED, priced.message, "model")
        if provider.needs_api_key and provider.api_key is None:
            message = f'The provider "{provider.name}" has no API key: set providers.{provider.name}.api_key.'
            return Deny(Code.PROVIDER_KEY_MISSING, message, "model")
        headers = {} if provider.api_key is None else {"Authorization": f"Bearer {provider.api_key.reveal()}"}
        return Route(
            name=model.name,
            priced=priced,
            is_free=priced.is_free,
            wire=WireTarget(
                target.model, provider.cap_field, provider.pins_service_tier, provider.takes_stream_options
            ),
            labels={"model": model.name, "provider": provider.name, "target": target.name},
            min_output_tokens=model.min_output_tokens,
            output_tokens_per_s_max=model.output_tokens_per_s_max,
            cut_tail_s=config.cut_tail_s,
            finishes_abandoned=config.on_disconnect is OnDisconnect.FINISH,
            _pricer=self._pricer,
            _clock=clock,
            _urls={operation: f"{provider.base_url}/{operation.value}" for operation in Operation},
            _headers=headers,
            _timeouts=provider.timeouts,
        )


def overrides_of(config: Config) -> dict[str, dict[str, Override]]:
    """What a config says of prices and bounds, as the pricer takes it."""
    overrides: dict[str, dict[str, Override]] = {}
    for model in config.models.values():
        provider = model.target.provider
        overrides.setdefault(provider.name, {})[model.target.model] = Override(
            price=model.price,
            context_window=model.context_window,
            output_tokens_max=model.output_tokens_max,
            reference_tokens=model.reference_tokens,
            allow_zero=provider.allow_free,
        )
    return overrides
