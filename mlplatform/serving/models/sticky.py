"""What a request stays on its version by, while two versions share the requests: a header or a column."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mlplatform.serving.calls import Call
from mlplatform.serving.decode import Rows
from mlplatform.serving.problems import Problem

if TYPE_CHECKING:
    from mlplatform.serving.models.predictor import Arm

HEADER = "header:"


def key_of(arms: Sequence[Arm], protocol: str, call: Call) -> str:
    """The key's value, of the first row where it is a column; "" where the request has none.

    Raises Problem when it is a column and no arm can read the request.
    """
    name = arms[0].route.key
    if name.startswith(HEADER):
        wanted = name.removeprefix(HEADER).lower().encode()
        return next((value.decode("latin-1") for header, value in call.headers if header == wanted), "")
    value = _first(decoded(arms, protocol, call), name) if name else None
    return "" if value is None else _text(value)


def decoded(arms: Sequence[Arm], protocol: str, call: Call) -> Rows:
    """The request's rows, by the first arm, from the last, that can read them; kept for the arm that answers."""
    for arm in reversed(arms):
        try:
            rows, wanted = arm.codecs[protocol].decode(call)
        except Problem:
            if arm is arms[0]:
                raise
            continue
        call.decoded = (arm, rows, wanted)
        return rows
    raise AssertionError("a table without arms")


def _text(value: Any) -> str:
    """The same for a number however it came: a column of a matrix is of floats, the same column alone is not."""
    whole = isinstance(value, float) and value.is_integer()
    return str(int(value)) if whole else str(value)


def _first(rows: Rows, name: str) -> Any:
    if name in rows.context:
        return rows.context[name][0]
    column = rows.batch.columns().get(name)
    return None if column is None else column[0].item() if hasattr(column[0], "item") else column[0]
