"""JSON as both protocols take it: by the letter."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from mlplatform.serving.problems import Problem, TooLarge

SMALL_BYTES = 64_000_000
"""What a body may take once it is read, however small it is; a larger one `TIMES` its own size."""
TIMES = 16
_HELD_BYTES = {b"{": 232, b"[": 64, b",": 24}
"""At least so much does CPython hold for what begins with each, or stands between two of them."""


def essence_of(content_type: bytes) -> str:
    """A content type without its parameters; empty when it names a charset that is not UTF-8."""
    essence, _, parameters = content_type.decode("latin-1").lower().partition(";")
    charset = parameters.strip().removeprefix("charset=").strip('"')
    return essence.strip() if charset in ("", "utf-8", "utf8") else ""


def parse(body: bytes) -> Any:
    """JSON by the letter: no key twice, no lone surrogates, no infinity. NaN, which pandas writes, is
    null."""
    _check_size(body)
    text = text_of(body)
    try:
        value = json.loads(text, object_pairs_hook=_unique, parse_constant=_constant)
    except RecursionError:
        raise Problem("the body is nested too deeply") from None
    except json.JSONDecodeError as error:
        raise Problem(
            f"the body is not JSON: {error.msg} at line {error.lineno}, column {error.colno}"
        ) from None
    except ValueError:
        raise Problem("the body is not JSON: a number has too many digits") from None
    if "\\ud" in text or "\\uD" in text:
        _check_surrogates(value)
    return value


def _check_size(body: bytes) -> None:
    """A list of empty objects takes thirty times its text: 16 MB of it would be half a gigabyte."""
    if len(body) * max(_HELD_BYTES.values()) <= SMALL_BYTES:
        return
    held = sum(size * body.count(mark) for mark, size in _HELD_BYTES.items())
    if held > max(SMALL_BYTES, TIMES * len(body)):
        raise TooLarge(
            f"the body would take {held / 1e6:.0f} MB in memory, more than {TIMES} times its own size:"
            " send fewer rows, dataframe_split instead of records, or tensors in binary"
        )


def text_of(body: bytes) -> str:
    try:
        return body.decode()
    except UnicodeDecodeError as error:
        raise Problem(f"the body is not UTF-8: byte {error.start}") from None


def first_repeated(names: Iterable[str]) -> str | None:
    """The first name that was there before."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise Problem(f"the key {first_repeated(name for name, _ in pairs)!r} is given twice")
    return found


def _constant(name: str) -> float | None:
    if name == "NaN":
        return None
    raise Problem(
        f"{name} is not a number in JSON: expected a finite number, or null where a value is missing"
    )


def _check_surrogates(value: Any) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:
        raise Problem("the body is nested too deeply") from None
    except UnicodeEncodeError:
        raise Problem("the body holds a lone surrogate, which is no character") from None
