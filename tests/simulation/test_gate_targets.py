"""A model with several targets: they take turns, and a limit of one of them leads to the next."""

from gate_harness import MESSAGES, World, chat, gate_test, messages

TWO = """
  both: {targets: [plain/one, plain/two]}
  mixed: {targets: [openai/gpt-4o-mini, plain/one]}
  either: {targets: [anthropic/claude-3-5-haiku-20241022, plain/one]}
"""
OF_ONE = "  of-one: {requests: 2, per: day, match: {model: [both], target: [plain/one]}}"


def sent(world: World) -> list[str]:
    """The models that were asked, in order."""
    return [str(body["model"]) for body in world.upstream.bodies]


@gate_test(more=TWO)
async def test_targets_take_turns(world: World) -> None:
    for _ in range(4):
        assert (await world.call(chat("both", max_tokens=10))).status == 200
    assert sent(world) == ["one", "two", "one", "two"]


@gate_test(OF_ONE, more=TWO)
async def test_a_target_whose_own_limit_refuses_is_passed_over(world: World) -> None:
    for _ in range(8):
        assert (await world.call(chat("both", max_tokens=10))).status == 200
    assert sent(world).count("one") == 2
    assert sent(world).count("two") == 6


@gate_test(OF_ONE + "\n  of-two: {requests: 1, per: day, match: {target: [plain/two]}}", more=TWO)
async def test_a_call_is_refused_once_when_every_target_is_at_its_limit(world: World) -> None:
    statuses = [(await world.call(chat("both", max_tokens=10))).status for _ in range(5)]
    assert statuses == [200, 200, 200, 402, 402]
    assert len(world.upstream.requests) == 3


@gate_test("  all: {requests: 2, per: day}", more=TWO)
async def test_a_limit_of_all_targets_refuses_without_trying_the_others(world: World) -> None:
    statuses = [(await world.call(chat("both", max_tokens=10))).status for _ in range(4)]
    assert statuses == [200, 200, 402, 402]
    assert sent(world) == ["one", "two"]


@gate_test(more=TWO)
async def test_each_target_is_quoted_at_its_own_price(world: World) -> None:
    await world.call(chat("mixed", max_tokens=100))
    cheap = world.last.held.cost
    await world.call(chat("mixed", max_tokens=100))
    assert world.last.held.cost > 3 * cheap


@gate_test(more=TWO)
async def test_a_call_goes_to_the_target_that_can_be_told_of_it(world: World) -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {}}}
    for _ in range(3):
        assert (await world.call(chat("either", max_tokens=10, tools=[tool]))).status == 200
    assert sent(world) == ["one", "one", "one"]


@gate_test(more=TWO)
async def test_a_call_that_no_target_can_be_told_of_is_refused(world: World) -> None:
    client = await world.call(messages(model="both"), dialect=MESSAGES)
    assert (client.status, client.error["code"]) == (400, "invalid_request")
    assert world.upstream.requests == []
