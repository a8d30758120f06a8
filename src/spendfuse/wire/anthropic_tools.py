"""The tools of an Anthropic request: those that the client runs pass, those that the provider runs do not."""

from spendfuse.wire.json_body import BodyInvalid, Json, JsonObject
from spendfuse.wire.json_fields import wrong

# What the vendor puts before the model for its own tools, beside their JSON. It states 245 tokens for the shell, 700
# for the editor, 735 and 499 for the computer; and none for the others, each of whose actions has a schema.
_TOKENS_OF_VENDORS_TOOLS = {
    "bash": 1_024,
    "text_editor": 1_024,
    "computer": 2_048,
    "memory": 2_048,
    "computer_toolset": 8_192,
    "browser_toolset": 8_192,
}
_OWN_TOOLS = (None, "custom")
_DIRECT_CALLERS: Json = ["direct"]
_DATE_DIGITS = 8


def tokens_added_by(tools: list[JsonObject]) -> int:
    """What the provider adds, at most, for the vendor's own tools among these.

    Raises:
        BodyInvalid: a tool is run by the provider, or called by what it runs.
    """
    return sum(_tokens_of(tool, f"tools[{at}]") for at, tool in enumerate(tools))


def check_tool_change(block: JsonObject, path: str) -> None:
    """Refuse a block that brings in a tool which does not stand in `tools`.

    Raises:
        BodyInvalid: it does.
    """
    tool = block.get("tool")
    if not isinstance(tool, dict) or tool.get("type") != "tool_reference":
        raise BodyInvalid(f"`{path}.tool` must be a reference to one of `tools`", f"{path}.tool")


def _tokens_of(tool: JsonObject, path: str) -> int:
    kind = tool.get("type")
    callers = tool.get("allowed_callers")
    if callers is not None and callers != _DIRECT_CALLERS:
        raise wrong(f"{path}.allowed_callers", '["direct"] (what the provider runs has no cap)', callers)
    if kind in _OWN_TOOLS:
        return 0
    name, _, date = kind.rpartition("_") if isinstance(kind, str) else ("", "", "")
    if name not in _TOKENS_OF_VENDORS_TOOLS or len(date) != _DATE_DIGITS or not date.isdecimal():
        families = ", ".join(f"{one}_*" for one in _TOKENS_OF_VENDORS_TOOLS)
        raise wrong(f"{path}.type", f'"custom" or one of {families} (a tool that you run)', kind)
    return _TOKENS_OF_VENDORS_TOOLS[name]
