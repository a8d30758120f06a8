"""Refusals (400, 404) of messages that have the right shape and still cannot be served."""

from collections.abc import Mapping
from itertools import chain, pairwise

from spendfuse.simulator.claude_models import ClaudeModel, claude_model
from spendfuse.simulator.errors import ProviderError
from spendfuse.simulator.messages_requests import (
    Block,
    CacheControl,
    Message,
    MessagesRequest,
    NamedToolChoice,
    Prompt,
    RedactedThinkingBlock,
    TextBlock,
    ThinkingBlock,
    ThinkingEnabled,
    ToolChoice,
    ToolResultBlock,
    ToolUseBlock,
    VendorTool,
)

BREAKPOINTS_MAX = 4

_VENDOR_TOOL_NAMES: Mapping[str, str] = {
    "bash_20250124": "bash",
    "text_editor_20250124": "str_replace_editor",
    "text_editor_20250429": "str_replace_based_edit_tool",
    "text_editor_20250728": "str_replace_based_edit_tool",
    "memory_20250818": "memory",
}


def model_of(prompt: Prompt) -> ClaudeModel:
    """The model that the prompt names; else a 404, also for the other API's models."""
    model = claude_model(prompt.model)
    if model is None:
        raise ProviderError(404, f"model: {prompt.model}")
    return model


def check_prompt(prompt: Prompt, model: ClaudeModel) -> None:
    thinking = prompt.thinks
    if thinking is not None and thinking.type not in model.thinking:
        raise _refused(f"thinking.type: '{thinking.type}' is not supported by {model.name}.")
    if thinking is not None and _forces_a_tool(prompt):
        raise _refused("Thinking may not be enabled when tool_choice forces tool use.")
    _check_tools(prompt)
    for index, message in enumerate(prompt.messages):
        _check_message(message, index, is_last=index == len(prompt.messages) - 1)
    _check_tool_results(prompt.messages)
    _check_breakpoints(prompt)


def check_request(request: MessagesRequest, model: ClaudeModel) -> None:
    check_prompt(request, model)
    if request.max_tokens > model.output_tokens_max:
        raise _refused(
            f"max_tokens: {request.max_tokens} > {model.output_tokens_max}, "
            f"which is the maximum allowed number of output tokens for {model.name}"
        )
    thinking = request.thinks
    if isinstance(thinking, ThinkingEnabled) and request.max_tokens <= thinking.budget_tokens:
        raise _refused("`max_tokens` must be greater than `thinking.budget_tokens`.")
    if thinking is not None and request.temperature not in (None, 1):
        raise _refused("`temperature` may only be set to 1 when thinking is enabled.")
    if thinking is not None and request.top_k is not None:
        raise _refused("`top_k` must be unset when thinking is enabled.")
    if any(not sequence.strip() for sequence in request.stop_sequences or ()):
        raise _refused("stop_sequences: each stop sequence must contain non-whitespace")


def check_window(model: ClaudeModel, *, input_tokens: int, max_tokens: int) -> None:
    """Refuse what would not fit the window together with its cap.

    The newest models would take it and stop at the end of the window; the
    simulator holds every client to the stricter rule of their predecessors.
    """
    if input_tokens > model.window_tokens:
        raise _refused(f"prompt is too long: {input_tokens} tokens > {model.window_tokens} maximum")
    if input_tokens + max_tokens > model.window_tokens:
        raise _refused(
            f"input length and `max_tokens` exceed context limit: {input_tokens} + {max_tokens} > "
            f"{model.window_tokens}, decrease input length or `max_tokens` and try again"
        )


def _forces_a_tool(prompt: Prompt) -> bool:
    choice = prompt.tool_choice
    return isinstance(choice, NamedToolChoice) or (isinstance(choice, ToolChoice) and choice.type == "any")


def _check_tools(prompt: Prompt) -> None:
    names = [tool.name for tool in prompt.tools or ()]
    if len(set(names)) < len(names):
        raise _refused("tools: Tool names must be unique.")
    for index, tool in enumerate(prompt.tools or ()):
        if isinstance(tool, VendorTool) and tool.name != _VENDOR_TOOL_NAMES[tool.type]:
            raise _refused(f"tools.{index}.{tool.type}.name: Input should be '{_VENDOR_TOOL_NAMES[tool.type]}'")
    if prompt.tool_choice is not None and not names:
        raise _refused("tool_choice may only be specified while providing tools")
    if isinstance(prompt.tool_choice, NamedToolChoice) and prompt.tool_choice.name not in names:
        raise _refused(f"Tool '{prompt.tool_choice.name}' not found in provided tools")


def _check_message(message: Message, index: int, *, is_last: bool) -> None:
    if not message.content and not (is_last and message.role == "assistant"):
        raise _refused(
            f"messages.{index}: all messages must have non-empty content "
            "except for the optional final assistant message"
        )
    if not isinstance(message.content, str) and any(
        isinstance(block, TextBlock) and not block.text for block in message.content
    ):
        raise _refused("messages: text content blocks must be non-empty")
    last = message.blocks[-1] if is_last and message.blocks else None
    if message.role == "assistant" and isinstance(last, TextBlock) and last.text != last.text.rstrip():
        raise _refused("messages: final assistant content cannot end with trailing whitespace")
    for block in message.blocks:
        if not _may_say(message, block):
            raise _refused(f"messages.{index}: `{block.type}` blocks may not be in {message.role} messages")


def _may_say(message: Message, block: Block) -> bool:
    if isinstance(block, TextBlock):
        return True
    by_assistant = isinstance(block, ToolUseBlock | ThinkingBlock | RedactedThinkingBlock)
    return by_assistant == (message.role == "assistant")


def _check_tool_results(messages: list[Message]) -> None:
    """Every use of a tool has its result in the next message, and every result its use in the one before."""
    before: set[str] = set()
    for index, message in enumerate(messages):
        used = {block.id for block in message.blocks if isinstance(block, ToolUseBlock)}
        answered = {block.tool_use_id for block in message.blocks if isinstance(block, ToolResultBlock)}
        if answered - before:
            raise _refused(f"messages.{index}: unexpected `tool_use_id` found in `tool_result` blocks")
        if before - answered:
            raise _refused(
                f"messages.{index - 1}: `tool_use` ids were found without `tool_result` blocks immediately after"
            )
        before = used
    if before:
        raise _refused(
            f"messages.{len(messages) - 1}: `tool_use` ids were found without `tool_result` blocks immediately after"
        )


def _check_breakpoints(prompt: Prompt) -> None:
    blocks = chain(prompt.tools or (), prompt.system_blocks, *(message.blocks for message in prompt.messages))
    marks = [mark for block in blocks for mark in marks_of(block)]
    if prompt.cache_control is not None:
        marks.append(prompt.cache_control)
    if len(marks) > BREAKPOINTS_MAX:
        raise _refused(f"A maximum of {BREAKPOINTS_MAX} blocks with cache_control may be provided. Found {len(marks)}.")
    if any((first.ttl, second.ttl) == ("5m", "1h") for first, second in pairwise(marks)):
        raise _refused("a ttl='1h' cache_control block must not come after a ttl='5m' cache_control block")


def marks_of(block: object) -> list[CacheControl]:
    """The breakpoints on a block and within it, in order."""
    within = block.content if isinstance(block, ToolResultBlock) and isinstance(block.content, list) else []
    marks = [getattr(part, "cache_control", None) for part in (*within, block)]
    return [mark for mark in marks if isinstance(mark, CacheControl)]


def _refused(message: str) -> ProviderError:
    return ProviderError(400, message)
