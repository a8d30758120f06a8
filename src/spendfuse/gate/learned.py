"""What a model usually answers, per feature: the cap for callers who name none."""

from collections import OrderedDict, deque

SAMPLES_MAX = 500
PAIRS_MAX = 2_000
LEARNED_MIN_TOKENS = 1_024


class LearnedCaps:
    """1.25 x the 99th percentile of recent outputs of each (model, feature), at least 1,024 tokens.

    Bounded: the last 500 outputs of the 2,000 most recently used pairs. Of one process, and forgotten with it: a cap is
    a wish, the reservation made for it is what keeps a limit.
    """

    def __init__(self) -> None:
        self._outputs: OrderedDict[tuple[str, str], deque[int]] = OrderedDict()
        self._caps: dict[tuple[str, str], int] = {}

    def cap(self, model: str, feature: str) -> int:
        """The learned cap, in tokens for each choice."""
        pair = (model, feature)
        known = self._caps.get(pair)
        if known is not None:
            return known
        outputs = self._outputs.get(pair)
        if outputs is None:
            # Not remembered: features are the clients' to invent.
            return LEARNED_MIN_TOKENS
        known = self._caps[pair] = _cap_of(outputs)
        return known

    def observe(self, model: str, feature: str, output_tokens: int) -> None:
        """Remember one answer's output, in tokens for each choice."""
        pair = (model, feature)
        outputs = self._outputs.setdefault(pair, deque(maxlen=SAMPLES_MAX))
        self._outputs.move_to_end(pair)
        outputs.append(output_tokens)
        self._caps.pop(pair, None)
        while len(self._outputs) > PAIRS_MAX:
            forgotten, _ = self._outputs.popitem(last=False)
            self._caps.pop(forgotten, None)


def _cap_of(outputs: deque[int]) -> int:
    ascending = sorted(outputs)
    p99 = ascending[min(len(ascending) - 1, len(ascending) * 99 // 100)]
    return max(LEARNED_MIN_TOKENS, -(-p99 * 5 // 4))
