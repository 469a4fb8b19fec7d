"""Which page or operation a path and a method ask for."""

from __future__ import annotations

from typing import NamedTuple

from mlplatform.errors import nearest
from mlplatform.serving.problems import NotThere, WrongMethod

PAGES = {
    "/invocations": "POST",
    "/labels": "POST",
    "/ping": "GET",
    "/health": "GET",
    "/version": "GET",
    "/metrics": "GET",
    "/openapi.json": "GET",
    "/v2": "GET",
    "/v2/health/live": "GET",
    "/v2/health/ready": "GET",
}
MODEL_PAGES = {"": "GET", "ready": "GET", "infer": "POST"}
"""Below `/v2/models/<model>` and `/v2/models/<model>/versions/<version>`."""


class Place(NamedTuple):
    """A page by its path, or one of a model by its last part: `model`, `ready`, `infer`."""

    page: str
    model: str = ""
    version: str = ""


def find(path: str, method: str) -> Place:
    """NotThere names the nearest known path, WrongMethod the method to use."""
    place, wanted = _known(path)
    if method != wanted and not (method == "HEAD" and wanted == "GET"):
        raise WrongMethod(f"{path[:200]} takes {wanted}", allow="GET, HEAD" if wanted == "GET" else wanted)
    return place


def protocol_of(path: str) -> str:
    """Whose words an error on this path is told in."""
    return "v2" if path == "/v2" or path.startswith("/v2/") else "mlflow"


def _known(path: str) -> tuple[Place, str]:
    if path in PAGES:
        return Place(path), PAGES[path]
    if path.startswith("/models/") and path.endswith("/invocations"):
        model = path.removeprefix("/models/").removesuffix("/invocations")
        if model and "/" not in model:
            return Place("infer", model), "POST"
    if path.startswith("/v2/models/"):
        model, *rest = path.removeprefix("/v2/models/").split("/")
        version = ""
        if len(rest) >= 2 and rest[0] == "versions":
            version, rest = rest[1], rest[2:]
            model = model if version else ""
        page = "/".join(rest)
        if model and page in MODEL_PAGES and (page or not rest):
            return Place(page or "model", model, version), MODEL_PAGES[page]
    below = ("/v2/models/<model>", "/v2/models/<model>/infer", "/models/<model>/invocations")
    hint = nearest(path[:200], [*PAGES, *below])
    raise NotThere(f"there is no {path[:100]!r}. {hint}")
