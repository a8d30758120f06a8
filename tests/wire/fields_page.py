"""Writes docs/reference/openai-fields.md from the tables in the code: `python tests/wire/fields_page.py`."""

import json
from pathlib import Path

from spendfuse.wire.fields import Field
from spendfuse.wire.openai_fields import CHAT_FIELDS, EMBEDDINGS_FIELDS
from spendfuse.wire.translate.chat_fields import CARRIED, SAYS_NOTHING

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "openai-fields.md"
_INTRODUCTION = """\
# Fields of OpenAI request bodies

What becomes of each known field on its way upstream. This page is written from `spendfuse/wire/openai_fields.py` by
`python tests/wire/fields_page.py`, and a test keeps the two equal.

- **passes**: goes upstream unaltered; it cannot raise the bill above the quote.
- **priced**: goes upstream unaltered; the quote follows from it.
- **set by us**: replaced, or added.
- **refused**: a 400, unless it is null or false.

A field that is not listed passes, and its text counts as input. A repeated key at any depth, `NaN`, an infinity, an
integer beyond 64 bit, a lone surrogate and anything but UTF-8 are refused.
"""


_TRANSLATED = """\
## `/v1/chat/completions` for a model of a provider that speaks Anthropic

Nothing is dropped. A field is carried over, or has a value that asks for what happens anyway, or is a 400 that names it
(so is a field that is not listed).

"""


def page() -> str:
    """The whole page."""
    chat = _table("/v1/chat/completions", CHAT_FIELDS)
    return "\n".join([_INTRODUCTION, chat, _table("/v1/embeddings", EMBEDDINGS_FIELDS), _translated()])


def _translated() -> str:
    carried = ", ".join(f"`{name}`" for name in sorted(CARRIED))
    asked_anyway = ", ".join(
        f"`{name}: {' | '.join(json.dumps(value) for value in values)}`"
        for name, values in SAYS_NOTHING.items()
        if values[0] is not False
    )
    falses = ", ".join(f"`{name}`" for name, values in SAYS_NOTHING.items() if values[0] is False)
    return (
        f"{_TRANSLATED}- **carried**: {carried}. Messages of system and developer (before the conversation), user and "
        "assistant; text, and images of users; `cache_control` on parts.\n"
        f"- **asks for what happens anyway**: null; {asked_anyway}; and `false` of {falses}.\n"
    )


def _table(path: str, fields: tuple[Field, ...]) -> str:
    rows = "".join(f"| `{field.name}` | {field.treatment.value} | {field.why} |\n" for field in fields)
    return f"## `{path}`\n\n| field | what happens | why |\n|---|---|---|\n{rows}"


if __name__ == "__main__":
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text(page())
