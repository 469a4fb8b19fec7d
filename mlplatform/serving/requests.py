"""What may be told of a request: nothing that its client made up."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from mlplatform.serving.calls import Header, Request
from mlplatform.serving.paths import PAGES, protocol_of

if TYPE_CHECKING:
    from mlplatform.serving.dataplane import Answer

_MODEL_PATH = re.compile(r"(/v2)?/models/[^/]+(/versions/[^/]+)?(/ready|/infer|/invocations)?")
_TRACEPARENT = re.compile(rb"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}.*")


def route_of(path: str) -> str:
    """A path with names of models left out; `-` for one that we do not know."""
    if path in PAGES:
        return path
    if found := _MODEL_PATH.fullmatch(path):
        version = "/versions/{version}" if found[2] else ""
        return f"{found[1] or ''}/models/{{model}}{version}{found[3] or ''}"
    return "-"


def header(headers: list[Header], wanted: bytes) -> bytes:
    """The first of that name; empty when there is none."""
    return next((value for name, value in headers if name == wanted), b"")


def trace_id(headers: list[Header]) -> str:
    """Of W3C's `traceparent`; empty when there is none, or none that is right."""
    found = _TRACEPARENT.fullmatch(header(headers, b"traceparent"))
    return found[1].decode() if found and found[1].strip(b"0") else ""


def labels_of(request: Request, answer: Answer) -> dict[str, str]:
    """Which model answered, as metrics say it."""
    labels = {"protocol": protocol_of(request.path)}
    if answer.arm is not None:
        route = answer.arm.route
        labels |= {"model": route.model, "version": str(route.version), "arm": route.arm}
    return labels
