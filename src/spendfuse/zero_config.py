"""The config of those who have none: the vendors whose API keys are in the environment, under limits for a trial.

Failure policy: without any such key there is nothing to serve, and the error says which variables are looked for.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from spendfuse.config import CLIENT_KEY_PREFIX, Config, read_tree
from spendfuse.core.errors import ConfigInvalid
from spendfuse.core.labels import LABEL_VALUE_BYTES_MAX
from spendfuse.pricing.sheet import Listing, Sheet
from spendfuse.pricing.targets import is_zero

SOURCE = "zero config"
"""Such a config's `source`."""

LIMITS: Mapping[str, Mapping[str, object]] = {
    "day-budget": {"usd": 10, "per": "day"},
    "month-budget": {"usd": 100, "per": "month"},
    "key-rate": {"requests": 300, "per": "minute", "each": ["key"]},
    "retry-loop": {"requests": 30, "per": "5m", "each": ["key", "user", "fingerprint"]},
}
"""Enough to try everything out, and an amount whose loss is no harm. `spendfuse limits set` changes them."""

_NOT_SERVED = re.compile(
    r"(?:^|[-/:._])(?:ft|image|live|moderation|native-audio|ocr|realtime|streaming|transcribe|tts|whisper)(?:$|[-/:._\d])"
)
"""Fine-tuned models, whose names are their owners', and what is not asked for by chat, messages or embeddings."""


@dataclass(frozen=True, slots=True)
class _Vendor:
    """A provider known by name. `seller` is what the price sheet calls it. `serves`: names that its own API has, where
    the sheet lists others beside.
    """

    name: str
    variable: str
    seller: str
    serves: re.Pattern[str] = re.compile("")


_VENDORS = (
    _Vendor(
        "openai",
        "OPENAI_API_KEY",
        "openai",
        # Not the models of the old completions, the Responses API's own, and those whose weights only are OpenAI's.
        re.compile(r"(?!(?:text-)?(?:ada|babbage|curie|davinci)|gpt-3\.5-turbo-instruct|computer-use|gpt-oss)"),
    ),
    _Vendor("anthropic", "ANTHROPIC_API_KEY", "anthropic"),
    # Beside Gemini the sheet has what Google's cloud serves at another address.
    _Vendor("gemini", "GEMINI_API_KEY", "google", re.compile("gemini-")),
    _Vendor("mistral", "MISTRAL_API_KEY", "mistral"),
    _Vendor("deepseek", "DEEPSEEK_API_KEY", "deepseek"),
    _Vendor("xai", "XAI_API_KEY", "x-ai"),
    _Vendor("cohere", "COHERE_API_KEY", "cohere"),
    _Vendor("moonshot", "MOONSHOT_API_KEY", "moonshotai"),
    # Those that sell the models of others come last, as the first vendor of a name has it.
    _Vendor("groq", "GROQ_API_KEY", "groq"),
    _Vendor("together", "TOGETHER_API_KEY", "together"),
    _Vendor("fireworks", "FIREWORKS_API_KEY", "fireworks"),
    _Vendor("openrouter", "OPENROUTER_API_KEY", "openrouter"),
)
VARIABLES = tuple(vendor.variable for vendor in _VENDORS)
"""The environment variables that are looked for."""


def zero_config(environ: Mapping[str, str], folder: Path) -> Config:
    """What can be served with the API keys of an environment; its store stands in `folder`.

    Raises:
        ConfigInvalid: there is no such key, or one that can be none.
    """
    ours = [one for one in VARIABLES if _holds_client_key(environ, one)]
    vendors = _vendors(environ)
    if not vendors:
        wanted = (
            f"there is no config file, so one of these variables must hold a provider's API key: {', '.join(VARIABLES)}"
        )
        raise ConfigInvalid("; ".join((f"{SOURCE}: {wanted}", *map(_is_a_client_key, ours))))
    tree = {
        "providers": {one.name: {"api_key": f"os.environ/{one.variable}"} for one in vendors},
        "models": _models(vendors),
        "limits": LIMITS,
    }
    config = _read(tree, environ, folder)
    return replace(config, warnings=(*config.warnings, *map(_is_a_client_key, ours)))


def zero_store(folder: Path) -> Config:
    """The same store and limits without providers and models, for who only reads or keeps the books."""
    return _read({"limits": LIMITS}, {}, folder)


def has_provider(environ: Mapping[str, str]) -> bool:
    """Whether any of the variables holds a provider's key."""
    return bool(_vendors(environ))


def _vendors(environ: Mapping[str, str]) -> list[_Vendor]:
    return [
        one
        for one in _VENDORS
        if environ.get(one.variable, "").strip() and not _holds_client_key(environ, one.variable)
    ]


def _holds_client_key(environ: Mapping[str, str], variable: str) -> bool:
    """An environment that is set up for clients of this very gateway has its key where a vendor's would be."""
    return environ.get(variable, "").strip().startswith(CLIENT_KEY_PREFIX)


def _read(tree: Mapping[str, object], environ: Mapping[str, str], folder: Path) -> Config:
    config = read_tree(tree, source=SOURCE, folder=folder, environ=environ)
    return replace(config, makes_key=True, serves_snapshots=True)


def _is_a_client_key(variable: str) -> str:
    return f"{variable} holds a client key of Spendfuse, so it is left out: set the provider's own"


def _models(vendors: list[_Vendor]) -> dict[str, str]:
    """Every name that can be asked for, and its target."""
    sheet = Sheet.load()
    models: dict[str, str] = {}
    for vendor in vendors:
        for name in sheet.names(vendor.seller):
            target = f"{vendor.name}/{name}"
            if _is_served(sheet.listing(vendor.name, name), name, vendor) and len(target) <= LABEL_VALUE_BYTES_MAX:
                models.setdefault(name, target)
    return models


def _is_served(listing: Listing | None, name: str, vendor: _Vendor) -> bool:
    """Whether a name is priced, costs anything, and is answered at a path that Spendfuse serves."""
    if listing is None or listing.unpriced is not None or is_zero(listing.prices):
        return False
    has_output = listing.prices[-1].price.base.output > 0
    return (
        (has_output or listing.input_only)
        and vendor.serves.match(name) is not None
        and _NOT_SERVED.search(name.lower()) is None
    )
