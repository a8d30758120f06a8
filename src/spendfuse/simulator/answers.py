"""What the model says: how much of it, in which tokens, and why it stops.

The text is one word repeated, whose o200k encoding is one token each time: so
a reader that counts the text's tokens finds exactly what was billed.
"""

import math
from dataclasses import dataclass

from spendfuse.simulator.behaviour import Behaviour
from spendfuse.simulator.counting import count_text, single_tokens
from spendfuse.simulator.models import Model
from spendfuse.simulator.requests import ChatRequest

WORD = " token"


@dataclass(frozen=True, slots=True)
class CalledTool:
    """A function's name, and its arguments token by token. The name's tokens come first and are billed too."""

    name: str
    name_tokens: int
    arguments: tuple[str, ...]

    @property
    def tokens(self) -> int:
        return self.name_tokens + len(self.arguments)

    def text(self, start: int, stop: int) -> str:
        """What the tokens `start` to `stop` of the call add to its arguments."""
        skipped = self.name_tokens
        return "".join(self.arguments[max(start - skipped, 0) : max(stop - skipped, 0)])


@dataclass(frozen=True, slots=True)
class Answer:
    """One choice of an answer; all choices are alike."""

    reasoning_tokens: int
    visible_tokens: int
    finish_reason: str
    tool: CalledTool | None = None

    @property
    def tokens(self) -> int:
        return self.reasoning_tokens + self.visible_tokens

    def text(self, start: int, stop: int) -> str:
        """What the visible tokens `start` to `stop` add to the content, or to the tool's arguments."""
        return WORD * (stop - start) if self.tool is None else self.tool.text(start, stop)


def plan_answer(request: ChatRequest, model: Model, behaviour: Behaviour, *, call_number: int) -> Answer:
    wanted = behaviour.output_tokens_of(call_number)
    tool_name = request.tool_name if behaviour.tool_call else None
    tool = None if tool_name is None else called_tool(tool_name, wanted)
    visible = wanted if tool is None else tool.tokens
    uncut = behaviour.reasoning_tokens + visible
    tokens = cut_to_cap(uncut, request.cap or model.output_tokens_max, behaviour)
    reasoning = min(behaviour.reasoning_tokens, tokens)
    ending = "stop" if tool is None else "tool_calls"
    return Answer(reasoning, tokens - reasoning, "length" if tokens < uncut else ending, tool)


def cut_to_cap(tokens: int, cap: int, behaviour: Behaviour) -> int:
    return tokens if behaviour.ignore_cap else min(tokens, math.ceil(cap * behaviour.cap_factor))


def called_tool(name: str, wanted: int) -> CalledTool:
    """A call whose name and arguments have `wanted` tokens, or the few more that the emptiest JSON needs."""
    name_tokens = count_text(name)
    frame_tokens = count_text(_arguments(1)) - 1
    words = max(wanted - name_tokens - frame_tokens, 1)
    return CalledTool(name, name_tokens, single_tokens(_arguments(words)))


def _arguments(words: int) -> str:
    return '{"text":"' + WORD * words + '"}'
