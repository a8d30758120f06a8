"""The command line as people and scripts use it, on a real store."""

import asyncio
import csv
import json
import logging
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from spendfuse.cli import build
from spendfuse.cli.first_key import ClientKeys, ensure_key
from spendfuse.cli.keys import create_key
from spendfuse.cli.logs import KeyValueFormatter
from spendfuse.clock import SystemClock
from spendfuse.config import Config, load
from spendfuse.core.decisions import Admitted, Fit
from spendfuse.core.errors import LedgerError
from spendfuse.core.money import Nanos
from spendfuse.core.quotes import CapRange, Quote
from spendfuse.core.reservations import CallIds, Charge, reservation_of
from spendfuse.core.usage import Usage
from spendfuse.ledger.sqlite import open_sqlite
from spendfuse.ledger.store import Demand, KeyRecord, Ledger
from spendfuse.wiring import FACTORIES, open_ledger, open_store
from spendfuse.zero_config import VARIABLES, zero_config, zero_store

CONFIG = """
store: sqlite:///ledger.db
providers:
  openai: {base_url: "http://127.0.0.1:9/v1", api_key: sk-upstream-secret}
models:
  smart: openai/gpt-4o
  mini: openai/gpt-4o-mini
limits:
  company-month: {usd: 500, per: month}
  user-tokens: {tokens: 100_000, per: month, each: [organization, user]}
  search-week: {usd: 0.5, per: week, match: {feature: [search]}, on_exceed: shadow}
"""
SEVERAL = """
store: sqlite:///ledger.db
providers:
  openai: {api_key: sk-1}
  openai-eu: {vendor: openai, base_url: "https://eu.api.openai.com/v1", api_key: sk-2}
  local: {dialect: openai, base_url: "http://127.0.0.1:9/v1"}
models:
  smart: {targets: [openai/gpt-4o, openai-eu/gpt-4o]}
  mixed: {targets: [local/nobody-knows, openai/gpt-4o-mini]}
"""
LITELLM = """
model_list:
  - {model_name: smart, litellm_params: {model: openai/gpt-4o, api_key: sk-upstream-secret}}
litellm_settings: {max_budget: 100, budget_duration: 30d, drop_params: true}
"""
UNENFORCED = LITELLM.replace("drop_params: true", "max_end_user_budget_id: small")
PROGRAM = Path(sys.executable).with_name("spendfuse")
KEY = re.compile(r"sk-sf-[\w-]{43}")


