"""Traffic as an application makes it: the official OpenAI SDK, many users and features at once."""

import asyncio
import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import openai
from openai import AsyncOpenAI
from openai.types.chat import ChatCompletionMessageParam, ChatCompletionToolParam

MODEL = "gpt-4o"
MAX_TOKENS = 600
PROMPTS = (
    "Summarise the customer's last three tickets in two sentences.",
    "Rewrite this search query so that it finds the invoice from March.",
    "Draft a friendly reply that explains why the export takes a minute.",
    "List the risks in this contract clause, most serious first.",
)
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
    """What became of the calls."""

    calls: int = 0
    admitted: int = 0
    streamed: int = 0
    tool_calls: int = 0
    fitted: int = 0
    smallest_cap: int = MAX_TOKENS
    refused: Counter[str] = field(default_factory=Counter[str])
    messages: dict[str, str] = field(default_factory=dict[str, str])
    """The gateway's own message of the first refusal, by its code."""
    errors: dict[str, openai.APIStatusError] = field(default_factory=dict[str, openai.APIStatusError])

    def note_refusal(self, error: openai.APIStatusError) -> None:
        code = f"{error.status_code} {error.code}"
        self.refused[code] += 1
        self.errors.setdefault(code, error)


class Traffic:
    """A client of the gateway. It does not retry, so that every refusal is seen."""

    def __init__(self, base_url: str, key: str) -> None:
        self._client = AsyncOpenAI(base_url=base_url, api_key=key, max_retries=0, timeout=60)

    async def close(self) -> None:
        await self._client.close()

    async def send(self, request: Request, tally: Tally) -> None:
        """Make one call and read its answer to the end."""
        tally.calls += 1
        try:
            cap = await (self._streamed(request) if request.is_streamed else self._whole(request, tally))
        except openai.APIStatusError as error:
            tally.note_refusal(error)
            return
        tally.admitted += 1
        tally.streamed += request.is_streamed
        if cap < MAX_TOKENS:
            tally.fitted += 1
            tally.smallest_cap = min(tally.smallest_cap, cap)
