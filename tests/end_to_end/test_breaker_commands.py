"""`spendfuse breaker` and what `check` says of breakers, as a user meets them."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from spendfuse.cli import build
from spendfuse.wiring import FACTORIES

CONFIG = """
limits: {company: {usd: 5, per: day}}
breakers:
  errors: {error_rate: 10%, each: target}
  feature: {error_rate: 50%, each: [feature, model]}
  all: {mean_latency: 5s}
  quiet: {drift: cost, times: 3}
  spend: {limit: company}
"""
TARGET = "openai/gpt-4o"


class Cli:
    """Runs commands in a folder with a config."""

    def __init__(self, folder: Path) -> None:
        self.config = folder / "spendfuse.yaml"
        self.config.write_text(CONFIG)

    def run(self, *arguments: str) -> Result:
        result = CliRunner().invoke(build(FACTORIES), [*arguments, "--config", str(self.config)])
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    def ok(self, *arguments: str) -> str:
        result = self.run(*arguments)
        assert result.exit_code == 0, result.output
        return result.stdout

    def refused(self, exit_code: int, *arguments: str) -> str:
        result = self.run(*arguments)
        assert result.exit_code == exit_code, result.output
        return result.stderr


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    return Cli(tmp_path)


def test_breakers_that_never_opened_are_listed_as_closed(cli: Cli) -> None:
    rows = json.loads(cli.ok("breaker", "list", "--format", "json"))
    assert [(one["breaker"], one["subject"], one["state"], one["since"]) for one in rows] == [
        ("errors", None, "closed", None),
        ("feature", None, "closed", None),
        ("all", {}, "closed", None),
        ("quiet", {}, "closed", None),
        ("spend", {}, "closed", None),
    ]
    table = cli.ok("breaker", "list").splitlines()
    assert table[1].split()[:4] == ["errors", "each", "target", "closed"]
    assert "all calls" in table[3]
    assert cli.ok("breaker", "list", "all", "--format", "csv").splitlines()[1].startswith("all,{},closed")


def test_opening_and_closing_says_who_and_why_in_the_log(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("getpass.getuser", lambda: "ana")
    said = cli.ok("breaker", "open", "errors", "--for", TARGET, "--why", "down")
    assert said == f'breaker "errors" (target={TARGET}) is open, until: spendfuse breaker close errors --for {TARGET}\n'
    (row,) = json.loads(cli.ok("breaker", "list", "errors", "--format", "json"))
    assert (row["subject"], row["state"], row["who"], row["why"]) == ({"target": TARGET}, "forced_open", "ana", "down")
    assert cli.ok("breaker", "close", "errors", "--for", TARGET) == f'breaker "errors" (target={TARGET}) is closed\n'
    cli.ok("breaker", "open", "feature", "--for", "search,gpt-4o", "--why", "wrong answers")
    cli.ok("breaker", "open", "all", "--why", "an incident")
    log = json.loads(cli.ok("breaker", "log", "--format", "json"))
    assert [(one["breaker"], one["subject"], one["from"], one["to"], one["who"], one["why"]) for one in log] == [
        ("errors", {"target": TARGET}, "closed", "forced_open", "ana", "down"),
        ("errors", {"target": TARGET}, "forced_open", "closed", "ana", "closed by hand"),
        ("feature", {"feature": "search", "model": "gpt-4o"}, "closed", "forced_open", "ana", "wrong answers"),
        ("all", {}, "closed", "forced_open", "ana", "an incident"),
    ]
    assert len(cli.ok("breaker", "log", "--last", "1", "--format", "csv").splitlines()) == 2


@pytest.mark.parametrize(
    ("exit_code", "arguments", "message"),
    [
        (1, ("open", "error", "--why", "x"), 'no breaker is named "error"; did you mean errors?'),
        (
            2,
            ("open", "errors", "--why", "x"),
            'breaker "errors" is one for each target: expected TARGET, got none',
        ),
        (2, ("open", "feature", "--for", "a", "--why", "x"), "expected FEATURE,MODEL, got 1 values"),
        (2, ("open", "all", "--for", "a", "--why", "x"), 'breaker "all" is one for all calls, and takes no subject'),
        (2, ("open", "all", "--why", " "), "--why: say it in a few words"),
        (2, ("open", "all"), "Missing option '--why'"),
        (1, ("open", "quiet", "--why", "x"), 'breaker "quiet" only raises alerts (opens: false)'),
    ],
)
def test_what_can_not_be_opened_is_said(cli: Cli, exit_code: int, arguments: tuple[str, ...], message: str) -> None:
    assert message in cli.refused(exit_code, "breaker", *arguments)


def test_an_empty_log_is_said(cli: Cli) -> None:
    assert "no breaker has ever changed" in cli.run("breaker", "log").stderr


def test_check_says_breakers_in_words(cli: Cli) -> None:
    said = cli.ok("check")
    assert "breakers  5 breakers" in said
    assert "  errors (above 10% errors in 5m, at least 20 attempts and 5 errors, each target): refuses calls" in said
    cli.config.write_text("limits: {}")
    assert "breakers  2 breakers" in cli.ok("check")
