"""The acts: traffic that runs into each kind of limit."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import cast

from openai import APIStatusError

from spendfuse.cli.demo.traffic import Request, Tally, Traffic, requests, send_all
from spendfuse.cli.demo.watch import watching
from spendfuse.cli.output import say
from spendfuse.cli.texts import counted
from spendfuse.ledger.store import Ledger

FEATURES = ("chat", "triage", "reports", "onboarding", "translate", "tagging", "mail", "notes")
MONTH_LIMIT = "company-month"


@dataclass(frozen=True, slots=True)
class Act:
    """So many clients send these calls at once until enough has been seen, at most `calls_max`."""

    title: str
    requests: Iterator[Request]
    clients: int
    is_enough: Callable[[Tally], bool]
    calls_max: int


def acts() -> tuple[Act, ...]:
    """All acts, in order."""
    crowd = tuple(f"user-{number:02d}" for number in range(1, 41))
    return (
        Act(
            title="An ordinary morning: three users, three features, streamed and not, with tools",
            requests=requests(("ada", "bo", "cy"), ("chat", "search", "triage")),
            clients=6,
            is_enough=lambda tally: tally.calls >= 30,
            calls_max=30,
        ),
        Act(
            title='One feature runs hot: each feature may spend $0.15 a week, and "search" goes on and on',
            requests=requests(crowd[:12], ("search",)),
            clients=12,
            is_enough=lambda tally: tally.refused["budget_exceeded"] >= 5,
            calls_max=400,
        ),
        Act(
            title='One user runs hot: each user may use 12,000 tokens a month, and "mallory" is in a loop',
            requests=requests(("mallory",), ("chat", "triage")),
            clients=4,
            is_enough=lambda tally: tally.refused["budget_exceeded"] >= 5,
            calls_max=400,
        ),
        Act(
            title='A storm: "sync" may make 10 requests in 10 s, and 60 come at once',
            requests=requests(crowd[:12], ("sync",)),
            clients=60,
            is_enough=lambda tally: tally.calls >= 60,
            calls_max=60,
        ),
        Act(
            title="The end of the month: the company may spend $0.50, and everybody goes on",
            requests=requests(crowd, FEATURES),
            clients=12,
            is_enough=lambda tally: MONTH_LIMIT in tally.first,
            calls_max=600,
        ),
    )


async def play(act: Act, traffic: Traffic, ledger: Ledger) -> Tally:
    """Play one act and say what became of its calls."""
    tally = Tally()
    say(act.title)
    async with watching(tally, ledger):
        await send_all(
            traffic,
            act.requests,
            tally,
            clients=act.clients,
            until=lambda tally: act.is_enough(tally) or tally.calls >= act.calls_max,
        )
    say(f"  {_summary(tally)}")
    shown: set[APIStatusError] = set()
    for error in tally.first.values():
        if error not in shown:
            shown.add(error)
            say(f"  {error.status_code} {message_of(error)}")
    say()
    return tally


def _summary(tally: Tally) -> str:
    admitted = f"{tally.admitted} admitted"
    kinds = [f"{tally.streamed} streamed"] if tally.streamed else []
    kinds += [counted(tally.tool_calls, "tool call")] if tally.tool_calls else []
    parts = [counted(tally.calls, "call"), admitted + (f" ({', '.join(kinds)})" if kinds else "")]
    if tally.fitted:
        parts.append(f"{tally.fitted} of them fitted to what was left (down to {tally.smallest_cap} output tokens)")
    parts += [f"{count} refused: {code}" for code, count in tally.refused.items()]
    return ", ".join(parts)


def message_of(error: APIStatusError) -> str:
    """The gateway's own message, without what the SDK puts around it."""
    body = error.body
    if not isinstance(body, dict):
        return error.message
    message = cast("dict[str, object]", body).get("message")
    return message if isinstance(message, str) else error.message
