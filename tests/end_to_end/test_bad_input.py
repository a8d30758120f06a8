"""Bad input: refused in the caller's dialect, before anything reaches the provider, at no cost."""

import json
from collections.abc import Generator
from dataclasses import dataclass, field

import httpx2
import pytest
from gateway import APP_KEY, RunningGateway, config_text, running_gateway, wait_until

from spendfuse.simulator.behaviour import Behaviour
from spendfuse.simulator.process import RunningSimulator, running_simulator

BODY_BYTES_MAX = 200_000
GOOD = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 20}


@dataclass(frozen=True, slots=True)
class Bad:
    what: str
    body: bytes
    status: int
    code: str
    headers: dict[str, str] = field(default_factory=dict[str, str])

    def __str__(self) -> str:
        return self.what


def _with(**changes: object) -> bytes:
    return json.dumps({**GOOD, **changes}).encode()


def _raw(old: str, new: str) -> bytes:
    text = json.dumps(GOOD)
    assert old in text
    return text.replace(old, new).encode()


CASES = [
    Bad("malformed JSON", b'{"model": "gpt-4o-mini",', 400, "invalid_request"),
    Bad("an empty body", b"", 400, "invalid_request"),
    Bad("not an object", b"[1]", 400, "invalid_request"),
    Bad("invalid UTF-8", _with().replace(b"Hello", b"\xff\xfe"), 400, "invalid_request"),
    Bad("a repeated key", _raw('"max_tokens": 20', '"model": "gpt-4o", "max_tokens": 20'), 400, "invalid_request"),
    Bad("a repeated key deep down", _raw('"role"', '"role": "system", "role"'), 400, "invalid_request"),
    Bad(
        "max_tokens given twice", _raw('"max_tokens": 20', '"max_tokens": 1, "max_tokens": 20'), 400, "invalid_request"
    ),
    Bad("both names of the cap", _with(max_completion_tokens=20), 400, "invalid_request"),
    Bad("a compressed body", _with(), 415, "unsupported_encoding", {"content-encoding": "gzip"}),
    Bad("a body over the limit", _with(x="y" * BODY_BYTES_MAX), 413, "request_too_large"),
    Bad("a model that is no string", _with(model=7), 400, "invalid_request"),
    Bad("no model", _raw('"model": "gpt-4o-mini", ', ""), 400, "invalid_request"),
    Bad("messages that are no list", _with(messages="Hello"), 400, "invalid_request"),
    Bad("a message that is no object", _with(messages=["Hello"]), 400, "invalid_request"),
    Bad("stream that is no boolean", _with(stream="yes"), 400, "invalid_request"),
    Bad("a negative max_tokens", _with(max_tokens=-1), 400, "invalid_request"),
    Bad("max_tokens of zero", _with(max_tokens=0), 400, "invalid_request"),
    Bad("max_tokens of NaN", _raw("20", "NaN"), 400, "invalid_request"),
    Bad("max_tokens of infinity", _raw("20", "1e999"), 400, "invalid_request"),
    Bad("a fractional max_tokens", _with(max_tokens=1.5), 400, "invalid_request"),
    Bad("max_tokens as a string", _with(max_tokens="20"), 400, "invalid_request"),
    Bad("max_tokens as a boolean", _with(max_tokens=True), 400, "invalid_request"),
    Bad("fifty choices", _with(n=50), 400, "invalid_request"),
    Bad("an unknown model", _with(model="gpt-99"), 404, "model_not_found"),
    Bad("an unpriced model", _with(model="mystery"), 400, "model_not_priced"),
    Bad("a prediction", _with(prediction={"type": "content", "content": "x"}), 400, "invalid_request"),
    Bad("an unpriced service tier", _with(service_tier="scale"), 400, "invalid_request"),
    Bad("a label with a control character", _with(metadata={"feature": "a\x01b"}), 400, "invalid_request"),
    Bad("a label that is too long", _with(), 400, "invalid_request", {"x-spendfuse-user": "u" * 129}),
    Bad("an empty label", _with(user=" "), 400, "invalid_request"),
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


def _post(gateway: RunningGateway, body: bytes, headers: dict[str, str] | None = None) -> httpx2.Response:
    sent = {"authorization": f"Bearer {APP_KEY}", "content-type": "application/json", **(headers or {})}
    return httpx2.post(f"{gateway.base_url}/chat/completions", content=body, headers=sent)


@pytest.mark.parametrize("bad", CASES, ids=str)
def test_bad_input_is_refused_and_costs_nothing(bad: Bad, simulator: RunningSimulator, gateway: RunningGateway) -> None:
    calls_before = sum(simulator.bill().calls.values())
    entries_before = gateway.totals()
    answer = _post(gateway, bad.body, bad.headers)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (bad.status, bad.code), error["message"]
    assert error["message"]
    assert answer.headers["x-should-retry"] == "false"
    assert sum(simulator.bill().calls.values()) == calls_before
    assert gateway.totals() == entries_before


def test_a_huge_cap_is_lowered_to_the_models_own_and_said_so(gateway: RunningGateway) -> None:
    answer = _post(gateway, _with(max_tokens=10**15))
    assert answer.status_code == 200
    assert answer.headers["x-spendfuse-max-tokens"] == "16384"


@pytest.mark.parametrize(
    "headers",
    [{"authorization": ""}, {"authorization": "Bearer wrong"}, {"authorization": "Basic YTpi"}],
    ids=["a missing key", "a wrong key", "another scheme"],
)
def test_a_bad_key_is_refused(headers: dict[str, str], gateway: RunningGateway) -> None:
    answer = _post(gateway, _with(), headers)
    assert answer.status_code == 401
    assert answer.json()["error"]["code"] == "invalid_api_key"


def test_the_key_may_come_as_x_api_key(gateway: RunningGateway) -> None:
    url = f"{gateway.base_url}/chat/completions"
    assert httpx2.post(url, json=GOOD, headers={"x-api-key": APP_KEY}).status_code == 200


def test_a_key_works_within_a_second_of_its_creation_and_is_dead_within_a_second_of_its_revocation(
    gateway: RunningGateway,
) -> None:
    key = gateway.run("keys", "create", "temporary", "--label", "organization=acme").stdout.strip()

    def status() -> int:
        return _post(gateway, _with(), {"authorization": f"Bearer {key}"}).status_code

    wait_until(lambda: status() == 200, 1.0, "the new key works")
    gateway.run("keys", "revoke", "temporary")
    wait_until(lambda: status() == 401, 1.0, "the revoked key is refused")
    assert key not in gateway.config.with_name("gateway.log").read_text()
    assert key.encode() not in gateway.database.read_bytes()


def test_a_claimed_label_never_beats_the_keys_own(gateway: RunningGateway) -> None:
    key = gateway.run("keys", "create", "acme-app", "--label", "organization=acme").stdout.strip()

    def spoof() -> bool:
        body = _with(metadata={"organization_id": "victim", "key": "victim"})
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
    assert httpx2.post(f"{gateway.base_url}/audio/speech", json=GOOD, headers=headers).status_code == 404
    assert httpx2.get(f"{gateway.base_url}/chat/completions", headers=headers).status_code == 405
    assert httpx2.get(f"{root}/metrics-of-nobody").status_code == 404
    assert httpx2.get(f"{root}/health/live").json() == {"status": "live"}
    assert httpx2.get(f"{root}/health/ready").json() == {"status": "ready"}
