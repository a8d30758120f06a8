"""Alerts end to end: real gateways, real receivers on loopback; every alert arrives, once."""

import asyncio
import hashlib
import hmac
import json
import sqlite3
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack, closing
from email.header import decode_header, make_header
from pathlib import Path
from typing import Any

import aiohttp
from gateway import RunningGateway, config_text, run_command, running_gateway, wait_until
from receivers import (
    PAGERDUTY_URL,
    SECRETS,
    SLACK_URL,
    HttpReceiver,
    Received,
    free_port,
    http_receiver,
    site,
    smtp_receiver,
)
from ways import CHAT

from spendfuse.core.money import format_usd
from spendfuse.simulator.behaviour import Behaviour
from spendfuse.simulator.process import running_simulator

OUTPUT_TOKENS = 300
CALL_NANOS = OUTPUT_TOKENS * CHAT.output_nanos
TAKES_OVER_S = 90.0
"""Within this time a dead process's lease, its claims and the longest backoff of these tests are over."""
HOOK = "{{webhook: '{url}/webhook-path', secret: webhook-signs}}"
"""A channel, but for where its receiver is."""


def _limits(calls: int, per: str = "lifetime") -> str:
    """A limit of so many calls; without an end nothing is forecast for it."""
    fields = json.dumps({"usd": format_usd(calls * CALL_NANOS), "per": per})
    return f"limits: {{company: {fields}}}"


def _alerts(channels: dict[str, str], more: str = "") -> str:
    lines = "\n".join(f"    {name}: {url}" for name, url in channels.items())
    return f"alerts:\n  channels:\n{lines}\n{more}"


async def _call(base_url: str, count: int, **headers: str) -> Counter[int]:
    """Calls at once; how many got each status."""
    async with aiohttp.ClientSession(headers={**CHAT.headers, **headers}) as session:

        async def one() -> int:
            body = CHAT.body("Count.", max_tokens=OUTPUT_TOKENS)
            async with session.post(f"{base_url}/{CHAT.path}", json=body) as response:
                await response.read()
                return response.status

        return Counter(await asyncio.gather(*[one() for _ in range(count)]))


def _spend(gateway: RunningGateway, count: int, **headers: str) -> Counter[int]:
    return asyncio.run(_call(gateway.base_url, count, **headers))


def _spend_it_all(gateways: Sequence[RunningGateway]) -> None:
    """Waves of calls to all gateways until every one refuses as spent."""

    async def run() -> None:
        for _ in range(200):
            waves = await asyncio.gather(*[_call(one.base_url, 8) for one in gateways])
            if all(set(wave) == {402} for wave in waves):
                return
        raise AssertionError("never spent")

    asyncio.run(run())


def _fates(database: Path) -> Counter[str]:
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=10)) as connection:
        return Counter(fate for (fate,) in connection.execute("SELECT fate FROM delivery"))


def _written(database: Path) -> int:
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=10)) as connection:
        (count,) = connection.execute("SELECT count(*) FROM alert").fetchone()
        return count


def _wait_until_told(database: Path, deliveries: int) -> None:
    wait_until(
        lambda: _fates(database) == {"sent": deliveries}, timeout_s=TAKES_OVER_S, what=f"{deliveries} deliveries sent"
    )


def _check_signature(received: Received) -> None:
    signed = f"{received.headers['x-spendfuse-timestamp']}.".encode() + received.body
    expected = hmac.new(b"webhook-signs", signed, hashlib.sha256).hexdigest()
    assert received.headers["x-spendfuse-signature"] == f"v1={expected}"
    assert received.headers["x-spendfuse-alert-id"] == received.json["alert_id"]


def _shares(taken: Sequence[Received]) -> list[int]:
    return sorted(one.json["share"] for one in taken)


