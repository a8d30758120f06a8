"""Writes docs/reference/anthropic-fields.md from the code: `python tests/wire/anthropic_fields_page.py`."""

from pathlib import Path

from spendfuse.wire.anthropic_betas import BETAS
from spendfuse.wire.anthropic_fields import COUNT_FIELDS, MESSAGES_FIELDS
from spendfuse.wire.fields import Field

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "anthropic-fields.md"
_INTRODUCTION = """\
# Fields and betas of Anthropic requests

What becomes of each known field on its way upstream. This page is written from `spendfuse/wire/anthropic_fields.py` and
`spendfuse/wire/anthropic_betas.py` by `python tests/wire/anthropic_fields_page.py`, and a test keeps them equal.

- **passes**: goes upstream unaltered; it cannot raise the bill above the quote.
- **priced**: goes upstream unaltered; the quote follows from it.
- **set by us**: replaced, or added.
- **refused**: a 400, unless it is null or false.

A field that is not listed passes, and its text counts as input. A repeated key at any depth, `NaN`, an infinity, an
integer beyond 64 bit, a lone surrogate and anything but UTF-8 are refused. A block of a type that is not known is
quoted at the context window, like a file or a URL.
"""
_BETAS = """\
## `anthropic-beta`

A beta can change price and mode, so one that is not listed is a 400. A name stands for all its dates. `betas:` in the
config lets others pass, with or without a date; whoever adds one answers for its price. `anthropic-version` goes up as
it came, and is `2023-06-01` for a client that sends none.
"""


def page() -> str:
    messages = f"## `/v1/messages`\n\n{_table('field', MESSAGES_FIELDS)}"
    count = f"## `/v1/messages/count_tokens`\n\n{_table('field', COUNT_FIELDS)}"
    return "\n".join([_INTRODUCTION, messages, count, _BETAS, _table("beta", BETAS)])


def _table(what: str, fields: tuple[Field, ...]) -> str:
    rows = "".join(f"| `{field.name}` | {field.treatment.value} | {field.why} |\n" for field in fields)
    return f"| {what} | what happens | why |\n|---|---|---|\n{rows}"


if __name__ == "__main__":
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text(page())