class Cli:
    """Runs commands in this process, in a folder with a config."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = folder / "spendfuse.yaml"
        self.config.write_text(CONFIG)
        self.app = build(FACTORIES)

    def run(self, *arguments: str) -> Result:
        result = CliRunner().invoke(self.app, [*arguments, "--config", str(self.config)])
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    def ok(self, *arguments: str) -> str:
        result = self.run(*arguments)
        assert result.exit_code == 0, result.output
        return result.stdout

    def refused(self, exit_code: int, *arguments: str) -> str:
        """The one message of a command that fails."""
        result = self.run(*arguments)
        assert (result.exit_code, result.stdout) == (exit_code, ""), result.output
        assert "Traceback" not in result.stderr
        return result.stderr


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    return Cli(tmp_path)


def spend(cli: Cli, *calls: tuple[str, int], charged_times: int = 1, target: str = "openai/gpt-4o") -> None:
    """Settle calls of (feature, nano-dollars), 100 tokens in and 50 out each; the limits are applied by it.

    Each at one target, of the model `smart`; what was quoted is charged so many times.
    """

    async def settle() -> None:
        ledger = await open_sqlite(cli.folder / "ledger.db", limits=load(cli.config).limits, clock=SystemClock())
        ids = CallIds()
        for feature, cost in calls:
            reservation_id = reservation_of(ids.mint(time.time_ns() // 1_000_000, ledger.owner_id), 1)
            labels = {"organization": "acme", "user": "u1", "feature": feature, "target": target}
            quote = Quote(input_tokens=100, fixed_picos=cost * 1000, output_picos=0)
            demand = Demand(reservation_id, labels, quote, CapRange(50, 50), Fit.WHOLE, 60)
            assert isinstance(await ledger.reserve(demand), Admitted)
            await ledger.settle(reservation_id, Charge(Usage(100, 50), Nanos(cost * charged_times)))
        await ledger.close()

    asyncio.run(settle())


# What it is asked


def test_no_arguments_show_the_commands(cli: Cli) -> None:
    result = CliRunner().invoke(cli.app, [])
    assert all(name in result.output for name in ("serve", "check", "keys", "limits", "report", "audit", "demo"))


def test_options_without_a_command_mean_serve(cli: Cli) -> None:
    result = CliRunner().invoke(cli.app, ["--config", str(cli.folder / "absent.yaml"), "--port", "0"])
    assert result.exit_code == 2
    assert "absent.yaml: cannot be read" in result.stderr


@pytest.mark.parametrize("arguments", [["serv"], ["serve", "--port", "x"], ["report"], ["keys", "create"]])
def test_a_wrong_command_line_is_exit_code_2(cli: Cli, arguments: list[str]) -> None:
    result = CliRunner().invoke(cli.app, arguments)
    assert (result.exit_code, result.stdout) == (2, "")


def test_the_config_can_come_from_the_environment(cli: Cli) -> None:
    result = CliRunner().invoke(cli.app, ["check"], env={"SPENDFUSE_CONFIG": str(cli.config)})
    assert result.exit_code == 0


# check and prices


def test_check_says_limits_in_words_and_models_with_their_prices(cli: Cli) -> None:
    said = cli.ok("check")
    assert "user-tokens (100,000 tokens per month, each organization, user)" in said
    assert "search-week ($0.50 per week); only feature=search; shadow: counts, never refuses" in said
    assert re.search(r"smart +openai/gpt-4o +\$2\.50 +\$1\.25 +\$10\.00 +128,000 +16,384", said)
    assert "sk-upstream-secret" not in said


def test_check_refuses_a_model_without_a_price(cli: Cli) -> None:
    cli.config.write_text(CONFIG.replace("openai/gpt-4o-mini", "openai/nobody-knows"))
    result = cli.run("check")
    assert result.exit_code == 2
    assert 'error: model "nobody-knows" of provider "openai" is not priced' in result.stderr


def test_check_names_file_and_key_path_of_what_is_wrong(cli: Cli) -> None:
    cli.config.write_text(CONFIG.replace("usd: 500", "usd: lots"))
    assert f"{cli.config}: limits.company-month.usd" in cli.refused(2, "check")


def test_the_schema_is_json(cli: Cli) -> None:
    assert "limits" in json.loads(cli.ok("check", "--schema"))["properties"]


def test_prices_know_public_names_and_targets(cli: Cli) -> None:
    assert re.search(r"output +\$10\.00 per million tokens", cli.ok("prices", "smart"))
    assert re.search(r"context window +128,000 tokens", cli.ok("prices", "openai/gpt-4o"))


def test_prices_of_an_unknown_model_suggest_the_closest(cli: Cli) -> None:
    assert "did you mean smart?" in cli.refused(1, "prices", "smrt")
    assert "is not priced" in cli.refused(1, "prices", "openai/nobody-knows")


def test_a_target_that_charged_more_than_its_quote_is_mentioned_until_it_is_cleared(cli: Cli) -> None:
    assert "are not multiplied" in cli.refused(1, "prices", "smart", "--clear-overrun")
    assert not (cli.folder / "ledger.db").exists()
    spend(cli, ("search", 1_000), charged_times=3)
    mention = re.compile(
        r"its quotes are multiplied by 3\.00 since \d{4}-\S+Z, .*: spendfuse prices openai/gpt-4o --clear-overrun"
    )
    assert mention.search(cli.ok("prices", "smart"))
    assert mention.search(cli.ok("prices", "openai/gpt-4o"))
    assert not mention.search(cli.ok("prices", "mini"))
    assert mention.search(cli.run("check").stderr)
    assert "did you mean openai/gpt-4o?" in cli.refused(1, "prices", "openai/gpt-4", "--clear-overrun")
    assert cli.ok("prices", "smart", "--clear-overrun") == "the quotes of openai/gpt-4o are trusted again\n"
    assert "are not multiplied" in cli.refused(1, "prices", "openai/gpt-4o", "--clear-overrun")
    assert not mention.search(cli.ok("prices", "smart") + cli.run("check").stderr)


def test_a_store_that_can_not_be_read_leaves_a_config_valid(cli: Cli) -> None:
    (cli.folder / "ledger.db").write_bytes(b"not a database, but long enough to be read as one" * 100)
    result = cli.run("check")
    assert (result.exit_code, "is valid" in result.stdout) == (0, True)
    assert "warning: whether a target charged more than its quotes is not known" in result.stderr


def test_each_target_of_a_model_has_its_prices_by_its_vendor(cli: Cli) -> None:
    cli.config.write_text(SEVERAL)
    said = cli.ok("check")
    assert re.search(r"smart +openai/gpt-4o +\$2\.50 .*\nsmart +openai-eu/gpt-4o +\$2\.50", said)
    shown = cli.ok("prices", "smart").split("\n\n")
    assert [re.findall(r"(?:provider|output) +(\S+)", one)[:2] for one in shown] == [
        ["openai", "$10.00"],
        ["openai-eu", "$10.00"],
    ]
    assert re.search(r"output +\$10\.00", cli.ok("prices", "openai-eu/gpt-4o"))


def test_a_target_without_a_price_is_a_warning_where_the_model_has_another(cli: Cli) -> None:
    cli.config.write_text(SEVERAL)
    result = cli.run("check")
    assert (result.exit_code, "is valid" in result.stdout) == (0, True)
    assert 'warning: models.mixed goes without one of its targets: model "nobody-knows"' in result.stderr
    assert re.search(r"not priced +no price of it is known", cli.ok("prices", "mixed"))
    cli.config.write_text(SEVERAL.replace(", openai/gpt-4o-mini", ""))
    assert 'error: model "nobody-knows" of provider "local" is not priced' in cli.run("check").stderr


def test_trust_comes_back_to_each_target_of_a_model_that_had_lost_it(cli: Cli) -> None:
    cli.config.write_text(SEVERAL)
    spend(cli, ("search", 1_000), charged_times=3, target="openai-eu/gpt-4o")
    first, second = cli.ok("prices", "smart").split("\n\n")
    assert ("are multiplied" in first, "are multiplied" in second) == (False, True)
    assert cli.ok("prices", "smart", "--clear-overrun") == "the quotes of openai-eu/gpt-4o are trusted again\n"
    assert "openai/gpt-4o and openai-eu/gpt-4o are not" in cli.refused(1, "prices", "smart", "--clear-overrun")


# keys


def test_a_new_key_alone_is_on_standard_output_and_nowhere_in_the_store(cli: Cli) -> None:
    key = cli.ok("keys", "create", "app", "--label", "organization=acme").strip()
    assert KEY.fullmatch(key)
    assert all(key.encode() not in file.read_bytes() for file in cli.folder.iterdir() if file.is_file())
    listed = json.loads(cli.ok("keys", "list", "--format", "json"))
    assert [(one["name"], one["labels"], one["state"]) for one in listed] == [("app", {"organization": "acme"}, "live")]


def test_a_new_key_as_json_says_what_it_is(cli: Cli) -> None:
    made = json.loads(cli.ok("keys", "create", "app", "--labels-from", "headers", "--format", "json"))
    assert KEY.fullmatch(made.pop("key"))
    assert made == {"name": "app", "labels": {}, "labels_from": ["headers"]}


def test_a_live_name_is_taken_until_it_is_revoked(cli: Cli) -> None:
    cli.ok("keys", "create", "app")
    assert "app" in cli.refused(1, "keys", "create", "app")
    cli.ok("keys", "revoke", "app")
    assert [one["state"] for one in json.loads(cli.ok("keys", "list", "--format", "json"))] == ["revoked"]
    assert 'no live key is named "app"' in cli.refused(1, "keys", "revoke", "app")


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--label", "organization", "expected NAME=VALUE"),
        ("--label", "organization=", "0 bytes"),
        ("--label", "key=other", "Spendfuse gives it"),
        ("--labels-from", "cookies", "no source"),
    ],
)
def test_a_wrong_label_makes_no_key(cli: Cli, option: str, value: str, message: str) -> None:
    assert message in cli.refused(2, "keys", "create", "app", option, value)
    assert json.loads(cli.ok("keys", "list", "--format", "json")) == []


# limits


def test_limits_list_what_is_left(cli: Cli) -> None:
    spend(cli, ("search", 250_000_000), ("chat", 1))
    lines = {one["limit"]: one for one in json.loads(cli.ok("limits", "list", "--format", "json"))}
    month = lines["company-month"]
    assert (month["amount"], month["settled"], month["left"]) == ("500.00", "0.250000001", "499.749999999")
    tokens = lines["user-tokens"]
    assert (tokens["subject"], tokens["settled"], tokens["left"]) == (
        {"organization": "acme", "user": "u1"},
        300,
        99_700,
    )
    assert (lines["search-week"]["is_enforced"], lines["search-week"]["settled"]) == (False, "0.25")
    assert re.search(r"organization=acme, user=u1 +tokens +month +100,000 +300 +0 +99,700", cli.ok("limits", "list"))


def overridden(cli: Cli) -> tuple[int, bool, str | None]:
    """What is listed of u1's tokens."""
    (line,) = json.loads(cli.ok("limits", "list", "user-tokens", "--format", "json"))
    return line["amount"], line["is_overridden"], line["overridden_until"]


