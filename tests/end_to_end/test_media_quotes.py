"""Quotes of what bytes say little about: media, references, several choices. Each bounds what the provider bills."""

import base64
import io
import random
import sqlite3
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass

import httpx2
import pytest
from gateway import APP_KEY, RunningGateway, config_text, running_gateway, wait_until
from PIL import Image
from ways import MESSAGES, TRANSLATED, Way

from spendfuse.simulator.behaviour import Behaviour
from spendfuse.simulator.process import RunningSimulator, running_simulator

OUTPUT_TOKENS = 16


def _png() -> str:
    buffer = io.BytesIO()
    Image.new("RGB", (1, 1)).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _noisy_jpeg() -> str:
    noise = random.Random(7).randbytes(1024 * 1024 * 3)
    buffer = io.BytesIO()
    Image.frombytes("RGB", (1024, 1024), noise).save(buffer, "JPEG", quality=90)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def _image(url: str) -> dict[str, object]:
    return {"type": "image_url", "image_url": {"url": url}}


@dataclass(frozen=True, slots=True)
class Case:
    what: str
    parts: list[dict[str, object]]
    choices: int = 1
    times_at_most: float | None = None

    def __str__(self) -> str:
        return self.what


CASES = [
    Case("a 1x1 PNG", [_image(_png())]),
    Case("a noisy 1024x1024 JPEG", [_image(_noisy_jpeg())], times_at_most=2),
    Case("an image URL", [_image("https://images.example/cat.jpg")]),
    Case("four choices", [], choices=4),
    Case("a file id", [{"type": "file", "file": {"file_id": "file-abc"}}]),
]


@pytest.fixture(scope="module")
def simulator() -> Generator[RunningSimulator]:
    with running_simulator(Behaviour(output_tokens=OUTPUT_TOKENS)) as running:
        yield running


@pytest.fixture(scope="module")
def gateway(simulator: RunningSimulator, tmp_path_factory: pytest.TempPathFactory) -> Generator[RunningGateway]:
    with running_gateway(config_text(simulator), tmp_path_factory.mktemp("media")) as running:
        yield running


@pytest.mark.parametrize("model", ["gpt-4o", "gpt-4o-mini"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_quote_bounds_what_the_provider_bills(
    case: Case, model: str, simulator: RunningSimulator, gateway: RunningGateway
) -> None:
    body = {**_body(model, *case.parts), "n": case.choices}
    _check_bound(gateway, simulator, CHAT_PATH, body, times_at_most=case.times_at_most)


CLAUDE_SIZES = {
    "1x1": 1,
    "31x17": 1,
    "1092x1092": 2,
    "1568x1568": 2,
    "3000x200": 4,
    "1x8000": 1,
    "4000x4000": 2,
}
"""How many times its bill the quote of such an image holds at most, beside its frame: a long one is made smaller before
it is looked at, which quotes do not count on.
"""
FRAME_TOKENS = 600
CLAUDE_MODELS = {"claude-haiku": 800, "claude-sonnet": 3_000}
"""Nano-dollars a token of input."""


def _claude_image(size: str, form: str) -> tuple[str, str]:
    """MIME type and base64 of an image."""
    width, height = map(int, size.split("x"))
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), (7, 7, 7)).save(buffer, form)
    return f"image/{form.lower()}", base64.b64encode(buffer.getvalue()).decode()


def _block(mime: str, data: str, **more: object) -> dict[str, object]:
    return {"type": "image", "source": {"type": "base64", "media_type": mime, "data": data}, **more}


@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF", "WEBP"])
@pytest.mark.parametrize("size", CLAUDE_SIZES)
@pytest.mark.parametrize("way", [MESSAGES, TRANSLATED], ids=str)
def test_an_image_for_claude_is_within_its_quote(
    way: Way, size: str, form: str, simulator: RunningSimulator, gateway: RunningGateway
) -> None:
    mime, data = _claude_image(size, form)
    part = _block(mime, data) if way.is_messages else _image(f"data:{mime};base64,{data}")
    for model, input_nanos in CLAUDE_MODELS.items():
        billed, held = _check_bound(gateway, simulator, way.path, _body(model, part))
        assert held <= CLAUDE_SIZES[size] * billed + FRAME_TOKENS * input_nanos


def _pdf(pages: int) -> str:
    buffer = io.BytesIO()
    page = Image.new("RGB", (60, 80), (250, 250, 250))
    page.save(buffer, "PDF", save_all=True, append_images=[page] * (pages - 1))
    return base64.b64encode(buffer.getvalue()).decode()


