"""Bad input: refused in the caller's dialect, before anything reaches the provider, at no cost."""

import json
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any

import httpx2
import pytest
from gateway import APP_KEY, RunningGateway, config_text, running_gateway, wait_until
from ways import CHAT, MESSAGES, TRANSLATED, WAYS, Way

from spendfuse.simulator.behaviour import Behaviour
from spendfuse.simulator.process import RunningSimulator, running_simulator

BODY_BYTES_MAX = 200_000
COUNT = Way("count", "messages/count_tokens", "claude-haiku", 0, 0)
PDF = {"type": "base64", "media_type": "application/pdf"}
MESSAGES_HEADERS = {"x-api-key": APP_KEY, "anthropic-version": "2023-06-01"}


@dataclass(frozen=True, slots=True)
class Bad:
    what: str
    body: bytes
    status: int = 400
    code: str = "invalid_request"
    headers: dict[str, str] = field(default_factory=dict[str, str])

    def __str__(self) -> str:
        return self.what


Change = Callable[..., bytes]


def _good(way: Way) -> dict[str, Any]:
    body = way.body("Hello", max_tokens=20)
    del body["stream"]
    if way is COUNT:
        del body["max_tokens"]
    return body


def _changed(way: Way) -> tuple[Change, Change]:
    """What changes fields of a good body, and what changes its text."""

    def with_fields(**changes: object) -> bytes:
        return json.dumps({**_good(way), **changes}).encode()

    def with_text(old: str, new: str) -> bytes:
        text = json.dumps(_good(way))
        assert old in text
        return text.replace(old, new).encode()

    return with_fields, with_text


def _of_every_path(way: Way) -> list[Bad]:
    fields, text = _changed(way)
    model = f'"model": "{way.model}"'
    return [
        Bad("malformed JSON", b'{"model": "gpt-4o-mini",'),
        Bad("an empty body", b""),
        Bad("not an object", b"[1]"),
        Bad("invalid UTF-8", fields().replace(b"Hello", b"\xff\xfe")),
        Bad("a lone surrogate", fields().replace(b"Hello", b"\\ud800")),
        Bad("a repeated key", text(model, f'{model}, "model": "gpt-4o"')),
        Bad("a repeated key in other letters", text(model, f'{model}, "mod\\u0065l": "gpt-4o"')),
        Bad("a repeated key deep down", text('"role"', '"role": "system", "role"')),
        Bad("a compressed body", fields(), 415, "unsupported_encoding", {"content-encoding": "gzip"}),
        Bad("a body over the limit", fields(x="y" * BODY_BYTES_MAX), 413, "request_too_large"),
        Bad("a model that is no string", fields(model=7)),
        Bad("no model", text(f"{model}, ", "")),
        Bad("an unknown model", fields(model="gpt-99"), 404, "model_not_found"),
        Bad("an unpriced model", fields(model="mystery"), 400, "model_not_priced"),
        Bad("no messages", fields(messages=[])),
        Bad("messages that are no list", fields(messages="Hello")),
        Bad("a message that is no object", fields(messages=["Hello"])),
        Bad("content of a wrong type", fields(messages=[{"role": "user", "content": 7}])),
        Bad("content that is an object", fields(messages=[{"role": "user", "content": {"type": "text", "text": "x"}}])),
        Bad("a part that is no object", fields(messages=[{"role": "user", "content": ["Hello"]}])),
        Bad("a number beyond any integer", text('"Hello"', "1" + "0" * 30)),
        Bad("an infinity", text('"Hello"', "1e999")),
        Bad("metadata that is no object", fields(metadata="u")),
        Bad("a label with a control character", fields(metadata={"feature": "a\x01b"})),
        Bad("a label that is no string", fields(metadata={"feature": 7})),
        Bad("an empty label", fields(metadata={"user_id": " "})),
        Bad("a label that is too long", fields(), headers={"x-spendfuse-user": "u" * 129}),
        Bad("tags that are none", fields(), headers={"x-spendfuse-tags": "team"}),
        Bad("a container", fields(container={"id": "c"})),
        Bad("servers of tools", fields(mcp_servers=[{"type": "url", "url": "https://x", "name": "x"}])),
    ]