def test_an_override_holds_for_its_subject_until_reset(cli: Cli) -> None:
    spend(cli, ("search", 1))
    assert "250,000 tokens from now on (config: 100,000 tokens)" in cli.ok(
        "limits", "set", "user-tokens", "--for", "acme,u1", "250000"
    )
    assert overridden(cli) == (250_000, True, None)
    said = cli.ok("limits", "reset", "user-tokens", "--for", "acme, u1")
    assert said == 'limit "user-tokens" (organization=acme, user=u1): 100,000 tokens again, as in the config\n'
    assert overridden(cli) == (100_000, False, None)


def test_an_override_says_and_lists_until_when_it_holds(cli: Cli) -> None:
    spend(cli, ("search", 1))
    said = cli.ok("limits", "set", "user-tokens", "--for", "acme,u1", "250000", "--until", "2100-01-02T03:04")
    assert "250,000 tokens until 2100-01-02T03:04:00Z (config: 100,000 tokens)" in said
    assert overridden(cli) == (250_000, True, "2100-01-02T03:04:00Z")
    assert "overridden until 2100-01-02T03:04:00Z" in cli.ok("limits", "list", "user-tokens")
    (line,) = csv.DictReader(cli.ok("limits", "list", "user-tokens", "--format", "csv").splitlines())
    assert (line["is_overridden"], line["overridden_until"]) == ("true", "2100-01-02T03:04:00Z")
    # A date is its midnight in the time zone of the config, in summer two hours before that of UTC.
    cli.config.write_text(f"timezone: Europe/Berlin\n{CONFIG}")
    cli.ok("limits", "set", "user-tokens", "--for", "acme,u1", "250000", "--until", "2027-07-02")
    assert overridden(cli)[2] == "2027-07-01T22:00:00Z"
    cli.ok("limits", "set", "user-tokens", "--for", "acme,u1", "300000")
    assert overridden(cli) == (300_000, True, None)