def _document(pages: int, **more: object) -> dict[str, object]:
    source = {"type": "base64", "media_type": "application/pdf", "data": _pdf(pages)}
    return {"type": "document", "source": source, **more}


USED = {"type": "tool_use", "id": "toolu_1", "name": "look", "input": {}}
TOOL = {"name": "look", "input_schema": {"type": "object"}}
KEPT_AN_HOUR = {"cache_control": {"type": "ephemeral", "ttl": "1h"}}
SMALL = _claude_image("800x600", "PNG")
TEXT_SOURCE = {"type": "text", "media_type": "text/plain", "data": "Of ledgers. " * 500}
CLAUDE_CONTENTS: dict[str, list[dict[str, object]]] = {
    "a page": [_document(1)],
    "fifty pages": [_document(50, title="All of it", context="In full")],
    "two documents": [_document(2), _document(3)],
    "a document of text": [{"type": "document", "source": TEXT_SOURCE}],
    "a document of an image": [{"type": "document", "source": {"type": "content", "content": [_block(*SMALL)]}}],
    "a document's URL": [{"type": "document", "source": {"type": "url", "url": "https://files.example/a.pdf"}}],
    "an image's URL": [{"type": "image", "source": {"type": "url", "url": "https://images.example/a.png"}}],
    "twenty images": [_block(*SMALL)] * 20,
    "an image to keep": [_block(*SMALL, **KEPT_AN_HOUR)],
    "pages to keep": [_document(5, **KEPT_AN_HOUR)],
}


@pytest.mark.parametrize("model", CLAUDE_MODELS)
@pytest.mark.parametrize("what", CLAUDE_CONTENTS)
def test_what_claude_looks_at_is_within_its_quote(
    what: str, model: str, simulator: RunningSimulator, gateway: RunningGateway
) -> None:
    _check_bound(gateway, simulator, MESSAGES.path, _body(model, *CLAUDE_CONTENTS[what]))


@pytest.mark.parametrize("model", CLAUDE_MODELS)
@pytest.mark.parametrize("what", [name for name in CLAUDE_CONTENTS if name != "pages to keep"])
def test_what_a_tool_shows_to_claude_is_within_its_quote(
    what: str, model: str, simulator: RunningSimulator, gateway: RunningGateway
) -> None:
    shown = {"type": "tool_result", "tool_use_id": "toolu_1", "content": CLAUDE_CONTENTS[what]}
    body = {
        "model": model,
        "max_tokens": OUTPUT_TOKENS,
        "tools": [TOOL],
        "messages": [
            {"role": "user", "content": "Look."},
            {"role": "assistant", "content": [USED]},
            {"role": "user", "content": [shown]},
        ],
    }
    _check_bound(gateway, simulator, MESSAGES.path, body)


CHAT_PATH = "chat/completions"


def _body(model: str, *parts: dict[str, object]) -> dict[str, object]:
    content = [{"type": "text", "text": "What is this?"}, *parts]
    return {"model": model, "messages": [{"role": "user", "content": content}], "max_tokens": OUTPUT_TOKENS}


def _check_bound(
    gateway: RunningGateway,
    simulator: RunningSimulator,
    path: str,
    body: dict[str, object],
    *,
    times_at_most: float | None = None,
) -> tuple[int, int]:
    """One call: its charge is its bill, and its reservation no less. Both in nano-dollars."""
    billed_before = simulator.bill().nanos
    entries_before = gateway.totals().entries
    headers = {"authorization": f"Bearer {APP_KEY}"}
    answer = httpx2.post(f"{gateway.base_url}/{path}", json=body, headers=headers, timeout=30)
    assert answer.status_code == 200, answer.text
    billed = simulator.bill(wait_idle_s=5).nanos - billed_before
    wait_until(lambda: gateway.totals().entries == entries_before + 1, 5, "the call is settled")
    cost, held_cost = _last_entry(gateway)
    assert cost == billed
    assert billed <= held_cost
    if times_at_most is not None:
        assert held_cost < times_at_most * billed
    return billed, held_cost


def _last_entry(gateway: RunningGateway) -> tuple[int, int]:
    with closing(sqlite3.connect(f"file:{gateway.database}?mode=ro", uri=True)) as connection:
        query = "SELECT cost, held_cost FROM entry ORDER BY reservation_id DESC LIMIT 1"
        return connection.execute(query).fetchone()