def _of_caps(way: Way) -> list[Bad]:
    fields, text = _changed(way)
    cap = '"max_tokens": 20'
    return [
        Bad("max_tokens given twice", text(cap, f'"max_tokens": 1, {cap}')),
        Bad("a negative max_tokens", fields(max_tokens=-1)),
        Bad("max_tokens of zero", fields(max_tokens=0)),
        Bad("max_tokens of NaN", text(cap, '"max_tokens": NaN')),
        Bad("max_tokens of infinity", text(cap, '"max_tokens": 1e999')),
        Bad("a fractional max_tokens", fields(max_tokens=1.5)),
        Bad("a whole max_tokens in a float's form", text(cap, '"max_tokens": 20.0')),
        Bad("max_tokens as a string", fields(max_tokens="20")),
        Bad("max_tokens as a boolean", fields(max_tokens=True)),
        Bad("stream that is no boolean", fields(stream="yes")),
    ]


def _of_chat() -> list[Bad]:
    fields, _ = _changed(CHAT)
    return [
        Bad("both names of the cap", fields(max_completion_tokens=20)),
        Bad("fifty choices", fields(n=50)),
        Bad("a prediction", fields(prediction={"type": "content", "content": "x"})),
        Bad("an unpriced service tier", fields(service_tier="scale")),
        Bad("an empty user", fields(user=" ")),
        Bad("a search tool", fields(tools=[{"type": "web_search_preview"}])),
    ]


def _of_translation() -> list[Bad]:
    fields, _ = _changed(TRANSLATED)
    image = [{"type": "image_url", "image_url": {"url": "ftp://images.example/a.png"}}]
    return [
        Bad("both names of the cap", fields(max_completion_tokens=20)),
        Bad("two choices", fields(n=2)),
        Bad("a tool", fields(tools=[{"type": "function", "function": {"name": "f"}}])),
        Bad("a field that nobody knows", fields(brand_new={"x": 1})),
        Bad("thinking", fields(thinking={"type": "enabled", "budget_tokens": 2_000})),
        Bad("a temperature of another scale", fields(temperature=2)),
        Bad("a stop that is no text", fields(stop=[7])),
        Bad("an image at a strange place", fields(messages=[{"role": "user", "content": image}])),
        Bad("a role that nobody knows", fields(messages=[{"role": "critic", "content": "x"}])),
        Bad("a priority", fields(service_tier="priority")),
    ]


def _of_messages(way: Way) -> list[Bad]:
    fields, _ = _changed(way)

    def tool(kind: str, **more: object) -> bytes:
        return fields(tools=[{"type": kind, "name": "x", **more}])

    def said(*blocks: object) -> bytes:
        return fields(messages=[{"role": "user", "content": list(blocks)}])

    beta = {"anthropic-beta": "context-1m-2025-08-07"}
    return [
        Bad("a model of a provider that speaks OpenAI", fields(model="gpt-4o-mini")),
        Bad("a model for embeddings", fields(model="embed")),
        Bad("a search by the provider", tool("web_search_20250305", max_uses=1)),
        Bad("code run by the provider", tool("code_execution_20250825")),
        Bad("a fetch by the provider", tool("web_fetch_20250910")),
        Bad("a tool of a kind that nobody knows", tool("brand_new_20990101")),
        Bad("a tool that the provider may call", tool("custom", allowed_callers=["code_execution_20250825"])),
        Bad("tools that are no list", fields(tools={"name": "x"})),
        Bad("a document without data", said({"type": "document", "source": PDF})),
        Bad("an image without a source", said({"type": "image"})),
        Bad("system of a wrong type", fields(system=7)),
        Bad("thinking of a wrong type", fields(thinking="hard")),
        Bad("a fractional budget", fields(thinking={"type": "enabled", "budget_tokens": 1024.5})),
        Bad("a fast mode", fields(speed="fast")),
        Bad("a dearer place", fields(inference_geo="us")),
        Bad("a dearer tier", fields(service_tier="priority")),
        Bad("an edit that writes", fields(context_management={"edits": [{"type": "compact_20260112"}]})),
        Bad("a beta with another price", fields(), headers=beta),
        Bad("a beta that nobody knows", fields(), headers={"anthropic-beta": "brand-new-2099-01-01"}),
    ]


CASES = [
    *((way, bad) for way in (*WAYS, COUNT) for bad in _of_every_path(way)),
    *((way, bad) for way in WAYS for bad in _of_caps(way)),
    *((CHAT, bad) for bad in _of_chat()),
    *((TRANSLATED, bad) for bad in _of_translation()),
    *((way, bad) for way in (MESSAGES, COUNT) for bad in _of_messages(way)),
    (MESSAGES, Bad("no max_tokens", _changed(COUNT)[0]())),
    (MESSAGES, Bad("max_tokens of null", _changed(MESSAGES)[0](max_tokens=None))),
    (COUNT, Bad("a streamed count", _changed(COUNT)[0](stream=True))),
]