def test_an_override_ends_a_span_from_now(cli: Cli) -> None:
    spend(cli, ("search", 1))
    before = time.time()
    cli.ok("limits", "set", "user-tokens", "--for", "acme,u1", "0", "--until", "3d")
    after = time.time()
    _, _, until = overridden(cli)
    assert until is not None
    assert int(before) <= datetime.fromisoformat(until).timestamp() - 3 * 86_400 <= after


@pytest.mark.parametrize(
    ("arguments", "exit_code", "message"),
    [
        (("user-tokens", "5"), 2, "expected --for ORGANIZATION,USER, got none"),
        (("user-tokens", "--for", "acme", "5"), 2, "got 1 values"),
        (("company-month", "--for", "acme", "5"), 2, "one balance for all calls"),
        (("company-month", "0.0000000001"), 2, "finer than"),
        (("user-tokens", "--for", "acme,u1", "1.5"), 2, "finer than"),
        (("company-month", "lots"), 2, "must be a number"),
        (("company-month", "reset"), 2, "must be a number"),
        (("company-month", "-5"), 2, "must be a finite number of at least 0, got '-5'"),
        (("company-month", "-$0.5"), 2, "must be a finite number of at least 0"),
        (("user-tokens", "--for", "acme,u1", "-17"), 2, "must be a finite number of at least 0, got '-17'"),
        (("company-month", "5", "--unti", "2h"), 2, "No such option: --unti"),
        (("company-month", "5", "--until", "2026-01-01"), 2, "'2026-01-01' is over already"),
        (("company-month", "5", "--until", "month"), 2, "'month' is no time: expected a span from now"),
        (("company-month", "5", "--until", "-2h"), 2, "'-2h' is no time"),
        (("company-moth", "5"), 1, "did you mean company-month?"),
        (("company-month", "5"), 1, "no gateway has applied it yet"),
    ],
)
def test_a_wrong_override_changes_nothing(cli: Cli, arguments: Sequence[str], exit_code: int, message: str) -> None:
    assert message in cli.refused(exit_code, "limits", "set", *arguments)


@pytest.mark.parametrize(
    ("arguments", "exit_code", "message"),
    [
        (("user-tokens",), 2, "expected --for ORGANIZATION,USER, got none"),
        (("company-month", "--for", "acme"), 2, "one balance for all calls"),
        (("company-moth",), 1, "did you mean company-month?"),
        (("company-month",), 1, "no gateway has applied it yet"),
    ],
)
def test_a_wrong_reset_changes_nothing(cli: Cli, arguments: Sequence[str], exit_code: int, message: str) -> None:
    assert message in cli.refused(exit_code, "limits", "reset", *arguments)


# report and audit


def test_report_adds_up_in_every_format(cli: Cli) -> None:
    spend(cli, ("search", 250_000_000), ("search", 50_000_000), ("chat", 99_999_999), ("", 1))
    said = cli.ok("report", "--by", "feature")
    assert re.search(r"search +2 +200 +100 +\$0\.300000 +75\.0 %", said)
    assert re.search(r"\(none\) +1 +100 +50 +\$0\.000000 +0\.0 %", said)
    assert re.search(r"total +4 +400 +200 +\$0\.400000 +100\.0 %", said)
    data = json.loads(cli.ok("report", "--by", "feature", "--format", "json"))
    assert [(one["value"], one["cost_usd"]) for one in data["lines"]] == [
        ("search", "0.30"),
        ("chat", "0.099999999"),
        ("", "0.000000001"),
    ]
    assert data["total"]["cost_usd"] == "0.40"
    rows = list(csv.DictReader(cli.ok("report", "--by", "feature", "--format", "csv").splitlines()))
    assert [row["calls"] for row in rows] == ["2", "1", "1"]


