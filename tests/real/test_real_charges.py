"""A real model behind the gateway: what is charged is what the model's own server says it read and made.

Three witnesses of each call have to agree with its ledger entry: what the SDK was told, what the server answered to the
gateway (recorded between the two), and what the server's own counters grew by.
"""

from concurrent.futures import ThreadPoolExecutor

import pytest
from gateway import RunningGateway, wait_until
from real_clients import Client, MessagesClient, Told
from real_ledger import cost_of, entry_of
from real_model import NOTHING, RunningModel, Tokens
from recorder import Recorder

CAP = 24
CALLS = 4
LONG = "Write down all you know about the history, the bridges and the weather of the town of Bern. "


@pytest.fixture
def prompt(request: pytest.FixtureRequest) -> str:
    """A prompt of the test's own: the server has not cached it yet."""
    return f"{request.node.name}: {LONG}"


def _make(client: Client, prompt: str, *, stream: bool) -> Told:
    return client.streamed(prompt, cap=CAP) if stream else client.whole(prompt, cap=CAP)


def _charged_as_reported(told: Told, gateway: RunningGateway, recorder: Recorder) -> Tokens:
    """What a call was charged for, after all that was said of it has been found to agree."""
    reported = recorder.exchange_of(told.answer_id).reported()
    entry = entry_of(gateway, told.call_id)
    assert told.usage == reported
    assert entry.tokens == reported
    assert entry.cost == cost_of(reported)
    assert not entry.is_estimated
    assert reported.input <= entry.held_input
    assert 0 < reported.output <= entry.held_output == CAP
    assert entry.cost <= entry.held_cost
    return entry.tokens


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_a_call_is_charged_what_the_server_counted_cached_input_too(
    stream: bool, prompt: str, client: Client, gateway: RunningGateway, recorder: Recorder, model: RunningModel
) -> None:
    before = model.bill()
    first = _charged_as_reported(_make(client, prompt, stream=stream), gateway, recorder)
    between = model.bill()
    again = _charged_as_reported(_make(client, prompt, stream=stream), gateway, recorder)
    assert (first, again) == (between - before, model.bill() - between)
    # The same prompt again: nearly all of it comes from the server's cache, and at that price.
    assert first.cached < again.cached
    assert again.input // 2 < again.cached < again.input == first.input


def test_the_cost_header_is_the_entrys_cost(prompt: str, client: Client, gateway: RunningGateway) -> None:
    told = client.whole(prompt, cap=CAP)
    assert told.cost_usd is not None
    dollars, _, decimals = told.cost_usd.partition(".")
    assert int(dollars) * 10**9 + int(decimals.ljust(9, "0")) == entry_of(gateway, told.call_id).cost


def test_the_cap_and_the_targets_model_name_go_upstream(prompt: str, client: Client, recorder: Recorder) -> None:
    request = recorder.exchange_of(client.whole(prompt, cap=CAP).answer_id).request
    assert request["model"] == "gemma"
    assert [request.get(name) for name in ("max_tokens", "max_completion_tokens")].count(CAP) == 1


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_calls_at_once_are_each_charged_their_own(
    stream: bool, prompt: str, client: Client, gateway: RunningGateway, recorder: Recorder, model: RunningModel
) -> None:
    before = model.bill()
    with ThreadPoolExecutor(CALLS) as pool:
        makings = [
            pool.submit(_make, client, f"{number} {prompt * number}", stream=stream) for number in range(1, CALLS + 1)
        ]
    told = [making.result() for making in makings]
    charged = [_charged_as_reported(one, gateway, recorder) for one in told]
    assert len({one.call_id for one in told}) == CALLS
    assert sum(charged, NOTHING) == model.bill() - before


def test_a_stream_that_is_left_is_charged_what_was_made_at_least_and_its_reservation_at_most(
    prompt: str, client: Client, gateway: RunningGateway, recorder: Recorder, model: RunningModel
) -> None:
    cap, pieces = 1_000, 20
    before = model.bill()
    told = client.streamed(prompt, cap=cap, pieces_max=pieces)
    entry = entry_of(gateway, told.call_id)
    made = model.bill() - before
    print(f"\nseen {pieces}, made {made}, charged {entry.tokens}, held {entry.held_input} + {entry.held_output}")
    assert told.usage is None
    assert not recorder.exchange_of(told.answer_id).is_complete
    # The server was stopped: what the client does not read is not made.
    assert pieces <= made.output < cap
    assert entry.is_estimated
    assert made.output <= entry.tokens.output <= entry.held_output == cap
    assert made.input <= entry.tokens.input <= entry.held_input
    assert cost_of(made) <= entry.cost <= entry.held_cost


def test_counting_tokens_is_free_and_says_what_the_call_is_then_billed_for(
    prompt: str, gateway: RunningGateway, model: RunningModel
) -> None:
    client = MessagesClient(gateway)
    wait_until(lambda: gateway.totals().open_reservations == 0, 10, "earlier calls are settled")
    before, billed = gateway.totals(), model.bill()
    counted = client.count_tokens(prompt)
    wait_until(lambda: gateway.totals().open_reservations == 0, 10, "the count is settled")
    after = gateway.totals()
    assert (after.settled, after.tokens) == (before.settled, before.tokens)
    assert model.bill() == billed
    told = client.whole(prompt, cap=CAP)
    assert entry_of(gateway, told.call_id).tokens.input == counted
