"""Asking a model server over HTTP, as any program would: MLflow's scoring protocol, ids from the response's header."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from mlplatform.errors import Refused, UsageError, WorldError
from mlplatform.stats.batch import Array, Columns, row_count, take

if TYPE_CHECKING:
    from ssl import SSLContext

    from requests.adapters import HTTPAdapter

ROWS_A_REQUEST, VALUES_A_REQUEST, BYTES_A_REQUEST = 500, 400_000, 16_000_000
"""The second, which is for tensors, keeps a body in most cases below the third, what servers take by default."""
TIMEOUT_SECONDS = 30.0


def ask(
    url: str,
    columns: Columns,
    token: str = "",
    tls: SSLContext | None = None,
    path: str = "/invocations",
    most_bytes: int = BYTES_A_REQUEST,
) -> dict[str, Array]:
    """Answers to a table: `id` (what labels are joined by) and `prediction`, (n,) or one column a class.

    `token`: sent to a server that demands one. `tls`: what its certificate is checked by. `most_bytes`: of a request,
    unless one row is longer. Raises UsageError when the server does not accept the rows, Refused when it does not
    accept the token, WorldError when it does not answer.
    """
    import requests

    ids: list[str] = []
    predictions: list[Any] = []
    headers = {**_HEADERS, "Authorization": f"Bearer {token}"} if token else _HEADERS
    with requests.Session() as session:
        session.trust_env = False  # no proxy is between, and no ~/.netrc is meant
        if tls is not None:
            session.mount("https://", _checking(tls))
        for body in _bodies(columns, most_bytes):
            try:
                answer = session.post(url + path, data=body, headers=headers, timeout=TIMEOUT_SECONDS)
            except requests.RequestException as error:
                raise WorldError(what=f"the server at {url} does not answer: {error}") from error
            if answer.status_code != 200:
                raise _refused(url, answer.status_code, _message(answer.text))
            batch = answer.json()["predictions"]
            request = answer.headers["Mlplatform-Request-Id"]
            ids += [f"{request}/{row}" for row in range(len(batch))]
            predictions += batch
    return {"id": np.array(ids, dtype=object), "prediction": _predictions(predictions)}


def _bodies(columns: Columns, most_bytes: int) -> Iterator[bytes]:
    """The table in pieces, in its order."""
    rows, step = row_count(columns), _rows_a_request(columns)
    for first in range(0, rows, step):
        yield from _pieces(take(columns, np.arange(first, min(first + step, rows))), most_bytes)


def _pieces(part: Columns, most_bytes: int) -> Iterator[bytes]:
    """Halves, and halves of those, until each is short enough or a single row."""
    body, rows = _body(part), row_count(part)
    if len(body) <= most_bytes or rows == 1:
        yield body
        return
    for half in (np.arange(rows // 2), np.arange(rows // 2, rows)):
        yield from _pieces(take(part, half), most_bytes)


def _rows_a_request(columns: Columns) -> int:
    values = sum(values.size for values in columns.values()) // max(1, row_count(columns))
    return max(1, min(ROWS_A_REQUEST, VALUES_A_REQUEST // max(1, values)))


def _checking(tls: SSLContext) -> HTTPAdapter:
    """An adapter of `requests` that checks a server by this context."""
    from requests.adapters import HTTPAdapter

    class Checking(HTTPAdapter):
        def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
            kwargs |= {"ssl_context": tls, "assert_hostname": None if tls.check_hostname else False}
            super().init_poolmanager(*args, **kwargs)

        def cert_verify(self, conn: Any, url: Any, verify: Any, cert: Any) -> None:
            """The context says what is trusted; nothing is added to it."""

    return Checking()


def _refused(url: str, status: int, message: str) -> Refused | UsageError | WorldError:
    """Rows that the server cannot take are the caller's mistake; anything else is the server's."""
    if status in (401, 403):
        hint = "Show a token with the scope predict:<model>, in MLPLATFORM_TOKEN or the file of MLPLATFORM_TOKEN_FILE."
        return Refused(hint, what=f"the server at {url} answered {status}: {message}")
    if 400 <= status < 500:
        hint = _HINTS.get(status, "Look at `mlplatform endpoints`.")
        return UsageError(hint, what=f"the server at {url} answered {status}: {message}")
    return WorldError(
        what=f"the server at {url} answered {status}: {message}", hint="Look at `mlplatform endpoints`."
    )


_HINTS = {
    400: "Send the features of the model's signature, and beside them only `[data] context` of the policy.",
    413: "Raise limits.max_body_bytes of the endpoint in its policy, then `mlplatform deploy` again.",
    429: "Try again in a moment.",
}
_HEADERS = {"Content-Type": "application/json"}


def _body(columns: Columns) -> bytes:
    lists = [_jsonable(values) for values in columns.values()]
    rows = [list(row) for row in zip(*lists, strict=True)]
    return json.dumps({"dataframe_split": {"columns": list(columns), "data": rows}}).encode()


def _jsonable(values: Array) -> list[Any]:
    if values.dtype.kind == "M":
        return [None if np.isnat(v) else str(v) for v in values]
    if values.dtype.kind == "O":
        return [_plain(value) for value in values]
    return [None if isinstance(v, float) and v != v else v for v in values.tolist()]


def _plain(value: Any) -> Any:
    """Bytes in base64, tensors nested, as the protocol has them."""
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, np.ndarray):
        return value.tolist()
    return None if isinstance(value, float) and value != value else value


def _predictions(values: list[Any]) -> Array:
    array = np.array(values)
    return array.astype(object) if array.dtype.kind == "U" else array


def _message(text: str) -> str:
    try:
        return str(json.loads(text)["message"])
    except (ValueError, KeyError, TypeError):
        return text.strip()[:200]
