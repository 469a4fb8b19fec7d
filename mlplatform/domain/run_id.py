"""Ids of runs as people write them: whole, or as far as we print them."""

from __future__ import annotations

import re
from collections.abc import Iterable

from mlplatform.errors import UnknownName, UsageError

SHOWN = 8
"""Characters of an id that we print, and the fewest that name a run."""
_WHOLE = re.compile(r"[0-9a-f]{32}")
_POSSIBLE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


def is_whole(text: str) -> bool:
    return _WHOLE.fullmatch(text) is not None


def demand_possible(text: str) -> None:
    """UsageError for what no run can be called; it reaches no store."""
    if _POSSIBLE.fullmatch(text) is None:
        hint = f"Write the id that `mlplatform train` printed, or its first {SHOWN} characters."
        raise UsageError(hint, what=f"{text!r} cannot be the id of a run")


def the_one(text: str, found: Iterable[str], hint: str = "") -> str:
    """The only id that begins so, or is it. Raises UnknownName for none, UsageError with the candidates for several.

    >>> the_one("e9a04c3a", ["e9a04c3a77", "e9a04c3b00"])
    'e9a04c3a77'
    """
    ids = sorted({run_id for run_id in found if run_id.startswith(text)})
    if text in ids:
        return text
    if len(text) < SHOWN or not ids:
        raise UnknownName("run", text, hint=hint or f"Write at least the first {SHOWN} characters of its id.")
    if len(ids) > 1:
        raise UsageError("Write more of it.", what=f"{len(ids)} runs begin with {text}: {', '.join(ids)}")
    return ids[0]
