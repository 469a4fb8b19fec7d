"""Plain values against a frozen dataclass: the object, or everything that is wrong with them."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from mlplatform.config.mistakes import Mistake, unknown
from mlplatform.config.toml_lines import Path
from mlplatform.domain.lacking import Lacking

_TOML_WORDS = {
    "a integer": "an integer",
    "a array": "an array",
    "an object": "a table",
    "a string": "text in quotes",
}


def validate(cls: type[Any], values: Mapping[str, Any]) -> tuple[Any, list[Mistake]]:
    """The validated dataclass, or None and every mistake. Nothing is coerced: "5" is no number, 1 is no boolean.

    What a check in `__post_init__` says is kept. A mistaken part hides others (the check of a table runs only
    once its parts have the right types), so mistaken parts are taken out and the rest is looked at again.
    """
    model, mistakes = adapter(cls), list[Mistake]()
    values = copy.deepcopy(dict(values))
    while True:
        made, errors = _attempt(model, values)
        fresh = [e for e in errors if not _covered(e, mistakes)]
        if not fresh:
            return (made if not mistakes else None), mistakes
        mistakes += [Mistake(where, _say(cls, same)) for where, same in _by_place(fresh).items()]
        for error in fresh:
            _take_out(values, error["loc"][:-1] if error["type"] == "missing" else error["loc"])


def adapter(cls: type[Any]) -> Any:
    """A pydantic model with the one field `it`: only a model can forbid extra keys in the dataclasses below it."""
    from pydantic import ConfigDict, create_model

    config = ConfigDict(extra="forbid", allow_inf_nan=False, alias_generator=key_of)
    return create_model(cls.__name__, __config__=config, it=(cls, ...))


def key_of(field: str) -> str:
    """How a file writes a field. A Python keyword stands in code with an underscore: `for_` is `for`.

    >>> key_of("for_")
    'for'
    """
    return field.removesuffix("_")


def type_at(cls: Any, where: Path) -> Any:
    """The type that stands at a path below a dataclass; `Any` where nothing is declared."""
    for part in where:
        cls = _inside(_bare(cls), part)
    return _bare(cls)


def _attempt(model: Any, values: Mapping[str, Any]) -> tuple[Any, list[dict[str, Any]]]:
    from pydantic import ValidationError

    try:
        # JSON mode is strict about numbers and text, yet takes tables for dataclasses and arrays for tuples.
        return model.model_validate_json(json.dumps({"it": values}, default=str), strict=True).it, []
    except ValidationError as error:
        return None, [{**e, "loc": _real(e, values)} for e in error.errors(include_url=False)]


def _real(error: Any, values: Any) -> Path:
    """The path in the values; pydantic adds the alternatives of a union to it."""
    where: Path = error["loc"][1:]
    for depth, part in enumerate(where):
        last = depth == len(where) - 1 and error["type"] == "missing"
        if isinstance(values, dict) and (part in values or last):
            values = values.get(part)
        elif isinstance(values, list) and isinstance(part, int):
            values = values[part]
        else:
            return where[:depth]
    return where


def _by_place(errors: list[dict[str, Any]]) -> dict[Path, list[dict[str, Any]]]:
    """A value that fits none of several types has an error for each."""
    places: dict[Path, list[dict[str, Any]]] = {}
    for error in errors:
        places.setdefault(error["loc"], []).append(error)
    return places


def _covered(error: Mapping[str, Any], mistakes: list[Mistake]) -> bool:
    """Whether the error is only the echo of one that was told."""
    where = error["loc"]
    told = [m.where for m in mistakes]
    missing = error["type"] == "missing" and any(t[: len(where)] == where for t in told)
    return missing or any(where[: len(t)] == t for t in told) or _lacks_what_was_told(error, told)


def _lacks_what_was_told(error: Mapping[str, Any], told: list[Path]) -> bool:
    """Whether a check misses a part that is there, and was taken out for its own mistakes."""
    check = error.get("ctx", {}).get("error")
    if not isinstance(check, Lacking):
        return False
    part = (*error["loc"], check.part)
    return any(t[: len(part)] == part for t in told)


def _take_out(values: Any, where: Path) -> None:
    """Remove a mistaken key; of an array with a mistaken item the whole, since positions must not move."""
    parent: Any = None
    for part in where[:-1]:
        parent, values = values, value_at(values, part)
    if where and isinstance(values, dict):
        values.pop(where[-1], None)
    elif where and isinstance(parent, dict):
        parent.pop(where[-2], None)


def value_at(values: Any, part: str | int) -> Any:
    """What stands there in a table or an array; None when nothing does."""
    if isinstance(values, dict):
        return values.get(str(part))
    return values[part] if isinstance(values, list) and isinstance(part, int) and part < len(values) else None


def _say(cls: type[Any], errors: list[dict[str, Any]]) -> str:
    where, kind, got = errors[0]["loc"], errors[0]["type"], errors[0]["input"]
    if kind == "missing":
        return "missing"
    if kind == "unexpected_keyword_argument":
        parent = type_at(cls, where[:-1])
        known = [key_of(f.name) for f in fields(parent)] if is_dataclass(parent) else []
        return unknown("key", str(where[-1]), known)
    if kind == "literal_error":
        options = [str(option) for option in get_args(type_at(cls, where))]
        return unknown("value", str(got), options)
    if kind == "value_error":
        return str(errors[0]["ctx"]["error"])
    return f"should be {' or '.join(map(_wanted, errors))}, not {_short(got)}"


def _wanted(error: dict[str, Any]) -> str:
    wanted: str = error["msg"].removeprefix("Input should be ").replace("a valid ", "a ")
    for pydantic_says, toml_says in _TOML_WORDS.items():
        wanted = wanted.replace(pydantic_says, toml_says)
    return wanted


def _short(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _bare(cls: Any) -> Any:
    """`X | None` as `X`."""
    if get_origin(cls) in (Union, UnionType):
        return next(option for option in get_args(cls) if option is not type(None))
    return cls


def _inside(cls: Any, part: str | int) -> Any:
    if is_dataclass(cls) and isinstance(cls, type):
        return {key_of(name): of for name, of in get_type_hints(cls).items()}.get(str(part), Any)
    arguments = get_args(cls)
    if isinstance(part, int):
        return arguments[0] if arguments else Any
    return arguments[1] if len(arguments) == 2 else Any
