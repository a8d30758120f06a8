"""Which of a config's models a drill calls: an ordinary one, and the dearest for those who mean harm."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from spendfuse.clock import Clock
from spendfuse.config import Config
from spendfuse.core.errors import ConfigInvalid
from spendfuse.core.refusals import Deny
from spendfuse.core.usage import Usage
from spendfuse.drill.provider import Sold
from spendfuse.gate.routes import Route, Routes

DEAREST = 3
_ORDINARY_CALL = Usage(1_000, 500)
_LONG_CALL = Usage(500, 8_000)


@dataclass(frozen=True, slots=True)
class Offer:
    """A public model, and the target that its calls go to where nothing but the model is named."""

    model: str
    target: str


@dataclass(frozen=True, slots=True)
class Offers:
    """`ordinary` has the median price of the config's models, by a call of a chat. `dearest` come first to last, by a
    call whose answer is long. `sold` has all targets.
    """

    ordinary: Offer
    dearest: tuple[Offer, ...]
    sold: Mapping[str, Sold]


def offers_of(config: Config, clock: Clock, at: datetime) -> Offers:
    """What there is to call at an instant's prices.

    Raises:
        ConfigInvalid: no model that answers can be served.
    """
    routes = Routes(config, clock)
    found = {name: _routes_of(routes, name) for name in config.models}
    answering = {name: each[0] for name, each in found.items() if each and not each[0].priced.input_only}
    if not answering:
        raise ConfigInvalid(f"{config.source}: models: none of them can be called, so there is nothing to rehearse")

    # A free model is no loss, unless there are only such.
    served = {name: route for name, route in answering.items() if not route.is_free} or answering

    def by_price(usage: Usage) -> list[tuple[int, str]]:
        return sorted((route.priced.price(at).charge(usage), name) for name, route in served.items())

    by_chat = by_price(_ORDINARY_CALL)
    # Those that cost the same are often one model by several names.
    dearest = sorted(dict(reversed(by_price(_LONG_CALL))).items(), reverse=True)
    return Offers(
        ordinary=_offer(served[by_chat[(len(by_chat) - 1) // 2][1]]),
        dearest=tuple(_offer(served[name]) for _, name in dearest[:DEAREST]),
        sold={route.target: Sold(route.api, route.priced) for each in found.values() for route in each},
    )


def _offer(route: Route) -> Offer:
    return Offer(route.name, route.target)


def _routes_of(routes: Routes, name: str) -> tuple[Route, ...]:
    rotation = routes.get(name)
    return () if isinstance(rotation, Deny) else rotation.turn()
