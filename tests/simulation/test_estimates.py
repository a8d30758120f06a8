"""When tokens are counted instead of bytes, and when an estimate is taken for a bound."""

import asyncio

import orjson
import pytest

from spendfuse.clock import FrozenClock
from spendfuse.config import parse
from spendfuse.core.calls import Call
from spendfuse.gate.estimates import Estimate, Estimator
from spendfuse.gate.learned import LearnedCaps
from spendfuse.gate.overruns import Overruns
from spendfuse.gate.routes import Rotation, Routes
from spendfuse.ledger.memory import open_memory
from spendfuse.wire.openai_chat import OpenAIChat

CONFIG = """
providers:
  openai: {{api_key: sk-provider}}
  plain: {{dialect: openai, base_url: "http://plain.test/v1", prices: {{"*": {{input: 1, output: 2}}}}}}
  open: {{dialect: openai, base_url: "http://open.test/v1", allow_free: true}}
models: {{gpt-4o-mini: openai/gpt-4o-mini, plain: plain/llama, unheard-of: open/unheard-of}}
limits:
{limits}
"""
PROSE = "A ledger keeps what was spent, by whom and for what, and never forgets. " * 100


def _estimates(limits: str, model: str) -> tuple[Estimate, Estimate | None]:
    """The rough estimate of a long prompt, and the counted one where it may be made."""
    config = parse(CONFIG.format(limits=limits), environ={})
    clock = FrozenClock(1_795_262_400_000_000_000)
    body = {"model": model, "messages": [{"role": "user", "content": PROSE}], "max_tokens": 10}
    call = OpenAIChat().parse(orjson.dumps(body))
    assert isinstance(call, Call)

    async def estimate() -> tuple[Estimate, Estimate | None]:
        ledger = await open_memory(config.limits, clock)
        estimator = Estimator(config.limits, Overruns(ledger), LearnedCaps(), output_tokens_default=4_096)
        rotation = Routes(config, clock).get(model)
        assert isinstance(rotation, Rotation)
        (route,) = rotation.turn()
        rough = estimator.rough(call, route, route.labels)
        assert isinstance(rough, Estimate)
        counted = await estimator.counted(rough) if rough.can_count else None
        await ledger.close()
        return rough, counted

    return asyncio.run(estimate())


def test_bytes_are_the_bound_of_a_model_whose_vocabulary_we_do_not_hold() -> None:
    rough, counted = _estimates("  all: {usd: 1, per: day}", "plain")
    assert counted is None
    assert rough.quoted.quote.input_tokens > len(PROSE)


def test_an_estimate_is_taken_where_all_limits_are_content_with_one() -> None:
    rough, counted = _estimates("  all: {usd: 1, per: day, estimate: true}\n  rate: {requests: 9, per: day}", "plain")
    assert counted is not None
    assert counted.quoted.quote.input_tokens < rough.quoted.quote.input_tokens / 2
    _, exact = _estimates("  all: {usd: 1, per: day}", "gpt-4o-mini")
    assert exact is not None
    assert counted.quoted.quote.input_tokens > exact.quoted.quote.input_tokens


@pytest.mark.parametrize("other", ["usd: 5, per: month", "tokens: 99999, per: lifetime"])
def test_one_limit_that_wants_a_bound_is_enough_for_bytes(other: str) -> None:
    _, counted = _estimates(f"  all: {{usd: 1, per: day, estimate: true}}\n  other: {{{other}}}", "plain")
    assert counted is None


def test_a_provider_may_be_allowed_to_serve_models_without_a_known_price() -> None:
    rough, _ = _estimates("  all: {usd: 1, per: day}", "unheard-of")
    assert rough.route.is_free
    assert rough.quoted.quote.at(1_000).cost == 0
