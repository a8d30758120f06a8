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
    billed_before = simulator.bill().nanos
    entries_before = gateway.totals().entries
    body = {
        "model": model,
        "messages": [{"role": "user", "content": [{"type": "text", "text": "What is this?"}, *case.parts]}],
        "max_tokens": OUTPUT_TOKENS,
        "n": case.choices,
    }
    headers = {"authorization": f"Bearer {APP_KEY}"}
    answer = httpx2.post(f"{gateway.base_url}/chat/completions", json=body, headers=headers)
    assert answer.status_code == 200, answer.text
    billed = simulator.bill(wait_idle_s=5).nanos - billed_before
    wait_until(lambda: gateway.totals().entries == entries_before + 1, 5, "the call is settled")
    cost, held_cost = _last_entry(gateway)
    assert cost == billed
    assert billed <= held_cost
    if case.times_at_most is not None:
        assert held_cost < case.times_at_most * billed


def _last_entry(gateway: RunningGateway) -> tuple[int, int]:
    with closing(sqlite3.connect(f"file:{gateway.database}?mode=ro", uri=True)) as connection:
        query = "SELECT cost, held_cost FROM entry ORDER BY reservation_id DESC LIMIT 1"
        return connection.execute(query).fetchone()