def test_report_folds_what_is_beyond_the_top(cli: Cli) -> None:
    spend(cli, ("a", 4), ("b", 3), ("c", 2), ("d", 1))
    said = cli.ok("report", "--by", "feature", "--top", "2")
    assert re.search(r"\(2 others\) +2 +200 +100 +\$0\.000000 +30\.0 %", said)


def test_report_counts_only_its_span(cli: Cli) -> None:
    spend(cli, ("a", 4))
    assert re.search(r"total +0 ", cli.ok("report", "--by", "feature", "--since", "14d", "--until", "7d"))
    assert "is no time" in cli.refused(2, "report", "--by", "feature", "--since", "yesterday")
    assert "--until must be after" in cli.refused(2, "report", "--by", "feature", "--since", "1d", "--until", "2d")


def test_audit_tells_a_clean_ledger_from_one_that_was_tampered_with(cli: Cli) -> None:
    spend(cli, ("search", 5))
    assert "clean" in cli.ok("audit")
    with sqlite3.connect(cli.folder / "ledger.db") as connection:
        connection.execute("UPDATE balance SET settled = settled - 1 WHERE subject = '[]' AND settled = 5")
    connection.close()
    result = cli.run("audit")
    assert result.exit_code == 1
    assert re.search(r"balance +company-month .* settled +4 +5$", result.stdout, re.MULTILINE)
    told, *_ = json.loads(cli.run("audit", "--format", "json").stdout)
    assert (told["limit"], told["figure"], told["is"], told["should_be"]) == ("company-month", "settled", 4, 5)


def test_audit_repairs_what_it_explained_and_only_when_told_to(cli: Cli) -> None:
    spend(cli, ("search", 5))
    tamper = """
        UPDATE balance SET settled = settled - 1 WHERE subject = '[]' AND settled = 5;
        UPDATE spend SET cost = 7, calls = 3;
        INSERT INTO reservation SELECT reservation_id, 1, reserved_at_ms, 1 << 60, 1, 2, 3, 4, label_set_id, ''
        FROM entry;
    """
    with sqlite3.connect(cli.folder / "ledger.db") as connection:
        connection.executescript(tamper)
    connection.close()
    lines = list(csv.DictReader(cli.run("audit", "--format", "csv").stdout.splitlines()))
    assert [(one["kind"], one["figure"], one["is"], one["should_be"]) for one in lines] == [
        ("reservation", "open", "1", "0"),
        ("reservation", "cost", "2", "0"),
        ("reservation", "input_tokens", "3", "0"),
        ("reservation", "output_tokens", "4", "0"),
        ("balance", "settled", "4", "5"),
        ("balance", "settled", "4", "5"),
        ("spend", "calls", "3", "1"),
        ("spend", "cost", "7", "5"),
    ]
    refused = cli.run("audit", "--repair")
    assert refused.exit_code == 1
    assert "a quarter of an hour of spend" in refused.stderr
    assert "nothing was changed" in refused.stderr
    assert cli.run("audit").exit_code == 1
    assert "goes with --repair" in cli.refused(2, "audit", "--yes")
    assert cli.run("audit", "--repair", "--yes").exit_code == 0
    assert "clean" in cli.ok("audit")
    assert "clean" in cli.ok("audit", "--repair")


# serve


class Served:
    """A running `spendfuse serve`."""

    def __init__(self, process: subprocess.Popen[str], start_line: str, said_before: str) -> None:
        self.process = process
        self.start_line = start_line
        self.said_before = said_before
        self.url = start_line.split(" serves ")[1].split(": ")[0]

    def status(self, key: str) -> int:
        request = urllib.request.Request(f"{self.url}/models", headers={"Authorization": f"Bearer {key}"})
        try:
            with urllib.request.urlopen(request, timeout=10) as response:
                return response.status
        except urllib.error.HTTPError as error:
            with error:
                return error.code

    def seconds_until(self, status: int, key: str) -> float:
        started = time.monotonic()
        while self.status(key) != status:
            assert time.monotonic() - started < 10
        return time.monotonic() - started

    def end(self) -> str:
        """Ask it to end; the rest of what it said."""
        assert self.process.stderr
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(20)
        return self.process.stderr.read()


def environment(**added: str) -> dict[str, str]:
    """The environment of a program, with no provider's key but those that are added."""
    return {name: value for name, value in os.environ.items() if name not in VARIABLES} | added


@contextmanager
def serving(*arguments: str, cwd: Path | None = None, **keys: str) -> Generator[Served]:
    command = [PROGRAM, *arguments]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=cwd, env=environment(**keys)) as process:
        try:
            assert process.stderr
            before: list[str] = []
            while " serves " not in (line := process.stderr.readline()):
                assert line, "".join(before)
                before.append(line)
            yield Served(process, line, "".join(before))
        finally:
            process.kill()


