"""All paths that clients can call, and how calls of each are carried out with each kind of provider."""

from collections.abc import Mapping
from dataclasses import dataclass

from spendfuse.clock import Clock
from spendfuse.config import Config, DialectName
from spendfuse.core.calls import Operation
from spendfuse.wire.anthropic_count import AnthropicCountTokens
from spendfuse.wire.anthropic_messages import AnthropicMessages
from spendfuse.wire.dialect import Dialect, Exchange
from spendfuse.wire.openai_chat import OpenAIChat
from spendfuse.wire.openai_embeddings import OpenAIEmbeddings
from spendfuse.wire.translate.chat_over_messages import ChatOverMessages

Exchanges = Mapping[tuple[Operation, DialectName], Exchange]
"""By the path that a client calls and what the provider speaks. What is missing can't be carried out."""
NANOS_PER_S = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Served:
    """The dialects by their paths below `/v1/`, and their exchanges."""

    dialects: Mapping[str, Dialect]
    exchanges: Exchanges


def served(config: Config, clock: Clock) -> Served:
    """What one config serves."""
    chat, embeddings = OpenAIChat(n_max=config.n_max), OpenAIEmbeddings()
    messages, count_tokens = AnthropicMessages(betas=config.betas), AnthropicCountTokens(betas=config.betas)
    dialects: tuple[Dialect, ...] = (chat, embeddings, messages, count_tokens)
    return Served(
        {dialect.operation.value: dialect for dialect in dialects},
        {
            (Operation.CHAT, DialectName.OPENAI): chat,
            (Operation.CHAT, DialectName.ANTHROPIC): ChatOverMessages(now_s=lambda: clock.now_ns() // NANOS_PER_S),
            (Operation.EMBEDDINGS, DialectName.OPENAI): embeddings,
            (Operation.MESSAGES, DialectName.ANTHROPIC): messages,
            (Operation.COUNT_TOKENS, DialectName.ANTHROPIC): count_tokens,
        },
    )
