"""What a request can be told instead of an answer: a status and one JSON line."""

from __future__ import annotations

import json
from typing import Any

from mlplatform.errors import MlplatformError

MESSAGE_LIMIT = 600
"""Characters; what a client sent is quoted in messages, and may be long."""


class Problem(MlplatformError):
    """{what}"""

    status = 400
    error_code = "BAD_REQUEST"

    def __init__(self, what: str, **facts: Any) -> None:
        super().__init__(what=_one_line(what), **facts)

    def body(self) -> bytes:
        return json.dumps({"error_code": self.error_code, "message": str(self)}).encode()


class UnsupportedMediaType(Problem):
    """{what}"""

    status, error_code = 415, "UNSUPPORTED_MEDIA_TYPE"


class TooLarge(Problem):
    """{what}"""

    status, error_code = 413, "REQUEST_TOO_LARGE"


class TooSlow(Problem):
    """{what}"""

    status, error_code = 408, "REQUEST_TIMEOUT"


class NotThere(Problem):
    """{what}"""

    status, error_code = 404, "NOT_FOUND"


class WrongMethod(Problem):
    """{what}"""

    status, error_code = 405, "METHOD_NOT_ALLOWED"


class Unavailable(Problem):
    """{what}"""

    status, error_code = 503, "TEMPORARILY_UNAVAILABLE"


class ModelFailed(Problem):
    """{what}"""

    status, error_code = 500, "INTERNAL_ERROR"


def _one_line(what: str) -> str:
    line = " ".join(what.split())
    return line if len(line) <= MESSAGE_LIMIT else line[: MESSAGE_LIMIT - 1] + "…"