@pytest.fixture(scope="module")
def simulator() -> Generator[RunningSimulator]:
    with running_simulator(Behaviour(output_tokens=10)) as running:
        yield running


@pytest.fixture(scope="module")
def gateway(simulator: RunningSimulator, tmp_path_factory: pytest.TempPathFactory) -> Generator[RunningGateway]:
    config = config_text(
        simulator,
        limits="limits: {by-organization: {usd: 1, per: month, each: organization}}",
        more=f"body_bytes_max: {BODY_BYTES_MAX}",
    ).replace("  embed:", "  mystery: openai/gpt-mystery\n  embed:")
    with running_gateway(config, tmp_path_factory.mktemp("bad")) as running:
        yield running


def _post(
    gateway: RunningGateway, body: bytes, headers: dict[str, str] | None = None, *, way: Way = CHAT
) -> httpx2.Response:
    sent = {**way.headers, "content-type": "application/json", **(headers or {})}
    return httpx2.post(f"{gateway.base_url}/{way.path}", content=body, headers=sent)


ANTHROPIC_TYPES = {401: "authentication_error", 404: "not_found_error", 413: "request_too_large"}
OPENAI_TYPES = {401: "authentication_error"}


def _assert_refused(answer: httpx2.Response, way: Way, *, status: int, code: str) -> None:
    """A refusal in the words of the path, which no SDK repeats."""
    body = answer.json()
    error = body["error"]
    assert (answer.status_code, error["code"]) == (status, code), error["message"]
    assert error["message"]
    assert answer.headers["x-should-retry"] == "false"
    assert answer.headers["content-type"] == "application/json"
    if way.path.startswith("messages"):
        assert set(body) == {"type", "error"}
        assert (body["type"], error["type"]) == ("error", ANTHROPIC_TYPES.get(status, "invalid_request_error"))
        assert error["details"] == {"error_code": code}
    else:
        assert set(body) == {"error"}
        assert error["type"] == OPENAI_TYPES.get(status, "invalid_request_error")
        assert "param" in error


@pytest.mark.parametrize(("way", "bad"), CASES, ids=str)
def test_bad_input_is_refused_and_costs_nothing(
    way: Way, bad: Bad, simulator: RunningSimulator, gateway: RunningGateway
) -> None:
    simulator.reset()
    totals_before = gateway.totals()
    answer = _post(gateway, bad.body, bad.headers, way=way)
    _assert_refused(answer, way, status=bad.status, code=bad.code)
    assert simulator.last_request() is None
    assert gateway.totals() == totals_before


@pytest.mark.parametrize("way", (*WAYS, COUNT), ids=str)
def test_what_the_bad_bodies_are_made_of_is_good(way: Way, gateway: RunningGateway) -> None:
    answer = _post(gateway, json.dumps(_good(way)).encode(), way=way)
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize(("way", "model_max"), [(CHAT, 16_384), (MESSAGES, 8_192), (TRANSLATED, 8_192)], ids=str)
def test_a_huge_cap_is_lowered_to_the_models_own_and_said_so(way: Way, model_max: int, gateway: RunningGateway) -> None:
    answer = _post(gateway, _changed(way)[0](max_tokens=10**15), way=way)
    assert answer.status_code == 200
    assert answer.headers["x-spendfuse-max-tokens"] == str(model_max)


BAD_KEYS = {
    "no key": {},
    "an empty key": {"authorization": "", "x-api-key": ""},
    "a wrong key": {"authorization": "Bearer wrong"},
    "a wrong key of the other kind": {"x-api-key": "wrong"},
    "another scheme": {"authorization": "Basic YTpi"},
}


@pytest.mark.parametrize("way", (*WAYS, COUNT), ids=str)
@pytest.mark.parametrize("what", BAD_KEYS)
def test_a_bad_key_is_refused(what: str, way: Way, simulator: RunningSimulator, gateway: RunningGateway) -> None:
    simulator.reset()
    url = f"{gateway.base_url}/{way.path}"
    _assert_refused(httpx2.post(url, json=_good(way), headers=BAD_KEYS[what]), way, status=401, code="invalid_api_key")
    assert simulator.last_request() is None


