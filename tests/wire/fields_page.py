"""Writes docs/reference/openai-fields.md from the tables in the code: `python tests/wire/fields_page.py`."""

from pathlib import Path

from spendfuse.wire.openai_fields import CHAT_FIELDS, EMBEDDINGS_FIELDS, Field

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


def page() -> str:
    chat = _table("/v1/chat/completions", CHAT_FIELDS)
    return "\n".join([_INTRODUCTION, chat, _table("/v1/embeddings", EMBEDDINGS_FIELDS)])


def _table(path: str, fields: tuple[Field, ...]) -> str:
    rows = "".join(f"| `{field.name}` | {field.treatment.value} | {field.why} |\n" for field in fields)
    return f"## `{path}`\n\n| field | what happens | why |\n|---|---|---|\n{rows}"


if __name__ == "__main__":
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text(page())
