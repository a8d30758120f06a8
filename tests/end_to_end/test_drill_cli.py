"""`spendfuse drill` as people and CI run it."""

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from spendfuse.zero_config import VARIABLES

PROGRAM = Path(sys.executable).with_name("spendfuse")
README = Path(__file__).parents[2] / "README.md"
LIMITED = """
store: sqlite:///ledger.db
providers:
  openai: {api_key: os.environ/NOT_SET_ANYWHERE}
models:
  gpt-4o-mini: openai/gpt-4o-mini
  gpt-4o: openai/gpt-4o
limits:
  company-day: {usd: 2, per: day}
  user-day: {usd: 0.2, per: day, each: user}
"""
UNLIMITED = LIMITED[: LIMITED.index("limits:")] + "breakers: {}\n"
ENVIRONMENT = {name: value for name, value in os.environ.items() if name not in {*VARIABLES, "SPENDFUSE_CONFIG"}}


def drill(folder: Path, *arguments: str, config: str | None = LIMITED) -> "subprocess.CompletedProcess[str]":
    """Run it in a folder with this config."""
    if config is not None:
        (folder / "spendfuse.yaml").write_text(config)
    return subprocess.run(
        [PROGRAM, "drill", *arguments], cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=110
    )


def test_the_readme_has_the_default_config_s_table_as_printed(tmp_path: Path) -> None:
    done = drill(tmp_path, config=None)
    assert done.returncode == 0, done.stderr
    shown = re.search(r"```console\n\$ spendfuse drill\n(.*?)```", README.read_text(), re.DOTALL)
    assert shown is not None
    assert shown[1] == done.stdout
    assert not list(tmp_path.iterdir())


def test_the_exit_code_says_whether_a_scenario_got_past_the_greatest_loss(tmp_path: Path) -> None:
    assert drill(tmp_path, "power-user", "--max-loss", "25%").returncode == 0
    over = drill(tmp_path, "power-user", "--max-loss", "5%")
    assert over.returncode == 1
    assert "error: power-user cost $0.20, more than $0.10, 5% of company-day ($2.00 per day)" in over.stderr
    assert drill(tmp_path, "power-user", "--max-loss", "0.2").returncode == 0
    assert drill(tmp_path, "power-user", "--max-loss", "$0.1").returncode == 1


def test_a_config_without_limits_and_breakers_shows_the_whole_loss_and_fails(tmp_path: Path) -> None:
    done = drill(tmp_path, "--hours", "0.2", config=UNLIMITED)
    assert done.returncode == 1
    header, *rows = done.stdout.split("\n\n")[0].splitlines()
    assert header.split()[0] == "SCENARIO" and len(rows) == 4
    for row in rows:
        cells = re.split(r"  +", row)
        assert cells[5] == "no, nothing was refused"
        assert cells[2] == cells[4] == cells[7], row
    assert done.stderr.count("no limit in money over all calls bounds it") == 4
    assert drill(tmp_path, "power-user", "--hours", "0.2", "--max-loss", "100", config=UNLIMITED).returncode == 0


def test_json_has_exact_money_and_the_verdict(tmp_path: Path) -> None:
    done = drill(tmp_path, "power-user", "denial-of-wallet", "--format", "json", "--max-loss", "50%", "--hours", "1")
    assert done.returncode == 1
    told = json.loads(done.stdout)
    assert told["passed"] is False
    assert told["budget"] == {"limit": "company-day", "usd": "2.00"} and told["max_loss_usd"] == "1.00"
    scraped, attacked = told["scenarios"]
    assert (scraped["scenario"], scraped["exceeds_max_loss"]) == ("power-user", False)
    assert scraped["stopped"]["by"] == "user-day" and scraped["stopped"]["after_s"] > 0
    assert attacked["stopped"]["by"] == "company-day" and attacked["exceeds_max_loss"] is True
    assert re.fullmatch(r"\d+\.\d{2,9}", attacked["billed_usd"]) and float(attacked["billed_usd"]) <= 2
    assert sum(attacked["refusals"].values()) == attacked["attempts"] - attacked["got_through"]


def test_the_same_seed_prints_the_same_and_touches_neither_config_nor_store(tmp_path: Path) -> None:
    once = drill(tmp_path, "--hours", "1", "--seed", "3")
    assert drill(tmp_path, "--hours", "1", "--seed", "3").stdout == once.stdout
    assert drill(tmp_path, "--hours", "1", "--seed", "4").stdout != once.stdout
    assert [one.name for one in tmp_path.iterdir()] == ["spendfuse.yaml"]
    assert (tmp_path / "spendfuse.yaml").read_text() == LIMITED


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["retry-lop"], "no scenario is named 'retry-lop'; did you mean retry-loop?"),
        (["--max-loss", "much"], "--max-loss: 'much' is neither a share of the budget such as 25% nor dollars"),
        (["--hours", "0"], "--hours"),
    ],
)
def test_a_wrong_command_line_is_exit_code_2(arguments: list[str], message: str, tmp_path: Path) -> None:
    done = drill(tmp_path, *arguments)
    assert done.returncode == 2 and message in done.stderr


def test_a_bar_shows_the_progress_on_a_terminal_and_is_gone_at_the_end(tmp_path: Path) -> None:
    (tmp_path / "spendfuse.yaml").write_text(LIMITED)
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [PROGRAM, "drill", "retry-loop", "--hours", "1"],
        cwd=tmp_path,
        env={**ENVIRONMENT, "TERM": "xterm", "COLUMNS": "160"},
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
    ) as process:
        os.close(theirs)
        shown = _all_of(ours)
    assert process.returncode == 0
    assert re.search(r"retry-loop.*\d+ %", shown)
    assert "WITHOUT SPENDFUSE" in shown


def _all_of(terminal: int) -> str:
    """What a terminal showed until its program ended."""
    shown = b""
    try:
        while chunk := os.read(terminal, 65_536):
            shown += chunk
    except OSError:
        # Linux says so when the other side is closed.
        pass
    finally:
        os.close(terminal)
    return shown.decode()
