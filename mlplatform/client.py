"""Asking a model server over HTTP, as any program would: MLflow's scoring protocol, ids from the response's header."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from mlplatform.errors import UsageError, WorldError
from mlplatform.stats.batch import Array, Columns, row_count, take

ROWS_A_REQUEST = 500
TIMEOUT_SECONDS = 30.0


def ask(url: str, columns: Columns) -> dict[str, Array]:
    """Answers to a table: `id` (what labels are joined by) and `prediction`, (n,) or one column a class.

    Raises UsageError when the server does not accept the rows, WorldError when it does not answer.
    """
    import requests

    ids: list[str] = []
    predictions: list[Any] = []
    with requests.Session() as session:
        for first in range(0, row_count(columns), ROWS_A_REQUEST):
            part = take(columns, np.arange(first, min(first + ROWS_A_REQUEST, row_count(columns))))
            try:
                answer = session.post(
                    f"{url}/invocations", data=_body(part), headers=_HEADERS, timeout=TIMEOUT_SECONDS
                )
            except requests.RequestException as error:
                raise WorldError(what=f"the server at {url} does not answer: {error}") from error
            if answer.status_code != 200:
                raise _refused(url, answer.status_code, _message(answer.text))
            batch = answer.json()["predictions"]
            request = answer.headers["Mlplatform-Request-Id"]
            ids += [f"{request}/{row}" for row in range(len(batch))]
            predictions += batch
    return {"id": np.array(ids, dtype=object), "prediction": _predictions(predictions)}


def _refused(url: str, status: int, message: str) -> UsageError | WorldError:
    """Rows that the server cannot take are the caller's mistake; anything else is the server's."""
    if 400 <= status < 500:
        hint = (
            "Send the features of the model's signature, and beside them only `[data] context` of the policy."
        )
        return UsageError(hint, what=f"the server at {url} answered {status}: {message}")
    return WorldError(
        what=f"the server at {url} answered {status}: {message}", hint="Look at `mlplatform endpoints`."
    )


_HEADERS = {"Content-Type": "application/json"}


def _body(columns: Columns) -> bytes:
    lists = [_jsonable(values) for values in columns.values()]
    rows = [list(row) for row in zip(*lists, strict=True)]
    return json.dumps({"dataframe_split": {"columns": list(columns), "data": rows}}).encode()


def _jsonable(values: Array) -> list[Any]:
    if values.dtype.kind == "M":
        return [None if np.isnat(v) else str(v) for v in values]
    return [None if isinstance(v, float) and v != v else v for v in values.tolist()]


def _predictions(values: list[Any]) -> Array:
    array = np.array(values)
    return array.astype(object) if array.dtype.kind == "U" else array


def _message(text: str) -> str:
    try:
        return str(json.loads(text)["message"])
    except (ValueError, KeyError, TypeError):
        return text.strip()[:200]