def test_four_processes_cross_every_threshold_with_the_receivers_down_and_each_alert_arrives_once(
    tmp_path: Path,
) -> None:
    """Invariant 16."""
    with ExitStack() as stack:
        simulator = stack.enter_context(running_simulator())
        simulator.set_behaviour(Behaviour(output_tokens=OUTPUT_TOKENS))
        receiver = stack.enter_context(http_receiver())
        receiver.is_up = False
        channels = {"hook": HOOK.format(url=receiver.url), "slack": SLACK_URL, "oncall": PAGERDUTY_URL}
        config = config_text(simulator, limits=_limits(60), more=_alerts(channels))
        config = config.replace("sqlite:///spendfuse.db", f"sqlite:///{tmp_path}/spendfuse.db")
        environ = site(tmp_path / "site", receiver.url)
        gateways = [
            stack.enter_context(running_gateway(config, tmp_path / str(number), workers=2, environ=environ))
            for number in range(2)
        ]
        database = tmp_path / "spendfuse.db"
        _spend_it_all(gateways)
        wait_until(lambda: receiver.refused > 3, timeout_s=30, what="tries that fail")
        wait_until(lambda: _written(database) == 3, timeout_s=10, what="50, 80 and 100 % are written")
        assert receiver.taken == []
        receiver.is_up = True
        _wait_until_told(database, 9)
        assert _shares(receiver.at("/webhook-path")) == [50, 80, 100]
        assert len(receiver.at("/slack")) == len(receiver.at("/pagerduty")) == 3
        dedup_keys = [one.json["dedup_key"] for one in receiver.at("/pagerduty")]
        assert sorted(dedup_keys) == sorted(one.json["alert_id"] for one in receiver.at("/webhook-path"))
        for received in receiver.at("/webhook-path"):
            _check_signature(received)


def test_killing_everything_between_write_and_send_loses_no_alert(tmp_path: Path) -> None:
    port = free_port()
    with running_simulator() as simulator:
        simulator.set_behaviour(Behaviour(output_tokens=OUTPUT_TOKENS))
        channels = {"hook": HOOK.format(url=f"http://127.0.0.1:{port}")}
        config = config_text(simulator, limits=_limits(10), more=_alerts(channels))
        with running_gateway(config, tmp_path) as gateway:
            _spend(gateway, 9)
            database = gateway.database
            wait_until(lambda: _written(database) == 2, timeout_s=10, what="50 and 80 % are written")
            gateway.kill()
        with http_receiver(port) as receiver, running_gateway(config, tmp_path):
            _wait_until_told(database, 2)
            assert _shares(receiver.taken) == [50, 80]


def test_calls_are_served_and_other_channels_told_while_a_receiver_hangs(tmp_path: Path) -> None:
    with running_simulator() as simulator, http_receiver() as receiver:
        simulator.set_behaviour(Behaviour(output_tokens=OUTPUT_TOKENS))
        receiver.hangs = ("/webhook-path", "/slack")
        other = f"{{webhook: '{receiver.url}/other', secret: webhook-signs}}"
        channels = {"hook": HOOK.format(url=receiver.url), "slack": SLACK_URL, "other": other}
        config = config_text(simulator, limits=_limits(100), more=_alerts(channels))
        with running_gateway(config, tmp_path, environ=site(tmp_path / "site", receiver.url)) as gateway:
            assert _spend(gateway, 55) == {200: 55}
            wait_until(lambda: receiver.hanging == 2, timeout_s=10, what="both messages hang")
            assert _spend(gateway, 20) == {200: 20}
            assert receiver.hanging == 2, "no further message of a channel is under way"
            wait_until(lambda: len(receiver.at("/other")) == 1, timeout_s=10, what="the other channel is told")
            receiver.hangs = ()
            receiver.release.set()
            _wait_until_told(gateway.database, 3)


