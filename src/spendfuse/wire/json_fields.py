"""Typed reading of the fields of a JSON object: null counts as absent, a wrong type is refused by name."""

from spendfuse.wire.json_body import BodyInvalid, Json, JsonObject, shown


def integer(body: JsonObject, name: str, *, least: int, most: int | None = None) -> int | None:
    """An integer; JSON's `5.0`, `true` and `"5"` are none."""
    value = body.get(name)
    if value is None:
        return None
    if type(value) is not int or value < least or (most is not None and value > most):
        bounds = f"of at least {least}" if most is None else f"from {least} to {most}"
        raise wrong(name, f"an integer {bounds}", value)
    return value


def boolean(body: JsonObject, name: str, *, path: str | None = None) -> bool:
    """A boolean, False when absent."""
    value = body.get(name)
    if value is None:
        return False
    if type(value) is not bool:
        raise wrong(path or name, "a boolean", value)
    return value


def text(body: JsonObject, name: str) -> str | None:
    """A string."""
    value = body.get(name)
    if value is not None and not isinstance(value, str):
        raise wrong(name, "a string", value)
    return value


def mapping(body: JsonObject, name: str) -> JsonObject | None:
    """An object."""
    value = body.get(name)
    if value is not None and not isinstance(value, dict):
        raise wrong(name, "an object", value)
    return value


def objects(body: JsonObject, name: str) -> list[JsonObject]:
    """An array of objects, empty when absent."""
    value = body.get(name)
    if value is None:
        return []
    if not isinstance(value, list):
        raise wrong(name, "an array of objects", value)
    found = [one for one in value if isinstance(one, dict)]
    if len(found) != len(value):
        at = next(at for at, one in enumerate(value) if not isinstance(one, dict))
        raise wrong(f"{name}[{at}]", "an object", value[at])
    return found


def as_object(value: Json, path: str) -> JsonObject:
    """The value itself, which must be an object."""
    if not isinstance(value, dict):
        raise wrong(path, "an object", value)
    return value


def model_of(body: JsonObject) -> str:
    """The public model name that a request asks for.

    Raises:
        BodyInvalid: there is none.
    """
    model = text(body, "model")
    if not model:
        raise wrong("model", "the name of a model", model)
    return model


def wrong(path: str, expected: str, value: Json) -> BodyInvalid:
    """The refusal of a value: what it must be, and what was got."""
    return BodyInvalid(f"`{path}` must be {expected}, got {shown(value)}", path)
