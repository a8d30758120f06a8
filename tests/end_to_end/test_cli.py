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
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from spendfuse.cli import Factories, build
from spendfuse.cli.logs import KeyValueFormatter
from spendfuse.clock import SystemClock
from spendfuse.config import load
from spendfuse.core.decisions import Admitted, Fit
from spendfuse.core.money import Nanos
from spendfuse.core.quotes import CapRange, Quote
from spendfuse.core.reservations import CallIds, Charge, reservation_of
from spendfuse.core.usage import Usage
from spendfuse.ledger.sqlite import open_sqlite
from spendfuse.ledger.store import Demand
from spendfuse.wiring import open_app, open_ledger, warnings_of

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
PROGRAM = Path(sys.executable).with_name("spendfuse")
KEY = re.compile(r"sk-sf-[\w-]{43}")


class Cli:
    """Runs commands in this process, in a folder with a config."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = folder / "spendfuse.yaml"
        self.config.write_text(CONFIG)
        self.app = build(Factories(open_ledger=open_ledger, open_app=open_app, warnings=warnings_of))

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


def spend(cli: Cli, *calls: tuple[str, int], charged_times: int = 1) -> None:
    """Settle calls of (feature, nano-dollars), 100 tokens in and 50 out each; the limits are applied by it.

    Each of the model `smart`; what was quoted is charged so many times.
    """

    async def settle() -> None:
        ledger = await open_sqlite(cli.folder / "ledger.db", limits=load(cli.config).limits, clock=SystemClock())
        ids = CallIds()
        for feature, cost in calls:
            reservation_id = reservation_of(ids.mint(time.time_ns() // 1_000_000, ledger.owner_id), 1)
            labels = {"organization": "acme", "user": "u1", "feature": feature, "target": "openai/gpt-4o"}
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


def test_an_override_holds_for_its_subject_until_reset(cli: Cli) -> None:
    spend(cli, ("search", 1))

    def amount() -> tuple[int, bool]:
        (line,) = json.loads(cli.ok("limits", "list", "user-tokens", "--format", "json"))
        return line["amount"], line["is_overridden"]

    assert "250,000 tokens from now on (config: 100,000 tokens)" in cli.ok(
        "limits", "set", "user-tokens", "--for", "acme,u1", "250000"
    )
    assert amount() == (250_000, True)
    cli.ok("limits", "set", "user-tokens", "--for", "acme, u1", "reset")
    assert amount() == (100_000, False)


@pytest.mark.parametrize(
    ("arguments", "exit_code", "message"),
    [
        (("user-tokens", "5"), 2, "expected --for ORGANIZATION,USER, got none"),
        (("user-tokens", "--for", "acme", "5"), 2, "got 1 values"),
        (("company-month", "--for", "acme", "5"), 2, "one balance for all calls"),
        (("company-month", "0.0000000001"), 2, "finer than"),
        (("user-tokens", "--for", "acme,u1", "1.5"), 2, "finer than"),
        (("company-month", "lots"), 2, "must be a number"),
        (("company-moth", "5"), 1, "did you mean company-month?"),
        (("company-month", "5"), 1, "no gateway has applied it yet"),
    ],
)
def test_a_wrong_override_changes_nothing(cli: Cli, arguments: Sequence[str], exit_code: int, message: str) -> None:
    assert message in cli.refused(exit_code, "limits", "set", *arguments)


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
    assert re.search(r"company-month .* 4 +5 +0 +0", result.stdout)
    assert json.loads(cli.run("audit", "--format", "json").stdout)[0]["settled_by_entries"] == 5


# serve


class Served:
    """A running `spendfuse serve`."""

    def __init__(self, process: subprocess.Popen[str], start_line: str) -> None:
        self.process = process
        self.start_line = start_line
        self._url = start_line.split(" serves ")[1].split(": ")[0]

    def status(self, key: str) -> int:
        request = urllib.request.Request(f"{self._url}/models", headers={"Authorization": f"Bearer {key}"})
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


@contextmanager
def serving(*arguments: str) -> Generator[Served]:
    with subprocess.Popen([PROGRAM, *arguments], stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr
            yield Served(process, process.stderr.readline())
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
    return subprocess.run([PROGRAM, *arguments], capture_output=True, text=True, cwd=cwd, timeout=60)


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
    assert "clean: every balance equals" in done.stdout
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