@pytest.mark.parametrize("way", (*WAYS, COUNT), ids=str)
@pytest.mark.parametrize("headers", [{"x-api-key": APP_KEY}, {"authorization": f"Bearer {APP_KEY}"}], ids=list)
def test_the_key_may_come_as_either_vendors(headers: dict[str, str], way: Way, gateway: RunningGateway) -> None:
    answer = httpx2.post(f"{gateway.base_url}/{way.path}", json=_good(way), headers=headers)
    assert answer.status_code == 200, answer.text


def test_a_key_works_within_a_second_of_its_creation_and_is_dead_within_a_second_of_its_revocation(
    gateway: RunningGateway,
) -> None:
    key = gateway.run("keys", "create", "temporary", "--label", "organization=acme").stdout.strip()

    def status() -> int:
        return _post(gateway, _changed(CHAT)[0](), {"authorization": f"Bearer {key}"}).status_code

    wait_until(lambda: status() == 200, 1.0, "the new key works")
    gateway.run("keys", "revoke", "temporary")
    wait_until(lambda: status() == 401, 1.0, "the revoked key is refused")
    assert key not in gateway.config.with_name("gateway.log").read_text()
    assert key.encode() not in gateway.database.read_bytes()


@pytest.mark.parametrize("unknown_at", [0, 1])
@pytest.mark.parametrize("way", (MESSAGES, COUNT), ids=str)
def test_a_beta_in_any_of_several_lines_is_looked_at(
    unknown_at: int, way: Way, simulator: RunningSimulator, gateway: RunningGateway
) -> None:
    betas = [("anthropic-beta", "files-api-2025-04-14")]
    betas.insert(unknown_at, ("anthropic-beta", "brand-new-2099-01-01"))
    simulator.reset()
    url = f"{gateway.base_url}/{way.path}"
    answer = httpx2.post(url, json=_good(way), headers=[*MESSAGES_HEADERS.items(), *betas])
    _assert_refused(answer, way, status=400, code="invalid_request")
    assert "brand-new-2099-01-01" in answer.json()["error"]["message"]
    assert simulator.last_request() is None


TWICE = {
    "authorization": (f"Bearer {APP_KEY}", "Bearer wrong", 400),
    "x-api-key": (APP_KEY, "wrong", 400),
    "content-encoding": ("identity", "gzip", 415),
}


@pytest.mark.parametrize("name", TWICE)
def test_a_header_that_says_two_things_is_refused(name: str, gateway: RunningGateway) -> None:
    *values, status = TWICE[name]
    rest = [one for one in MESSAGES_HEADERS.items() if one[0] != name]
    for first, second in (values, values[::-1]):
        headers = [*rest, (name, str(first)), (name, str(second))]
        answer = httpx2.post(f"{gateway.base_url}/messages", json=_good(MESSAGES), headers=headers)
        assert answer.status_code == status, answer.text


def test_a_claimed_label_never_beats_the_keys_own(gateway: RunningGateway) -> None:
    key = gateway.run("keys", "create", "acme-app", "--label", "organization=acme").stdout.strip()

    def spoof() -> bool:
        body = _changed(CHAT)[0](metadata={"organization_id": "victim", "key": "victim"})
        headers = {"authorization": f"Bearer {key}", "x-spendfuse-organization": "victim"}
        return _post(gateway, body, headers).status_code == 200

    wait_until(spoof, 1.0, "the key works")
    wait_until(lambda: gateway.totals().open_reservations == 0, 5, "the call is settled")
    spent = json.loads(gateway.run("report", "--by", "organization", "--format", "json").stdout)
    assert "victim" not in json.dumps(spent)
    assert "acme" in json.dumps(spent)


def test_other_paths_and_methods_are_refused(gateway: RunningGateway) -> None:
    headers = {"authorization": f"Bearer {APP_KEY}"}
    root = gateway.base_url.removesuffix("/v1")
    unknown = f"{gateway.base_url}/audio/speech"
    _assert_refused(httpx2.post(unknown, json={}, headers=headers), CHAT, status=404, code="not_found")
    batches = f"{gateway.base_url}/messages/batches"
    _assert_refused(httpx2.post(batches, json={}, headers=MESSAGES_HEADERS), MESSAGES, status=404, code="not_found")
    for way in (*WAYS, COUNT):
        answer = httpx2.get(f"{gateway.base_url}/{way.path}", headers=way.headers)
        _assert_refused(answer, way, status=405, code="method_not_allowed")
    assert httpx2.get(f"{root}/metrics-of-nobody").status_code == 404
    assert httpx2.get(f"{root}/health/live").json() == {"status": "live"}
    assert httpx2.get(f"{root}/health/ready").json() == {"status": "ready"}
