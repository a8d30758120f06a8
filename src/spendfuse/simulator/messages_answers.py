"""What Claude says: thinking, text and the call of a tool, block by block, and why it stops.

As in the other API's answers the text is one word repeated, a token each time.
"""

from dataclasses import dataclass
from itertools import accumulate

from spendfuse.simulator.answers import WORD, CalledTool, called_tool, cut_to_cap
from spendfuse.simulator.behaviour import Behaviour
from spendfuse.simulator.messages_requests import MessagesRequest, ThinkingEnabled

THINKING_TOKENS_DEFAULT = 32
TEXT_BEFORE_TOOL_TOKENS = 5


@dataclass(frozen=True, slots=True)
class ThinkingSaid:
    tokens: int
    shown: bool = True
    """Thinking that is not shown is billed all the same."""

    def text(self, start: int, stop: int) -> str:
        return WORD * (stop - start) if self.shown else ""


@dataclass(frozen=True, slots=True)
class TextSaid:
    tokens: int
    shown: str

    def text(self, start: int, stop: int) -> str:
        return self.shown[start * len(WORD) : stop * len(WORD)]


@dataclass(frozen=True, slots=True)
class ToolUsed:
    tokens: int
    """Of its name and arguments, as far as the cap lets them be."""
    tool: CalledTool

    def text(self, start: int, stop: int) -> str:
        return self.tool.text(start, stop)


Said = ThinkingSaid | TextSaid | ToolUsed


@dataclass(frozen=True, slots=True)
class MessageAnswer:
    blocks: tuple[Said, ...]
    stop_reason: str
    stop_sequence: str | None = None

    @property
    def tokens(self) -> int:
        return sum(block.tokens for block in self.blocks)

    @property
    def thinking_tokens(self) -> int:
        return sum(block.tokens for block in self.blocks if isinstance(block, ThinkingSaid))

    @property
    def ends(self) -> tuple[int, ...]:
        """After how many tokens of the answer each block ends."""
        return tuple(accumulate(block.tokens for block in self.blocks))


def plan_message(request: MessagesRequest, behaviour: Behaviour, *, call_number: int) -> MessageAnswer:
    wanted = behaviour.output_tokens_of(call_number)
    name = request.tool_name if behaviour.tool_call else None
    tool = None if name is None else called_tool(name, wanted - TEXT_BEFORE_TOOL_TOKENS)
    text_tokens = wanted if tool is None else TEXT_BEFORE_TOOL_TOKENS
    thinking = _thinking(request, behaviour)
    uncut = thinking.tokens + text_tokens + (0 if tool is None else tool.tokens)
    left = tokens = cut_to_cap(uncut, request.max_tokens, behaviour)

    thinking = ThinkingSaid(min(thinking.tokens, left), thinking.shown)
    left -= thinking.tokens
    text, stop_sequence = _text(min(text_tokens, left), request.stop_sequences or [])
    left -= text.tokens
    blocks: list[Said] = [block for block in (thinking, text) if block.tokens]
    if stop_sequence is not None:
        return MessageAnswer(tuple(blocks), "stop_sequence", stop_sequence)
    if tool is not None and left > 0:
        blocks.append(ToolUsed(left, tool))
    ending = "end_turn" if tool is None else "tool_use"
    return MessageAnswer(tuple(blocks), "max_tokens" if tokens < uncut else ending)


def _thinking(request: MessagesRequest, behaviour: Behaviour) -> ThinkingSaid:
    asked = request.thinks
    if asked is None:
        return ThinkingSaid(0)
    tokens = behaviour.reasoning_tokens or THINKING_TOKENS_DEFAULT
    if isinstance(asked, ThinkingEnabled):
        tokens = min(tokens, asked.budget_tokens)
    return ThinkingSaid(tokens, shown=asked.display != "omitted")


def _text(tokens: int, stop_sequences: list[str]) -> tuple[TextSaid, str | None]:
    """Text of so many tokens, or up to the stop sequence that comes first in it: generated and billed, not shown."""
    text = WORD * tokens
    found = [(text.find(sequence), sequence) for sequence in stop_sequences if sequence in text]
    if not found:
        return TextSaid(tokens, text), None
    at, sequence = min(found)
    return TextSaid(-(-(at + len(sequence)) // len(WORD)), text[:at]), sequence
