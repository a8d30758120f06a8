"""Prompts whose tokens are known without counting them, and how a provider counts what came to it.

A prompt is its number and one word, repeated: in the bytes of any body both can be found, and a word is a token.
"""

import re

from spendfuse.simulator.answers import WORD
from spendfuse.simulator.counting import MESSAGE_TOKENS, REPLY_TOKENS

_NUMBER = re.compile(rb"drill-(\d{9})")
_WORD = WORD.encode()
_HEAD_TOKENS = 3
"""At least: what a number at the head of a prompt takes."""


def prompt(number: int, tokens: int) -> str:
    """A text of so many tokens, or a few more; equal for equal arguments only."""
    return f"drill-{number:09d}{WORD * tokens}"


def number_of(body: bytes) -> int:
    """The number of the prompt in a body."""
    found = _NUMBER.search(body)
    assert found is not None, "a drill sends nothing but its prompts"
    return int(found[1])


def tokens_of(prompt_tokens: int) -> int:
    """What a provider bills as the input of a call with a prompt of so many tokens."""
    return prompt_tokens + _HEAD_TOKENS + MESSAGE_TOKENS + REPLY_TOKENS


def count_of(body: bytes) -> int:
    """What a provider bills as the input of a body."""
    return tokens_of(body.count(_WORD))
