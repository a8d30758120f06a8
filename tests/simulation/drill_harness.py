"""Drills as the command plays them, over stores whose books are audited when a drill ends."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from spendfuse.clock import Clock
from spendfuse.config import Config, parse
from spendfuse.drill.rehearsal import Finding, Rehearsal
from spendfuse.drill.scenarios import SCENARIOS
from spendfuse.drill.stage import Stage
from spendfuse.upstream.client import UpstreamClient
from spendfuse.wiring import open_drill_stage

MODELS = """
providers:
  openai: {api_key: os.environ/NOT_SET}
  anthropic: {api_key: os.environ/NOT_SET_EITHER}
models:
  gpt-4o: openai/gpt-4o
  claude: anthropic/claude-sonnet-4-5
"""


@asynccontextmanager
async def audited_stage(config: Config, client: UpstreamClient, clock: Clock) -> AsyncGenerator[Stage]:
    """The stage that commands get; what is left on it has to agree, and no balance may be above its amount."""
    async with open_drill_stage(config, client, clock) as stage:
        yield stage
        assert await stage.shared.ledger.audit() == []
        for line in await stage.shared.ledger.balances():
            assert line.reserved == 0
            assert not line.is_enforced or line.unit != "usd" or line.settled <= line.amount, line


def config_of(limits: str = "") -> Config:
    """A config with two models, these limits (YAML below their key), and no breakers."""
    return parse(f"{MODELS}\nlimits: {{{limits}}}\nbreakers: {{}}", environ={})


def play(config: Config, scenario: str, *, hours: float | None = None, seed: int = 1) -> Finding:
    """What becomes of one scenario."""
    rehearsal = Rehearsal(config, audited_stage, seed=seed)
    return rehearsal.play(SCENARIOS[scenario], hours=hours, progress=lambda _: None)
