"""Counting tokens with the one vocabulary we hold: OpenAI's o200k, vendored, so that nothing is fetched.

Loading takes about 0.3 s and 100 MB: call `encoding` at start or in a thread, never first within a request. Counting
releases the GIL, so texts above a few kilobytes belong in a thread, and above `COUNTED_BYTES_MAX` bytes stay the bound.
"""

import base64
import gzip
import hashlib
import re
from collections.abc import Iterator
from importlib.resources import files
from threading import Lock

import tiktoken

from spendfuse.core.errors import SpendfuseError

COUNTED_BYTES_MAX = 200_000
"""Texts of more bytes than this are not worth counting: their bytes are the bound."""

SLICE_CHARACTERS = 50_000
"""Longer texts make the tokenizer slow, or crash it, when they are adversarial (a megabyte of spaces)."""

_SHA256 = "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d"
_SPECIAL_TOKENS = {"<|endoftext|>": 199_999, "<|endofprompt|>": 200_018}
_TOKEN_BYTES_MAX = 128
"""The longest token of the vocabulary."""

# Where the tokenizer splits whatever stands further left or right, so that the tokens of two slices are those of the
# whole: behind a letter or digit before anything that continues neither (an apostrophe may: "don't"), between letter
# and digit, and behind a line end before a letter or digit.
_SAFE_CUT = re.compile(
    r"(?<=[^\W_])(?=[ -&(-/:-@\[-`{-~\r\n、。，；：？！])"
    r"|(?<=[A-Za-z])(?=[0-9])|(?<=[0-9])(?=[A-Za-z])"
    r"|(?<=\n)(?=[^\W_])"
)
_CUT_WINDOW_CHARACTERS = 4_000

_OF_O200K = re.compile(r"(gpt-4o|gpt-4\.1|gpt-4\.5|gpt-5|chatgpt|o1|o3|o4)([-.:].+)?")


class VocabularyDamaged(SpendfuseError):
    """The vendored vocabulary is not the published one."""


_lock = Lock()
_built: list[tiktoken.Encoding] = []


def encoding() -> tiktoken.Encoding:
    """The o200k encoding, built once in a process; safe to call from any thread.

    Raises:
        VocabularyDamaged: the file's hash is wrong.
    """
    if not _built:
        with _lock:
            if not _built:
                _built.append(_build())
    return _built[0]


def holds_vocabulary(provider: str, model: str) -> bool:
    """Whether a count of ours is the model's own: OpenAI's models since gpt-4o, fine-tuned ones included."""
    # Azure's names are those of deployments, which say nothing of the model behind them.
    return provider == "openai" and _OF_O200K.fullmatch(model.removeprefix("ft:")) is not None


def count(text: str) -> int:
    """An upper bound of the text's tokens, exact for all but stretches of 50,000 characters without a place to cut.

    Special tokens in the text count as plain text. Cutting just anywhere could lower the count (merging is greedy, not
    optimal), so a stretch without a safe cut counts as its bytes.
    """
    return sum(len(_bytes(piece)) if is_long else _encoded(piece) for piece, is_long in _pieces(text))


def count_at_least(text: str) -> int:
    """A lower bound of the text's tokens, exact where `count` is."""
    return sum(
        -(-len(_bytes(piece)) // _TOKEN_BYTES_MAX) if is_long else _encoded(piece) for piece, is_long in _pieces(text)
    )


def _build() -> tiktoken.Encoding:
    data = files("spendfuse.pricing") / "data"
    raw = gzip.decompress((data / "o200k_base.tiktoken.gz").read_bytes())
    if hashlib.sha256(raw).hexdigest() != _SHA256:
        raise VocabularyDamaged("the vendored o200k vocabulary does not have the published hash; reinstall Spendfuse")
    lines = (line.split() for line in raw.splitlines())
    return tiktoken.Encoding(
        name="o200k_base",
        pat_str=(data / "o200k_base.pattern").read_text(encoding="utf-8"),
        mergeable_ranks={base64.b64decode(token): int(rank) for token, rank in lines},
        special_tokens=_SPECIAL_TOKENS,
    )


def _encoded(text: str) -> int:
    return len(encoding().encode_ordinary(text))


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _pieces(text: str) -> Iterator[tuple[str, bool]]:
    """The text cut where its tokens end anyway; True marks a stretch that is too long to be encoded."""
    start = 0
    while len(text) - start > SLICE_CHARACTERS:
        end = start + SLICE_CHARACTERS
        cut = _last_cut(text, end)
        if cut is None:
            match = _SAFE_CUT.search(text, end)
            cut = match.start() if match else len(text)
        yield text[start:cut], cut > end
        start = cut
    yield text[start:], False


def _last_cut(text: str, end: int) -> int | None:
    cut = None
    for match in _SAFE_CUT.finditer(text, end - _CUT_WINDOW_CHARACTERS, end):
        cut = match.start()
    return cut
