"""Traffic as an application makes it: the official OpenAI SDK, many users and features at once."""

import asyncio
import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import openai
from openai import AsyncOpenAI
from openai.types.chat import ChatCompletionMessageParam, ChatCompletionToolParam

MODEL = "gpt-4o"
MAX_TOKENS = 1_000
KEY_CHECK_S = 0.05
PROMPTS = (
    "Summarise the customer's last three tickets in two sentences.",
    "Rewrite this search query so that it finds the invoice from March.",
    "Draft a friendly reply that explains why the export takes a minute.",
    "List the risks in this contract clause, most serious first.",
)
_LIMIT_NAME = re.compile(r'limit \\?"([^"\\]+)')
"""In the gateway's message, which the SDK shows inside a dictionary."""
TOOL: ChatCompletionToolParam = {
    "type": "function",
    "function": {
        "name": "look_up_order",
        "description": "Finds an order by its number.",
        "parameters": {"type": "object", "properties": {"number": {"type": "string"}}, "required": ["number"]},
    },
}


@dataclass(frozen=True, slots=True)
class Request:
    """One call to make, and on whose behalf."""

    user: str
    feature: str
    prompt: str = PROMPTS[0]
    is_streamed: bool = False
    has_tool: bool = False


@dataclass(slots=True)
class Tally:
    """What became of the calls. `fitted` were admitted at a lower cap than they asked for."""

    calls: int = 0
    admitted: int = 0
    streamed: int = 0
    tool_calls: int = 0
    fitted: int = 0
    smallest_cap: int = MAX_TOKENS
    refused: Counter[str] = field(default_factory=Counter[str])
    """By the refusal's code."""
    first: dict[str, openai.APIStatusError] = field(default_factory=dict[str, openai.APIStatusError])
    """The first refusal that named a limit, by the limit's name."""

    def count_refusal(self, error: openai.APIStatusError) -> None:
        """Count a refused call, and keep it if it is the first that its limits refused."""
        self.refused[str(error.code)] += 1
        for name in _LIMIT_NAME.findall(error.message):
            self.first.setdefault(name, error)


class Traffic:
    """A client of the gateway. It does not retry, so that every refusal is seen."""

    def __init__(self, base_url: str, key: str) -> None:
        self._client = AsyncOpenAI(base_url=base_url, api_key=key, max_retries=0, timeout=60)

    async def aclose(self) -> None:
        """Close its connections."""
        await self._client.close()

    async def wait_until_known(self, timeout_s: float) -> None:
        """Until the gateway has learned of the client's key, which it asks the store for twice a second.

        Raises:
            TimeoutError: it did not.
        """
        async with asyncio.timeout(timeout_s):
            while True:
                try:
                    await self._client.models.list()
                except openai.AuthenticationError:
                    await asyncio.sleep(KEY_CHECK_S)
                else:
                    return

    async def send(self, request: Request, tally: Tally) -> None:
        """Make one call, read its answer to the end, and count what became of it."""
        tally.calls += 1
        try:
            cap = await (self._stream(request, tally) if request.is_streamed else self._ask(request, tally))
        except openai.APIStatusError as error:
            tally.count_refusal(error)
            return
        tally.admitted += 1
        if cap < MAX_TOKENS:
            tally.fitted += 1
            tally.smallest_cap = min(tally.smallest_cap, cap)

    async def _ask(self, request: Request, tally: Tally) -> int:
        raw = await self._client.chat.completions.with_raw_response.create(
            model=MODEL,
            messages=_messages(request),
            max_tokens=MAX_TOKENS,
            tools=[TOOL] if request.has_tool else openai.omit,
            extra_headers=_labels(request),
        )
        tally.tool_calls += bool(raw.parse().choices[0].message.tool_calls)
        return _cap(raw.headers)

    async def _stream(self, request: Request, tally: Tally) -> int:
        raw = await self._client.chat.completions.with_raw_response.create(
            model=MODEL,
            messages=_messages(request),
            max_tokens=MAX_TOKENS,
            stream=True,
            extra_headers=_labels(request),
        )
        async for _ in raw.parse():
            pass
        tally.streamed += 1
        return _cap(raw.headers)


def _messages(request: Request) -> list[ChatCompletionMessageParam]:
    return [{"role": "user", "content": request.prompt}]


def _labels(request: Request) -> dict[str, str]:
    return {"x-spendfuse-user": request.user, "x-spendfuse-feature": request.feature}


def _cap(headers: Mapping[str, str]) -> int:
    """The cap that the gateway sent upstream; as asked where it says nothing."""
    return int(headers.get("x-spendfuse-max-tokens", MAX_TOKENS))


def requests(users: Sequence[str], features: Sequence[str]) -> Iterator[Request]:
    """Calls without end, of every user and feature in turn: every second streamed, every fifth with a tool."""
    for number in itertools.count():
        yield Request(
            user=users[number % len(users)],
            feature=features[(number + number // len(users)) % len(features)],
            prompt=PROMPTS[number % len(PROMPTS)],
            is_streamed=number % 2 == 1,
            has_tool=number % 5 == 0,
        )


async def send_all(
    traffic: Traffic, requests: Iterator[Request], tally: Tally, *, clients: int, until: Callable[[Tally], bool]
) -> None:
    """Send the calls from so many clients at once, each one call after the other, until enough has been seen."""

    async def run_client() -> None:
        for request in requests:
            if until(tally):
                return
            await traffic.send(request, tally)

    async with asyncio.TaskGroup() as group:
        for _ in range(clients):
            group.create_task(run_client())