@pytest.mark.parametrize("arguments", [["serve"], ["serve", "--workers", "2"], []])
def test_a_key_works_and_stops_working_within_a_second_in_every_process(cli: Cli, arguments: list[str]) -> None:
    with serving(*arguments, "--config", str(cli.config), "--port", "0") as served:
        assert "2 models (smart, mini), 3 limits" in served.start_line
        key = cli.ok("keys", "create", "app").strip()
        assert served.seconds_until(200, key) < 1.5
        cli.ok("keys", "revoke", "app")
        assert served.seconds_until(401, key) < 1.5
        said = served.end()
        assert served.process.returncode == 0
        assert "No client key exists yet" in said


@pytest.mark.parametrize(("workers", "warned"), [("1", False), ("2", True)])
def test_serve_warns_of_a_race_of_processes_only_where_there_are_several(
    cli: Cli, workers: str, warned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("spendfuse.wiring.sqlite_has_wal_race", lambda version: True)
    started: list[int] = []

    def serve(open_app: object, *, on_started: Callable[[str, int], None], workers: int, **of: object) -> None:
        started.append(workers)
        on_started("127.0.0.1", 1)

    monkeypatch.setattr("spendfuse.server.supervisor.serve", serve)
    said = cli.run("serve", "--workers", workers).stderr
    assert started == [int(workers)]
    assert ("warning: SQLite" in said) == warned
    assert "note: with several workers: SQLite" in cli.run("check").stderr


def run_program(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([PROGRAM, *arguments], capture_output=True, text=True, cwd=cwd, env=environment(), timeout=60)


def test_serve_with_a_wrong_config_says_why_and_is_exit_code_2(cli: Cli) -> None:
    cli.config.write_text(CONFIG.replace("usd: 500", "usb: 500"))
    done = run_program("serve", "--port", "0", cwd=cli.folder)
    assert (done.returncode, done.stdout) == (2, "")
    assert "limits.company-month.usb: unknown key" in done.stderr
    assert "Traceback" not in done.stderr


def test_serve_at_a_taken_port_says_so_and_is_exit_code_1(cli: Cli) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run_program("serve", "--port", str(port), cwd=cli.folder)
    assert (done.returncode, done.stderr) == (1, f"error: cannot listen on 127.0.0.1:{port}: Address already in use\n")


# a LiteLLM config


def test_every_command_takes_a_litellm_config_as_it_is(cli: Cli) -> None:
    cli.config.write_text(LITELLM)
    said = cli.ok("check")
    assert re.search(r"smart +openai/gpt-4o +\$2\.50", said)
    assert "($100.00 per 30d)" in said
    assert "litellm_settings.drop_params: is not honoured" in cli.run("check").stderr
    assert KEY.fullmatch(cli.ok("keys", "create", "app").strip())
    assert "app" in cli.ok("keys", "list")
    assert "total" in cli.ok("report", "--by", "user")
    assert cli.ok("audit").startswith("clean")
    assert cli.ok("limits", "list") == ""
    assert re.search(r"output +\$10\.00", cli.ok("prices", "smart"))
    assert (cli.folder / "spendfuse.db").exists()


def test_a_litellm_limit_that_can_not_hold_stops_what_serves_it_and_no_other_command(cli: Cli) -> None:
    cli.config.write_text(UNENFORCED)
    for command in ("check", "serve"):
        assert "--accept-unenforced" in cli.refused(2, command)
    assert "NOT ENFORCED" in cli.run("check", "--accept-unenforced").stderr
    assert "is valid" in cli.ok("check", "--accept-unenforced")
    assert cli.ok("audit").startswith("clean")
    assert "total" in cli.ok("report", "--by", "user")


def test_a_litellm_config_without_a_key_is_served_with_a_first_one(cli: Cli) -> None:
    cli.config.write_text(UNENFORCED)
    arguments = ["serve", "--port", "0", "--accept-unenforced", "--config", str(cli.config)]
    with serving(*arguments) as served:
        (key,) = KEY.findall(served.said_before)
        assert served.status(key) == 200
        said = served.end()
    assert "NOT ENFORCED" in said
    assert "zero config" not in said


def test_a_litellm_config_is_written_as_ours_which_means_the_same(cli: Cli) -> None:
    cli.config.write_text(LITELLM)
    file = cli.folder / "ours.yaml"
    written = CliRunner().invoke(cli.app, ["import", str(cli.config)])
    assert written.exit_code == 0
    assert "sk-upstream-secret" not in written.output
    file.write_text(written.stdout)
    ours = CliRunner().invoke(cli.app, ["check", "--config", str(file)], env={"OPENAI_API_KEY": "sk-x"})
    same = cli.ok("check")
    assert ours.exit_code == 0, ours.output
    assert ours.stdout.replace(str(file), "") == same.replace(str(cli.config), "")


# without a config


@pytest.mark.parametrize("workers", ["1", "2"])
def test_the_first_start_without_a_config_shows_a_key_that_works_and_no_other_start_does(
    tmp_path: Path, workers: str
) -> None:
    arguments = ["serve", "--port", "0", "--workers", workers]
    with serving(*arguments, cwd=tmp_path, OPENAI_API_KEY="sk-upstream") as served:
        (key,) = KEY.findall(served.said_before)
        assert served.status(key) == 200
        said = served.end()
    assert f"export OPENAI_BASE_URL={served.url} OPENAI_API_KEY={key}\n" in said
    assert f"export ANTHROPIC_BASE_URL={served.url.removesuffix('/v1')} ANTHROPIC_API_KEY={key}\n" in said
    assert "zero config, with openai from the environment; day-budget ($10.00 per day)" in said
    assert "No client key exists yet" not in said
    assert all(key.encode() not in file.read_bytes() for file in tmp_path.iterdir() if file.is_file())
    with serving(*arguments, cwd=tmp_path, OPENAI_API_KEY="sk-upstream") as again:
        assert again.status(key) == 200
        assert KEY.findall(again.said_before + again.start_line + again.end()) == []


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with no config, in an environment without any provider's key."""
    monkeypatch.chdir(tmp_path)
    for name in (*VARIABLES, "SPENDFUSE_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def run_bare(*arguments: str) -> Result:
    app = build(FACTORIES)
    return CliRunner().invoke(app, list(arguments))


@pytest.mark.parametrize("command", ["serve", "check", "keys create app"])
def test_without_a_config_and_any_provider_the_variables_are_named(bare: Path, command: str) -> None:
    result = run_bare(*command.split())
    assert (result.exit_code, result.stdout, list(bare.iterdir())) == (2, "", [])
    assert all(name in result.stderr for name in VARIABLES)


@pytest.mark.parametrize(
    "command", ["report --by user", "limits list", "limits set day-budget 5", "audit", "keys list", "keys revoke app"]
)
def test_a_command_on_a_store_that_does_not_exist_makes_none(bare: Path, command: str) -> None:
    result = run_bare(*command.split())
    assert (result.exit_code, result.stdout, list(bare.iterdir())) == (2, "", [])
    assert "neither spendfuse.yaml nor spendfuse.db" in result.stderr


def test_commands_without_a_config_work_on_the_store_that_is_served_without_one(bare: Path) -> None:
    async def open_once() -> None:
        config = zero_config({"OPENAI_API_KEY": "sk-upstream"}, bare)
        await (await open_store(config.store, limits=config.limits)).close()

    asyncio.run(open_once())
    said = run_bare("limits", "set", "day-budget", "25").stdout
    assert said == 'limit "day-budget": $25.00 from now on (config: $10.00)\n'
    assert run_bare("audit").stdout.startswith("clean")
    assert "total" in run_bare("report", "--by", "user").stdout
    assert KEY.fullmatch(run_bare("keys", "create", "app").stdout.strip())
    assert "app" in run_bare("keys", "list").stdout


def test_check_without_a_config_says_what_would_be_served(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-upstream-secret")
    result = run_bare("check")
    assert result.exit_code == 0
    assert re.search(r"claude-haiku-4-5 +anthropic/claude-haiku-4-5 +\$1\.00 ", result.stdout)
    assert "month-budget ($100.00 per month)" in result.stdout
    assert "sk-upstream-secret" not in result.output
    assert list(bare.iterdir()) == []


def test_prices_can_be_asked_for_without_anything(bare: Path) -> None:
    assert re.search(r"output +\$10\.00 per million tokens", run_bare("prices", "openai/gpt-4o").stdout)
    assert "no config at spendfuse.yaml" in run_bare("prices", "openai/gpt-4o", "--clear-overrun").stderr


def test_a_link_to_a_config_that_is_gone_is_no_reason_to_go_without(bare: Path) -> None:
    (bare / "spendfuse.yaml").symlink_to(bare / "gone.yaml")
    assert "spendfuse.yaml: cannot be read" in run_bare("audit").stderr


def test_a_first_key_is_made_only_where_none_is_live_and_the_config_wants_one(tmp_path: Path) -> None:
    zero = zero_store(tmp_path)
    own = tmp_path / "own.yaml"
    own.write_text("keys: [{name: app, key: sk-app}]")

    async def steps() -> None:
        async with open_ledger(zero) as ledger:
            assert await ensure_key(ledger, plain(tmp_path)) == ClientKeys(exist=False)
            assert await ensure_key(ledger, load(own)) == ClientKeys(exist=True)
            assert not await ledger.keys()
            first = await ensure_key(ledger, zero)
            assert first.exist
            assert KEY.fullmatch(first.made or "")
            assert await ensure_key(ledger, zero) == ClientKeys(exist=True)
            assert await ledger.revoke_key("default")
            second = await ensure_key(ledger, zero)
            assert second.made not in (None, first.made)

    asyncio.run(steps())


def plain(folder: Path) -> Config:
    """A config of ours that brings no key."""
    file = folder / "plain.yaml"
    file.write_text("limits: {a: {usd: 1, per: day}}")
    return load(file)


def test_of_two_first_starts_at_once_one_makes_the_key(tmp_path: Path) -> None:
    zero = zero_store(tmp_path)

    class Behind:
        """A ledger whose keys were read before another process added one."""

        def __init__(self, ledger: Ledger) -> None:
            self._ledger = ledger

        async def keys(self) -> Sequence[KeyRecord]:
            return ()

        async def add_key(self, record: KeyRecord) -> None:
            await self._ledger.add_key(record)

    async def steps() -> None:
        async with open_ledger(zero) as ledger:
            await create_key(ledger, "default", labels={}, labels_from=["body"])
            with pytest.raises(LedgerError):
                await create_key(ledger, "default", labels={}, labels_from=["body"])
            behind = Behind(ledger)
            assert await ensure_key(behind, zero) == ClientKeys(exist=True)  # pyright: ignore[reportArgumentType]
            assert len(await ledger.keys()) == 1

    asyncio.run(steps())


def test_logs_are_one_line_each_in_key_value_form() -> None:
    formatter = KeyValueFormatter()

    def line(name: str, message: str) -> str:
        record = logging.LogRecord(name, logging.WARNING, "", 0, message, (), None)
        record.created, record.msecs = 1_795_000_000.25, 250.0
        return formatter.format(record)

    start = f"time=2026-11-18T11:06:40.250Z level=warning pid={os.getpid()} "
    assert line("spendfuse.gate", "call_cut call=1") == start + "call_cut call=1"
    assert line("spendfuse.gate", "a reason=x\nlevel=error") == start + "a reason=x\\nlevel=error"
    assert line("asyncio", 'said "so"') == start + 'logged by=asyncio message="said \\"so\\""'


# demo


def test_the_demo_ends_with_a_provider_bill_within_the_limit(tmp_path: Path) -> None:
    done = subprocess.run(
        [PROGRAM, "demo", "--once", "--port", "0"],
        capture_output=True,
        text=True,
        timeout=90,
        env=os.environ | {"TMPDIR": str(tmp_path)},
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    bill = re.search(r"the provider's own bill: \$(\S+), at most the limit \$0\.50: yes", done.stdout)
    assert bill and 0.45 < float(bill[1]) <= 0.5
    assert "what the provider billed, to the nano-dollar" in done.stdout
    assert "openai.APIStatusError" in done.stdout
    assert all(word in done.stdout for word in ("rate_limit_exceeded", "budget_exceeded", "fitted", "streamed"))
    assert "clean: every balance and rollup equals" in done.stdout
    assert list(tmp_path.iterdir()) == []
    assert "\x1b" not in done.stdout


@contextmanager
def demo(folder: Path) -> Generator[subprocess.Popen[str]]:
    command = [PROGRAM, "demo", "--port", "0"]
    environment = os.environ | {"TMPDIR": str(folder)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            yield process
        finally:
            process.kill()


def test_the_demo_stays_up_until_ctrl_c_and_leaves_nothing(tmp_path: Path) -> None:
    with demo(tmp_path) as process:
        said = until_line(process, "stay up")
        base_url, key = re.findall(r"export OPENAI_BASE_URL=(\S+) OPENAI_API_KEY=(\S+)", said)[0]
        assert ask(base_url, key) == 200
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(urllib.error.URLError):
        ask(base_url, key)


def test_the_demo_ends_in_the_middle_of_its_traffic_and_leaves_nothing(tmp_path: Path) -> None:
    with demo(tmp_path) as process:
        until_line(process, "One feature runs hot")
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    assert list(tmp_path.iterdir()) == []


def until_line(process: subprocess.Popen[str], word: str) -> str:
    assert process.stdout
    said = ""
    while word not in said:
        line = process.stdout.readline()
        assert line, said
        said += line
    return said


def ask(base_url: str, key: str) -> int:
    body = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 300}
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    request = urllib.request.Request(f"{base_url}/chat/completions", json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=10) as response:
        return response.status


def test_the_demo_without_the_sdk_says_how_to_install_it(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spendfuse.cli.demo.find_spec", lambda name: None)
    result = CliRunner().invoke(cli.app, ["demo"])
    assert result.exit_code == 2
    assert "pip install 'spendfuse[demo]'" in result.stderr
