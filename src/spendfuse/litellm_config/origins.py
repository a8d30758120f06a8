"""LiteLLM's providers, by the prefix of a model's name, and what each is to us."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from spendfuse.config import CLIENT_KEY_PREFIX
from spendfuse.litellm_config.findings import Findings


@dataclass(frozen=True, slots=True)
class Origin:
    """One of LiteLLM's providers.

    `vendor` is ours, known by name; None is a server that speaks OpenAI's dialect at its `api_base`. `keys` and `bases`
    are the environment variables that LiteLLM reads where the file says nothing; the first that is set wins. `home` is
    its URL where it needs no saying. Where not `takes_base`, LiteLLM speaks another dialect to it than we do, so that
    an `api_base` of LiteLLM's means nothing to us.
    """

    vendor: str | None = None
    keys: tuple[str, ...] = ()
    bases: tuple[str, ...] = ()
    home: str | None = None
    takes_base: bool = True
    is_free: bool = False

    @property
    def needs_key(self) -> bool:
        return self.vendor is not None and not self.is_free


_OPENAI = Origin(
    "openai", ("OPENAI_API_KEY",), ("OPENAI_BASE_URL", "OPENAI_API_BASE"), home="https://api.openai.com/v1"
)
_OLLAMA = Origin("ollama", ("OLLAMA_API_KEY",), ("OLLAMA_API_BASE",), is_free=True)
_COHERE = Origin("cohere", ("COHERE_API_KEY", "CO_API_KEY"), takes_base=False)

ORIGINS: Mapping[str, Origin] = {
    "openai": _OPENAI,
    "text-completion-openai": _OPENAI,
    "anthropic": Origin(
        "anthropic",
        ("ANTHROPIC_API_KEY",),
        ("ANTHROPIC_API_BASE", "ANTHROPIC_BASE_URL"),
        home="https://api.anthropic.com/v1",
    ),
    "azure": Origin(None, ("AZURE_API_KEY", "AZURE_OPENAI_API_KEY"), ("AZURE_API_BASE",)),
    "groq": Origin("groq", ("GROQ_API_KEY",), ("GROQ_API_BASE",)),
    "mistral": Origin("mistral", ("MISTRAL_API_KEY",), ("MISTRAL_API_BASE",)),
    "deepseek": Origin("deepseek", ("DEEPSEEK_API_KEY",), ("DEEPSEEK_API_BASE",)),
    "openrouter": Origin("openrouter", ("OPENROUTER_API_KEY", "OR_API_KEY"), ("OPENROUTER_API_BASE",)),
    "together_ai": Origin("together", ("TOGETHERAI_API_KEY", "TOGETHER_API_KEY", "TOGETHER_AI_API_KEY")),
    "fireworks_ai": Origin("fireworks", ("FIREWORKS_API_KEY", "FIREWORKS_AI_API_KEY", "FIREWORKSAI_API_KEY")),
    "moonshot": Origin("moonshot", ("MOONSHOT_API_KEY",), ("MOONSHOT_API_BASE",)),
    "xai": Origin("xai", ("XAI_API_KEY",), ("XAI_API_BASE",)),
    "gemini": Origin("gemini", ("GEMINI_API_KEY", "GOOGLE_API_KEY"), takes_base=False),
    "cohere": _COHERE,
    "cohere_chat": _COHERE,
    "ollama": _OLLAMA,
    "ollama_chat": _OLLAMA,
    "hosted_vllm": Origin(None, ("HOSTED_VLLM_API_KEY",), ("HOSTED_VLLM_API_BASE",)),
    "vllm": Origin(),
    "lm_studio": Origin(None, ("LM_STUDIO_API_KEY",), ("LM_STUDIO_API_BASE",)),
    "litellm_proxy": Origin(None, ("LITELLM_PROXY_API_KEY",), ("LITELLM_PROXY_API_BASE",)),
    "openai_like": Origin(None, ("OPENAI_LIKE_API_KEY",), ("OPENAI_LIKE_API_BASE",)),
    "custom_openai": Origin(),
    "llamafile": Origin(None, ("LLAMAFILE_API_KEY",), ("LLAMAFILE_API_BASE",)),
}

_OPENAI_MODEL = re.compile(
    r"(ft:)?(gpt-|chatgpt-|o[1-9](-|$)|codex-|computer-use|text-embedding-|davinci|babbage)", re.IGNORECASE
)
_ANTHROPIC_MODEL = re.compile(r"claude-", re.IGNORECASE)
_AZURE_HOSTS = (".openai.azure.com", ".cognitiveservices.azure.com", ".services.ai.azure.com")


def without_client_settings(environ: Mapping[str, str], findings: Findings) -> dict[str, str]:
    """An environment less what points clients at Spendfuse itself: its address and key stand where a vendor's would."""
    left_out: dict[str, None] = {}
    for origin in ORIGINS.values():
        if any(environ.get(one, "").startswith(CLIENT_KEY_PREFIX) for one in origin.keys):
            left_out |= dict.fromkeys(one for one in (*origin.keys, *origin.bases) if environ.get(one))
    for variable in left_out:
        what = "is left out, as it points clients at Spendfuse: set the provider's own"
        findings.warn(("environment", variable), what)
    return {name: value for name, value in environ.items() if name not in left_out}


def is_openai_model(model: str) -> bool:
    """Whether a name is one of OpenAI's own, so that its price list holds."""
    return _OPENAI_MODEL.match(model) is not None


def first_name(name: str) -> str:
    """The first of the names that one of LiteLLM's providers has; any other name is its own."""
    return next((one for one, origin in ORIGINS.items() if origin is ORIGINS.get(name)), name)


def origin_of(model: str, provider: str | None) -> tuple[str, str] | None:
    """LiteLLM's provider of a model and the provider's name of it; None where we know no such provider.

    Only names of OpenAI and Anthropic are recognised without a prefix.
    """
    prefix, separator, rest = model.partition("/")
    if provider is not None:
        own = rest if separator and prefix == provider else model
        return (first_name(provider), own) if provider in ORIGINS else None
    if separator:
        return (first_name(prefix), rest) if prefix in ORIGINS and rest else None
    if is_openai_model(model):
        return "openai", model
    return ("anthropic", model) if _ANTHROPIC_MODEL.match(model) else None


def base_url(name: str, api_base: str) -> str | None:
    """LiteLLM's `api_base` as our `base_url`, the URL before `/chat/completions` and `/messages`.

    None where it can't be one.
    """
    url = api_base.rstrip("/")
    for end in ("/chat/completions", "/messages"):
        url = url.removesuffix(end)
    if name == "azure":
        parts = urlsplit(url)
        host = parts.hostname or ""
        return f"{parts.scheme}://{parts.netloc}/openai/v1" if host.endswith(_AZURE_HOSTS) else None
    if name in ("anthropic", "ollama") and not url.endswith("/v1"):
        return f"{url}/v1"
    return url


def model_at(name: str, model: str) -> str:
    """The provider's own name of a model, where LiteLLM completes it."""
    if name == "fireworks_ai" and not model.startswith("accounts/"):
        return f"accounts/fireworks/models/{model}"
    return model
