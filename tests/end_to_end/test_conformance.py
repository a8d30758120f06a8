"""Checked by a conformance suite of others: nothing may fail through the gateway that passes at the provider itself.

The suite (`llm-comply`) holds answers against the vendors' own schemas and against rules of its own. It runs twice,
against the simulated provider and through the gateway before it, and what it finds has to be the same.
"""

import json
import subprocess
import sys
from collections.abc import Generator
from dataclasses import dataclass

import pytest
from gateway import APP_KEY, running_gateway

from spendfuse.simulator.behaviour import Behaviour
from spendfuse.simulator.process import RunningSimulator, running_simulator

SUITE_TIMEOUT_S = 60
CHECKS_MIN = 9
"""As many as each format has: fewer would mean that the suite changed, or that it left some out."""
CHAT_MODEL, MESSAGES_MODEL = "o4-mini", "claude-haiku-4-5"
"""Models that the suite knows to reason: it leaves out checks for others."""
CONFIG = """
store: sqlite:///spendfuse.db
providers:
  openai: {{api_key: os.environ/PROVIDER_KEY, base_url: "{base_url}"}}
  anthropic: {{api_key: os.environ/PROVIDER_KEY, base_url: "{base_url}"}}
models: {models}
keys:
  - {{name: app, key: os.environ/APP_KEY}}
"""


@dataclass(frozen=True, slots=True)
class Format:
    """One of the suite's formats, with the model to ask for and the way its vendor is authenticated."""

    name: str
    model: str
    options: tuple[str, ...] = ()


CHAT = Format("openai-chat", CHAT_MODEL)
MESSAGES = Format(
    "anthropic", MESSAGES_MODEL, ("--auth-header", "x-api-key", "--no-bearer", "-H", "anthropic-version:2023-06-01")
)
FORMATS = [CHAT, MESSAGES]


@dataclass(frozen=True, slots=True)
class Check:
    """What one check of the suite found. `complaints` are its errors and its warnings."""

    status: str
    complaints: frozenset[str]


def _run(base_url: str, asked: Format) -> dict[str, Check]:
    """All checks of a format by their ids."""
    command = [
        *(sys.executable, "-m", "llm_comply.cli", "--json", "--format", asked.name, *asked.options),
        *("--base-url", base_url, "--api-key", APP_KEY, "--model", asked.model),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SUITE_TIMEOUT_S)
    # 1 says that some failed.
    assert done.returncode in (0, 1), done.stderr
    return {
        one["id"]: Check(one["status"], frozenset(one.get("errors", []) + one.get("warnings", [])))
        for one in json.loads(done.stdout)["results"]
    }


def _table(where: str, checks: dict[str, Check]) -> str:
    lines = [f"  {check.status:8} {name}  {' | '.join(sorted(check.complaints))}" for name, check in checks.items()]
    return "\n".join([f"{where}:", *lines])


@pytest.fixture(scope="module")
def simulator() -> Generator[RunningSimulator]:
    # A check offers a tool and wants it called; another wants a model to have thought.
    with running_simulator(Behaviour(output_tokens=20, reasoning_tokens=8, tool_call=True)) as running:
        yield running


@pytest.fixture(scope="module")
def gateway_url(simulator: RunningSimulator, tmp_path_factory: pytest.TempPathFactory) -> Generator[str]:
    models = {CHAT_MODEL: f"openai/{CHAT_MODEL}", MESSAGES_MODEL: f"anthropic/{MESSAGES_MODEL}"}
    config = CONFIG.format(base_url=simulator.base_url, models=json.dumps(models))
    with running_gateway(config, tmp_path_factory.mktemp("conformance")) as running:
        yield running.base_url
        running.run("audit")


@pytest.mark.parametrize("asked", FORMATS, ids=[one.name for one in FORMATS])
def test_nothing_fails_through_the_gateway_that_passes_at_the_provider(
    asked: Format, simulator: RunningSimulator, gateway_url: str
) -> None:
    direct, through = _run(simulator.base_url, asked), _run(gateway_url, asked)
    print(f"\n{asked.name}\n{_table('at the provider', direct)}\n{_table('through the gateway', through)}")
    assert len(direct) >= CHECKS_MIN
    # The simulated provider is ours to mend; and where it fails, the gateway could fail unseen.
    assert {name: check for name, check in direct.items() if check.status != "passed"} == {}
    assert through.keys() == direct.keys()
    worse = {name: check for name, check in through.items() if not _is_no_worse(check, direct[name])}
    assert worse == {}


def _is_no_worse(through: Check, direct: Check) -> bool:
    return through.status == "passed" and through.complaints <= direct.complaints
