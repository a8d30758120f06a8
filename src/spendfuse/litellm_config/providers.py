"""Our providers: deployments that reach the same upstream share one, others get `openai-2`, …"""

from dataclasses import dataclass, field

from spendfuse.config.document import Tree
from spendfuse.litellm_config.deployments import Deployment, Upstream
from spendfuse.litellm_config.origins import first_name
from spendfuse.litellm_config.prices import Prices


@dataclass(slots=True)
class _Provider:
    name: str
    upstream: Upstream
    prices: dict[str, Prices | None] = field(default_factory=dict[str, Prices | None])

    def takes(self, deployment: Deployment) -> bool:
        """Whether it is this upstream and does not price the model otherwise."""
        price = self.prices.get(deployment.model, deployment.prices)
        return self.upstream == deployment.upstream and price == deployment.prices


class Providers:
    """The section `providers`, growing."""

    def __init__(self) -> None:
        self._each: list[_Provider] = []

    def target_of(self, deployment: Deployment, taken: set[str]) -> str:
        """The target of a deployment, `provider/model`, but none of those taken: two deployments of one model with
        limits of their own are two targets, though they reach the same upstream.
        """
        fitting = (one for one in self._each if one.takes(deployment) and f"{one.name}/{deployment.model}" not in taken)
        provider = next(fitting, None) or self._new(deployment.upstream)
        provider.prices[deployment.model] = deployment.prices
        return f"{provider.name}/{deployment.model}"

    def names_of(self, origin: str) -> list[str]:
        """Our providers of one of LiteLLM's."""
        return [one.name for one in self._each if one.upstream.origin == first_name(origin)]

    def tree(self) -> dict[str, Tree]:
        return {one.name: _tree(one) for one in self._each}

    def _new(self, upstream: Upstream) -> _Provider:
        names = {one.name for one in self._each}
        numbered = (f"{upstream.name}-{number}" if number > 1 else upstream.name for number in range(1, len(names) + 2))
        provider = _Provider(next(one for one in numbered if one not in names), upstream)
        self._each.append(provider)
        return provider


def _tree(provider: _Provider) -> dict[str, Tree]:
    upstream = provider.upstream
    tree: dict[str, Tree] = {}
    if upstream.vendor is None:
        tree["dialect"] = "openai"
    elif upstream.vendor != provider.name:
        tree["vendor"] = upstream.vendor
    for key, value in (
        ("base_url", upstream.base_url),
        ("api_key", upstream.api_key),
        ("cap_field", upstream.cap_field),
    ):
        if value is not None:
            tree[key] = value
    if upstream.timeouts:
        tree["timeouts"] = dict(upstream.timeouts)
    prices = {model: dict(price) for model, price in provider.prices.items() if price is not None}
    if prices:
        tree["prices"] = {model: {**price} for model, price in prices.items()}
    return tree
