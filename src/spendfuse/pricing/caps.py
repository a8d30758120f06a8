"""What a model takes and makes at most: `caps.toml`, and the windows that the price sheet knows beside."""

import tomllib
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from typing import TypedDict, cast

from spendfuse.pricing.images import image_rule
from spendfuse.pricing.media import NO_MEDIA_RULES, MediaRules
from spendfuse.pricing.sheet import REMEMBERED_NAMES_MAX, Listing, Sheet

_OBEY_MAX_COMPLETION_TOKENS = frozenset({"openai", "azure"})


@dataclass(frozen=True, slots=True)
class ModelCaps:
    """Bounds of a model in tokens, None where nobody knows.

    `reasons`: some of the output is hidden. `cap_field` is the body field under which it obeys an output cap.
    `reference_tokens` bounds content that is only named, from config; without it that is the window.
    """

    context_window: int | None = None
    output_tokens_max: int | None = None
    reasons: bool = False
    media: MediaRules = NO_MEDIA_RULES
    cap_field: str = "max_tokens"
    reference_tokens: int | None = None


class _Entry(TypedDict, total=False):
    window: int
    output: int
    reasons: bool
    images: str
    audio: int
    page: int


class CapsTable:
    """The caps of all models. Thread-safe; looking up a name twice costs a dictionary access."""

    def __init__(self, entries: dict[str, dict[str, _Entry]], sheet: Sheet) -> None:
        self._entries = entries
        self._sheet = sheet
        self.caps_of = lru_cache(REMEMBERED_NAMES_MAX)(self._caps_of)
        """The caps of a provider's model, `caps_of(provider, model)`; all unknown for one that nobody knows."""

    @staticmethod
    def load(sheet: Sheet) -> "CapsTable":
        """The table that came with this version, completed from the sheet."""
        text = (files("spendfuse.pricing") / "caps.toml").read_text(encoding="utf-8")
        return CapsTable(cast("dict[str, dict[str, _Entry]]", tomllib.loads(text)), sheet)

    def _caps_of(self, provider: str, model: str) -> ModelCaps:
        listing = self._sheet.listing(provider, model)
        seller = listing.provider if listing else provider
        entry = self._entry(seller, model, listing)
        window = entry.get("window", listing.context_window if listing else None)
        return ModelCaps(
            context_window=window,
            output_tokens_max=entry.get("output"),
            reasons=entry.get("reasons", False),
            media=MediaRules(
                images=image_rule(entry["images"]) if "images" in entry else None,
                audio_tokens_per_s=entry.get("audio"),
                document_page_tokens=entry.get("page"),
            ),
            cap_field="max_completion_tokens" if provider in _OBEY_MAX_COMPLETION_TOKENS else "max_tokens",
        )

    def _entry(self, seller: str, model: str, listing: Listing | None) -> _Entry:
        """The entry of the exact name, or of the model that the sheet takes it for.

        A name that the sheet does not know has none: it might be anything.
        """
        if listing is None:
            return {}
        entries = self._entries.get(seller, {})
        return entries.get(model.lower()) or entries.get(listing.model) or {}
