"""A LiteLLM YAML as it is: it starts, its models answer, and its budget holds across workers and restarts."""

import asyncio
import re
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import openai
import pytest
from gateway import APP_KEY, RunningGateway, config_text, running_gateway, wait_until

from spendfuse.simulator.behaviour import Behaviour
from spendfuse.simulator.process import RunningSimulator, running_simulator

FILE = """\
model_list:
- model_name: "gpt-4o-mini"
  litellm_params:
    model: "openai/gpt-4o-mini"
- model_name: "claude-haiku"
  litellm_params:
    model: "anthropic/claude-3-5-haiku-20241022"
router_settings:
  routing_strategy: "cost-based-routing"
litellm_settings:
  max_budget: 500 # Monthly budget in USD
  budget_duration: "1mo"
  success_callback: ["langsmith"]
"""
SMALL_NANOS = 5_000_000
SMALL = FILE.replace("max_budget: 500", "max_budget: 0.005")
MODELS = ("gpt-4o-mini", "claude-haiku")
BURST = 200
_KEY = re.compile(r"sk-sf-[\w-]{20,}")


@contextmanager
def running_file(
    file: str, folder: Path, simulator: RunningSimulator, *, workers: int = 1
) -> Generator[RunningGateway]:
    """The gateway with a LiteLLM file, in an environment that leads both vendors to the simulator."""
    environ = {
        "OPENAI_API_KEY": "sk-provider",
        "OPENAI_API_BASE": simulator.base_url,
        "ANTHROPIC_API_KEY": "sk-provider",
        "ANTHROPIC_API_BASE": simulator.anthropic_base_url,
    }
    with running_gateway(file, folder, workers=workers, name="litellm_config.yaml", environ=environ) as gateway:
        yield gateway


def log_of(gateway: RunningGateway) -> str:
    return gateway.config.with_name("gateway.log").read_text()


def made_key(gateway: RunningGateway) -> str:
    """The key that the first start has shown."""
    wait_until(lambda: bool(_KEY.search(log_of(gateway))), 5, "the made key is shown")
    found = _KEY.search(log_of(gateway))
    assert found is not None
    return found[0]


def ask(gateway: RunningGateway, key: str, model: str) -> str | None:
    with openai.OpenAI(base_url=gateway.base_url, api_key=key, max_retries=0) as client:
        answer = client.chat.completions.create(model=model, messages=[{"role": "user", "content": "Hello"}])
        return answer.choices[0].message.content


async def burst(gateway: RunningGateway, key: str) -> dict[int, int]:
    """How many of many calls at once got which status, both models alternating."""
    statuses: dict[int, int] = {}
    async with openai.AsyncOpenAI(base_url=gateway.base_url, api_key=key, max_retries=0) as client:

        async def call(at: int) -> None:
            try:
                await client.chat.completions.create(
                    model=MODELS[at % 2], messages=[{"role": "user", "content": "Tell me a story."}], max_tokens=300
                )
                status = 200
            except openai.APIStatusError as error:
                status = error.status_code
            statuses[status] = statuses.get(status, 0) + 1

        await asyncio.gather(*(call(at) for at in range(BURST)))
    return statuses


def test_the_file_of_a_team_starts_as_it_is_and_both_models_answer(tmp_path: Path) -> None:
    with running_simulator(Behaviour(output_tokens=20)) as simulator:
        with running_file(FILE, tmp_path, simulator) as gateway:
            key = made_key(gateway)
            assert all(ask(gateway, key, model) for model in MODELS)
            log = log_of(gateway)
            for unused in ("router_settings.routing_strategy", "litellm_settings.success_callback"):
                assert len([line for line in log.splitlines() if line.startswith("warning") and unused in line]) == 1
            wait_until(lambda: gateway.totals().open_reservations == 0, 5, "both calls are settled")
            assert gateway.totals().settled == simulator.bill().nanos
        with running_file(FILE, tmp_path, simulator) as again:
            assert ask(again, key, "claude-haiku")
            assert key not in log_of(again)
            limits = again.run("limits", "list").stdout
            assert "$500" in limits


@pytest.mark.parametrize("latency_s", [0.1, 0.5])
def test_a_small_budget_holds_under_a_burst_with_two_workers_and_over_a_restart(
    latency_s: float, tmp_path: Path
) -> None:
    with running_simulator(Behaviour(output_tokens=200, latency_s=latency_s)) as simulator:
        with running_file(SMALL, tmp_path, simulator, workers=2) as gateway:
            key = made_key(gateway)
            statuses = asyncio.run(burst(gateway, key))
            first_billed = simulator.bill(wait_idle_s=5).nanos
            print(f"\nbilled {first_billed / SMALL_NANOS:.2%} of the budget: {statuses}")
            assert statuses.keys() <= {200, 402, 429}
            assert first_billed <= SMALL_NANOS
        with running_file(SMALL, tmp_path, simulator, workers=2) as gateway:
            for _ in range(3):
                statuses = asyncio.run(burst(gateway, key))
            assert statuses.get(402, 0) > 0
            billed = simulator.bill(wait_idle_s=5).nanos
            print(f"billed {billed / SMALL_NANOS:.2%} after a restart: {statuses}")
            assert 0.9 * SMALL_NANOS <= billed <= SMALL_NANOS
            gateway.run("audit")


def test_an_environment_that_points_clients_at_the_gateway_is_no_providers(tmp_path: Path) -> None:
    ours = {
        "OPENAI_API_KEY": "sk-sf-mine",
        "OPENAI_BASE_URL": "http://127.0.0.1:4000/v1",
        "LITELLM_MASTER_KEY": APP_KEY,
    }
    with running_gateway(FILE, tmp_path, name="litellm_config.yaml", environ=ours) as gateway:
        for variable in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
            told = f"environment.{variable}: is left out, as it points clients at Spendfuse"
            wait_until(lambda told=told: told in log_of(gateway), 5, "the warning is printed")
        with pytest.raises(openai.APIStatusError, match="has no API key") as raised:
            ask(gateway, APP_KEY, "gpt-4o-mini")
        assert raised.value.status_code == 503


def test_a_call_that_comes_back_to_its_gateway_ends_there_and_costs_nothing(tmp_path: Path) -> None:
    with running_simulator() as simulator:
        with running_gateway(config_text(simulator), tmp_path) as first:
            port = first.port
        # Where it listened before, it now has its provider.
        looped = config_text(simulator).replace(simulator.base_url, f"http://127.0.0.1:{port}/v1")
        with running_gateway(looped.replace("os.environ/PROVIDER_KEY", APP_KEY), tmp_path, port=port) as gateway:
            with pytest.raises(openai.APIStatusError, match="has come through this gateway before") as raised:
                ask(gateway, APP_KEY, "gpt-4o-mini")
            assert raised.value.status_code == 508
            wait_until(lambda: gateway.totals().open_reservations == 0, 5, "the reservation has ended")
            assert gateway.totals().settled == 0
