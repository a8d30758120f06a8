"""What a drill is played on: the gateway of the rehearsed config, and the parts of it that a drill looks at."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace

from spendfuse.alerting.messages import Message
from spendfuse.clock import Clock
from spendfuse.config import Config, Provider
from spendfuse.gate.gate import Gate
from spendfuse.gate.shared import Shared
from spendfuse.upstream.client import UpstreamClient

_NOWHERE = "http://drill.invalid/"
"""No host has this name (RFC 6761)."""


@dataclass(frozen=True, slots=True)
class Stage:
    """A gateway's inside, over a store of its own that is gone with it."""

    gate: Gate
    shared: Shared


OpenStage = Callable[[Config, UpstreamClient, Clock], AbstractAsyncContextManager[Stage]]


def rehearsed(config: Config) -> Config:
    """The config as it is rehearsed: without any secret of a provider, and with addresses that lead nowhere, so that
    whatever goes wrong nothing can be reached or spent.
    """
    providers = {name: _unplugged(one) for name, one in config.providers.items()}
    models = {
        name: replace(
            model,
            targets=tuple([replace(one, provider=providers[one.provider.name]) for one in model.targets]),
        )
        for name, model in config.models.items()
    }
    return replace(config, providers=providers, models=models)


def provider_at(url: str) -> str:
    """The provider that a URL of a rehearsed config leads to."""
    return url.removeprefix(_NOWHERE).partition("/")[0]


def _unplugged(provider: Provider) -> Provider:
    return replace(provider, base_url=f"{_NOWHERE}{provider.name}", api_key=None, needs_api_key=False)


class MutedSender:
    """A channel of alerts that takes every message and passes none on."""

    async def send(self, message: Message) -> str | None:
        """See `Sender`."""
        return None

    def close(self) -> None:
        """Nothing is held."""