def test_messages_have_the_facts_in_every_channels_own_words_and_are_resolved(tmp_path: Path) -> None:
    with running_simulator() as simulator, http_receiver() as receiver, smtp_receiver() as mail:
        simulator.set_behaviour(Behaviour(output_tokens=OUTPUT_TOKENS))
        channels = {
            "hook": HOOK.format(url=receiver.url),
            "slack": SLACK_URL,
            "oncall": PAGERDUTY_URL,
            "mail": f"mailto://127.0.0.1:{mail.port}?from=spendfuse@example.com&to=ops@example.com&mode=insecure",
        }
        routes = f"  routes: [{{on: threshold, to: [{', '.join(channels)}]}}]\n"
        more = _alerts(channels, f"{routes}  dashboard_url: https://spend.example.com/admin")
        config = config_text(simulator, limits=_limits(10, per="month"), more=more)
        with running_gateway(config, tmp_path, environ=site(tmp_path / "site", receiver.url)) as gateway:
            _spend(gateway, 4, **{"x-spendfuse-feature": "search", "x-spendfuse-user": "ada"})
            _spend(gateway, 2, **{"x-spendfuse-feature": "chat"})
            _wait_until_told(gateway.database, 4)
            _check_messages(receiver, mail.taken)
            gateway.run("limits", "set", "company", "1000")
            wait_until(lambda: len(receiver.at("/pagerduty")) == 2, timeout_s=30, what="the incident is resolved")
            raised, resolved = (one.json for one in receiver.at("/pagerduty"))
            assert (resolved["event_action"], resolved["dedup_key"]) == ("resolve", raised["dedup_key"])
            wait_until(lambda: len(receiver.at("/webhook-path")) == 2, timeout_s=30, what="the webhook hears of it")
            over = receiver.at("/webhook-path")[1]
            _check_signature(over)
            assert (over.json["event"], over.json["resolution"]) == ("resolved", "raised")
            listed = json.loads(gateway.run("alerts", "list", "--format", "json").stdout)
            assert [one["resolution"] for one in listed if one["kind"] == "threshold"] == ["raised"]
            _check_secrets(tmp_path, gateway.run("alerts", "list").stdout + json.dumps(listed))


def _check_messages(receiver: HttpReceiver, mails: Sequence[Any]) -> None:
    (hook,) = receiver.at("/webhook-path")
    _check_signature(hook)
    told = hook.json
    assert (told["event"], told["kind"], told["limit"], told["share"]) == ("raised", "threshold", "company", 50)
    assert told["amount"] == format_usd(10 * CALL_NANOS)
    assert [one["name"] for one in told["top_features"]] == ["search", "chat"]
    assert [one["name"] for one in told["top_users"]] == ["ada", ""]
    (incident,) = (one.json for one in receiver.at("/pagerduty"))
    assert (incident["event_action"], incident["payload"]["severity"]) == ("trigger", "warning")
    (slack,) = (one.json for one in receiver.at("/slack"))
    for text in (json.dumps(slack), incident["payload"]["summary"], told["title"] + told["text"]):
        for fact in ("company", "50 %", "search", "resets on", "limits set company", "https://spend.example.com/admin"):
            assert fact in text, (fact, text)
    (letter,) = mails
    assert "company: 50 %" in str(make_header(decode_header(letter["Subject"])))
    assert letter["To"] and "ops@example.com" in letter["To"]


def _check_secrets(folder: Path, said: str) -> None:
    said += (folder / "gateway.log").read_text()
    assert [secret for secret in SECRETS if secret in said] == []


def test_a_channel_that_fails_is_named_by_health_and_by_the_list_and_blocks_nothing(tmp_path: Path) -> None:
    with running_simulator() as simulator, http_receiver() as receiver:
        simulator.set_behaviour(Behaviour(output_tokens=OUTPUT_TOKENS))
        receiver.is_up = False
        channels = {"slack": SLACK_URL, "hook": HOOK.format(url=receiver.url)}
        config = config_text(simulator, limits=_limits(10), more=_alerts(channels))
        with running_gateway(config, tmp_path, environ=site(tmp_path / "site", receiver.url)) as gateway:
            _spend(gateway, 6)
            url = f"http://127.0.0.1:{gateway.port}/health/ready"
            wait_until(lambda: _failing(url) == {"slack", "hook"}, timeout_s=20, what="both channels are named")
            listed = gateway.run("alerts", "list").stdout
            assert "hook: waits" in listed and "HTTP 503" in listed
            assert _spend(gateway, 1) == {200: 1}
            receiver.is_up = True
            wait_until(lambda: _failing(url) == set(), timeout_s=TAKES_OVER_S, what="health is clean again")
            _check_secrets(tmp_path, listed)


