"""What a real server answers reaches the client byte by byte, and its chat template fits into the quote."""

from typing import Any

import httpx2
import pytest
from gateway import APP_KEY, RunningGateway
from real_clients import CLIENTS
from real_ledger import entry_of
from recorder import Recorder

HEADERS = {"authorization": f"Bearer {APP_KEY}", "anthropic-version": "2023-06-01"}
CAP = 12


def _post(gateway: RunningGateway, dialect: str, messages: list[dict[str, str]], **more: object) -> httpx2.Response:
    one = CLIENTS[dialect]
    body = {"model": one.model, "messages": messages, "max_tokens": CAP, **more}
    url = gateway.base_url.removesuffix("/v1") + one.path
    return httpx2.post(url, json=body, headers=HEADERS, timeout=60).raise_for_status()


def _asking(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


@pytest.mark.parametrize("dialect", sorted(CLIENTS))
def test_a_whole_answer_is_the_servers_byte_by_byte(dialect: str, gateway: RunningGateway, recorder: Recorder) -> None:
    answer = _post(gateway, dialect, _asking("Tell me about Bern."))
    assert answer.content == bytes(recorder.exchange_of(answer.json()["id"]).answer)


@pytest.mark.parametrize(
    ("dialect", "more"),
    [
        ("chat", {"stream_options": {"include_usage": True}}),
        ("messages", {}),
    ],
    ids=["chat", "messages"],
)
def test_a_stream_is_the_servers_byte_by_byte(
    dialect: str, more: dict[str, Any], gateway: RunningGateway, recorder: Recorder
) -> None:
    answer = _post(gateway, dialect, _asking("Tell me about Bern."), stream=True, **more)
    exchange = recorder.last()
    assert exchange.is_complete
    assert answer.content == bytes(exchange.answer)
    assert exchange.reported().output == CAP


@pytest.mark.parametrize("more", [{}, {"stream_options": {"include_usage": False}}], ids=["unsaid", "declined"])
def test_a_stream_without_usage_lacks_only_the_chunk_that_the_gateway_asked_for(
    more: dict[str, Any], gateway: RunningGateway, recorder: Recorder
) -> None:
    answer = _post(gateway, "chat", _asking("Tell me about Bern."), stream=True, **more)
    events = bytes(recorder.last().answer).split(b"\n\n")
    (usage_chunk,) = [event for event in events if b'"usage":' in event]
    assert answer.content == b"\n\n".join(event for event in events if event is not usage_chunk)
    entry = entry_of(gateway, answer.headers["x-spendfuse-call-id"])
    assert entry.tokens == recorder.last().reported()
    assert not entry.is_estimated


@pytest.mark.parametrize("dialect", sorted(CLIENTS))
@pytest.mark.parametrize("turns", [0, 20])
def test_what_the_template_adds_to_one_letter_messages_stays_within_the_quote(
    turns: int, dialect: str, gateway: RunningGateway, recorder: Recorder
) -> None:
    """This model's template takes sixteen tokens for each of them."""
    roles = ["user", "assistant"] * (turns // 2) + ["user"]
    answer = _post(gateway, dialect, [{"role": role, "content": "a"} for role in roles])
    reported = recorder.exchange_of(answer.json()["id"]).reported()
    entry = entry_of(gateway, answer.headers["x-spendfuse-call-id"])
    assert entry.tokens == reported
    assert 10 * len(roles) < reported.input <= entry.held_input
