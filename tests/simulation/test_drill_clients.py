"""Clients of a drill repeat calls as the vendors' SDKs do."""

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from spendfuse.clock import FrozenClock
from spendfuse.core.decisions import Reason, Shortfall
from spendfuse.core.limits import Limit, Unit
from spendfuse.core.refusals import Code, Deny
from spendfuse.core.windows import Lifetime
from spendfuse.drill.clients import Ask, Clients, Source
from spendfuse.drill.refusals import Heard, heard
from spendfuse.gate.requests import Caller
from spendfuse.simulator.virtual_time import VirtualLoop
from spendfuse.wire import anthropic_errors, openai_errors
from spendfuse.wire.dialect import Answer

ASK = Ask("gpt-4o", "openai/gpt-4o", 1, 100)
ENDS_AT_S = 1_795_262_400.0


@dataclass(slots=True)
class Scripted:
    """A way on which calls meet these answers, the last one for ever; None never comes."""

    answers: list[Heard | None]
    sent_at_s: list[float] = field(default_factory=list[float])

    async def send(self, source: Source, ask: Ask) -> Heard:
        """See `Way`."""
        self.sent_at_s.append(asyncio.get_running_loop().time())
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if answer is None:
            await asyncio.sleep(1e6)
            raise AssertionError("nobody waits so long")
        return answer


def sent(*answers: Heard | None, times: int = 1, timeout_s: float = 20) -> tuple[list[float], Source]:
    """When attempts were made for so many calls, and who made them."""
    way = Scripted(list(answers))
    source = Source(Caller("app"), {}, "10.0.0.1", timeout_s)

    async def calls() -> None:
        clients = Clients(way, random.Random(1))
        for _ in range(times):
            await clients.call(source, ASK)

    with asyncio.Runner(loop_factory=lambda: VirtualLoop(FrozenClock(0))) as runner:
        runner.run(calls())
    return way.sent_at_s, source


@pytest.mark.parametrize("status", [200, 400, 401, 402, 404])
def test_what_was_served_or_is_wrong_is_not_repeated(status: int) -> None:
    assert len(sent(Heard(status))[0]) == 1


@pytest.mark.parametrize("status", [408, 409, 429, 500, 502, 503, 529])
def test_trouble_is_repeated_twice_with_growing_waits(status: int) -> None:
    first, second, third = sent(Heard(status))[0]
    assert first == 0
    assert 0.375 <= second <= 0.5
    assert 0.75 <= third - second <= 1.0


def test_retry_after_is_obeyed_up_to_a_minute() -> None:
    assert sent(Heard(429, retry_after_s=7), Heard(200))[0] == pytest.approx([0, 7], abs=1e-6)
    assert sent(Heard(429, retry_after_s=3_600), Heard(200))[0][1] <= 0.5


def test_x_should_retry_beats_the_status() -> None:
    assert len(sent(Heard(503, should_retry=False))[0]) == 1
    assert len(sent(Heard(402, should_retry=True))[0]) == 3


def test_a_client_leaves_a_call_that_takes_too_long_and_repeats_it() -> None:
    first, second = sent(None, Heard(200))[0]
    assert (first, second) == (0, pytest.approx(20.5, abs=0.13))


def test_a_client_is_done_after_three_refusals_that_nothing_can_change() -> None:
    final = Heard(402, "day", is_final=True)
    assert not sent(final, times=2)[1].is_done
    assert sent(final, times=3)[1].is_done
    assert not sent(final, final, Heard(200), final, final, times=5)[1].is_done
    open_breaker = Heard(503, "breaker errors", should_retry=False)
    assert sent(final, open_breaker, final, open_breaker, final, times=5)[1].is_done


def refusal(code: Code, shortfall: Shortfall, *, resets_at_s: float | None) -> Deny:
    limit = Limit("day-budget", Unit.USD, 10, Lifetime())
    resets_at_ms = None if resets_at_s is None else int(resets_at_s * 1_000)
    reason = Reason(shortfall, limit, "[]", 10, 10, 0, 1, 1, resets_at_ms)
    return Deny(code, "No.", retry_after_s=3, reasons=(reason,))


@pytest.mark.parametrize("tell", [openai_errors.refusal, anthropic_errors.refusal], ids=["openai", "anthropic"])
@pytest.mark.parametrize(
    ("code", "shortfall", "resets_at_s", "is_final"),
    [
        (Code.BUDGET_EXCEEDED, Shortfall.SPENT, None, True),
        (Code.BUDGET_EXCEEDED, Shortfall.SPENT, ENDS_AT_S, True),
        (Code.BUDGET_EXCEEDED, Shortfall.SPENT, ENDS_AT_S - 1, False),
        (Code.BUDGET_BUSY, Shortfall.BUSY, None, False),
        (Code.RATE_LIMIT_EXCEEDED, Shortfall.RATE, None, False),
        (Code.CALL_EXCEEDS_LIMIT, Shortfall.EXCEEDS, ENDS_AT_S - 1, True),
    ],
)
def test_a_refusal_is_final_when_it_outlasts_the_drill(
    tell: Callable[[Deny], Answer], code: Code, shortfall: Shortfall, resets_at_s: float | None, is_final: bool
) -> None:
    read = heard(tell(refusal(code, shortfall, resets_at_s=resets_at_s)), ends_at_s=ENDS_AT_S)
    assert (read.refused_by, read.is_final, read.retry_after_s) == ("day-budget", is_final, 3)
    assert read.should_retry is code.may_retry


def test_a_provider_s_own_error_is_no_refusal() -> None:
    read = heard(Answer(500, (), b'{"error": {"message": "Oh.", "code": null}}'), ends_at_s=0)
    assert (read.status, read.refused_by, read.is_final) == (500, "", False)
    assert not heard(openai_errors.refusal(Deny(Code.UPSTREAM_TIMEOUT, "Late.")), ends_at_s=0).refused_by
    assert heard(openai_errors.refusal(Deny(Code.LABEL_REQUIRED, "Who?")), ends_at_s=0).refused_by == "label required"


def test_an_open_breaker_is_told_by_its_name_and_may_close_again() -> None:
    told = Deny(
        Code.STORE_UNAVAILABLE, 'breaker "errors" (target=openai/gpt-4o) is open since 12:00.', retry_after_s=30
    )
    read = heard(openai_errors.refusal(told), ends_at_s=0)
    assert (read.refused_by, read.is_final, read.retry_after_s) == ("breaker errors", False, 30)
