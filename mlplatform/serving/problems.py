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


class NotTheSignature(Problem):
    """{what}"""

    error_code = "INVALID_PARAMETER_VALUE"
    """As MLflow calls rows and parameters that can be read, but are not those of the model's signature."""


class UnsupportedMediaType(Problem):
    """{what}"""

    status, error_code = 415, "UNSUPPORTED_MEDIA_TYPE"


class TooLarge(Problem):
    """{what}"""

    status, error_code = 413, "REQUEST_TOO_LARGE"


class TooSlow(Problem):
    """{what}"""

    status, error_code = 408, "REQUEST_TIMEOUT"


class TargetTooLong(Problem):
    """{what}"""

    status, error_code = 414, "URI_TOO_LONG"


class ExpectationFailed(Problem):
    """{what}"""

    status, error_code = 417, "EXPECTATION_FAILED"


class HeadersTooLarge(Problem):
    """{what}"""

    status, error_code = 431, "REQUEST_HEADER_FIELDS_TOO_LARGE"


class TooLate(Problem):
    """{what}"""

    status, error_code = 504, "DEADLINE_EXCEEDED"


class Unauthorized(Problem):
    """{what}"""

    status, error_code = 401, "UNAUTHENTICATED"

    def __init__(self, what: str, error: str = "") -> None:
        super().__init__(what, authenticate=_challenge(error=error))


class Forbidden(Problem):
    """The token lacks the scope {scope}"""

    status, error_code = 403, "PERMISSION_DENIED"

    def __init__(self, scope: str) -> None:
        scope = _one_line(scope)
        super().__init__("", scope=scope, authenticate=_challenge(error="insufficient_scope", scope=scope))


class NotThere(Problem):
    """{what}"""

    status, error_code = 404, "NOT_FOUND"


class WrongMethod(Problem):
    """{what}"""

    status, error_code = 405, "METHOD_NOT_ALLOWED"


class Unavailable(Problem):
    """{what}"""

    status, error_code = 503, "TEMPORARILY_UNAVAILABLE"


class NotLoaded(Unavailable):
    """{model} is not loaded"""

    def __init__(self, model: str) -> None:
        super().__init__("", model=_one_line(model))
        self.model = model


class TooBusy(Problem):
    """{what}"""

    status, error_code = 429, "RESOURCE_EXHAUSTED"


class ModelFailed(Problem):
    """{what}"""

    status, error_code = 500, "INTERNAL_ERROR"


def _challenge(**facts: str) -> str:
    """The header WWW-Authenticate of RFC 6750."""
    known = ", ".join(f'{name}="{_quotable(value)}"' for name, value in facts.items() if value)
    return f"Bearer {known}" if known else "Bearer"


def _quotable(value: str) -> str:
    return "".join(c for c in value if c.isascii() and c.isprintable() and c not in '"\\')


def _one_line(what: str) -> str:
    line = " ".join(what.split())
    return line if len(line) <= MESSAGE_LIMIT else line[: MESSAGE_LIMIT - 1] + "…"