def _failing(url: str) -> set[str]:
    async def ask() -> dict[str, Any]:
        async with aiohttp.ClientSession() as session, session.get(url) as response:
            assert response.status == 200
            return await response.json()

    return set(asyncio.run(ask()).get("failing_channels", {}))


def test_a_model_without_a_price_is_told_once(tmp_path: Path) -> None:
    with running_simulator() as simulator, http_receiver() as receiver:
        config = config_text(simulator, more=_alerts({"hook": HOOK.format(url=receiver.url)}))
        config = config.replace("  o4-mini: openai/o4-mini", "  gpt-9: openai/gpt-9")
        with running_gateway(config, tmp_path, workers=2) as gateway:
            asyncio.run(_ask_for(gateway, "gpt-9", 10))
            _wait_until_told(gateway.database, 1)
            (told,) = receiver.taken
            assert (told.json["kind"], told.json["model"]) == ("unpriced", "gpt-9")


async def _ask_for(gateway: RunningGateway, model: str, count: int) -> None:
    async with aiohttp.ClientSession(headers=CHAT.headers) as session:
        for _ in range(count):
            body = {**CHAT.body("Count.", max_tokens=5), "model": model}
            async with session.post(f"{gateway.base_url}/{CHAT.path}", json=body) as response:
                assert response.status == 400


def test_the_test_of_a_channel_says_what_became_of_it(tmp_path: Path) -> None:
    with running_simulator() as simulator, http_receiver() as receiver:
        channels = {"hook": HOOK.format(url=receiver.url), "json": f"json://127.0.0.1:{receiver.port}/webhook-path"}
        path = tmp_path / "spendfuse.yaml"
        path.write_text(config_text(simulator, more=_alerts(channels)))
        for name in channels:
            done = run_command("alerts", "test", name, config=path)
            assert done.stdout == f'the message to "{name}" was taken\n'
        assert [one.path for one in receiver.taken] == ["/webhook-path", "/webhook-path"]
        receiver.is_up = False
        for name in channels:
            done = run_command("alerts", "test", name, config=path, check=False)
            assert done.returncode == 1 and "did not get through" in done.stderr
            assert [secret for secret in SECRETS if secret in done.stderr] == []
        assert run_command("alerts", "test", "hok", config=path, check=False).returncode == 2


def test_the_digest_tells_where_the_money_went(tmp_path: Path) -> None:
    with running_simulator() as simulator:
        simulator.set_behaviour(Behaviour(output_tokens=OUTPUT_TOKENS))
        config = config_text(simulator, limits=_limits(1_000))
        with running_gateway(config, tmp_path) as gateway:
            _spend(gateway, 7, **{"x-spendfuse-feature": "search", "x-spendfuse-user": "ada"})
            _spend(gateway, 3, **{"x-spendfuse-feature": "chat"})
            wait_until(lambda: gateway.totals().open_reservations == 0, timeout_s=10, what="all calls are settled")
            told = gateway.run("report", "digest", "--month").stdout
            assert "search alone is 70.0 % of it" in told
            assert "Top users: ada" in told
            figures = json.loads(gateway.run("report", "digest", "--month", "--json").stdout)
            assert [one["share_percent"] for one in figures["features"]] == ["70.0", "30.0"]
            assert gateway.run("report", "--by", "feature").stdout.startswith("FEATURE")
